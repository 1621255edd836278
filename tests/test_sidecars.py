"""Files beside a token's file, and the rules of the tools that read them."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from crossinit_core import LearnedToken, save_learned_token
from crossinit_core.tokens.description import described
from crossinit_core.tokens.sidecars import write_beside
from tests.test_description import LEARNED, face, history

RED, BLUE = (250, 0, 0), (0, 0, 250)


@dataclasses.dataclass
class LoraManagersModel:
    """The fields of `BaseModelMetadata` (py/utils/models.py of ComfyUI-Lora-Manager) that have no default: if one is missing,
    its `load_metadata` skips the model."""

    file_name: str
    model_name: str
    file_path: str
    size: int
    modified: float
    sha256: str
    base_model: str
    preview_url: str


def shown_by_lora_manager(model: Path) -> dict[str, Any]:
    """What its scanner makes of the file beside a model."""
    content: dict[str, Any] = json.loads(Path(f"{model.with_suffix('')}.metadata.json").read_text(encoding="utf-8"))
    known = {field.name for field in dataclasses.fields(LoraManagersModel)}
    LoraManagersModel(**{key: value for key, value in content.items() if key in known})
    return content


def saved(
    folder: Path, color: tuple[int, int, int] | None = BLUE, seed: int = 0, lineage: str = ""
) -> tuple[LearnedToken, Path]:
    base, width = ("sdxl", 2048) if lineage else ("sd2", 1024)
    vectors = torch.randn(2, width, generator=torch.Generator().manual_seed(seed))
    run = history(portrait=face(color)) if color else None
    token = described(
        LearnedToken(vectors, "anna.v2", base, LEARNED | ({"crossinit.lineage": lineage} if lineage else {}), run)
    )
    return token, save_learned_token(token, folder / "anna.v2.safetensors")


def colour(path: Path) -> int:
    with Image.open(path) as picture:
        return max(range(3), key=lambda channel: picture.convert("RGB").getpixel((9, 9))[channel])  # type: ignore[index]


@pytest.mark.parametrize(
    ("lineage", "family"),
    [("", "SD 2.1"), ("SDXL base", "SDXL 1.0"), ("Pony", "Pony"), ("NoobAI", "NoobAI"), ("Animagine XL", "SDXL 1.0")],
)
def test_lora_manager_shows_family_trigger_and_picture(tmp_path: Path, lineage: str, family: str) -> None:
    token, path = saved(tmp_path, lineage=lineage)
    write_beside(token, path)
    shown = shown_by_lora_manager(path)
    assert shown["base_model"] == family and shown["civitai"] == {"trainedWords": ["embedding:anna.v2 person"]}
    assert (
        shown["preview_url"] == (tmp_path / "anna.v2.preview.png").as_posix() and Path(shown["preview_url"]).is_file()
    )
    assert shown["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest() and shown["size"] == path.stat().st_size
    assert shown["file_name"] == "anna.v2" and "face" in shown["tags"] and "consent" in shown["modelDescription"]


def test_a_foreign_description_is_no_html(tmp_path: Path) -> None:
    token, path = saved(tmp_path)
    token = described(
        replace(token, metadata={"modelspec.description": "<img src=x onerror=alert(1)>", "modelspec.tags": "<b>"})
    )
    write_beside(token, path)
    shown = shown_by_lora_manager(path)
    assert "<" not in shown["modelDescription"] + "".join(shown["tags"]) and "&lt;img" in shown["modelDescription"]


def test_custom_scripts_finds_the_picture(tmp_path: Path) -> None:
    """`get_images` in py/better_combos.py of ComfyUI-Custom-Scripts."""
    token, path = saved(tmp_path)
    write_beside(token, path)
    endings = ("png", "jpg", "jpeg", "preview.png", "preview.jpeg")
    found = [ending for ending in endings if Path(f"{path.with_suffix('')}.{ending}").is_file()]
    assert found == ["preview.png"]


def test_comfyuis_server_finds_picture_and_text(pack: Any, comfyui: Path, tmp_path: Path) -> None:
    from app.model_manager import ModelFileManager
    from comfy.utils import safetensors_header

    token, path = saved(tmp_path)
    write_beside(token, path)
    assert ModelFileManager().get_model_previews(str(path)) == [str(tmp_path / "anna.v2.preview.png")]
    header = json.loads(safetensors_header(str(path), max_size=2**20))
    assert header["__metadata__"]["modelspec.thumbnail"].startswith("data:image/")


@pytest.mark.parametrize("ending", [".preview.png", ".metadata.json"])
@pytest.mark.parametrize("wanted", [True, False])
def test_somebody_elses_file_stays(tmp_path: Path, ending: str, wanted: bool) -> None:
    for content in (b"", b"{}", b'{"crossinit": "x"}', b'{"notes": ', b"\x89PNG\r\n\x1a\n", b"[" * 100_000):
        theirs = tmp_path / f"anna.v2{ending}"
        theirs.write_bytes(content)
        token, path = saved(tmp_path)
        assert theirs not in write_beside(token, path, wanted=wanted)
        assert theirs.read_bytes() == content


def test_ours_that_somebody_changed_stays(tmp_path: Path) -> None:
    """Lora-Manager writes a person's notes into the file; someone paints on the picture and keeps its texts."""
    from PIL.PngImagePlugin import PngInfo

    token, path = saved(tmp_path)
    preview, details = write_beside(token, path)
    details.write_text(
        json.dumps(json.loads(details.read_text(encoding="utf-8")) | {"notes": "my aunt"}), encoding="utf-8"
    )
    with Image.open(preview) as picture:
        texts = PngInfo()
        for key in ("crossinit", "crossinit.token"):
            texts.add_text(key, str(picture.info[key]))
        painted = picture.convert("RGB")
    painted.putpixel((0, 0), (1, 2, 3))
    painted.save(preview, pnginfo=texts)
    before = preview.read_bytes(), details.read_bytes()
    other, path = saved(tmp_path, RED, seed=1)
    assert write_beside(other, path) == []
    assert write_beside(other, path, wanted=False) == []
    assert (preview.read_bytes(), details.read_bytes()) == before


