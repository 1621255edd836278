"""A token from Apply means the same to other packs as its saved file: conditionings are compared bit for bit.

The ways in which they encode are written down here as small stand-ins. Their own code runs if CROSSINIT_FOREIGN_PACKS names a
folder with clones of comfyui-prompt-control, ComfyUI_ADV_CLIP_emb, ComfyUI-Impact-Pack and ComfyUI-Inspire-Pack, or some of
them, and the server's Python has what they require.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.live_watch import Prompt
from tests.tiny_people import person, with_embeddings

NAME = "anna"

TEXTS = {
    "plain": f"a photo of a embedding:{NAME} person",
    "weighted": f"a photo of a (embedding:{NAME}:1.3) person, (smiling:0.7)",
    "long": f"{'a castle on a hill far away beyond the river, ' * 9} and a embedding:{NAME} person before it",
    "broken": f"a castle BREAK a embedding:{NAME}, person BREAK a hill",
}


def _core(clip: Any, text: str) -> torch.Tensor:
    """Core's CLIP Text Encode. Impact's wildcards, Inspire's regions and rgthree call that node."""
    return clip.encode_from_tokens_scheduled(clip.tokenize(text))[0][0]


def _with_word_ids(clip: Any, text: str) -> torch.Tensor:
    """As ADV_CLIP_emb: word ids are asked for, and weights are applied to what came out for tokens without one."""
    ((key, tokens),) = clip.tokenize(text, return_word_ids=True).items()
    plain = clip.encode_from_tokens({key: [[(token, 1.0) for token, _, _ in section] for section in tokens]})
    weights = torch.tensor([[weight for _, weight, _ in section] for section in tokens])
    scaled = plain * weights.reshape(1, -1, 1)
    return scaled * (plain.std() / scaled.std())


def _without_each_word(clip: Any, text: str) -> torch.Tensor:
    """As ADV_CLIP_emb's `comfy++`: each word of another weight is masked, and what changes is its direction."""
    ((key, tokens),) = clip.tokenize(text, return_word_ids=True).items()
    plain = clip.encode_from_tokens({key: [[(token, 1.0) for token, _, _ in section] for section in tokens]})
    out = plain.clone()
    for word, weight in sorted({(word, weight) for section in tokens for _, weight, word in section if weight != 1}):
        masked = [[(266 if entry[2] == word else entry[0], 1.0) for entry in section] for section in tokens]
        out += (weight - 1) * (plain - clip.encode_from_tokens({key: masked}))
    return out


def _in_chunks(clip: Any, text: str) -> torch.Tensor:
    """As prompt-control: the parts between BREAK are tokenized one by one and encoded together, by a patched encoder."""
    ((key, tokens),) = clip.tokenize("", return_word_ids=True).items()
    tokens = [part for chunk in text.split("BREAK") for part in clip.tokenize(chunk.strip(), return_word_ids=True)[key]]
    patched = clip.clone()
    encoder = f"clip_{key}.encode_token_weights"
    before = clip.patcher.get_model_object(encoder)
    patched.patcher.add_object_patch(encoder, lambda pairs: before([[(t, w) for t, w, *_ in part] for part in pairs]))
    return patched.encode_from_tokens_scheduled({key: tokens})[0][0]


def _reweighted(clip: Any, text: str) -> torch.Tensor:
    """As Inspire's CLIP Text Encode with Weight: it writes other weights into the lists of the tokenizer."""
    tokens = clip.tokenize(text)
    for sections in tokens.values():
        for section in sections:
            section[:] = [(token, weight * 1.5 - 0.25) for token, weight in section]
    return clip.encode_from_tokens(tokens, return_pooled=True)[0]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("encode", [_core, _with_word_ids, _without_each_word, _in_chunks, _reweighted])
@pytest.mark.parametrize("vectors", [1, 2, 9])
def test_an_applied_person_is_the_saved_one_by_every_way_of_encoding(
    pack: ModuleType,
    tiny_clip: Any,
    tmp_path: Path,
    text: str,
    encode: Callable[[Any, str], torch.Tensor],
    vectors: int,
) -> None:
    anna = person(pack, NAME, vectors=vectors)
    pack.crossinit_core.save_learned_token(anna, tmp_path / f"{NAME}.safetensors")
    from_file = tiny_clip.clone()
    from_file.tokenizer = with_embeddings(tiny_clip, tmp_path)
    applied = pack.nodes.host.tokens.clip_with_tokens(tiny_clip, {NAME: anna})
    with torch.inference_mode():
        by_file, by_apply, nobody = (encode(clip, TEXTS[text]) for clip in (from_file, applied, tiny_clip))
    assert torch.equal(by_apply, by_file)
    assert by_file.shape != nobody.shape or not torch.equal(by_file, nobody)


# Their own code


FOREIGN = os.environ.get("CROSSINIT_FOREIGN_PACKS")
NO_PACKS = "set CROSSINIT_FOREIGN_PACKS to a folder with clones of other packs"

