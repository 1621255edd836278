"""What the method needs of a text-to-image model: a frozen model to differentiate through.

`Backbone` describes a model and answers what needs no gradient. `Backbone.training` opens a
`FrozenModel`: its weights are constants, and gradients flow through it to whatever is put in.
Two implementations exist: `diffusers_backbone.DiffusersBackbone` over a diffusers folder, and the
node pack's `ComfyBackbone` over the MODEL, CLIP and VAE of a ComfyUI graph.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

PredictionType = Literal["epsilon", "v_prediction"]
Precision = Literal["auto", "fp32", "bf16", "fp16"]

PRECISIONS: tuple[Precision, ...] = ("auto", "fp32", "bf16", "fp16")
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

WIDTH_TO_BASE = {768: "sd1", 1024: "sd2", 256: "miniature"}
BASE_NAMES = {"sd1": "SD 1.x", "sd2": "SD 2.x", "miniature": "the drawn miniature"}

MINIATURE = "crossinit-miniature"
"""The checkpoint's name of the miniature that is shipped."""


@dataclass(frozen=True)
class Posterior:
    """The VAE's belief about the latents of N images, scaled as the UNet sees them.

    `mean` and `std` are (N, 4, H/8, W/8) float32 on the CPU. `vae` identifies the weights that made them.
    """

    mean: Tensor
    std: Tensor
    vae: str = ""


class FrozenModel(Protocol):
    """A model whose weights are constants, ready for backpropagation to its inputs."""

    device: torch.device
    dtype: torch.dtype
    """What the UNet computes in. Vectors, contexts and losses are float32 outside of it."""
    work: Hashable
    """Names all that decides, beside the shapes of what goes in, what is computed and how; None where that is not known."""

    def embed(self, token_ids: Tensor) -> Tensor:
        """Rows of the token-embedding table `E`: (...,) int64 -> (..., d) float32 on `device`."""
        ...

    def encode(self, embeddings: Tensor) -> Tensor:
        """`T(x)`: token embeddings (B, L, d) -> what the UNet attends to (B, L, d), differentiable."""
        ...

    def predict(self, noisy_latents: Tensor, timesteps: Tensor, context: Tensor) -> Tensor:
        """The UNet: (B, 4, h, w), (B,) int64, (B, L, d) -> (B, 4, h, w) float32, differentiable."""
        ...

    def fingerprint(self) -> str:
        """Changes when a weight of the text encoder or the UNet changes."""
        ...


@runtime_checkable
class Backbone(Protocol):
    """A Stable Diffusion 1.x or 2.x model: one CLIP text encoder, 4 latent channels."""

    device: torch.device
    """Where it computes."""
    base: str
    """`sd1`, `sd2` or `miniature`; `width-D` for a model of another width."""
    checkpoint: str
    """The checkpoint's name for the metadata, or an empty string where it is not known."""
    prediction_type: PredictionType
    resolution: int
    """The size in pixels of the pictures that the model was trained on."""
    width: int
    """d, the width of a token embedding."""
    vocabulary_size: int
    bos: int
    eos: int
    pad: int

    def tokenize(self, text: str) -> list[int]:
        """BPE token ids of a text, without BOS and EOS."""
        ...

    def embed(self, token_ids: Tensor) -> Tensor:
        """Rows of `E`, (n,) int64 -> (n, d) float32 on the CPU."""
        ...

    def encode(self, embeddings: Tensor) -> Tensor:
        """`T(x)` without gradient: (B, L, d) -> (B, L, d), float32 on the CPU."""
        ...

    def alphas_cumprod(self) -> Tensor:
        """abar of the noise schedule, (1000,) float32 on the CPU."""
        ...

    def posterior(self, images: Tensor) -> Posterior:
        """The VAE posterior of (N, H, W, 3) float32 images in 0..1."""
        ...

    def memory_needed(
        self, *, precision: Precision, samples: int, resolution: int, gradient_checkpointing: bool
    ) -> int:
        """Bytes on the compute device for a step over so many samples at once, weights included: an estimate."""
        ...

    def free_memory(self, needed: int) -> int | None:
        """Bytes of the compute device that can be had once the host has tried to make room for `needed`.

        None where memory is not the limit, or not known.
        """
        ...

    def training(self, *, precision: Precision, gradient_checkpointing: bool) -> AbstractContextManager[FrozenModel]:
        """Bring text encoder and UNet to the compute device as constants; leave no trace afterwards."""
        ...


def resolve_precision(precision: Precision, device: torch.device) -> Precision:
    """What `auto` means on a device: float16 where a GPU is fast at it, else float32.

    float16 is closer to float32 than bfloat16, and what does not fit into it is done again in a safer precision.

    Raises ValueError for a name that is none of `PRECISIONS`.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision is '{precision}', but must be one of {', '.join(PRECISIONS)}.")
    if precision != "auto":
        return precision
    if device.type == "cuda" and torch.cuda.get_device_capability(device) >= (7, 0):
        return "fp16"
    return "fp32"


def precision_of(dtype: torch.dtype) -> Precision:
    """The name of what a model computes in."""
    return next(name for name in PRECISIONS if DTYPES.get(name) == dtype)


def safer_precision(dtype: torch.dtype, device: torch.device) -> Precision | None:
    """What holds larger numbers than `dtype`: bfloat16 where a GPU computes it natively, float32 last; else None."""
    if dtype == torch.float16 and device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False):
        return "bf16"
    return None if dtype == torch.float32 else "fp32"


def activation_memory(samples: int, resolution: int, dtype: torch.dtype, gradient_checkpointing: bool) -> int:
    """Bytes that a step of a full-size model keeps beside its weights.

    From measurements on SD 2.1 at 512 px in float16, a tenth added: 4.2 GiB for 8 samples, 1.5 with checkpointing.
    """
    a_sample = 0.19 if gradient_checkpointing else 0.56
    return int((a_sample * samples * (resolution / 512) ** 2 * dtype.itemsize / 2 + 0.12) * 1024**3)


@torch.no_grad()
def weights_fingerprint(named_weights: Iterable[tuple[str, Tensor]]) -> str:
    """A hash over names, shapes and sixteen values of every weight.

    Reading all of a checkpoint takes seconds; a LoRA, a merge or another checkpoint changes nearly
    every value of the weights that it touches, so a sample of each tensor tells them apart.
    """
    digest = hashlib.sha256()
    samples = []
    for name, weight in named_weights:
        digest.update(f"{name}{tuple(weight.shape)}".encode())
        flat = weight.reshape(-1)
        samples.append(flat[:: max(1, flat.numel() // 16)][:16].to("cpu", torch.float32))
    digest.update(torch.cat(samples).numpy().tobytes())
    return digest.hexdigest()