def test_another_picture_of_that_name_is_not_hidden(tmp_path: Path) -> None:
    token, path = saved(tmp_path)
    (tmp_path / "anna.v2.webp").write_bytes(b"their picture")
    write_beside(token, path)
    assert not (tmp_path / "anna.v2.preview.png").exists()
    assert shown_by_lora_manager(path)["preview_url"].endswith("anna.v2.webp")


def test_a_replaced_person_is_shown_anew(tmp_path: Path) -> None:
    token, path = saved(tmp_path, RED)
    preview, details = write_beside(token, path)
    assert colour(preview) == 0
    other, path = saved(tmp_path, BLUE, seed=1)
    assert write_beside(other, path) == [preview, details] and colour(preview) == 2
    assert shown_by_lora_manager(path)["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_face_of_a_replaced_person_goes(tmp_path: Path) -> None:
    token, path = saved(tmp_path)
    preview, details = write_beside(token, path)
    assert write_beside(*saved(tmp_path, None)) == [details] and preview.is_file(), "the same person, without a picture"
    assert write_beside(*saved(tmp_path, None, seed=1)) == [details] and not preview.exists()


def test_nothing_is_left_of_a_private_person(tmp_path: Path) -> None:
    token, path = saved(tmp_path)
    assert len(write_beside(token, path)) == 2
    assert write_beside(token, path, wanted=False) == [] and list(tmp_path.iterdir()) == [path]


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    token, path = saved(tmp_path)
    preview, _ = write_beside(token, path)
    (tmp_path / "elsewhere").mkdir()
    target = preview.rename(tmp_path / "elsewhere" / "mine.preview.png")
    try:
        preview.symlink_to(target)
    except OSError:
        pytest.skip("this system lets nobody make symbolic links")
    before = target.read_bytes()
    other, path = saved(tmp_path, RED, seed=1)
    write_beside(other, path)
    assert target.read_bytes() == before and preview.is_symlink()