# By the class that is asked for: its inputs beside clip and text, and the name of the text.
NODES: dict[str, tuple[str, dict[str, Any]]] = {
    "CLIPTextEncode": ("text", {}),
    "PCTextEncode": ("text", {}),
    "PCLazyTextEncode": ("text", {}),
    "CLIPTextEncodeWithWeight //Inspire": ("text", {"strength": 1.5, "add_weight": 0.25}),
    **{
        f"BNK_CLIPTextEncodeAdvanced {style}": (
            "text",
            {"token_normalization": "mean", "weight_interpretation": style},
        )
        for style in ("comfy", "A1111", "compel", "comfy++", "down_weight")
    },
    **{
        f"PCTextEncode {style}": ("text", {"style": style})
        for style in ("perp", "A1111", "compel", "comfy++", "down_weight")
    },
    "ImpactWildcardEncode": (
        "wildcard_text",
        {"Select to add LoRA": "Select the LoRA to add to the text", "seed": 1}
        | {"Select to add Wildcard": "Select the Wildcard to add to the text"},
    ),
}


@pytest.fixture(scope="module")
def beside_others(start_server: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A server that has the other packs as well, and a person of SD 1.x, which all of them read."""
    if not FOREIGN or not Path(FOREIGN).is_dir():
        pytest.skip(NO_PACKS)
    from devtools.comfyui.client import Client
    from devtools.standins.stage import set_stage
    from tests.conftest import Live, cached_model

    # prompt-control gives no nodes to its own tests, by which it means any.
    os.environ.pop("PYTEST_CURRENT_TEST", None)

    base = tmp_path_factory.mktemp("beside")
    set_stage(base, cached_model)
    shutil.copyfile(Path(__file__).with_name("probe_nodes.py"), base / "custom_nodes" / "crossinit_probe.py")
    for folder in Path(FOREIGN).iterdir():
        if (folder / "__init__.py").is_file():
            shutil.copytree(folder, base / "custom_nodes" / folder.name, ignore=shutil.ignore_patterns(".git"))
    vectors = torch.randn(2, 768, generator=torch.Generator().manual_seed(3)) * 0.02
    save_file({f"<{NAME}>": vectors}, base / "models" / "embeddings" / f"{NAME}.safetensors")
    with start_server(base) as server, Client(server.url) as client:
        yield Live(server.url, base, client, client.object_info())


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("way", NODES)
def test_another_pack_reads_an_applied_person_as_the_saved_one(beside_others: Any, way: str, text: str) -> None:
    node, _, style = way.partition(" ") if not way.endswith("//Inspire") else (way, "", "")
    if node not in beside_others.info:
        pytest.skip(f"{node} is not there: its pack is not in {FOREIGN}, or did not load")
    from devtools.standins.stage import SD1_CHECKPOINT

    field, more = NODES[way]
    more = dict(more)
    prompt = Prompt()
    model, clip, _ = prompt.checkpoint(SD1_CHECKPOINT)
    # Under a name that no file has.
    taught = prompt.ref("CrossInitApply", clip=clip, token=prompt.load(f"{NAME}.safetensors"), name="somebody")
    for name, with_person in ((NAME, clip), ("somebody", taught)):
        words = TEXTS[text].replace(f"embedding:{NAME}", f"embedding:{name}")
        if more.pop("style", style) and node == "PCTextEncode":
            words = f"STYLE({style}) {words}"
        inputs: dict[str, Any] = {"clip": with_person, field: words, **more}
        output = 0
        if node == "ImpactWildcardEncode":
            inputs |= {"model": model, "populated_text": words, "mode": _populate(beside_others, node)}
            output = 2
        encoded = [prompt.add(node, **inputs), output]
        prompt.add("ProbeConditioning", conditioning=encoded, name=f"beside-{name}")
    beside_others.client.run(prompt)
    saved, applied = (load_file(beside_others.output / f"beside-{one}.safetensors") for one in (NAME, "somebody"))
    assert saved.keys() == applied.keys()
    # Not a number is equal to itself: the A1111 style divides by a mean, which random weights make 0.
    assert all(torch.allclose(saved[key], applied[key], rtol=0, atol=0, equal_nan=True) for key in saved)


def _populate(beside_others: Any, node: str) -> bool | str:
    """Impact's wildcards are filled in: older versions have a switch for it, newer ones a list."""
    return True if beside_others.info[node]["input"]["required"]["mode"][0] == "BOOLEAN" else "populate"


def test_a_place_for_a_person_survives_wildcards_of_impact(beside_others: Any) -> None:
    """`{}` does not; the error says so. `%person%` does."""
    if "ImpactWildcardProcessor" not in beside_others.info:
        pytest.skip("ComfyUI-Impact-Pack is not there")
    from devtools.standins.stage import SD1_CHECKPOINT

    prompt = Prompt()
    _, clip, _ = prompt.checkpoint(SD1_CHECKPOINT)
    words = "a {photo|photo} of a %person% person"
    wildcards: dict[str, Any] = {"wildcard_text": words, "populated_text": words, "seed": 1}
    wildcards["mode"] = _populate(beside_others, "ImpactWildcardProcessor")
    text = prompt.ref(
        "ImpactWildcardProcessor", **wildcards, **{"Select to add Wildcard": "Select the Wildcard to add to the text"}
    )
    people = {"tokens.token0": prompt.load(f"{NAME}.safetensors")}
    by_wildcard = prompt.ref("CrossInitEncodePrompt", clip=clip, text=text, **people)
    typed = prompt.ref("CrossInitEncodePrompt", clip=clip, text="a photo of a {} person", **people)
    for name, encoded in (("wildcard", by_wildcard), ("typed", typed)):
        prompt.add("ProbeConditioning", conditioning=encoded, name=name)
    beside_others.client.run(prompt)
    one, other = (load_file(beside_others.output / f"{name}.safetensors") for name in ("wildcard", "typed"))
    assert torch.equal(one["0.context"], other["0.context"])
