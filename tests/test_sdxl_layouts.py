"""Checkpoints of the SDXL family, as ComfyUI's own loader recognises them: which learn, and that the copy predicts the same."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from tests.sdxl_layouts import full_width_clip, load_model, unet_state

FAMILY = ["SDXL", "SSD-1B", "Segmind-Vega", "KOALA-700M", "KOALA-1B"]


@pytest.fixture(autouse=True)
def inside_a_node(comfyui: Path) -> Iterator[None]:
    """ComfyUI runs nodes in inference mode."""
    with torch.inference_mode():
        yield


@pytest.fixture(scope="module")
def clip(pack: ModuleType) -> Any:
    with torch.inference_mode():
        return full_width_clip()


@pytest.mark.parametrize("layout", FAMILY)
def test_checkpoints_of_the_family_learn(pack: ModuleType, clip: Any, layout: str) -> None:
    model = load_model(unet_state(layout))
    found = pack.nodes.host.backbone.ComfyBackbone(model, clip)
    assert pack.nodes.host.models.describe_model(model) == layout
    assert (found.base, found.widths, found.resolution) == ("sdxl", (768, 1280), 1024)
    assert found.prediction_type == "epsilon" and 0.004 < float(found.alphas_cumprod()[-1]) < 0.005


@pytest.mark.parametrize(("keys", "last"), [(("v_pred",), 0.0047), (("v_pred", "ztsnr"), 4.9e-8)])
def test_v_prediction_is_read_from_the_checkpoint(pack: ModuleType, clip: Any, keys: tuple[str], last: float) -> None:
    """NoobAI's say so by keys in the file; the second one is zero terminal SNR."""
    found = pack.nodes.host.backbone.ComfyBackbone(load_model(unet_state("Segmind-Vega"), keys), clip)
    assert found.prediction_type == "v_prediction"
    assert float(found.alphas_cumprod()[-1]) == pytest.approx(last, rel=0.02)


@pytest.mark.parametrize(
    ("layout", "channels", "keys", "said"),
    [
        ("refiner", 4, (), "MODEL is the SDXL refiner, which cannot learn a face"),
        ("SDXL", 9, (), r"MODEL is SDXL for inpainting or editing \(its UNet takes 9 channels\)"),
        ("SSD-1B", 9, (), r"MODEL is SSD-1B for inpainting or editing \(its UNet takes 9 channels\)"),
        ("SDXL", 8, (), r"MODEL is SDXL for inpainting or editing \(its UNet takes 8 channels\)"),
        ("SDXL", 4, ("edm_mean", "edm_std"), "by EDM, as Playground 2.5 and CosXL"),
        ("SDXL", 4, ("edm_vpred.sigma_max",), "by EDM, as Playground 2.5 and CosXL"),
    ],
)
def test_other_checkpoints_are_refused_by_name(
    pack: ModuleType, clip: Any, layout: str, channels: int, keys: tuple[str], said: str
) -> None:
    model = load_model(unet_state(layout, channels), keys)
    with pytest.raises(ValueError, match=said):
        pack.nodes.host.backbone.ComfyBackbone(model, clip)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_a_checkpoint_in_fp8_is_refused(pack: ModuleType, clip: Any, dtype: torch.dtype) -> None:
    """As Load Diffusion Model gives it with such a weight_dtype."""
    import comfy.sd

    model = comfy.sd.load_diffusion_model_state_dict(unet_state("Segmind-Vega"), model_options={"dtype": dtype})
    name = str(dtype).removeprefix("torch.")
    with pytest.raises(ValueError, match=rf"MODEL is quantized \({name} weights\).*Load the checkpoint in fp16"):
        pack.nodes.host.backbone.ComfyBackbone(model, clip)


def test_a_checkpoint_that_says_it_is_quantized_is_refused(pack: ModuleType, clip: Any) -> None:
    """As ComfyUI's own quantized files do: a layer's weights, their scale, and a key that names the format."""
    state = unet_state("Segmind-Vega")
    layer = "input_blocks.4.1.transformer_blocks.0.attn1.to_q"
    state[f"{layer}.weight"] = torch.zeros(320, 320).to(torch.float8_e4m3fn)
    state[f"{layer}.weight_scale"] = torch.tensor(1.0)
    state[f"{layer}.comfy_quant"] = torch.tensor(list(b'{"format": "float8_e4m3fn"}'), dtype=torch.uint8)
    with pytest.raises(ValueError, match=r"MODEL is quantized \(QuantizedTensor weights\)"):
        pack.nodes.host.backbone.ComfyBackbone(load_model(state), clip)


@pytest.mark.parametrize("layout", ["SSD-1B", "Segmind-Vega", "KOALA-700M"])
def test_the_smaller_ones_predict_as_the_graph_does(pack: ModuleType, clip: Any, layout: str) -> None:
    """They lack parts of the middle, which the copy has to lack too; and the gradient reaches what is learned."""
    import comfy.model_management as mm

    model = load_model(unet_state(layout, seed=1))
    generator = torch.Generator().manual_seed(2)
    latents = torch.randn(1, 4, 16, 16, generator=generator)
    context, pooled = torch.randn(1, 77, 2048, generator=generator), torch.randn(1, 1280, generator=generator)
    sizes = {"height": 1024, "width": 768, "crop_h": 8, "crop_w": 16, "target_height": 512, "target_width": 384}

    mm.load_models_gpu([model])
    adm = model.model.encode_adm(pooled_output=pooled, device="cpu", **sizes)
    sigma = model.model.model_sampling.sigmas[[500]]
    own = model.model.apply_model(latents, sigma, c_crossattn=context, y=adm)

    backbone = pack.nodes.host.backbone.ComfyBackbone(model, clip)
    with torch.inference_mode(False), backbone.training(precision="fp32", gradient_checkpointing=False) as copy:
        context, pooled = context.clone().requires_grad_(), pooled.clone().requires_grad_()
        encoded = pack.crossinit_core.backbone.Encoded(context, pooled)
        six = torch.tensor([list(sizes.values())]).float()
        scaled = (latents / (sigma**2 + 1) ** 0.5).clone()
        predicted = copy.predict(scaled, torch.tensor([500]), encoded, six)
        gradients = torch.autograd.grad(predicted.square().sum(), (context, pooled))
    torch.testing.assert_close(latents - predicted.detach() * sigma, own.float(), atol=2e-4, rtol=2e-4)
    assert all(bool(torch.isfinite(part).all()) and float(part.abs().max()) > 0 for part in gradients)
