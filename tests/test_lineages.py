"""Which child of SDXL a checkpoint is, by its name; and whether a token was learned on another."""

from __future__ import annotations

import pytest

from crossinit_core.families import lineage_group, lineage_of
from crossinit_core.tokens.lineage import other_lineage

NAMES = {
    "ponyDiffusionV6XL_v6StartWithThisOne": "Pony",
    "ponyDiffusionV6XL": "Pony",
    "cyberrealisticPony_v110": "Pony",
    "autismmixSDXL_autismmixConfetti": "Pony",
    "everclearPNYByZovya_v3": "Pony",
    "WAI-ANI-NSFW-PONYXL_v11": "Pony",
    "illustriousXL_v01": "Illustrious",
    "Illustrious-XL-v2.0": "Illustrious",
    "waiNSFWIllustrious_v140": "Illustrious",
    "waiIllustriousSDXL_v150": "Illustrious",
    "novaAnimeXL_ilV100": "Illustrious",
    "hassakuXL_ILv2": "Illustrious",
    "NoobAI-XL-Vpred-v1.0": "NoobAI",
    "noobaiXLNAIXL_vPred10Version": "NoobAI",
    "noobai_illustrious_merge": "NoobAI",
    "animagine-xl-4.0": "Animagine XL",
    "animagineXLV31_v31": "Animagine XL",
    "sd_xl_base_1.0": "SDXL base",
    "sd_xl_base_1.0_0.9vae": "SDXL base",
    "stable-diffusion-xl-base-1.0": "SDXL base",
    "sdXL_v10VAEFix": "SDXL base",
    "juggernautXL_v9Rdphoto2Lightning": "Juggernaut XL",
    "Juggernaut-XL_v9_RunDiffusionPhoto_v2": "Juggernaut XL",
    "RealVisXL_V5.0": "RealVisXL",
    "realvisxlV50_v50Bakedvae": "RealVisXL",
    "dreamshaperXL_v21TurboDPMSDE": "DreamShaper XL",
    "dreamshaper_8": "",
    "ponyIllustriousMerge_v1": "",
    "crossinit-miniature": "",
    "v1-5-pruned-emaonly": "",
    "illustrationXL": "",
    "my model": "",
    "": "",
    "/": "",
}


@pytest.mark.parametrize("name", NAMES)
def test_a_name_tells_the_lineage(name: str) -> None:
    assert lineage_of(name) == NAMES[name]
    assert lineage_of(f"{name}.safetensors") == NAMES[name]
    assert lineage_of(f"D:\\ComfyUI\\models\\checkpoints\\{name}.safetensors") == NAMES[name]


def test_a_folder_tells_what_its_files_do_not() -> None:
    assert lineage_of("Pony/realDream_v12.safetensors") == "Pony"
    assert lineage_of("checkpoints/Illustrious/new/whatever.safetensors") == "Illustrious"
    assert lineage_of("Pony/waiNSFWIllustrious_v140.safetensors") == "Illustrious"


def test_noobai_is_a_child_of_illustrious() -> None:
    assert lineage_group("NoobAI") == lineage_group("Illustrious") != lineage_group("Pony")
    assert lineage_group("SDXL base") == lineage_group("RealVisXL") != ""


@pytest.mark.parametrize(
    ("learned_on", "used_with", "warns"),
    [
        ("ponyDiffusionV6XL", "sd_xl_base_1.0", True),
        ("ponyDiffusionV6XL", "waiNSFWIllustrious_v140", True),
        ("juggernautXL_v9", "NoobAI-XL-Vpred-v1.0", True),
        ("animagine-xl-4.0", "RealVisXL_V5.0", True),
        ("ponyDiffusionV6XL", "cyberrealisticPony_v110", False),
        ("illustriousXL_v01", "NoobAI-XL-Vpred-v1.0", False),
        ("sd_xl_base_1.0", "juggernautXL_v9", False),
        ("ponyDiffusionV6XL", "my model", False),
        ("my model", "ponyDiffusionV6XL", False),
        ("ponyDiffusionV6XL", "", False),
        ("", "", False),
    ],
)
def test_a_token_of_another_lineage_is_said(learned_on: str, used_with: str, warns: bool) -> None:
    written = {"crossinit.base": "sdxl", "crossinit.checkpoint": learned_on}
    for metadata in (written, written | {"crossinit.lineage": lineage_of(learned_on)}):
        said = other_lineage(metadata, used_with)
        assert bool(said) == warns and len(said) < 300
        if warns:
            assert f"learned on {lineage_of(learned_on)}, but '{used_with}' is {lineage_of(used_with)}" in said


def test_sd_1_has_no_lineages() -> None:
    assert other_lineage({"crossinit.base": "sd1", "crossinit.checkpoint": "ponyThing"}, "juggernaut_reborn") == ""


def test_a_files_own_words_are_not_repeated() -> None:
    assert other_lineage({"crossinit.lineage": "<script>"}, "ponyDiffusionV6XL") == ""
    said = other_lineage({"crossinit.lineage": "RealVisXL"}, "pony\u202e\n" + "x" * 5000)
    assert said.isprintable() and len(said) < 300
