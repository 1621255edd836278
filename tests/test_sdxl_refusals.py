"""Which MODEL, CLIP and VAE of the SDXL family learn, and what is said of the others."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from tests.tiny_sdxl import tiny_sdxl_clip, tiny_sdxl_model

LONGEST_ERROR = 600


@pytest.fixture(autouse=True)
def inside_a_node(comfyui: Path) -> Iterator[None]:
    """ComfyUI runs nodes in inference mode."""
    with torch.inference_mode():
        yield


@pytest.fixture(scope="module")
def folder(tiny_models: Path) -> Path:
    return tiny_models / "tiny-xl"


@pytest.fixture(scope="module")
def clip(pack: ModuleType, folder: Path) -> Any:
    with torch.inference_mode():
        return tiny_sdxl_clip(folder)


@pytest.fixture
def sdxl(pack: ModuleType, folder: Path, clip: Any) -> SimpleNamespace:
    """A fresh tiny MODEL that a test may change, and a clone of CLIP, whose weights it may not change."""
    return SimpleNamespace(model=tiny_sdxl_model(folder), clip=clip.clone(), folder=folder)


@pytest.fixture
def sd2(tiny_comfy: Any, tiny_models: Path) -> SimpleNamespace:
    model, clip, vae = tiny_comfy(tiny_models / "tiny-eps")
    return SimpleNamespace(model=model, clip=clip, vae=vae)


def backbone(pack: ModuleType, parts: SimpleNamespace) -> Any:
    return pack.nodes.host.backbone.ComfyBackbone(parts.model, parts.clip)


def refusal(pack: ModuleType, parts: SimpleNamespace) -> str:
    with pytest.raises(ValueError) as refused:
        backbone(pack, parts)
    text = str(refused.value)
    assert len(text) <= LONGEST_ERROR and "\n" not in text
    return text


def named(patcher: Any, name: str) -> None:
    """As if a core loader had read it from a checkpoint of that name."""
    patcher.cached_patcher_init = (named, (f"/models/checkpoints/{name}.safetensors",))


def become(model: Any, name: str, **unet_config: Any) -> None:
    """The MODEL is what ComfyUI calls this class of models."""
    import comfy.supported_models

    config = model.model.model_config
    kind = getattr(comfy.supported_models, name)
    changed = object.__new__(kind)
    vars(changed).update(vars(config), unet_config={**config.unet_config, **unet_config})
    model.model.model_config = changed


@pytest.mark.parametrize("kind", ["SDXL", "SSD1B", "Segmind_Vega", "KOALA_700M", "KOALA_1B"])
def test_the_whole_family_learns(pack: ModuleType, sdxl: SimpleNamespace, kind: str) -> None:
    """The smaller ones have the same parts, only fewer of them."""
    become(sdxl.model, kind)
    found = backbone(pack, sdxl)
    assert found.widths == (64, 128) and found.prediction_type == "epsilon"


def test_its_own_size_is_1024_px(pack: ModuleType, sdxl: SimpleNamespace) -> None:
    own = pack.nodes.host.models.own_resolution
    assert {own(sdxl.model, "sdxl", kind) for kind in ("epsilon", "v_prediction")} == {1024}
    assert (own(sdxl.model, "sd2", "v_prediction"), own(sdxl.model, "sd1", "epsilon")) == (768, 512)


def _inpainting(parts: SimpleNamespace) -> None:
    parts.model.model.diffusion_model.in_channels = 9


def _pix2pix(parts: SimpleNamespace) -> None:
    become(parts.model, "SDXL_instructpix2pix")
    parts.model.model.diffusion_model.in_channels = 8


def _other_conditions(parts: SimpleNamespace) -> None:
    parts.model.model.adm_channels = 2560


def _no_conditions(parts: SimpleNamespace) -> None:
    parts.model.model.diffusion_model.num_classes = None


def _quantized_model(parts: SimpleNamespace) -> None:
    weight = parts.model.model.diffusion_model.out[2].weight
    parts.model.model.diffusion_model.out[2].weight = torch.nn.Parameter(weight.to(torch.float8_e4m3fn), False)


def _quantized(encoder: str) -> Any:
    def change(parts: SimpleNamespace) -> None:
        parts.clip = tiny_sdxl_clip(parts.folder)
        layer = getattr(parts.clip.cond_stage_model, encoder).transformer.text_model.encoder.layers[0].mlp.fc1
        layer.weight = torch.nn.Parameter(layer.weight.to(torch.float8_e5m2), False)

    return change


def _integers(parts: SimpleNamespace) -> None:
    weight = parts.model.model.diffusion_model.out[2].weight
    parts.model.model.diffusion_model.out[2].weight = torch.nn.Parameter(weight.to(torch.int8), False)


REFUSED = {
    "refiner": (lambda p: become(p.model, "SDXLRefiner"), "MODEL is the SDXL refiner, which cannot learn a face"),
    "SD3": (lambda p: become(p.model, "SD3"), "MODEL is SD3, which cannot learn a face"),
    "Flux": (lambda p: become(p.model, "Flux"), "MODEL is Flux, which cannot learn a face"),
    "inpainting": (_inpainting, "MODEL is SDXL for inpainting or editing (its UNet takes 9 channels)"),
    "InstructPix2Pix": (_pix2pix, "MODEL is SDXL for inpainting or editing (its UNet takes 8 channels)"),
    "other conditions": (_other_conditions, "MODEL is SDXL, a special version"),
    "no conditions": (_no_conditions, "MODEL is SDXL, a special version"),
    "fp8 MODEL": (_quantized_model, "MODEL is quantized (float8_e4m3fn weights)"),
    "int8 MODEL": (_integers, "MODEL is quantized (int8 weights)"),
    "fp8 CLIP-L": (_quantized("clip_l"), "CLIP is quantized (float8_e5m2 weights)"),
    "fp8 CLIP-G": (_quantized("clip_g"), "CLIP is quantized (float8_e5m2 weights)"),
    "last layer": (lambda p: p.clip.clip_layer(-1), "CLIP stops at layer -1"),
    "third layer from the end": (lambda p: p.clip.clip_layer(-3), "was trained with layer -2"),
    "bypassed LoRA": (lambda p: p.model.set_injections("bypass_lora", []), "bypass mode"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_learn_is_refused_by_name(pack: ModuleType, sdxl: SimpleNamespace, what: str) -> None:
    change, expected = REFUSED[what]
    change(sdxl)
    text = refusal(pack, sdxl)
    assert expected in text
    assert any(word in text for word in ("Load", "Use", "Remove", "Connect")), "what to do is missing"


def test_clip_skip_2_is_sdxls_own(pack: ModuleType, sdxl: SimpleNamespace) -> None:
    sdxl.clip.clip_layer(-2)
    assert backbone(pack, sdxl).widths == (64, 128)


def test_parts_of_other_families_are_refused(pack: ModuleType, sdxl: SimpleNamespace, sd2: SimpleNamespace) -> None:
    mixed = refusal(pack, SimpleNamespace(model=sdxl.model, clip=sd2.clip))
    assert "MODEL is SDXL and attends to width 192, but CLIP has width 32" in mixed
    mixed = refusal(pack, SimpleNamespace(model=sd2.model, clip=sdxl.clip))
    assert "MODEL is SD 2.x and attends to width 32, but CLIP has width 64 + 128" in mixed


def _single(name: str, of: str, **more: Any) -> Any:
    """A CLIP of one tiny encoder, as Load CLIP makes of one file."""
    import comfy.sd
    import comfy.sd1_clip
    import comfy.sdxl_clip
    from comfy.supported_models_base import ClipTarget

    classes = {
        "SD1": (comfy.sd1_clip.SD1Tokenizer, comfy.sd1_clip.SD1ClipModel),
        "refiner": (comfy.sdxl_clip.SDXLTokenizer, comfy.sdxl_clip.SDXLRefinerClipModel),
        "Cascade": (comfy.sdxl_clip.StableCascadeTokenizer, comfy.sdxl_clip.StableCascadeClipModel),
    }
    tiny = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "num_hidden_layers": 3}
    return comfy.sd.CLIP(
        ClipTarget(*classes[of]), model_options={f"{name}_model_config": tiny, "dtype": torch.float32}, **more
    )


def test_half_of_sdxls_clip_is_refused(pack: ModuleType, sdxl: SimpleNamespace) -> None:
    half = refusal(pack, SimpleNamespace(model=sdxl.model, clip=_single("clip_l", "SD1")))
    assert (
        half.startswith("MODEL is SDXL, but CLIP has clip_l alone. SDXL needs both")
        and "DualCLIPLoader of type sdxl" in half
    )
    for model in (sdxl.model, None):
        half = refusal(pack, SimpleNamespace(model=model, clip=_single("clip_g", "refiner")))
        assert half.startswith("CLIP has clip_g alone, as the SDXL refiner has.") and "DualCLIPLoader" in half


def test_apply_refuses_the_refiners_clip(pack: ModuleType, nodes: dict[str, Any]) -> None:
    token = pack.crossinit_core.LearnedToken(torch.ones(1, 2048), "anna", "sdxl")
    with pytest.raises(ValueError, match="CLIP has clip_g alone, as the SDXL refiner has"):
        nodes["CrossInitApply"].execute(_single("clip_g", "refiner"), token)


def test_clips_of_other_families_are_named(pack: ModuleType) -> None:
    import comfy.sd
    import comfy.text_encoders.sd3_clip as sd3
    from comfy.supported_models_base import ClipTarget

    assert "CLIP is of StableCascade, but" in refusal(
        pack, SimpleNamespace(model=None, clip=_single("clip_g", "Cascade"))
    )
    # SD3 without T5 has the same two encoders, and another way to join them.
    tiny = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "num_hidden_layers": 3}
    options = {f"{name}_model_config": tiny for name in ("clip_l", "clip_g")}
    target = ClipTarget(sd3.SD3Tokenizer, sd3.sd3_clip(clip_l=True, clip_g=True, t5=False))
    clip = comfy.sd.CLIP(target, model_options={**options, "dtype": torch.float32})
    assert "CLIP is of SD3, but this needs one of SDXL, SD 2.x or SD 1.x" in refusal(
        pack, SimpleNamespace(model=None, clip=clip)
    )


# What the UNet predicts


@pytest.mark.parametrize("zsnr", [False, True])
def test_v_prediction_learns_with_zero_terminal_snr(pack: ModuleType, folder: Path, clip: Any, zsnr: bool) -> None:
    """As NoobAI's checkpoints say of themselves, and as the ModelSamplingDiscrete node makes of others."""
    from comfy_extras.nodes_model_advanced import ModelSamplingDiscrete

    own = tiny_sdxl_model(folder, settings={"zsnr": zsnr}, kind="V_PREDICTION")
    (by_node,) = ModelSamplingDiscrete().patch(tiny_sdxl_model(folder), "v_prediction", zsnr)
    for model in (own, by_node):
        found = pack.nodes.host.backbone.ComfyBackbone(model, clip)
        assert found.prediction_type == "v_prediction"
        assert (float(found.alphas_cumprod()[-1]) < 1e-6) == zsnr


