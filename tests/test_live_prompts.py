"""Learned tokens in a live ComfyUI: the same in prompts by every way, and saved, numbered and listed as files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from devtools.comfyui.answers import PromptError
from devtools.workflows.parts import CHECKPOINT, CHECKPOINT_XL, TOKEN_FILE, TOKEN_FILE_XL
from tests.live_watch import Learned, Prompt, file_of, vectors_of, watch

# Tokens in prompts


LONG = ", ".join(["a castle on a hill far away beyond the river"] * 9) + ", and a {} person before it"


@pytest.fixture(scope="module")
def published(live: Any, reference: Path) -> list[str]:
    """The two published embeddings, loaded from their own format and saved by the pack: file names."""
    names = ["28017", "28021"]
    for name in names:
        source = reference / "learned-embeddings" / f"{name}.bin"
        (live.embeddings / f"published-{name}.bin").write_bytes(source.read_bytes())
    prompt = Prompt()
    saves = [prompt.save(prompt.load(f"published-{name}.bin"), f"person-{name}") for name in names]
    run = watch(live, prompt)
    files = [file_of(run.history, save) for save in saves]
    for name, file in zip(names, files, strict=True):
        content = torch.load(reference / "learned-embeddings" / f"{name}.bin", weights_only=True)
        rows = [content[key].reshape(1, -1).float() for key in sorted(content)]
        assert torch.equal(vectors_of(live, file), torch.cat(rows))
    return files


def _three_ways(live: Any, file: str, text: str, checkpoint: str = CHECKPOINT) -> dict[str, dict[str, torch.Tensor]]:
    """The conditioning of one prompt through ComfyUI's own `embedding:NAME`, through Apply and through Encode Prompt."""
    name = Path(file).stem
    prompt = Prompt()
    _, clip, _ = prompt.checkpoint(checkpoint)
    token = prompt.load(file)
    taught = prompt.ref("CrossInitApply", clip=clip, token=token, name="somebody")
    ways = {
        "file": prompt.ref("CLIPTextEncode", clip=clip, text=text.replace("{}", f"embedding:{name}")),
        "apply": prompt.ref("CLIPTextEncode", clip=taught, text=text.replace("{}", "embedding:somebody")),
        "encode": prompt.ref("CrossInitEncodePrompt", clip=clip, text=text, **{"tokens.token0": token}),
    }
    for way, conditioning in ways.items():
        prompt.add("ProbeConditioning", conditioning=conditioning, name=f"probe-{way}")
    live.client.run(prompt)
    return {way: load_file(live.output / f"probe-{way}.safetensors") for way in ways}


def _same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize(
    ("text", "sections"),
    [("a photo of a {} person", 1), ("a photo of a ({}:1.2) person, smiling", 1), (LONG, 2)],
    ids=["plain", "weighted", "longer than 77 tokens"],
)
def test_a_saved_token_means_the_same_everywhere(live: Any, learned: Learned, text: str, sections: int) -> None:
    """A saved token means the same by file, by Apply and by Encode Prompt."""
    ways = _three_ways(live, learned.file, text)
    assert ways["file"]["0.context"].shape == (1, 77 * sections, 1024)
    assert _same(ways["apply"], ways["file"])
    assert _same(ways["encode"], ways["file"])


@pytest.mark.parametrize("index", [0, 1], ids=["28017", "28021"])
def test_a_published_embedding_means_the_same_everywhere(live: Any, published: list[str], index: int) -> None:
    """A published embedding means the same by file, by Apply and by Encode Prompt."""
    ways = _three_ways(live, published[index], "a photo of a {} person")
    assert _same(ways["apply"], ways["file"])
    assert _same(ways["encode"], ways["file"])


def test_a_token_of_sdxl_means_the_same_everywhere(live: Any) -> None:
    """By file, by Apply and by Encode Prompt: context and pooled output of a checkpoint's two text encoders."""
    ways = _three_ways(live, TOKEN_FILE_XL, LONG.replace("{}", "({}:1.2)"), CHECKPOINT_XL)
    assert ways["file"]["0.context"].shape == (1, 154, 2048) and ways["file"]["0.pooled"].shape == (1, 1280)
    assert _same(ways["apply"], ways["file"])
    assert _same(ways["encode"], ways["file"])
    for file, checkpoint, widths in (
        (TOKEN_FILE, CHECKPOINT_XL, r"768 \+ 1280 \(SDXL\).*on width 1024 \(SD 2.x\)"),
        (TOKEN_FILE_XL, CHECKPOINT, r"1024 \(SD 2.x\).*on width 768 \+ 1280 \(SDXL\)"),
    ):
        with pytest.raises(PromptError, match=rf"CLIP has width {widths}"):
            _three_ways(live, file, "a {} person", checkpoint)


