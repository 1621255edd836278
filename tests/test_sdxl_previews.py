"""Previews while a face is learned on SDXL: its latents have other colours and another scale than those of SD 1.x and 2.x."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tests.tiny_sdxl import tiny_sdxl_clip, tiny_sdxl_model


@pytest.fixture
def backbone(pack: ModuleType, tiny_comfy: Any, tiny_models: Path) -> Iterator[Any]:
    """Of a tiny SDXL, with a VAE that makes latents of the same kind."""
    folder = tiny_models / "tiny-xl"
    with torch.inference_mode():
        vae = tiny_comfy(tiny_models / "tiny-eps")[2]
        yield pack.nodes.host.backbone.ComfyBackbone(tiny_sdxl_model(folder), tiny_sdxl_clip(folder), vae)


@pytest.fixture
def latents() -> torch.Tensor:
    return torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))


def pixels(picture: Any) -> np.ndarray:
    return np.asarray(picture).astype(int)


def test_the_colours_are_those_of_sdxl(
    pack: ModuleType, backbone: Any, latents: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    import latent_preview
    from comfy.latent_formats import SD15, SDXL

    monkeypatch.setattr(pack.nodes.host.previews, "SMALL_VAE", 0)
    seen = pixels(pack.nodes.host.previews.Previews(backbone).picture(latents))
    colours = {}
    for format in (SDXL(), SD15()):
        bias = getattr(format, "latent_rgb_factors_bias", None)
        previewer = latent_preview.Latent2RGBPreviewer(format.latent_rgb_factors, bias)
        colours[type(format)] = pixels(previewer.decode_latent_to_preview(latents))
    assert np.array_equal(seen, colours[SDXL]) and not np.array_equal(seen, colours[SD15])


def test_taesd_is_the_one_of_sdxl(
    pack: ModuleType, backbone: Any, latents: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ComfyUI looks for `taesdxl_decoder` in models/vae_approx."""
    import folder_paths
    from comfy.cli_args import LatentPreviewMethod, args
    from comfy.taesd.taesd import TAESD

    decoders = {}
    for seed, name in enumerate(("taesd_decoder", "taesdxl_decoder")):
        generator = torch.Generator().manual_seed(seed)
        with torch.inference_mode(False), torch.no_grad():
            decoders[name] = TAESD()
            for weight in decoders[name].taesd_decoder.parameters():
                spread = weight[0].numel() ** -0.5 if weight.ndim > 1 else 0.1
                weight.copy_(torch.randn(weight.shape, generator=generator) * spread)
            save_file(decoders[name].taesd_decoder.state_dict(), tmp_path / f"{name}.safetensors")
    known = folder_paths.folder_names_and_paths
    monkeypatch.setitem(known, "vae_approx", ([str(tmp_path)], folder_paths.supported_pt_extensions))
    folder_paths.filename_list_cache.pop("vae_approx", None)
    monkeypatch.setattr(args, "preview_method", LatentPreviewMethod.TAESD)
    monkeypatch.setattr(pack.nodes.host.previews, "SMALL_VAE", 0)
    seen = pixels(pack.nodes.host.previews.Previews(backbone).picture(latents))
    assert seen.shape == (64, 64, 3)
    with torch.no_grad():
        wanted = {name: decoder.decode(latents)[0].movedim(0, 2) for name, decoder in decoders.items()}
    as_bytes = {name: ((image + 1) / 2).clamp(0, 1).mul(255).byte().numpy() for name, image in wanted.items()}
    assert np.abs(seen - as_bytes["taesdxl_decoder"].astype(int)).max() <= 1
    assert np.abs(seen - as_bytes["taesd_decoder"].astype(int)).max() > 20


def test_a_small_vae_gets_latents_of_its_own_scale(pack: ModuleType, backbone: Any, latents: torch.Tensor) -> None:
    seen = pixels(pack.nodes.host.previews.Previews(backbone).picture(latents))
    wanted = backbone.vae.decode(latents / 0.13025)[0].clamp(0, 1) * 255
    assert np.abs(seen - wanted.cpu().numpy()).max() <= 1
