"""Learned tokens in SDXL's prompts: each text encoder reads its own columns, the same by file, by Apply and by Encode Prompt."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from tests.sdxl_layouts import full_width_clip
from tests.tiny_page import hearing
from tests.tiny_people import person, with_embeddings
from tests.tiny_sdxl import tiny_sdxl_clip

pytestmark = pytest.mark.usefixtures("text_without_a_page")

WIDTHS = (64, 128)
FULL_WIDTHS = (768, 1280)

PLAIN = "a photo of a {} person"
WEIGHTED = "a photo of a ({}:1.3) person, (smiling:0.7)"
LONG = ", ".join(["a castle on a hill far away beyond the river"] * 9) + ", and a {} person before it"
SECTIONS = "a {} person BREAK " + ", ".join(["a ruin"] * 60) + " BREAK and ({}:0.8) again"


@pytest.fixture(scope="module")
def clip(pack: ModuleType, tiny_models: Path) -> Any:
    """A CLIP of SDXL with text encoders of width 64 and 128."""
    with torch.inference_mode():
        return tiny_sdxl_clip(tiny_models / "tiny-xl")


@pytest.fixture(scope="module")
def full_clip(pack: ModuleType) -> Any:
    """A CLIP of SDXL at its own widths, with three layers of random weights."""
    return full_width_clip()


@pytest.fixture
def said(comfyui: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What nodes write on themselves."""
    import server

    lines: list[str] = []
    monkeypatch.setattr(server.PromptServer, "instance", hearing(lines), raising=False)
    return lines


def write_file(token: Any, folder: Path) -> Path:
    """The token as ComfyUI's core expects it."""
    path = folder / f"{token.name}.safetensors"
    save_file({key: part.contiguous() for key, part in zip(("clip_l", "clip_g"), token.parts, strict=True)}, path)
    return path


def encoded(clip: Any, text: str) -> dict[str, Tensor]:
    """What CLIP Text Encode makes of a prompt."""
    import nodes as core

    with torch.inference_mode():
        return flat(core.CLIPTextEncode().encode(clip, text)[0])  # type: ignore[attr-defined]


def flat(conditioning: Any) -> dict[str, Tensor]:
    ((context, more),) = conditioning
    return {"context": context.clone(), "pooled": more["pooled_output"].clone()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(one[key], other[key]) for key in ("context", "pooled"))


def by_node(node: Any, *inputs: Any, **more: Any) -> Any:
    """What the node gives first."""
    with torch.inference_mode():
        return node.PREPARE_CLASS_CLONE({"hidden_inputs": {}}).execute(*inputs, **more).result[0]


def three_ways(nodes: dict[str, Any], clip: Any, token: Any, text: str, folder: Path) -> list[dict[str, Tensor]]:
    """A prompt by ComfyUI's own `embedding:NAME` from a file, by Apply and by Encode Prompt."""
    write_file(token, folder)
    reader = clip.clone()
    reader.tokenizer = with_embeddings(clip, folder)
    applied = by_node(nodes["CrossInitApply"], clip, token, name="somebody")
    return [
        encoded(reader, text.replace("{}", f"embedding:{token.name}")),
        encoded(applied, text.replace("{}", "embedding:somebody")),
        flat(by_node(nodes["CrossInitEncodePrompt"], clip, text, {"token0": token})),
    ]


@pytest.mark.parametrize("text", [PLAIN, WEIGHTED, LONG, SECTIONS], ids=["plain", "weighted", "long", "sections"])
@pytest.mark.parametrize("vectors", range(1, 9))
def test_a_token_means_the_same_by_every_way(
    pack: ModuleType, nodes: dict[str, Any], clip: Any, tmp_path: Path, vectors: int, text: str
) -> None:
    token = person(pack, "anna", seed=vectors, vectors=vectors, widths=WIDTHS)
    file, applied, node = three_ways(nodes, clip, token, text, tmp_path)
    assert file["context"].shape[2] == 192 and file["pooled"].shape == (1, 128)
    assert file["context"].shape[1] == 77 * {PLAIN: 1, WEIGHTED: 1, LONG: 2, SECTIONS: 3}[text]
    assert same(applied, file) and same(node, file)
    assert not same(file, encoded(clip, text.replace("{}", "")))


