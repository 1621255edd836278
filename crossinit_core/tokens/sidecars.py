"""Files beside a token's file, for tools that do not look into it: `NAME.preview.png` and Lora-Manager's `NAME.metadata.json`.

| file | read by |
|---|---|
| `NAME.preview.png` | ComfyUI's server (`get_model_previews` in app/model_manager.py), Custom-Scripts (`get_images` in py/better_combos.py), Lora-Manager (`find_preview_file` in py/utils/file_utils.py) |
| `NAME.metadata.json` | Lora-Manager (`load_metadata` in py/utils/metadata_manager.py) |

A file that somebody else made, or changed since, is never touched. What is left of this pack's own, under a name that now is another
person's, is replaced or removed: a list would show the wrong face.
"""

from __future__ import annotations

import hashlib
import html
import io
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image, PngImagePlugin

from ..families import lineage_group
from ..files import write_atomically
from . import metadata as keys
from .halves import clean
from .learned_token import LearnedToken
from .thumbnails import picture_in

log = logging.getLogger(__name__)

PREVIEW = ".preview.png"
DETAILS = ".metadata.json"

_MARK = "crossinit"
"""Where a file of ours says so: the text of a PNG, a key of the JSON, which Lora-Manager keeps. The value is a digest of the rest."""
_LARGEST = 4 * 2**20
_OTHER_PREVIEWS = tuple(
    f"{middle}{suffix}"
    for suffix in (".webp", ".png", ".jpeg", ".jpg", ".gif", ".mp4", ".webm")
    for middle in ("", ".preview")
    if f"{middle}{suffix}" != PREVIEW
)
_BASE_MODELS = {"sd1": "SD 1.5", "sd2": "SD 2.1", "sdxl": "SDXL 1.0"}
"""Lora-Manager's names of families: `SUPPORTED_DOWNLOAD_SKIP_BASE_MODELS` in py/utils/constants.py."""
_LINEAGES = {"Pony": "Pony", "NoobAI": "NoobAI", "Illustrious": "Illustrious"}


def write_beside(token: LearnedToken, path: Path, *, wanted: bool = True) -> list[Path]:
    """Write both files of a described token that was saved at `path`; returns those that were written.

    Unless `wanted`, what this pack wrote under that name before is removed instead, and so is its picture of another person if the
    token has none. A disk that takes no more costs the files, not the save: the log says so.
    """
    written = []
    for ending, make in {PREVIEW: _preview, DETAILS: _details}.items():
        file = path.with_name(path.stem + ending)
        try:
            if file.is_symlink() or (file.exists() and not _is_ours(file)):
                continue
            if content := make(token, path) if wanted else None:
                write_atomically(file, content, replace=file.exists())
                written.append(file)
            elif not wanted or not _shows(file, token):
                file.unlink(missing_ok=True)
        except OSError as error:
            log.warning("%s could not be written (%s).", file, error.strerror or type(error).__name__)
    return written


def own_files_beside(path: Path) -> list[Path]:
    """Those of both files beside a token's file that this pack wrote, and nobody changed since."""
    files = (path.with_name(path.stem + ending) for ending in (PREVIEW, DETAILS))
    return [file for file in files if not file.is_symlink() and _is_ours(file)]


def _preview(token: LearnedToken, path: Path) -> bytes | None:
    """The token's thumbnail as PNG; None if there is none, or another picture stands for that name already."""
    picture = picture_in(token.metadata.get(keys.THUMBNAIL, ""))
    if picture is None or any(path.with_name(path.stem + ending).exists() for ending in _OTHER_PREVIEWS):
        return None
    text = PngImagePlugin.PngInfo()
    text.add_text(_MARK, _digest(picture.tobytes()))
    text.add_text(keys.PERSON, _person(token))
    file = io.BytesIO()
    picture.save(file, "PNG", pnginfo=text, optimize=True)
    return file.getvalue()


def _details(token: LearnedToken, path: Path) -> bytes:
    """What Lora-Manager shows. It skips a model of which a field of `BaseModelMetadata` (py/utils/models.py) without a default is
    missing; it shows the description as HTML."""
    raw, facts = path.read_bytes(), clean(token.metadata)
    previews = (path.with_name(path.stem + ending) for ending in (PREVIEW, *_OTHER_PREVIEWS))
    preview = next((preview.as_posix() for preview in previews if preview.is_file()), "")
    content = {
        "file_name": path.stem,
        "model_name": token.name,
        "file_path": path.as_posix(),
        "size": len(raw),
        "modified": path.stat().st_mtime,
        "sha256": hashlib.sha256(raw).hexdigest(),
        "base_model": _base_model(token),
        "preview_url": preview,
        "preview_nsfw_level": 0,
        "notes": "",
        "from_civitai": False,
        "civitai": {"trainedWords": [facts.get(keys.TRIGGER_PHRASE, "")]},
        "tags": [html.escape(tag) for tag in facts.get(keys.TAGS, "").split(", ")],
        "modelDescription": html.escape(facts.get(keys.DESCRIPTION, "")),
    }
    content[_MARK] = _digest_of_json(content)
    return json.dumps(content, ensure_ascii=False, indent=2).encode(errors="replace")


def _base_model(token: LearnedToken) -> str:
    lineage = token.metadata.get(keys.LINEAGE, "")
    known = _LINEAGES.get(lineage) or _LINEAGES.get(lineage_group(lineage))
    return (known if token.base == "sdxl" else None) or _BASE_MODELS.get(token.base, "Other")


def _is_ours(file: Path) -> bool:
    """Whether this pack wrote the file, and nobody changed it since."""
    try:
        if not file.is_file() or file.stat().st_size > _LARGEST:
            return False
        if file.name.endswith(PREVIEW):
            with Image.open(file, formats=["PNG"]) as picture:
                return bool(picture.info.get(_MARK) == _digest(picture.tobytes()))
        content = json.loads(file.read_text(encoding="utf-8"))
        return isinstance(content, dict) and content.pop(_MARK, None) == _digest_of_json(content)
    except (OSError, ValueError, SyntaxError, RecursionError, Image.DecompressionBombError):
        return False


def _shows(file: Path, token: LearnedToken) -> bool:
    """Whether a picture of ours is this very person's."""
    if not file.is_file():
        return False
    with Image.open(file, formats=["PNG"]) as picture:
        return bool(picture.info.get(keys.PERSON) == _person(token))


def _person(token: LearnedToken) -> str:
    return _digest(token.vectors.numpy().tobytes())


def _digest_of_json(content: Mapping[str, Any]) -> str:
    return _digest(json.dumps(content, sort_keys=True).encode())


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:32]
