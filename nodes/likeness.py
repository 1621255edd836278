"""Likeness Score."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from comfy_api.latest import io, ui
from torch import Tensor

from ..crossinit_core.evaluation.choice import recognizer_of
from ..crossinit_core.evaluation.faces import Picture, labelled, likeness
from ..crossinit_core.evaluation.recognizers import Recognizer
from ..crossinit_core.photos.images import as_rgb
from ..crossinit_core.text import quoted
from .errors import tells_errors
from .files import files_below, stamp
from .host.folders import insightface_folders
from .host.page import show_text
from .host.progress import ProgressBar, stop_if_cancelled
from .sockets import CATEGORY, SEARCH_ALIASES, single

DLIB = "dlib"
OTHER_NETWORKS = ("det", "scrfd", "1k3d", "2d106", "genderage", "inswapper", "retina", "yolo", "parsing", "landmark")
"""How files in models/insightface begin that recognize nobody: detectors, landmarks, swappers."""


@tells_errors
class CrossInitLikeness(io.ComfyNode):
    """How alike the faces on pictures are to somebody's photos."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CrossInitLikeness",
            display_name="Likeness Score",
            category=CATEGORY,
            description=(
                "Says how alike the faces on pictures are to the person's photos, as a face recognizer sees it, and keeps the "
                "best pictures."
            ),
            search_aliases=[
                *SEARCH_ALIASES,
                *("face similarity", "face distance", "face embeds distance", "identity similarity", "face analysis"),
                *("arcface", "insightface", "best of", "filter faces", "rank"),
            ],
            # Pictures and photos may come as lists of different sizes.
            is_input_list=True,
            is_output_node=True,
            inputs=[
                io.Image.Input("images", tooltip="The pictures to be judged, as a batch or a list, of any size."),
                io.Image.Input(
                    "photos",
                    tooltip=(
                        "Photos of the person. One that was not learned from is the better judge: pictures may resemble the learned "
                        "one in light and pose."
                    ),
                ),
                io.Combo.Input(
                    "recognizer",
                    options=[DLIB, *onnx_files()],
                    default=DLIB,
                    tooltip=(
                        "Which network compares the faces. Scores of different ones cannot be compared. ArcFace or AdaFace: put "
                        "the .onnx file into ComfyUI/models/insightface."
                    ),
                ),
                io.Int.Input(
                    "keep",
                    default=0,
                    min=0,
                    max=4096,
                    tooltip="How many of the best pictures come out, those without a face left out. 0: all of them.",
                ),
            ],
            outputs=[
                io.Image.Output(
                    "images", display_name="images", is_output_list=True, tooltip="The pictures, the most alike first."
                ),
                io.Image.Output(
                    "labelled",
                    display_name="labelled",
                    is_output_list=True,
                    tooltip="The same pictures with their scores written on them.",
                ),
                io.Float.Output(
                    "score",
                    display_name="score",
                    tooltip="The mean over all pictures on which there is a face; 0 if there is none.",
                ),
                io.String.Output("report", display_name="report", tooltip="Each score, and whose it is."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def fingerprint_inputs(cls, recognizer: Any = DLIB, **inputs: Any) -> str:
        choice = recognizer[0] if isinstance(recognizer, list) and recognizer else recognizer
        return f"{choice}|{stamp(onnx_files().get(str(choice)))}"

    @classmethod
    def execute(cls, images: list[Any], photos: list[Any], recognizer: list[Any], keep: list[Any]) -> io.NodeOutput:
        network = _recognizer(single("recognizer", recognizer))
        count = single("keep", keep)
        pictures, references = _pictures(images), _pictures(photos)
        bar = ProgressBar(len(pictures) + len(references))

        def on_picture() -> None:
            stop_if_cancelled()
            bar.update(1)

        found = likeness(network, pictures, references, on_picture)
        best = found.best(count)
        given = [picture for batch in images for picture in batch]
        kept = [given[index] for index in best]
        shown = [_tensor(labelled(pictures[index], found.label(index))) for index in best]
        report = found.summary()
        show_text(cls, report.partition("\n")[0])
        preview = ui.PreviewImage(shown, cls=cls)  # pyright: ignore[reportArgumentType]
        return io.NodeOutput(_batches(kept), _batches(shown), found.mean or 0.0, report, ui=preview)


def onnx_files() -> dict[str, Path]:
    """The .onnx files of ComfyUI/models/insightface that may be recognizers, by the name that the node shows."""
    files = files_below(insightface_folders(), "*.onnx")
    return {name: path for name, path in files.items() if not path.name.lower().startswith(OTHER_NETWORKS)}


def _recognizer(choice: str) -> Recognizer:
    if choice == DLIB:
        return recognizer_of(DLIB)
    path = onnx_files().get(choice)
    if path is None:
        raise ValueError(
            f"The recognizer '{quoted(choice)}' is gone. Put it back into models/insightface, or choose another."
        )
    return recognizer_of(path)


def _pictures(batches: Sequence[Any]) -> list[Picture]:
    """(H, W, 3) uint8 of everything in a list of batches."""
    return [
        np.ascontiguousarray((picture * 255).round().to(torch.uint8).numpy())
        for batch in batches
        for picture in as_rgb(batch)
    ]


def _tensor(picture: Picture) -> Tensor:
    return torch.from_numpy(picture.copy()).float() / 255


def _batches(pictures: Sequence[Tensor]) -> list[Tensor]:
    """One batch if all have one size, else a batch for each."""
    alike = len({picture.shape for picture in pictures}) == 1
    return [torch.stack(list(pictures))] if alike else [picture[None] for picture in pictures]