@pytest.mark.parametrize("strength", [0.0, 0.7, 1.5])
def test_the_dial_means_the_same_by_every_way(
    pack: ModuleType, nodes: dict[str, Any], clip: Any, tmp_path: Path, strength: float
) -> None:
    """As the file of the token that the dial makes; 1 is the token itself."""
    blending, start = pack.crossinit_core.tokens.blending, pack.crossinit_core.tokens.metadata
    token = person(pack, "anna", widths=WIDTHS)
    token = replace(token, metadata={start.START: start.packed(person(pack, "start", seed=9, widths=WIDTHS).vectors)})
    file = three_ways(nodes, clip, blending.token_at_strength(token, strength), PLAIN, tmp_path)[0]
    applied = by_node(nodes["CrossInitApply"], clip, token, name="somebody", strength=strength)
    by_encode = by_node(nodes["CrossInitEncodePrompt"], clip, PLAIN, {"token0": token}, strength=strength)
    assert same(encoded(applied, PLAIN.replace("{}", "embedding:somebody")), file)
    assert same(flat(by_encode), file)
    assert not same(file, three_ways(nodes, clip, token, PLAIN, tmp_path)[0])


@pytest.mark.parametrize("layer", [-1, -2, -3])
def test_clip_skip_keeps_every_way_the_same(
    pack: ModuleType, nodes: dict[str, Any], clip: Any, tmp_path: Path, layer: int
) -> None:
    import nodes as core

    (skipping,) = core.CLIPSetLastLayer().set_last_layer(clip, layer)  # type: ignore[attr-defined]
    token = person(pack, "anna", widths=WIDTHS)
    file, applied, node = three_ways(nodes, skipping, token, WEIGHTED, tmp_path)
    assert same(applied, file) and same(node, file)
    plain = three_ways(nodes, clip, token, WEIGHTED, tmp_path)[0]
    assert same(plain, file) == (layer == -2), "SDXL's own layer is the last but one"


def test_a_lora_keeps_every_way_the_same(pack: ModuleType, nodes: dict[str, Any], clip: Any, tmp_path: Path) -> None:
    import comfy.sd

    generator = torch.Generator().manual_seed(0)
    weights = {}
    for number, width in enumerate(WIDTHS, 1):
        key = f"lora_te{number}_text_model_encoder_layers_0_mlp_fc1"
        weights[f"{key}.lora_up.weight"] = torch.randn(128, 2, generator=generator)
        weights[f"{key}.lora_down.weight"] = torch.randn(2, width, generator=generator)
    _, loaded = comfy.sd.load_lora_for_models(None, clip, weights, 0, 1.0)
    token = person(pack, "anna", widths=WIDTHS)
    file, applied, node = three_ways(nodes, loaded, token, PLAIN, tmp_path)
    assert same(applied, file) and same(node, file)
    plain = three_ways(nodes, clip, token, PLAIN, tmp_path)[0]
    assert not torch.equal(plain["pooled"], file["pooled"])
    assert not torch.equal(plain["context"][..., :64], file["context"][..., :64])


@pytest.mark.parametrize(
    ("text_g", "text_l"),
    [
        ("a photo of a {} person", "a photo of a {} person"),
        ("a photo of a {} person", "oil on canvas"),
        ("oil on canvas", "a ({}:1.2) person"),
        (LONG, "a {} person"),
        ("", LONG),
    ],
    ids=["both", "clip_g alone", "clip_l alone", "longer for clip_g", "longer for clip_l"],
)
def test_the_two_texts_of_sdxls_own_node(
    pack: ModuleType, nodes: dict[str, Any], clip: Any, tmp_path: Path, text_g: str, text_l: str
) -> None:
    """CLIP Text Encode (SDXL) has a text for each encoder."""
    from comfy_extras.nodes_clip_sdxl import CLIPTextEncodeSDXL

    token = person(pack, "anna", vectors=3, widths=WIDTHS)
    write_file(token, tmp_path)
    reader = clip.clone()
    reader.tokenizer = with_embeddings(clip, tmp_path)
    applied = by_node(nodes["CrossInitApply"], clip, token, name="somebody")
    sizes = {"width": 1024, "height": 1024, "crop_w": 0, "crop_h": 0, "target_width": 1024, "target_height": 1024}

    def said(clip: Any, name: str) -> dict[str, Tensor]:
        texts = {"text_g": text_g.replace("{}", name), "text_l": text_l.replace("{}", name)}
        with torch.inference_mode():
            result = CLIPTextEncodeSDXL.execute(clip=clip, **sizes, **texts)
        return flat(getattr(result, "result", result)[0])

    assert same(said(applied, "embedding:somebody"), said(reader, "embedding:anna"))
    assert not same(said(applied, "embedding:somebody"), said(clip, ""))


