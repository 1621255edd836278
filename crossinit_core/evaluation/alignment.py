"""A face turned, moved and scaled to where its recognizer expects eyes, nose and mouth."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray

from ..photos.face_detection import Face
from ..photos.framing import Frame, cut, frame_of_face

ARCFACE = np.array([[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]])
"""Left eye, right eye, nose, left and right corner of the mouth on 112 x 112 px (InsightFace, `utils/face_align.py`)."""
ARCFACE_SIDE = 112


def arcface_template(side: int) -> NDArray[np.float64]:
    """The five points on a square of `side` px, a multiple of 112 or of 128, by InsightFace's rule: on 128 px the face is as
    large as on 112, with 8 px more at the left and at the right (`utils/face_align.py`, `estimate_norm`).

    Raises ValueError for another side.
    """
    # There the middle of the first pixel is at 0, here it is at one half.
    if side > 0 and side % ARCFACE_SIDE == 0:
        return ARCFACE * (side / ARCFACE_SIDE) + 0.5
    if side > 0 and side % 128 == 0:
        return (ARCFACE + np.array([8.0, 0.0])) * (side / 128) + 0.5
    raise ValueError(f"There is no rule for faces of {side} x {side} px. Networks of 112 px are usual.")


def similarity_frame(points: NDArray[np.floating], template: NDArray[np.floating], side: int) -> Frame:
    """The frame which, cut at `side` px, brings points (N, 2) of a picture as near as can be to a template (N, 2), N > 1.

    Least squares over turning, scaling and moving, without mirroring: Umeyama, "Least-squares estimation of transformation
    parameters between two point patterns", IEEE PAMI 1991, which for a plane is one complex number.
    """
    given, wanted = (np.asarray(p, np.float64) @ (1, 1j) for p in (points, template))
    a, b = given - given.mean(), wanted - wanted.mean()
    factor = (a.conj() @ b) / (a.conj() @ a).real  # wanted = factor * given + shift
    middle = given.mean() + ((side / 2) * (1 + 1j) - wanted.mean()) / factor
    return Frame(middle.real, middle.imag, side / abs(factor), -math.degrees(np.angle(factor)))


def aligned_face(picture: NDArray[np.uint8], face: Face, side: int) -> NDArray[np.uint8]:
    """(side, side, 3) uint8 RGB: the face as ArcFace's networks see it, from a picture (H, W, 3) uint8 RGB.

    From five points, from the eyes and the mouth, or from the eyes alone: from all that was found. Without eyes it is the
    middle of the head's frame.
    """
    template = arcface_template(side)
    eyes, mouth = template[:2], template[3:].mean(axis=0)
    if face.points is not None:
        frame = similarity_frame(np.array(face.points), template, side)
    elif face.eyes is not None and face.mouth is not None:
        frame = similarity_frame(np.array([*face.eyes, face.mouth]), np.vstack([eyes, mouth]), side)
    elif face.eyes is not None:
        frame = similarity_frame(np.array(face.eyes), eyes, side)
    else:
        head = frame_of_face(face)
        frame = Frame(head.x, head.y, head.side * _OF_HEAD, head.roll)
    return cut_square(picture, frame, side)


_OF_HEAD = 0.8
"""The side of ArcFace's square in those of CelebA-HQ's frame: 4 distances of the eyes there, 3.2 here."""


def upright_face(picture: NDArray[np.uint8], face: Face, side: int, zoom_out: float) -> tuple[NDArray[np.uint8], Frame]:
    """(side, side, 3) uint8 RGB with the head upright in its middle, `zoom_out` times as wide as CelebA-HQ's frame, and that
    frame."""
    head = frame_of_face(face)
    frame = Frame(head.x, head.y, head.side * zoom_out, head.roll)
    return cut_square(picture, frame, side), frame


def place_in(frame: Frame, side: int, points: NDArray[np.floating]) -> NDArray[np.float64]:
    """Points (N, 2) of a picture in pixels of its frame, cut at `side` px."""
    turned = (np.asarray(points, np.float64) - (frame.x, frame.y)) @ (1, 1j) * np.exp(-1j * math.radians(frame.roll))
    found = turned * (side / frame.side) + (side / 2) * (1 + 1j)
    return np.stack([found.real, found.imag], axis=1)


def cut_square(picture: NDArray[np.uint8], frame: Frame, side: int) -> NDArray[np.uint8]:
    """What is inside of a frame as (side, side, 3) uint8, black outside of the picture."""
    pixels = torch.tensor(picture.copy()).movedim(-1, 0)[None].float() / 255
    inside = cut(pixels, frame, side, fill="zeros")[0].clamp(0, 1)
    return np.ascontiguousarray((inside.movedim(0, -1) * 255).round().to(torch.uint8).numpy())
