"""Every claim that a tool reads a format stands on the tool's own code or on its rule, for each format that is offered."""

from __future__ import annotations

import pickle
from pathlib import Path
from types import ModuleType

import pytest
import torch

from crossinit_core import LearnedToken, save_learned_token
from crossinit_core.tokens.token_files import FORMATS
from tests import readers
from tests.ann import ANN, VECTORS

RULES = {
    "AUTOMATIC1111": readers.automatic1111,
    "Forge": readers.forge,
    "kohya": readers.kohya,
    "InvokeAI": readers.invokeai,
    "OneTrainer": readers.onetrainer,
    "the published script": readers.published_script,
}

SDXL_RULES = {
    "AUTOMATIC1111": readers.automatic1111_sdxl,
    "Forge": readers.forge_sdxl,
    "kohya": readers.kohya_sdxl,
    "InvokeAI": readers.invokeai_sdxl,
    "OneTrainer": readers.onetrainer_sdxl,
}
OF_TWO = [name for name, known in FORMATS.items() if known.sdxl_readers]
ANNA = LearnedToken(
    torch.randn(2, 2048, generator=torch.Generator().manual_seed(0)), "anna", "sdxl", {"modelspec.title": "x"}
)


def _saved(folder: Path, format: str, token: LearnedToken = ANN) -> Path:
    chosen = FORMATS[format]
    return save_learned_token(token, folder / f"{token.name}{chosen.suffix}", chosen.layout)


@pytest.mark.parametrize("tool", RULES)
@pytest.mark.parametrize("format", FORMATS)
def test_each_tool_reads_what_it_is_said_to_read(tmp_path: Path, format: str, tool: str) -> None:
    path = _saved(tmp_path, format)
    if tool in FORMATS[format].readers:
        assert torch.equal(RULES[tool](path).float(), VECTORS)
    else:
        with pytest.raises(
            (ValueError, KeyError, AssertionError, AttributeError, RuntimeError, pickle.UnpicklingError)
        ):
            assert torch.equal(RULES[tool](path).float(), VECTORS)


@pytest.mark.parametrize("tool", SDXL_RULES)
@pytest.mark.parametrize("format", OF_TWO)
def test_each_tool_reads_both_encoders_parts(tmp_path: Path, format: str, tool: str) -> None:
    """What is said for SDXL, beside ComfyUI and diffusers, whose own code reads these files in tests/test_sdxl_tokens.py."""
    assert {*SDXL_RULES, "ComfyUI", "SwarmUI", "diffusers"} == set(FORMATS[format].sdxl_readers)
    read = SDXL_RULES[tool](_saved(tmp_path, format, ANNA))
    assert all(torch.equal(part.float(), expected) for part, expected in zip(read, ANNA.parts, strict=True))


@pytest.mark.parametrize("format", FORMATS)
def test_comfyui_reads_what_it_is_said_to_read(pack: ModuleType, tmp_path: Path, format: str) -> None:
    from comfy.sd1_clip import load_embed

    path = _saved(tmp_path, format)
    for name, tool in (("ann", "ComfyUI"), (path.name, "SwarmUI")):  # which gives ComfyUI the name as it lists it
        read = load_embed(name, [str(tmp_path)], 1024, "clip_h")
        assert torch.equal(read.reshape(-1, 1024), VECTORS) == (tool in FORMATS[format].readers)


@pytest.mark.parametrize("format", [name for name, known in FORMATS.items() if "diffusers" in known.readers])
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_diffusers_reads_what_it_is_said_to_read(tiny_models: Path, tmp_path: Path, format: str) -> None:
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(
        tiny_models / "tiny-eps", safety_checker=None, local_files_only=True
    )
    vectors = torch.randn(2, 32)
    pipeline.load_textual_inversion(
        _saved(tmp_path, format, LearnedToken(vectors, "zoe-face", "width-32")), token="zoe-face"
    )
    ids = pipeline.tokenizer.convert_tokens_to_ids(["zoe-face", "zoe-face_1"])
    assert torch.equal(pipeline.text_encoder.get_input_embeddings().weight[ids].detach(), vectors)


def test_what_newer_torch_adds_is_refused_there(tmp_path: Path) -> None:
    """Or the check of this test shows nothing."""
    torch.save({"ann": VECTORS}, tmp_path / "x.pt")
    with pytest.raises(ValueError, match="bad file inside"):
        readers.automatic1111_check(tmp_path / "x.pt")


@pytest.mark.parametrize("format", FORMATS)
def test_each_format_comes_back(tmp_path: Path, format: str) -> None:
    from crossinit_core import load_learned_token

    token = load_learned_token(_saved(tmp_path, format))
    assert torch.equal(token.vectors, VECTORS)
    assert token.name == "ann"