def test_each_encoder_reads_its_own_columns(pack: ModuleType, clip: Any) -> None:
    token = person(pack, "anna", vectors=2, widths=WIDTHS)
    tokenized = pack.nodes.host.tokens.clip_with_tokens(clip, {"anna": token}).tokenize("embedding:anna person")
    for key, part in (("l", token.vectors[:, :64]), ("g", token.vectors[:, 64:])):
        rows = [value for value, *_ in tokenized[key][0] if isinstance(value, Tensor)]
        assert torch.equal(torch.stack(rows), part)


def test_sdxl_at_its_own_width(pack: ModuleType, nodes: dict[str, Any], full_clip: Any, tmp_path: Path) -> None:
    """With weights in a second section, and vectors as long as the vocabulary's."""
    values = torch.randn(4, 2048, generator=torch.Generator().manual_seed(1)) * 0.02
    token = pack.crossinit_core.LearnedToken(values, "anna", "sdxl")
    assert token.widths == FULL_WIDTHS
    file, applied, node = three_ways(nodes, full_clip, token, LONG.replace("{}", "({}:1.2)"), tmp_path)
    assert file["context"].shape == (1, 154, 2048) and file["pooled"].shape == (1, 1280)
    assert same(applied, file) and same(node, file)


@pytest.mark.parametrize(
    ("width", "base", "family"),
    [(768, "sd1", "SD 1.x"), (1024, "sd2", "SD 2.x"), (1280, "width-1280", "SDXL's second")],
)
def test_a_token_of_another_family_is_refused(
    pack: ModuleType, nodes: dict[str, Any], full_clip: Any, width: int, base: str, family: str
) -> None:
    token = pack.crossinit_core.LearnedToken(torch.ones(2, width), "anna", base)
    expected = rf"CLIP has width 768 \+ 1280 \(SDXL\), but the token 'anna' was learned on width {width} \({family}"
    for node, inputs in (("CrossInitApply", (token,)), ("CrossInitEncodePrompt", (PLAIN, {"token0": token}))):
        with pytest.raises(ValueError, match=expected):
            by_node(nodes[node], full_clip, *inputs)
    with pytest.raises(ValueError, match=expected):
        nodes["CrossInitReport"].PREPARE_CLASS_CLONE({"hidden_inputs": {}}).execute({"token0": token}, clip=full_clip)


def test_a_token_of_sdxl_is_refused_elsewhere(pack: ModuleType, nodes: dict[str, Any], tiny_clip: Any) -> None:
    token = pack.crossinit_core.LearnedToken(torch.ones(2, 2048), "anna", "sdxl")
    with pytest.raises(ValueError, match=r"CLIP has width 32 .*was learned on width 768 \+ 1280 \(SDXL\)"):
        by_node(nodes["CrossInitApply"], tiny_clip, token)


def test_a_person_stays_among_others(pack: ModuleType, nodes: dict[str, Any], clip: Any) -> None:
    """Two nodes, each with a person, and a third with another person under the first one's name."""
    anna, ben, other = (person(pack, name, seed, widths=WIDTHS) for seed, name in enumerate(("anna", "ben", "anna")))
    taught = by_node(nodes["CrossInitApply"], by_node(nodes["CrossInitApply"], clip, anna), ben)
    prompt = "embedding:anna and embedding:ben"
    both = flat(by_node(nodes["CrossInitEncodePrompt"], clip, "{} and {}", {"token0": anna, "token1": ben}))
    assert same(encoded(taught, prompt), both)
    again = by_node(nodes["CrossInitApply"], taught, other)
    swapped = flat(by_node(nodes["CrossInitEncodePrompt"], clip, "{} and {}", {"token0": other, "token1": ben}))
    assert same(encoded(again, prompt), swapped) and not same(swapped, both)
    assert pack.nodes.host.tokens.applied_token(again, "anna") is other