def _edm(model: Any, sampling: str) -> Any:
    from comfy_extras.nodes_model_advanced import ModelSamplingContinuousEDM

    return ModelSamplingContinuousEDM().patch(model, sampling, 120.0, 0.002)[0]


def _discrete(model: Any, sampling: str) -> Any:
    from comfy_extras.nodes_model_advanced import ModelSamplingDiscrete

    return ModelSamplingDiscrete().patch(model, sampling, False)[0]


def _flow(model: Any, _sampling: str) -> Any:
    from comfy_extras.nodes_model_advanced import ModelSamplingSD3

    return ModelSamplingSD3().patch(model, 3.0)[0]


def _continuous_v(model: Any, sampling: str) -> Any:
    from comfy_extras.nodes_model_advanced import ModelSamplingContinuousV

    return ModelSamplingContinuousV().patch(model, sampling, 500.0, 0.03)[0]


@pytest.mark.parametrize(
    ("patch", "sampling", "kind"),
    [
        *((_edm, sampling, "by EDM, as Playground 2.5 and CosXL") for sampling in ("v_prediction", "edm", "eps")),
        (_edm, "edm_playground_v2.5", "by EDM, as Playground 2.5 and CosXL"),
        (_continuous_v, "v_prediction", "by EDM, as Playground 2.5 and CosXL"),
        (_discrete, "lcm", "in few steps, as LCM"),
        (_discrete, "x0", "by X0"),
        (_flow, "", "by flow matching, as SD3 and Flux"),
    ],
)
def test_other_samplings_are_refused_by_name(
    pack: ModuleType, sdxl: SimpleNamespace, patch: Any, sampling: str, kind: str
) -> None:
    """EDM has a thousand levels of noise as well, but its timesteps are others."""
    sdxl.model = patch(sdxl.model, sampling)
    text = refusal(pack, sdxl)
    assert f"MODEL samples in a way that learning does not know: {kind}." in text
    assert "Remove the ModelSampling node" in text


