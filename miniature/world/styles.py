"""Styles: a finished plain picture turned into a pencil sketch, watercolour, pixel art or cubism."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageFilter

from .canvas import SIZE

_Floats = NDArray[np.float32]


def restyle(image: Image.Image, style: str, rng: np.random.Generator) -> Image.Image:
    """The `SIZE` px RGB picture in another style; texture varies with `rng`."""
    if style == "plain":
        return image
    return {"sketch": _sketch, "watercolour": _watercolour, "pixel": _pixel, "cubist": _cubist}[style](image, rng)


def _noise(rng: np.random.Generator, cells: int) -> _Floats:
    """(`SIZE`, `SIZE`) smooth noise in about -1..1 with bumps of `SIZE` / `cells` pixels."""
    coarse = Image.fromarray((rng.random((cells + 1, cells + 1)) * 255).astype(np.uint8))
    fine = coarse.resize((SIZE, SIZE), Image.Resampling.BICUBIC)
    return np.asarray(fine, dtype=np.float32) / 127.5 - 1.0


def _to_image(pixels: _Floats) -> Image.Image:
    return Image.fromarray(np.clip(np.rint(pixels), 0, 255).astype(np.uint8))


def _sketch(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    grey = image.convert("L")
    tone = (np.asarray(grey.filter(ImageFilter.GaussianBlur(0.8)), dtype=np.float32) / 255.0) ** 0.75
    # Lines: the difference of two blurs, in every colour channel, so that equal greys still part.
    near, far = image.filter(ImageFilter.GaussianBlur(0.6)), image.filter(ImageFilter.GaussianBlur(2.2))
    gaps = np.asarray(ImageChops.subtract(far, near), dtype=np.float32)
    lines = np.clip(gaps.max(axis=2) / 255.0 * 5.0, 0.0, 1.0)
    y, x = np.mgrid[0:SIZE, 0:SIZE].astype(np.float32)
    wobble = _noise(rng, 12) * 1.6
    first = 0.5 + 0.5 * np.sin((x + y + wobble) * np.float32(2 * np.pi / 6.0))
    second = 0.5 + 0.5 * np.sin((x * 0.9 - y + wobble) * np.float32(2 * np.pi / 6.0))
    hatch = np.clip((0.80 - tone) * 1.15, 0.0, 0.55) * (0.3 + 0.7 * first)
    cross = np.clip((0.40 - tone) * 1.7, 0.0, 0.55) * (0.4 + 0.6 * second)
    grain = 1.0 + 0.10 * (rng.random((SIZE, SIZE), dtype=np.float32) - 0.5)
    ink = np.clip((lines * 0.95 + hatch + cross) * grain, 0.0, 0.92)
    paper = np.array([247, 244, 236], dtype=np.float32) + 3.0 * _noise(rng, 32)[..., None]
    pencil = np.array([58, 57, 60], dtype=np.float32)
    return _to_image(paper + (pencil - paper) * ink[..., None])


def _watercolour(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    y, x = np.mgrid[0:SIZE, 0:SIZE].astype(np.float32)
    soft = image.filter(ImageFilter.GaussianBlur(0.5))
    # Edges waver: every pixel comes from a little beside.
    column = np.clip(np.rint(x + _noise(rng, 14) * 1.3), 0, SIZE - 1).astype(np.intp)
    row = np.clip(np.rint(y + _noise(rng, 14) * 1.3), 0, SIZE - 1).astype(np.intp)
    wet = np.asarray(soft, dtype=np.float32)[row, column] / 255.0
    blurred = np.asarray(_to_image(wet * 255).filter(ImageFilter.GaussianBlur(3.0)), dtype=np.float32) / 255.0
    # Colours bleed into each other, and pigment gathers at the edges.
    bled = wet * 0.74 + blurred * 0.26
    edge = np.abs(wet - blurred).max(axis=2, keepdims=True)
    wash = bled * 0.82 + 0.20
    pooled = np.clip(edge * 1.1, 0.0, 0.28)
    granules = 0.055 * _noise(rng, 10) + 0.035 * _noise(rng, 42)
    colour = wash - pooled * (1.05 - bled) + granules[..., None] * (1.25 - wash)
    # Unpainted paper around a ragged border.
    border = np.minimum(np.minimum(x, SIZE - 1 - x), np.minimum(y, SIZE - 1 - y)) + 5.0 * _noise(rng, 9)
    painted = np.clip((border - 4.0) / 3.0, 0.0, 1.0)[..., None]
    rim = np.clip(1.0 - np.abs(border - 7.5) / 2.0, 0.0, 1.0)[..., None] * 0.10
    paper = np.array([252, 250, 244], dtype=np.float32) / 255.0 + 0.008 * _noise(rng, 50)[..., None]
    return _to_image((paper + (colour - rim - paper) * painted) * 255.0)


def _pixel(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    sharp = image.filter(ImageFilter.UnsharpMask(radius=2, percent=60, threshold=0))
    blocks = np.asarray(sharp, dtype=np.float32).reshape(SIZE // 4, 4, SIZE // 4, 4, 3).swapaxes(1, 2)
    blocks = blocks.reshape(SIZE // 4, SIZE // 4, 16, 3)
    mean = blocks.mean(axis=2)
    # Thin dark things (brows, lids, lips) would drown in the mean of their block: let the darkest pixel speak too.
    darkest = np.take_along_axis(blocks, blocks.sum(axis=3).argmin(axis=2)[..., None, None], 2)[:, :, 0]
    gap = (mean - darkest).mean(axis=2, keepdims=True)
    pixels = mean + (darkest - mean) * np.clip((gap - 12.0) / 80.0, 0.0, 0.3)
    grey = pixels.mean(axis=2, keepdims=True)
    vivid = _to_image(grey + (pixels - grey) * 1.18)
    few = vivid.quantize(colors=24, method=Image.Quantize.MAXCOVERAGE, kmeans=1, dither=Image.Dither.NONE).convert(
        "RGB"
    )
    return few.resize((SIZE, SIZE), Image.Resampling.NEAREST)


def _cubist(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    y, x = np.mgrid[0:SIZE, 0:SIZE].astype(np.float32)
    side = 4
    grid = (np.stack(np.meshgrid(np.arange(side), np.arange(side)), -1).reshape(-1, 2) + 0.5) * (SIZE / side)
    seeds = (grid + (rng.random(grid.shape) - 0.5) * (SIZE / side) * 0.95).astype(np.float32)
    count = len(seeds)
    # Nearest and second nearest seed: facets and the distance to their edges.
    power = (x[..., None] - seeds[:, 0]) ** 2 + (y[..., None] - seeds[:, 1]) ** 2
    facet = power.argmin(axis=2)
    nearest = np.take_along_axis(power, facet[..., None], 2)[..., 0]
    np.put_along_axis(power, facet[..., None], np.inf, 2)
    edge = np.sqrt(power.min(axis=2)) - np.sqrt(nearest)
    shift = ((rng.random((count, 2)) - 0.5) * 9.0).astype(np.float32)
    turn = ((rng.random(count) - 0.5) * 0.34).astype(np.float32)
    zoom = (0.92 + 0.2 * rng.random(count)).astype(np.float32)
    cosine, sine = (np.cos(turn) * zoom)[facet], (np.sin(turn) * zoom)[facet]
    dx, dy = x - seeds[facet, 0], y - seeds[facet, 1]
    column = np.clip(np.rint(cosine * dx - sine * dy + seeds[facet, 0] + shift[facet, 0]), 0, SIZE - 1).astype(np.intp)
    row = np.clip(np.rint(sine * dx + cosine * dy + seeds[facet, 1] + shift[facet, 1]), 0, SIZE - 1).astype(np.intp)
    pixels = np.asarray(image, dtype=np.float32)[row, column]
    # Each plane has its own light, falling off in its own direction, and leans to ochre or to blue.
    angle = (rng.random(count) * 2 * np.pi).astype(np.float32)
    fall = (np.cos(angle)[facet] * dx + np.sin(angle)[facet] * dy) / 26.0
    tint = np.where(rng.random((count, 1)) < 0.5, [1.08, 1.0, 0.84], [0.90, 0.98, 1.12]).astype(np.float32)
    lit = pixels * tint[facet] * (1.0 + 0.30 * np.clip(fall, -1, 1))[..., None]
    line = np.clip(1.2 - edge * 0.8, 0.0, 1.0)[..., None] * 0.5
    return _to_image(lit * (1 - line) + 30.0 * line)