def test_another_person_under_a_name_is_said(
    pack: ModuleType, nodes: dict[str, Any], clip: Any, said: list[str]
) -> None:
    anna, other = (person(pack, "anna", seed, widths=WIDTHS) for seed in range(2))
    taught = by_node(nodes["CrossInitApply"], clip, anna)
    by_node(nodes["CrossInitApply"], taught, other)
    assert "no longer the one" not in said[0] and "no longer the one" in said[1]


def test_a_word_left_out_is_said_once(pack: ModuleType, nodes: dict[str, Any], clip: Any, said: list[str]) -> None:
    token = person(pack, "anna", widths=WIDTHS)
    by_node(nodes["CrossInitEncodePrompt"], clip, "a {} person by embedding:nobody-at-all", {"token0": token})
    assert said[-1].count("embedding:nobody-at-all") == 1 and "CLIP left out" in said[-1]
    read: list[str] = []
    lost: list[str] = []
    taught = pack.nodes.host.tokens.clip_with_tokens(clip, {"anna": token}, read.append, lost.append)
    taught.tokenize("embedding:anna and embedding:anna-x and embedding:anna")
    assert (read, lost) == (["anna"], ["anna-x"])


def test_vectors_split_between_sections_are_said_once(
    pack: ModuleType, nodes: dict[str, Any], clip: Any, said: list[str]
) -> None:
    token = person(pack, "anna", vectors=8, widths=WIDTHS)
    text = " ".join(["a"] * 70) + " {} person"
    by_node(nodes["CrossInitEncodePrompt"], clip, text, {"token0": token})
    assert said[-1].count("split between two sections") == 1
    by_node(nodes["CrossInitEncodePrompt"], clip, "a {} person", {"token0": token})
    assert said[-1] == "anna (8 vectors)"


@pytest.mark.parametrize("encoder", ["clip_l", "clip_g"])
def test_a_pack_that_leaves_out_one_encoder_is_noticed(
    pack: ModuleType, nodes: dict[str, Any], clip: Any, encoder: str
) -> None:
    """A tokenizer of another pack that knows no `embedding:` for one of the two encoders."""
    import copy

    class Deaf(type(getattr(clip.tokenizer, encoder))):  # type: ignore[misc]
        def tokenize_with_weights(self, text: str, *args: Any, **kwargs: Any) -> Any:
            return super().tokenize_with_weights(text.replace("embedding:", ""), *args, **kwargs)

    foreign = clip.clone()
    foreign.tokenizer = copy.copy(clip.tokenizer)
    deaf = copy.copy(getattr(clip.tokenizer, encoder))
    deaf.__class__ = Deaf
    setattr(foreign.tokenizer, encoder, deaf)
    token = person(pack, "anna", widths=WIDTHS)
    with pytest.raises(ValueError, match="CLIP did not take anna out of the prompt"):
        by_node(nodes["CrossInitEncodePrompt"], foreign, PLAIN, {"token0": token})


def test_a_weight_that_is_no_number_is_refused(pack: ModuleType, nodes: dict[str, Any], clip: Any) -> None:
    token = person(pack, "anna", widths=WIDTHS)
    with pytest.raises(ValueError, match="has a weight that is not a number"):
        by_node(nodes["CrossInitEncodePrompt"], clip, "a ({}:nan) person", {"token0": token})


def test_the_graphs_own_clip_does_not_notice(pack: ModuleType, nodes: dict[str, Any], clip: Any) -> None:
    before = encoded(clip, "a photo of a person")
    lookups = {name: vars(getattr(clip.tokenizer, name)).copy() for name in ("clip_l", "clip_g")}
    taught = by_node(nodes["CrossInitApply"], clip, person(pack, "anna", widths=WIDTHS))
    assert same(encoded(clip, "a photo of a person"), before)
    assert same(encoded(taught, "a photo of a person"), before)
    assert lookups == {name: vars(getattr(clip.tokenizer, name)) for name in ("clip_l", "clip_g")}
    assert taught.cond_stage_model is clip.cond_stage_model


