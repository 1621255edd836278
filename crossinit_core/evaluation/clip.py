"""How well pictures show what their prompts say, by CLIP from a local folder in the layout of transformers.

The publication measured with OpenAI's ViT-B/32 (`openai/clip-vit-base-patch32`), as Celeb Basis does (`evaluation/clip_eval.py`).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from ..prompts import PLACE
from ..text import quoted
from .measures import prompt_similarity

_BATCH = 16
_FILES = ("config.json", "preprocessor_config.json", "tokenizer_config.json")
_ADVICE = "Give a folder with a copy of openai/clip-vit-base-patch32."
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")


def without_place(prompt: str) -> str:
    """A prompt as it is compared: the person's place is deleted, and what is around it stays, two spaces too, as in Celeb
    Basis (`evaluation/clip_eval.py`: `prompt.replace('sks', '')`)."""
    return PLACE.sub("", prompt)


class ClipScorer:
    """A `PromptScorer`: cosines of CLIP's features of pictures and prompts.

    Raises FileNotFoundError or ValueError for a folder that does not hold CLIP, ImportError without transformers.
    """

    def __init__(self, folder: Path, device: torch.device | str = "cpu") -> None:
        config = _config(folder)
        try:
            import transformers
        except ImportError as error:
            raise ImportError(
                f"The prompt similarity needs transformers ({quoted(error, 120)}). Install it: pip install 'crossinit[cli]'"
            ) from error
        library: Any = transformers
        library.utils.logging.set_verbosity_error()
        # Pillow's, as published: version 5 of transformers has two, and its other one rounds differently.
        pictures = getattr(library, "CLIPImageProcessorPil", None) or library.CLIPImageProcessor
        try:
            model, report = library.CLIPModel.from_pretrained(folder, local_files_only=True, output_loading_info=True)
            self._tokenizer = library.CLIPTokenizer.from_pretrained(folder, local_files_only=True)
            self._pictures = pictures.from_pretrained(folder, local_files_only=True)
        except Exception as error:  # transformers raises nearly anything for damaged files
            raise ValueError(f"CLIP cannot be loaded from '{quoted(folder, 200)}': {quoted(error, 250)}") from error
        # What a file lacks would be random numbers.
        missing = sorted(name for name in report["missing_keys"] if not name.endswith("position_ids"))
        if missing:
            raise ValueError(
                f"The weights in '{quoted(folder, 200)}' lack {len(missing)} of CLIP's, such as '{quoted(missing[0], 80)}'. {_ADVICE}"
            )
        self._model = model.to(device).float().train(False)
        self._device = device
        self.name = _name(config)

    @torch.no_grad()
    def score(self, pictures: Sequence[NDArray[np.uint8]], prompts: Sequence[str]) -> list[float | None]:
        """The cosine of each picture (H, W, 3) uint8 RGB and its prompt, whose `{}` is deleted."""
        found: list[float | None] = []
        for start in range(0, len(pictures), _BATCH):
            part = [Image.fromarray(picture) for picture in pictures[start : start + _BATCH]]
            pixels = self._pictures(images=part, return_tensors="pt")["pixel_values"].to(self._device)
            texts = [without_place(prompt) for prompt in prompts[start : start + _BATCH]]
            ids = self._tokenizer(texts, padding=True, truncation=True, return_tensors="pt").to(self._device)
            images = _features(self._model.get_image_features(pixel_values=pixels))
            words = _features(self._model.get_text_features(**ids))
            found += prompt_similarity(images, words).tolist()
        return found


def _features(found: Any) -> torch.Tensor:
    """The projected features: transformers gave them alone before version 5, and then inside an output."""
    features = found if isinstance(found, torch.Tensor) else found.pooler_output
    return torch.as_tensor(features)


def _config(folder: Path) -> dict[str, Any]:
    shown = quoted(folder, 200)
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no CLIP folder at '{shown}'. {_ADVICE}")
    missing = [name for name in _FILES if not (folder / name).is_file()]
    if not any((folder / name).is_file() for name in _WEIGHTS):
        missing.append(_WEIGHTS[0])
    if missing:
        raise FileNotFoundError(f"The CLIP folder '{shown}' has no {', '.join(missing)}. {_ADVICE}")
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"The config.json of '{shown}' cannot be read ({quoted(error, 100)}). {_ADVICE}") from error
    kind = config.get("model_type") if isinstance(config, dict) else None
    if kind != "clip":
        raise ValueError(
            f"The folder '{shown}' holds '{quoted(kind, 60)}', but CLIP with both halves is expected. {_ADVICE}"
        )
    return dict(config)


def _name(config: dict[str, Any]) -> str:
    """`CLIP ViT-B/32` for the sizes of OpenAI's networks; for others what they are."""
    vision = config.get("vision_config") or {}
    width, patch = vision.get("hidden_size", 768), vision.get("patch_size", 32)
    size = {768: "B", 1024: "L", 1280: "H"}.get(width)
    return f"CLIP ViT-{size}/{patch}" if size else f"CLIP with patches of {patch} px and width {width}"