def test_two_people_in_one_prompt(live: Any, published: list[str]) -> None:
    first, second = published
    prompt = Prompt()
    model, clip, _ = prompt.checkpoint(CHECKPOINT)
    tokens = [prompt.load(file) for file in published]
    both = {f"tokens.token{index}": token for index, token in enumerate(tokens)}
    in_order = prompt.ref("CrossInitEncodePrompt", clip=clip, text="a {} person and a {} person", **both)
    by_file = prompt.ref(
        "CLIPTextEncode",
        clip=clip,
        text=f"a embedding:{Path(first).stem} person and a embedding:{Path(second).stem} person",
    )
    swapped = prompt.ref("CrossInitEncodePrompt", clip=clip, text="a {2} person and a {1} person", **both)
    taught = clip
    for token, name in zip(tokens, ("ann", "ben"), strict=True):
        taught = prompt.ref("CrossInitApply", clip=taught, token=token, name=name)
    chained = prompt.ref("CLIPTextEncode", clip=taught, text="a embedding:ann person and a embedding:ben person")
    ways = {"in-order": in_order, "by-file": by_file, "swapped": swapped, "chained": chained}
    for name, conditioning in ways.items():
        prompt.add("ProbeConditioning", conditioning=conditioning, name=name)
    sampler = prompt.sample(model, in_order, prompt.ref("CLIPTextEncode", clip=clip, text=""), prompt.latent())
    prompt.add("SaveLatent", samples=[sampler, 0], filename_prefix="two-people")
    run = watch(live, prompt)
    assert run.steps(sampler) == [1, 2]
    seen = {name: load_file(live.output / f"{name}.safetensors") for name in ways}
    assert _same(seen["in-order"], seen["by-file"])
    assert _same(seen["chained"], seen["by-file"])
    assert not _same(seen["swapped"], seen["by-file"])


def test_comfyui_reads_every_format_that_save_learned_token_offers(live: Any, published: list[str]) -> None:
    formats = ("safetensors", "pt", "bin")
    prompt = Prompt()
    for format in formats:
        prompt.save(prompt.load(published[0]), f"format-{format}", format=format)
    live.client.run(prompt)
    prompt = Prompt()
    _, clip, _ = prompt.checkpoint(CHECKPOINT)
    for format in formats:
        conditioning = prompt.ref("CLIPTextEncode", clip=clip, text=f"a embedding:format-{format} person")
        prompt.add("ProbeConditioning", conditioning=conditioning, name=f"format-{format}")
    live.client.run(prompt)
    seen = [load_file(live.output / f"format-{format}.safetensors") for format in formats]
    assert _same(seen[1], seen[0])
    assert _same(seen[2], seen[0])


# Token files


def test_a_taken_name_gets_a_number(live: Any, published: list[str]) -> None:
    """Another person under a taken name gets a number, and the same person keeps the name."""

    def save(file: str, **more: Any) -> str:
        prompt = Prompt()
        node = prompt.save(prompt.load(file), "neighbour", **more)
        return file_of(live.client.run(prompt), node)

    first, second = published
    assert save(first) == "neighbour.safetensors"
    assert save(second) == "neighbour-2.safetensors"
    assert torch.equal(vectors_of(live, "neighbour.safetensors"), vectors_of(live, first))
    assert save(first, format="safetensors") == "neighbour.safetensors"
    assert save(second, format="safetensors") == "neighbour-2.safetensors"
    with pytest.raises(PromptError, match="already exists in the embeddings folder") as refused:
        save(second, if_exists="stop with an error")
    assert refused.value.node_type == "CrossInitSave"
    assert save(second, if_exists="replace it") == "neighbour.safetensors"
    assert torch.equal(vectors_of(live, "neighbour.safetensors"), vectors_of(live, second))


def test_a_token_file_that_changed_is_read_again(live: Any) -> None:
    changing = live.embeddings / "changing.safetensors"
    prompt = Prompt()
    save = prompt.save(prompt.load(changing.name), "changing-copy")
    for value in (0.25, 0.5):
        save_file({"<changing>": torch.full((2, 1024), value)}, changing)
        file = file_of(live.client.run(prompt), save)
        assert float(vectors_of(live, file).mean()) == value


def test_saved_tokens_can_be_loaded_at_once(live: Any, learned: Learned) -> None:
    """Saved tokens appear in the list of Load Learned Token."""
    options = live.client.object_info()["CrossInitLoad"]["input"]["required"]["file"][1]["options"]
    assert {learned.file, TOKEN_FILE} <= set(options)