@pytest.mark.parametrize("kind", ["EDM", "V_PREDICTION_EDM"])
def test_checkpoints_made_for_edm_are_refused(pack: ModuleType, folder: Path, clip: Any, kind: str) -> None:
    """Playground 2.5 and CosXL say so of themselves: no node is to be removed."""
    parts = SimpleNamespace(model=tiny_sdxl_model(folder, kind=kind), clip=clip)
    text = refusal(pack, parts)
    assert "by EDM, as Playground 2.5 and CosXL. Use a checkpoint that predicts noise or v" in text
    assert "node" not in text


# Distilled models


DISTILLED = {
    "sd_xl_turbo_1.0_fp16": "Turbo",
    "dreamshaperXL_v21TurboDPMSDE": "Turbo",
    "turbovisionxlSuperFastXLBasedOnNew_tvxlV431Bakedvae": "Turbo",
    "sdxl_lightning_4step": "Lightning",
    "realvisxlV50_v50LightningBakedvae": "Lightning",
    "wildcardxXLLIGHTNING_wildcardxXL": "Lightning",
    "juggernautXL_v9Rdphoto2Lightning": "Lightning",
    "LCM_Dreamshaper_v7": "LCM",
    "lcm-sdxl": "LCM",
    "dreamshaper_8LCM": "LCM",
    "Hyper-SDXL-8steps": "Hyper",
    "hyper-sd15-1step": "Hyper",
    "realcartoonXL_v7Hyper": "Hyper",
    "dmd2_sdxl_4step_unet_fp16": "DMD2",
    "lustifySDXL_ggwpV7DMD2": "DMD2",
    "mymodel-4steps": "4 steps",
    "mymodel-1step": "1 step",
}
ORDINARY = [
    "",
    "sd_xl_base_1.0",
    "juggernautXL_v9",
    "RealVisXL_V5.0_fp16",
    "ponyDiffusionV6XL_v6StartWithThisOne",
    "illustriousXL_v01",
    "NoobAI-XL-Vpred-v1.0",
    "waiNSFWIllustrious_v140",
    "animagine-xl-4.0",
    "hyperrealisticXL_v3",
    "HyperRealism_xl",
    "hyperspaceXL",
    "anna-2000steps",
    "mymodel-64steps",
    "calcmXL",
    "v2-1_768-ema-pruned",
]


