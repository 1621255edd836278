"""Photos with a face somewhere -> square pictures framed like CelebA-HQ portraits, masks, and what was done."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from .cascades import opencv
from .detectors import face_detector
from .face_detection import FaceDetector, NoDetectorError, roll_of
from .framing import Frame, cut, frame_by_hand, frame_of_box, frame_of_eyes, frame_of_face, frame_of_mask, share_inside
from .head_masks import head_mask, soften
from .images import as_rgb, check_resolution, masks_of_photos

Box = Mapping[str, float]
"""A face from forehead to chin: `x` and `y` of its top left corner, `width` and `height`, in pixels."""

MOST_ENLARGED = 4.0
HEAD_PART = 0.75
"""The middle part of a frame that holds the face; the rest is hair and margin."""
MOST_CUT_OFF = 0.08


@dataclass(frozen=True)
class Framing:
    """How photos are framed. `face` 1 is the largest on its photo; `alone` refuses a photo on which there are several.

    With `by_hand`, no face is looked for: `x`, `y` are the frame's centre in parts of the photo's width and height,
    `side` its side in parts of the photo's shorter side, `roll` how far the head is turned clockwise, in degrees.
    `zoom` above 1 shows the face larger than in CelebA-HQ. `resolution` is a multiple of 64.
    """

    face: int = 1
    straighten: bool = True
    zoom: float = 1.0
    resolution: int = 512
    by_hand: bool = False
    x: float = 0.5
    y: float = 0.5
    side: float = 1.0
    roll: float = 0.0
    alone: bool = False

    def check(self) -> None:
        """Raises ValueError for a value that cannot be."""
        check_resolution(self.resolution)
        for name, value, low, high in (
            ("face", self.face, 1, 1000),
            ("zoom", self.zoom, 0.25, 4),
            ("x", self.x, 0, 1),
            ("y", self.y, 0, 1),
            ("side", self.side, 0.02, 2),
            ("roll", self.roll, -180, 180),
        ):
            if not low <= value <= high:
                message = f"{name} is {value}, but must be from {low} to {high}."
                raise InputError(message, "frame" if name in ("x", "y", "side") else None)


@dataclass(frozen=True)
class PreparedFaces:
    """`images` (N, R, R, 3) and `masks` (N, R, R) float32 in 0..1; one note and one frame for each photo."""

    images: Tensor
    masks: Tensor
    notes: tuple[str, ...]
    frames: tuple[Frame, ...]

    def summary(self) -> str:
        """What was done, one line for each photo."""
        if len(self.notes) == 1:
            return self.notes[0]
        return "\n".join(f"Photo {index}: {note}" for index, note in enumerate(self.notes, start=1))

    def preview(self) -> Tensor:
        """(N, R, R, 3): the pictures with what the masks leave out darkened."""
        return self.images * (0.25 + 0.75 * self.masks[..., None])


def prepare_faces(
    images: Tensor | Sequence[Tensor],
    framing: Framing | None = None,
    *,
    masks: Tensor | Sequence[Tensor] | None = None,
    boxes: Sequence[Sequence[Box]] | None = None,
    on_photo: Callable[[], None] | None = None,
) -> PreparedFaces:
    """Frame the face on each photo; `images` is one batch, or a sequence of batches of different sizes.

    masks: the head, face and hair, in white: (N, H, W) or a sequence of such; one serves all photos. It becomes the mask,
    and decides the frame if there are no `boxes` and `framing.by_hand` is off.
    boxes: faces from another detector, a list of boxes for each photo, or one list for all.
    on_photo: called after each photo.

    Raises ValueError, which names the photo, if there is no face, too few, or one too small or cut off; NoDetectorError
    if a face detector is needed and none is installed.
    """
    framing = framing or Framing()
    framing.check()
    photos = [photo for batch in ([images] if isinstance(images, Tensor) else images) for photo in as_rgb(batch)]
    if not photos:
        raise InputError("The batch of photos is empty, but at least one is needed.", "photo")
    heads: Sequence[Tensor | None] = [None] * len(photos)
    if masks is not None:
        heads = masks_of_photos(masks, [(photo.shape[0], photo.shape[1]) for photo in photos])
    found = None if boxes is None else _checked_boxes(boxes, len(photos))
    framer = _Framer(framing, opencv())
    prepared = []
    for index, photo in enumerate(photos):
        try:
            prepared.append(framer.prepare(photo, heads[index], None if found is None else found[index]))
        except ValueError as error:
            if len(photos) > 1:
                error.args = (f"Photo {index + 1} of {len(photos)}: {error}",)  # the same error, with its subject
            raise
        if on_photo:
            on_photo()
    pictures, soft, notes, frames = zip(*prepared, strict=True)
    return PreparedFaces(torch.stack(pictures), torch.stack(soft), notes, frames)


@dataclass
class _Framer:
    """Frames one photo after the other. `cv` is OpenCV's module, or None."""

    framing: Framing
    cv: Any

    def prepare(
        self, photo: Tensor, head: Tensor | None, boxes: Sequence[Box] | None
    ) -> tuple[Tensor, Tensor, str, Frame]:
        """(R, R, 3), (R, R), a note, and the frame, for a photo (H, W, 3) and what is known of it."""
        height, width = photo.shape[:2]
        if self.framing.by_hand:
            frame, note = self._by_hand(height, width), "framed by hand"
        elif boxes is not None:
            frame, note = self._from_box(photo, boxes)
        elif head is not None:
            frame, note = self._from_mask(head), "framed by the mask"
        else:
            frame, note = self._find(photo)
        frame = frame.zoomed(self.framing.zoom)
        if frame.roll:
            note += f", straightened by {abs(frame.roll):.0f}°"
        note += self._checked(frame, height, width)
        size = self.framing.resolution
        picture = cut(photo.movedim(-1, 0)[None], frame, size)[0]
        inside = cut(torch.ones(1, 1, height, width), frame, size, fill="zeros")[0, 0]
        mask = head_mask(picture, size, self.cv) if head is None else self._cut_mask(head, frame)
        return picture.movedim(0, -1).contiguous(), mask * inside, note, frame

    def _by_hand(self, height: int, width: int) -> Frame:
        return frame_by_hand(height, width, self.framing.x, self.framing.y, self.framing.side, self.framing.roll)

    def _find(self, photo: Tensor) -> tuple[Frame, str]:
        faces = self._detector.find(_bytes(photo))
        height, width = photo.shape[:2]
        if not faces:
            raise InputError(
                f"No face was found on the photo of {width} x {height} px. The detector knows faces of real people "
                f"on which both eyes can be seen. Use such a photo.",
                "face",
            )
        face = self._chosen(faces)
        frame = frame_of_face(face, self.framing.straighten)
        eyes = "" if face.eyes else ", its eyes were not found"
        return frame, _which(self.framing.face, len(faces)) + eyes

    def _from_box(self, photo: Tensor, boxes: Sequence[Box]) -> tuple[Frame, str]:
        if not boxes:
            raise InputError("The list of boxes holds no face for this photo.", "boxes")
        box = self._chosen(sorted(boxes, key=lambda box: -box["width"] * box["height"]))
        left, top, width, height = (float(box[key]) for key in ("x", "y", "width", "height"))
        note = f"{_which(self.framing.face, len(boxes))} of bounding_box"
        frame = frame_of_box(left, top, width, height)
        if self.framing.straighten:
            try:
                detector = self._detector
            except NoDetectorError:
                return frame, f"{note}, not straightened without a face detector"
            # The detector's own box for such a face, see framing.py.
            size = max(width, height)
            eyes = detector.eyes_in(_bytes(photo), left + width / 2, top + height / 2 + 0.02 * size, 0.97 * size)
            if eyes:
                frame = frame_of_eyes(eyes, roll_of(eyes), at_least=0.8 * frame.side)
        return frame, note

    def _from_mask(self, head: Tensor) -> Frame:
        frame = frame_of_mask(head)
        if frame is None:
            raise InputError("The mask has nothing white. Paint the head with its hair, or leave out the mask.", "mask")
        return frame

    def _cut_mask(self, head: Tensor, frame: Frame) -> Tensor:
        mask = soften(
            cut(head[None, None], frame, self.framing.resolution, fill="zeros")[0, 0], self.framing.resolution
        )
        if float(mask.max()) < 0.1:
            raise InputError("Nothing of the mask's white part lies in the frame. Check both.", "mask")
        return mask

    def _chosen(self, faces: Sequence[Any]) -> Any:
        if self.framing.alone and len(faces) > 1:
            raise InputError(
                f"{len(faces)} faces were found, but one was expected. Say which: 1 is the largest.",
                "face",
            )
        if self.framing.face > len(faces):
            raise InputError(
                f"face is {self.framing.face}, but {len(faces)} {'was' if len(faces) == 1 else 'were'} found. 1 is the largest.",
                "face",
            )
        return faces[self.framing.face - 1]

    def _checked(self, frame: Frame, height: int, width: int) -> str:
        """The note on a frame on a photo of this size. Raises ValueError if the frame cannot be used."""
        enlarged = self.framing.resolution / frame.side
        lost = 1 - share_inside(frame, height, width, middle=HEAD_PART)
        if self.framing.by_hand:
            if lost > 0.5:
                raise InputError(
                    f"The frame that was set by hand lies outside of the photo: it is {frame.side:.0f} px wide around "
                    f"({frame.x:.0f}, {frame.y:.0f}), and the photo has {width} x {height} px.",
                    "frame",
                )
        elif enlarged > MOST_ENLARGED:
            raise InputError(
                f"The face is too small: its frame is {frame.side:.0f} px wide on a photo of {width} x {height} px, but at "
                f"least {self.framing.resolution / MOST_ENLARGED:.0f} px are needed for a picture of "
                f"{self.framing.resolution} px. Use a photo on which the face is larger.",
                "face",
            )
        elif lost > MOST_CUT_OFF:
            raise InputError(
                f"The face is cut off: {lost:.0%} of it is outside of the photo of {width} x {height} px. Use a photo with the "
                "whole head.",
                "face",
            )
        note = f", {frame.side:.0f} px" + (f" enlarged {enlarged:.1f} times" if enlarged > 1.05 else "")
        around = 1 - share_inside(frame, height, width)
        return note + (f", {around:.0%} of the frame is outside of the photo and not learned" if around > 0.01 else "")

    @cached_property
    def _detector(self) -> FaceDetector:
        """Loaded when it is first needed, for all photos. Raises NoDetectorError."""
        return face_detector()


def _which(number: int, count: int) -> str:
    if count == 1:
        return "the only face"
    order = "the largest" if number == 1 else f"number {number}"
    return f"{order} of {count} faces"


def _bytes(photo: Tensor) -> np.ndarray[Any, np.dtype[np.uint8]]:
    array: np.ndarray[Any, np.dtype[np.uint8]] = (photo * 255).round().byte().cpu().numpy()
    return array


def _checked_boxes(boxes: Sequence[Sequence[Box]], count: int) -> list[list[Box]]:
    """The boxes of each photo; those of one serve all."""
    lists = [list(of_photo) for of_photo in boxes]
    if len(lists) == 1:
        lists *= count
    if len(lists) != count:
        raise InputError(f"The list has bounding boxes for {len(lists)} photos, but there are {count}.", "boxes")
    for box in (box for of_photo in lists for box in of_photo):
        sizes = [box.get(key) for key in ("x", "y", "width", "height")] if isinstance(box, Mapping) else []
        numbers = [size for size in sizes if isinstance(size, int | float)]
        if len(numbers) != 4 or min(numbers[2:]) < 1:
            raise InputError(f"A bounding box is {box}, but must be x, y, width and height in pixels.", "boxes")
    return lists
