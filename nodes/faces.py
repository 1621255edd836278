"""Prepare Face Photo."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io, ui

from ..crossinit_core.photos.faces import Framing, prepare_faces
from .errors import tells_errors
from .host.page import show_text
from .host.progress import ProgressBar, stop_if_cancelled
from .sockets import CATEGORY, SEARCH_ALIASES, single

FIND = "find the face"
BY_HAND = "by hand"

_DEFAULT = Framing()


@tells_errors
class CrossInitPrepareFace(io.ComfyNode):
    """Any photo as a square portrait to learn from, and what of it is face and hair."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CrossInitPrepareFace",
            display_name="Prepare Face Photo",
            category=CATEGORY,
            description=(
                "Finds the face on each photo, turns it upright, and crops a square portrait around it, with a soft mask of "
                "face and hair. For Learn Face."
            ),
            search_aliases=[*SEARCH_ALIASES, "crop face", "align face", "face detection", "face mask"],
            # The photos may come as a list of different sizes, so this node takes whole lists.
            is_input_list=True,
            # So that it can be run alone, to see what will be learned.
            is_output_node=True,
            inputs=[
                io.Image.Input(
                    "image", tooltip="One photo of the person, or several as a batch or a list, of any size."
                ),
                io.Combo.Input(
                    "framing",
                    options=[FIND, BY_HAND],
                    default=FIND,
                    tooltip=(
                        f"'{BY_HAND}' looks for no face and takes the advanced inputs center_x, center_y, crop_size and roll "
                        "instead."
                    ),
                ),
                io.Int.Input(
                    "face",
                    default=1,
                    min=1,
                    max=100,
                    tooltip="Which face, if a photo shows several: 1 is the largest, 2 the next, and so on.",
                ),
                io.Int.Input(
                    "resolution",
                    default=_DEFAULT.resolution,
                    min=64,
                    max=1024,
                    step=64,
                    tooltip=(
                        "Side of the portrait in pixels: 512 for SD 1.x and 2.x, 768 for SD 2.1-768, 1024 for SDXL, 128 for the "
                        "miniature."
                    ),
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip=(
                        "The head with its hair in white, from another node: no face is looked for, and this is the mask that "
                        "comes out. One for each photo, or one for all."
                    ),
                ),
                io.Custom("BOUNDING_BOX").Input(
                    "bounding_box",
                    optional=True,
                    # A socket alone: as a widget it would always hold a box.
                    extra_dict={"forceInput": True},
                    tooltip=(
                        "The face from forehead to chin, from another detector, such as ComfyUI's Detect Face Landmarks: then "
                        "none is looked for."
                    ),
                ),
                io.Boolean.Input(
                    "straighten",
                    default=_DEFAULT.straighten,
                    optional=True,
                    advanced=True,
                    tooltip="Turn the head upright if its eyes are found.",
                ),
                io.Float.Input(
                    "zoom",
                    default=_DEFAULT.zoom,
                    min=0.25,
                    max=4.0,
                    step=0.05,
                    optional=True,
                    advanced=True,
                    tooltip="1 frames the head as the celebrity portraits of CelebA-HQ do. Less shows more around it.",
                ),
                io.Float.Input(
                    "center_x",
                    default=_DEFAULT.x,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    optional=True,
                    advanced=True,
                    tooltip=f"For '{BY_HAND}': the place of the nose's bridge across the photo, 0 at the left and 1 at the right.",
                ),
                io.Float.Input(
                    "center_y",
                    default=_DEFAULT.y,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    optional=True,
                    advanced=True,
                    tooltip=f"For '{BY_HAND}': the place of the nose's bridge, 0 at the top and 1 at the bottom.",
                ),
                io.Float.Input(
                    "crop_size",
                    default=_DEFAULT.side,
                    min=0.02,
                    max=2.0,
                    step=0.01,
                    optional=True,
                    advanced=True,
                    tooltip=(
                        f"For '{BY_HAND}': the square's side as a part of the photo's shorter side. Four times the distance of "
                        "the eyes is right."
                    ),
                ),
                io.Float.Input(
                    "roll",
                    default=_DEFAULT.roll,
                    min=-180.0,
                    max=180.0,
                    step=1.0,
                    optional=True,
                    advanced=True,
                    tooltip=f"For '{BY_HAND}': degrees by which the head is turned clockwise.",
                ),
            ],
            outputs=[
                io.Image.Output("image", display_name="image", tooltip="Square portraits, for Learn Face."),
                io.Mask.Output("mask", display_name="mask", tooltip="Face and hair in white, for Learn Face."),
                io.String.Output("report", display_name="report", tooltip="What was done, a line for each photo."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        image: list[Any],
        mask: list[Any] | None = None,
        bounding_box: list[Any] | None = None,
        **widgets: list[Any],
    ) -> io.NodeOutput:
        bar = ProgressBar(sum(len(batch) for batch in image))

        def on_photo() -> None:
            stop_if_cancelled()
            bar.update(1)

        faces = prepare_faces(
            image,
            _framing(**{name: single(name, values) for name, values in widgets.items()}),
            masks=mask or None,
            boxes=None if bounding_box is None else boxes_of_photos(bounding_box),
            on_photo=on_photo,
        )
        show_text(cls, faces.summary())
        preview = ui.PreviewImage(faces.preview(), cls=cls)
        return io.NodeOutput(faces.images, faces.masks, faces.summary(), ui=preview)


def _framing(
    framing: str,
    center_x: float = _DEFAULT.x,
    center_y: float = _DEFAULT.y,
    crop_size: float = _DEFAULT.side,
    **alike: Any,
) -> Framing:
    """The node's widgets as the core's settings; those of the same name come in `alike`."""
    return Framing(by_hand=framing == BY_HAND, x=center_x, y=center_y, side=crop_size, **alike)


def boxes_of_photos(wire: list[Any]) -> list[list[Any]]:
    """What lies on a BOUNDING_BOX wire, as a list of boxes for each photo.

    Nodes give a box, a list of one photo's boxes, or a list of such lists for a batch.
    """
    photos: list[list[Any]] = []
    for value in wire:
        if not isinstance(value, list):
            photos.append([value])
        elif value and isinstance(value[0], list):
            photos.extend(value)
        else:
            photos.append(value)
    return photos