def test_a_distilled_model_is_warned_about(pack: ModuleType, sdxl: SimpleNamespace) -> None:
    """By the checkpoint's name: its weights look like any other's."""
    for name, kind in DISTILLED.items():
        named(sdxl.model, name)
        (said,) = pack.nodes.host.models.warnings_about(sdxl.model)
        assert f"MODEL '{name}' was distilled to few steps ({kind}), says its name." in said
        assert "Learn on the base model" in said and "was not measured" in said
        assert backbone(pack, sdxl).checkpoint == name, "it learns all the same"


def test_nothing_is_said_of_an_ordinary_model(pack: ModuleType, sdxl: SimpleNamespace) -> None:
    said = {}
    for name in ORDINARY:
        named(sdxl.model, name)
        said[name] = pack.nodes.host.models.warnings_about(sdxl.model)
    assert not any(said.values()), said


def test_a_strange_name_stays_one_line(pack: ModuleType, sdxl: SimpleNamespace) -> None:
    for before, after in itertools.product(("", "\n", "x" * 500), repeat=2):
        named(sdxl.model, f"{before}sdxl-turbo{after}")
        (said,) = pack.nodes.host.models.warnings_about(sdxl.model)
        assert len(said) <= LONGEST_ERROR and "\n" not in said


@pytest.mark.parametrize(("channels", "factor"), [(16, 8), (4, 16), (32, 32)])
def test_a_vae_of_another_family_is_refused(pack: ModuleType, sd2: SimpleNamespace, channels: int, factor: int) -> None:
    """Flux's and SD3's has 16 channels; others make latents of another size."""
    sd2.vae.latent_channels, sd2.vae.downscale_ratio = channels, factor
    with pytest.raises(
        ValueError, match=f"VAE makes {channels} latent channels at 1/{factor} .*SDXL, SD 2.x or SD 1.x"
    ):
        pack.nodes.host.models.check_vae(sd2.vae)
