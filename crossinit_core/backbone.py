"""What the method needs of a text-to-image model: a frozen model to differentiate through.

`Backbone` describes a model and answers what needs no gradient. `Backbone.training` opens a
`FrozenModel`: its weights are constants, and gradients flow through it to whatever is put in.
Two implementations exist: `diffusers_backbone.DiffusersBackbone` over a diffusers folder, and the
node pack's `ComfyBackbone` over the MODEL, CLIP and VAE of a ComfyUI graph.
"""

from __future__ import annotations

from collections.abc import Hashable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from .precision import Precision

PredictionType = Literal["epsilon", "v_prediction"]


@dataclass(frozen=True)
class Posterior:
    """The VAE's belief about the latents of N images, scaled as the UNet sees them.

    `mean` and `std` are (N, 4, H/8, W/8) float32 on the CPU. `vae` identifies the weights that made them.
    """

    mean: Tensor
    std: Tensor
    vae: str = ""


class Encoded(NamedTuple):
    """What text encoders make of B prompts: the `context` (B, L, d) that the UNet attends to, and the `pooled` output (B, p)
    that SDXL's UNet takes beside it."""

    context: Tensor
    pooled: Tensor | None = None


class FrozenModel(Protocol):
    """A model whose weights are constants, ready for backpropagation to its inputs."""

    device: torch.device
    dtype: torch.dtype
    """What the UNet computes in. Vectors, contexts and losses are float32 outside of it."""

    @property
    def signature(self) -> Hashable:
        """Names all that decides, beside the shapes of what goes in, what is computed and how; None if that is not known."""
        ...

    def embed(self, token_ids: Tensor) -> Tensor:
        """Rows of the token-embedding table `E`: (...,) int64 -> (..., d) float32 on `device`."""
        ...

    def encode(self, embeddings: Tensor, ends: Tensor) -> Encoded:
        """`T(x)`: token embeddings (B, L, d) of prompts whose EOS is at `ends` (B,), differentiable."""
        ...

    def predict(
        self, noisy_latents: Tensor, timesteps: Tensor, encoded: Encoded, sizes: Tensor | None = None
    ) -> Tensor:
        """The UNet: (B, 4, h, w), (B,) int64, encoded prompts -> (B, 4, h, w) float32, differentiable.

        SDXL needs the `sizes` (B, 6) too: see `learning.batches.TrainingBatch`.
        """
        ...

    def fingerprint(self) -> str:
        """Changes when a weight of the text encoder or the UNet changes."""
        ...


@runtime_checkable
class Backbone(Protocol):
    """A model of Stable Diffusion 1.x or 2.x, with one CLIP text encoder, or of the SDXL family, with two."""

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        ...

    base: str
    """`sd1`, `sd2`, `sdxl` or `miniature`; `width-D` for a model of another width."""
    checkpoint: str
    """The checkpoint's name for the metadata, or an empty string if it is not known."""
    prediction_type: PredictionType
    resolution: int
    """The size in pixels of the pictures that the model was trained on."""
    widths: tuple[int, ...]
    """The widths of the text encoders' token embeddings. A vector's columns are those of the first encoder, then those of
    the next; d is their sum."""
    vocabulary_size: int
    bos: int
    eos: int
    pad: int
    """The id that the first text encoder pads with behind EOS, and that prompts as token ids are padded with."""
    pads: tuple[int, ...]
    """The id that each text encoder pads with."""

    def tokenize(self, text: str) -> list[int]:
        """BPE token ids of a text, without BOS and EOS."""
        ...

    def embed(self, token_ids: Tensor) -> Tensor:
        """Rows of `E`, (n,) int64 -> (n, d) float32 on the CPU."""
        ...

    def encode(self, embeddings: Tensor, ends: Tensor) -> Encoded:
        """`T(x)` without gradient: token embeddings (B, L, d) of prompts whose EOS is at `ends` (B,); float32 on the CPU."""
        ...

    def last_states(self, embeddings: Tensor) -> Tensor:
        """What each encoder's last layer and final LayerNorm give, without gradient: (B, L, d) -> (B, L, d) float32 on the
        CPU. On SD 1.x and 2.x that is the context."""
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

        None if memory is not the limit, or not known.
        """
        ...

    def training(self, *, precision: Precision, gradient_checkpointing: bool) -> AbstractContextManager[FrozenModel]:
        """Bring text encoder and UNet to the compute device as constants; leave no trace afterwards."""
        ...