def test_what_prompts_read_of_a_file(pack: ModuleType, tmp_path: Path) -> None:
    """Both halves under their own keys; nothing if CLIP would leave one out."""
    read = pack.nodes.host.tokens.vectors_in_prompts
    token = pack.crossinit_core.LearnedToken(torch.randn(3, 2048), "anna", "sdxl")
    assert torch.equal(read(write_file(token, tmp_path), FULL_WIDTHS), token.vectors)
    swapped = tmp_path / "swapped.safetensors"
    save_file({"clip_l": torch.ones(3, 1280), "clip_g": torch.ones(3, 768)}, swapped)
    half = tmp_path / "half.safetensors"
    save_file({"clip_l": torch.ones(3, 768)}, half)
    uneven = tmp_path / "uneven.safetensors"
    save_file({"clip_l": torch.ones(3, 768), "clip_g": torch.ones(2, 1280)}, uneven)
    assert [read(path, FULL_WIDTHS) for path in (swapped, half, uneven)] == [None] * 3
    assert torch.equal(read(half, (768,)), torch.ones(3, 768))


# Lineages of SDXL


def from_checkpoint(clip: Any, name: str) -> Any:
    """CLIP as Load Checkpoint gives it, which knows the checkpoint's file."""
    named = clip.clone()
    named.patcher.cached_patcher_init = (from_checkpoint, (f"/models/checkpoints/{name}.safetensors",))
    return named


def learned_on(pack: ModuleType, checkpoint: str, name: str = "anna", seed: int = 0) -> Any:
    vectors = person(pack, name, seed, widths=WIDTHS).vectors
    metadata = {"crossinit.checkpoint": checkpoint}
    return pack.crossinit_core.LearnedToken(vectors, name, "sdxl", metadata, widths=WIDTHS)


PONY, BASE = "ponyDiffusionV6XL_v6StartWithThisOne", "sd_xl_base_1.0"
STRANGER = f"This person was learned on Pony, but '{BASE}' is SDXL base"


def test_a_person_of_another_lineage_is_said(
    pack: ModuleType, nodes: dict[str, Any], clip: Any, said: list[str]
) -> None:
    """On Apply and on Encode Prompt, also behind a LoRA or CLIP Set Last Layer; the prompt is encoded all the same."""
    stranger, base = learned_on(pack, PONY), from_checkpoint(clip, BASE)
    base.clip_layer(-2)
    taught = by_node(nodes["CrossInitApply"], base.clone(), stranger)
    assert f"Write embedding:anna person in your prompts. {STRANGER}" in said[-1]
    encodes = flat(by_node(nodes["CrossInitEncodePrompt"], base, PLAIN, {"token0": stranger}))
    assert said[-1].startswith(f"anna (2 vectors). {STRANGER}")
    assert same(encodes, encoded(taught, PLAIN.replace("{}", "embedding:anna")))


def test_only_the_stranger_among_several_is_named(
    pack: ModuleType, nodes: dict[str, Any], clip: Any, said: list[str]
) -> None:
    people = {
        "token0": learned_on(pack, "juggernautXL_v9", "anna"),
        "token1": learned_on(pack, PONY, "ben", 1),
        "token2": learned_on(pack, PONY, "unused", 2),
    }
    by_node(nodes["CrossInitEncodePrompt"], from_checkpoint(clip, BASE), "{anna} and {ben} and {ben}", people)
    assert said[-1].count("This person was learned on") == 1
    assert f"ben: {STRANGER}" in said[-1] and "anna: " not in said[-1] and "unused: " not in said[-1]


@pytest.mark.parametrize(
    ("learned", "used"),
    [
        (PONY, PONY),
        (BASE, "RealVisXL_V5.0"),
        (PONY, ""),
        ("", BASE),
        (PONY, "my own merge"),
        ("illustriousXL_v01", "NoobAI-XL"),
    ],
)
def test_nothing_is_said_of_kin_or_of_unknown_names(
    pack: ModuleType, nodes: dict[str, Any], clip: Any, said: list[str], learned: str, used: str
) -> None:
    token, named = learned_on(pack, learned), from_checkpoint(clip, used)
    by_node(nodes["CrossInitApply"], named, token)
    by_node(nodes["CrossInitEncodePrompt"], named, PLAIN, {"token0": token})
    assert said == ["Write embedding:anna person in your prompts.", "anna (2 vectors)"]
