"""Photos -> training images: orientation, alpha, grey, square crop, size, masks."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ..errors import InputError
from ..text import quoted
from .picture_files import read_picture

log = logging.getLogger(__name__)

SMALLEST_PHOTO = 64
OVERSHOOT = 0.3
"""Values up to this far outside of 0..1 are cut off silently: bicubic and Lanczos resizing leave them behind."""
RESOLUTION_STEP = 64
RESOLUTION_RANGE = (64, 1024)


def load_photo(path: str | Path) -> Tensor:
    """A photo file as (1, H, W, 3) float32 in 0..1, turned upright by its EXIF orientation, at its full size.

    Transparent parts become white. `picture_files` says what is read and how. Raises FileNotFoundError, or ValueError of one
    line that names the file and says why it is not read.
    """
    return as_rgb(_in_0_1(read_picture(Path(path), smallest=SMALLEST_PHOTO))[None])


def load_training_photo(path: str | Path, resolution: int) -> tuple[Tensor, tuple[int, int]]:
    """A photo file as learning sees it, (1, resolution, resolution, 3) float32 in 0..1, and its (height, width).

    Equal to `training_images(load_photo(path), resolution)`, in less memory: only the middle square is taken to floats, one
    channel at a time. A JPEG of more than `picture_files.MANY_PIXELS` is decoded at a half or less of its size before. Raises
    what `load_photo` does.
    """
    check_resolution(resolution)
    pixels = read_picture(Path(path), smallest=SMALLEST_PHOTO, enough=resolution)
    size = (pixels.shape[0], pixels.shape[1])
    middle = torch.from_numpy(_middle(pixels))
    alpha = _in_0_1(middle[..., 3]) if middle.shape[-1] == 4 else None
    channels = []
    for channel in range(min(middle.shape[-1], 3)):
        plane = _in_0_1(middle[..., channel])
        if alpha is not None:
            plane = plane * alpha + (1 - alpha)
        channels.append(_square(plane[None, None], resolution))
    return torch.cat(channels, dim=1).expand(-1, 3, -1, -1).movedim(1, -1).contiguous(), size


def load_training_mask(path: str | Path, photo_size: tuple[int, int], resolution: int) -> Tensor:
    """A mask file as (1, resolution, resolution) float32 in 0..1: stretched to its photo's (height, width), then cropped.

    White is learned, black is not; colours count by their brightness, transparency does not. Raises what `load_photo` does,
    and ValueError if nothing of the mask is white.
    """
    path = Path(path)
    pixels = _in_0_1(read_picture(path))[..., :3]
    mask = pixels.mean(dim=-1)
    brightest = float(mask.max())
    if brightest < 0.5:
        raise ValueError(
            f"The mask '{quoted(path.name, 80)}' has no white: its brightest pixel is {brightest * 255:.0f} of 255. "
            "Paint the face white."
        )
    fitted = masks_of_photos(mask[None], [photo_size])[0]
    return _square(fitted[None, None], resolution)[0]


def _in_0_1(pixels: NDArray[Any] | Tensor) -> Tensor:
    pixels = torch.as_tensor(pixels)
    return pixels.float() / 255 if pixels.dtype == torch.uint8 else pixels


def _middle(pixels: NDArray[Any]) -> NDArray[Any]:
    """The centre square of (H, W, C), as `_square` takes it."""
    height, width = pixels.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return pixels[top : top + side, left : left + side]


def as_rgb(images: Tensor) -> Tensor:
    """(N, H, W, C) pictures in 0..1 with C = 1 (grey), 3 (RGB) or 4 (RGBA) -> (N, H, W, 3) float32 on the CPU.

    Grey is repeated, transparency is laid on white. Raises ValueError for what is not a picture in 0..1:
    wrong shape, an empty batch, NaN, values out of range, or a side below 64 px.
    """
    if not isinstance(images, Tensor) or images.ndim != 4:
        shape = tuple(images.shape) if isinstance(images, Tensor) else type(images).__name__
        raise InputError(f"The photo must be a batch of shape (N, height, width, channels), but is {shape}.", "photo")
    count, height, width, channels = images.shape
    if count == 0:
        raise InputError("The batch of photos is empty, but at least one is needed.", "photo")
    if channels not in (1, 3, 4):
        raise InputError(f"The photo has {channels} channels; expected 1 (grey), 3 (RGB) or 4 (RGBA).", "photo")
    if min(height, width) < SMALLEST_PHOTO:
        raise ValueError(
            f"The photo is {width} x {height} px, but at least {SMALLEST_PHOTO} x {SMALLEST_PHOTO} px are needed "
            "to show a face. Use a larger photo."
        )
    images = images.detach().to("cpu", torch.float32, copy=True)
    low, high = map(float, torch.aminmax(images))  # not numbers if any pixel is not a number
    if not (math.isfinite(low) and math.isfinite(high)):
        raise InputError("The photo holds pixels that are not numbers (NaN or infinite).", "photo")
    if low < -OVERSHOOT or high > 1 + OVERSHOOT:
        raise InputError(
            f"The photo's values go from {low:.3g} to {high:.3g}, but must lie in 0..1. Divide bytes by 255.", "photo"
        )
    images.clamp_(0, 1)
    if channels == 1:
        log.info("The photo is grey; it is used as RGB with three equal channels.")
        return images.expand(-1, -1, -1, 3).contiguous()
    if channels == 4:
        color, alpha = images[..., :3], images[..., 3:]
        if float(alpha.min()) < 1:
            log.info("The photo has transparent parts; they are shown as white.")
        return color * alpha + (1 - alpha)
    return images


def training_images(images: Tensor | Sequence[Tensor], resolution: int) -> Tensor:
    """Photos of any size -> (N, resolution, resolution, 3) float32 in 0..1: centre square, then resized.

    `images` is one batch or a sequence of batches, each as `as_rgb` takes it.
    """
    check_resolution(resolution)
    batches = [images] if isinstance(images, Tensor) else list(images)
    if not batches:
        raise InputError("The batch of photos is empty, but at least one is needed.", "photo")
    return torch.cat([_square(as_rgb(batch).movedim(-1, 1), resolution) for batch in batches]).movedim(1, -1)


def latent_masks(masks: Tensor | Sequence[Tensor], photo_sizes: Sequence[tuple[int, int]], resolution: int) -> Tensor:
    """Masks of the photos -> weights of the latent pixels, (N, 1, resolution/8, resolution/8) float32 in 0..1.

    `masks` is a batch (N, H, W), or a sequence of such batches; one mask serves every photo.
    `photo_sizes` has the (height, width) of each photo: a mask of another size is stretched to its photo
    first, then goes through the same crop. Raises ValueError if counts differ or a mask is empty.
    """
    fitted = []
    for index, mask in enumerate(masks_of_photos(masks, photo_sizes), start=1):
        mask = _square(mask[None, None], resolution // 8)
        if float(mask.sum()) < 1e-3:
            raise InputError(f"Mask {index} leaves nothing of its photo to learn from. Paint the face white.", "mask")
        fitted.append(mask)
    return torch.cat(fitted)


def masks_of_photos(masks: Tensor | Sequence[Tensor], photo_sizes: Sequence[tuple[int, int]]) -> list[Tensor]:
    """One mask (H, W) float32 in 0..1 for each photo, stretched to the photo's (height, width) where they differ.

    `masks` is a batch (N, H, W), or a sequence of such batches; one mask serves every photo. Raises ValueError if
    their number is neither one nor that of the photos.
    """
    flat = [mask for batch in ([masks] if isinstance(masks, Tensor) else masks) for mask in _mask_batch(batch)]
    if len(flat) == 1:
        flat *= len(photo_sizes)
    if len(flat) != len(photo_sizes):
        raise InputError(
            f"There are {len(flat)} masks for {len(photo_sizes)} photos. Give one for each photo, or one for all.",
            "mask",
        )
    fitted = []
    for mask, size in zip(flat, photo_sizes, strict=True):
        if tuple(mask.shape) != tuple(size):
            mask = F.interpolate(mask[None, None], size=tuple(size), mode="bilinear", antialias=True)[0, 0]
        fitted.append(mask)
    return fitted


def check_resolution(resolution: int) -> None:
    """Raises ValueError if the resolution is not a multiple of 64 in 64..1024."""
    low, high = RESOLUTION_RANGE
    if not low <= resolution <= high or resolution % RESOLUTION_STEP:
        raise ValueError(
            f"resolution is {resolution}, but must be a multiple of {RESOLUTION_STEP} from {low} to {high}."
        )


def _mask_batch(masks: Tensor) -> Tensor:
    masks = masks.detach().to("cpu", torch.float32, copy=True)
    if masks.ndim == 2:
        masks = masks[None]
    if masks.ndim != 3 or not masks.numel():
        raise InputError(f"A mask must be of shape (N, height, width), but is {tuple(masks.shape)}.", "mask")
    if not torch.isfinite(masks).all():
        raise InputError("The mask holds values that are not numbers (NaN or infinite).", "mask")
    return masks.clamp(0, 1)


def _square(images: Tensor, size: int) -> Tensor:
    """(N, C, H, W) -> (N, C, size, size): the centre square, resized with antialiasing."""
    height, width = images.shape[-2:]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    images = images[..., top : top + side, left : left + side]
    if side != size:
        images = F.interpolate(images, size=(size, size), mode="bicubic", antialias=True)
    return images.clamp(0, 1)
