"""What a step learns from: batches of latents, noise, timesteps and prompts, made from photos or given.

Everything random comes from one CPU generator, so that a seed gives the same batches on every
device, and so that its state in a resume file continues them.
"""

from __future__ import annotations

import hashlib
import itertools
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..backbone import Backbone, Posterior
from ..families import CONTEXT_LENGTH, TIMESTEPS
from ..models.added_conditions import SIZES
from ..photos.images import latent_masks, training_images
from ..prompts import token_ids_with_placeholders, training_prompts
from .generator_state import check_generator_state
from .settings import InversionSettings

REPEATS = 100
"""Each photo is this often in the list that is shuffled and taken from without replacement."""


@dataclass(frozen=True)
class TrainingBatch:
    """What one step learns from.

    latents and noise (B, 4, h, w) float32, latents scaled as the UNet sees them; timesteps (B,) int64 in
    0..999; prompt_token_ids (B, 77) int64, in which the id V + k stands for learned vector k; mask, if given,
    (B, 1, h, w) float32 weights in 0..1.

    sizes (B, 6) float32 is for SDXL: original height and width, top and left of the crop, target height and width, in
    pixels. There the prompt token ids are CLIP-L's, and each text encoder pads in its own way behind EOS.
    """

    latents: Tensor
    noise: Tensor
    timesteps: Tensor
    prompt_token_ids: Tensor
    mask: Tensor | None = None
    sizes: Tensor | None = None

    def __len__(self) -> int:
        return len(self.timesteps)

    def tensors(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None, Tensor | None]:
        """Latents, noise, timesteps, prompt token ids, mask and sizes."""
        return self.latents, self.noise, self.timesteps, self.prompt_token_ids, self.mask, self.sizes

    def split(self, size: int) -> Iterator[TrainingBatch]:
        """The batch in pieces of at most `size` samples."""
        for start in range(0, len(self), size):
            piece = slice(start, start + size)
            mask, sizes = (None if tensor is None else tensor[piece] for tensor in (self.mask, self.sizes))
            latents, noise, timesteps, prompt_token_ids = (tensor[piece] for tensor in self.tensors()[:4])
            yield TrainingBatch(latents, noise, timesteps, prompt_token_ids, mask, sizes)

    def ready(self, pin: bool) -> TrainingBatch:
        """The batch in the types above, in tensors that may be saved for a backward pass.

        A clone outside of inference mode drops the flag that ComfyUI's tensors carry. `pin` puts tensors of the CPU where
        a GPU can fetch them without being waited for.
        """

        def make(tensor: Tensor, dtype: torch.dtype) -> Tensor:
            made = tensor.to(dtype)
            made = made.clone() if made.is_inference() else made
            return made.pin_memory() if pin and made.device.type == "cpu" else made

        return TrainingBatch(
            make(self.latents, torch.float32),
            make(self.noise, torch.float32),
            make(self.timesteps, torch.int64),
            make(self.prompt_token_ids, torch.int64),
            None if self.mask is None else make(self.mask, torch.float32),
            None if self.sizes is None else make(self.sizes, torch.float32),
        )


class BatchSource(Protocol):
    """An iterator of batches that can go on where it was."""

    def __iter__(self) -> Iterator[TrainingBatch]: ...

    def __next__(self) -> TrainingBatch: ...

    def state(self) -> dict[str, Tensor]:
        """Everything that decides the batches to come, or tells those that came from others."""
        ...

    def check(self, step: int, state: dict[str, Tensor]) -> None:
        """Raises ValueError if `state` cannot have been taken after `step` batches of such a source."""
        ...

    def skip_to(self, step: int, state: dict[str, Tensor]) -> bool:
        """Go on after `step` batches, at whose end `state` was taken. Returns whether these are the same batches."""
        ...


class PhotoBatches:
    """An endless iterator of TrainingBatches from photos.

    `photos` and `mirrored` are the VAE posteriors of N photos and of their mirror images, `prompts` (P, 77) the
    tokenized training prompts, `masks` (N, 1, h, w) or None. Latents are a fresh sample of the posterior in each
    batch; a photo is mirrored with probability `flip_probability`. `sizes` (6,), if given, are those of each sample;
    `timesteps` (low, high) is the range that they are drawn from.
    """

    def __init__(
        self,
        photos: Posterior,
        mirrored: Posterior,
        prompts: Tensor,
        *,
        batch_size: int,
        flip_probability: float,
        seed: int,
        masks: Tensor | None = None,
        sizes: Tensor | None = None,
        timesteps: tuple[int, int] = (0, TIMESTEPS),
    ) -> None:
        self._sizes, self._timesteps = sizes, timesteps
        self._mean = torch.stack([photos.mean, mirrored.mean], dim=1)
        self._std = torch.stack([photos.std, mirrored.std], dim=1)
        self._masks = None if masks is None else torch.stack([masks, masks.flip(-1)], dim=1)
        self._prompts = prompts
        self._batch_size = batch_size
        self._flip_probability = flip_probability
        self._seed = seed
        self._generator = torch.Generator().manual_seed(seed)
        self._pool = torch.empty(0, dtype=torch.int64)

    def __iter__(self) -> PhotoBatches:
        return self

    def __next__(self) -> TrainingBatch:
        count, g = self._batch_size, self._generator
        photo = self._take(count)
        flip = (torch.rand(count, generator=g) < self._flip_probability).long()
        mean, std = self._mean[photo, flip], self._std[photo, flip]
        return TrainingBatch(
            latents=mean + std * torch.randn(mean.shape, generator=g),
            noise=torch.randn(mean.shape, generator=g),
            timesteps=torch.randint(*self._timesteps, (count,), generator=g),
            prompt_token_ids=self._prompts[torch.randint(0, len(self._prompts), (count,), generator=g)],
            mask=None if self._masks is None else self._masks[photo, flip],
            sizes=None if self._sizes is None else self._sizes.repeat(count, 1),
        )

    def state(self) -> dict[str, Tensor]:
        """The random generator's state, and the photos that are still to come of a shuffled list."""
        return {"generator": self._generator.get_state(), "pool": self._pool.clone()}

    def check(self, step: int, state: dict[str, Tensor]) -> None:
        """The generator must be one of this seed, and the pool hold photos that there are."""
        if state.keys() != {"generator", "pool"}:
            raise ValueError("the state of its batches is not that of batches from photos")
        check_generator_state(state["generator"], self._seed)
        pool, photos = state["pool"], len(self._mean)
        # A pool is filled up when it has fewer than a batch, by whole shuffled lists.
        if pool.dtype != torch.int64 or pool.ndim != 1 or len(pool) > photos * REPEATS:
            raise ValueError(f"its list of photos to come is {tuple(pool.shape)} in {pool.dtype}")
        if (len(pool) + step * self._batch_size) % (photos * REPEATS):
            raise ValueError(f"its list of photos to come has {len(pool)} entries after {step} steps")
        if len(pool) and not 0 <= int(pool.min()) <= int(pool.max()) < photos:
            raise ValueError(f"its list of photos to come names one that is not among {photos}")

    def skip_to(self, step: int, state: dict[str, Tensor]) -> bool:
        """Go on where `state` was taken, which is always possible."""
        self._generator.set_state(state["generator"])
        self._pool = state["pool"].clone()
        return True

    def _take(self, count: int) -> Tensor:
        while len(self._pool) < count:
            photos = len(self._mean)
            order = torch.randperm(photos * REPEATS, generator=self._generator) % photos
            self._pool = torch.cat([self._pool, order])
        taken, self._pool = self._pool[:count], self._pool[count:]
        return taken


class GivenBatches:
    """An iterator of the caller's TrainingBatches, checked as they come; `ids` is the number of prompt token ids, and `eos`
    the one that ends each prompt. `sized` says whether the model needs sizes."""

    def __init__(self, batches: Iterable[TrainingBatch], ids: int, eos: int, *, sized: bool = False) -> None:
        self._source, self._ids, self._eos, self._sized = iter(batches), ids, eos, sized
        self._sample: tuple[int, ...] | None = None
        self._digest = hashlib.sha256()

    def __iter__(self) -> GivenBatches:
        return self

    def __next__(self) -> TrainingBatch:
        batch = next(self._source)
        if len(batch):
            self._check_shapes(batch)
            _check_range(
                "prompt token ids", batch.prompt_token_ids, self._ids, "the vocabulary, then the learned vectors"
            )
            _check_range("timesteps", batch.timesteps, TIMESTEPS, "one for each level of noise")
        _add_to(self._digest, batch)
        return batch

    def _check_shapes(self, batch: TrainingBatch) -> None:
        """A part of another length would be cut wrongly if a batch is split."""
        shape = tuple(batch.latents.shape)
        wanted = f"(B, {', '.join(map(str, self._sample or (4, 'h', 'w')))})"
        if len(shape) != 4 or shape[1] != 4 or shape[1:] != (self._sample or shape[1:]):
            before = " as in the first batch" if self._sample else ""
            raise ValueError(f"A batch has latents of shape {shape}, but they must be {wanted}{before}.")
        self._sample = shape[1:]
        parts = (
            ("noise", batch.noise, shape),
            ("timesteps", batch.timesteps, shape[:1]),
            ("prompt token ids", batch.prompt_token_ids, (shape[0], CONTEXT_LENGTH)),
            ("a mask", batch.mask, (shape[0], 1, *shape[2:])),
            ("sizes", batch.sizes, (shape[0], SIZES)),
        )
        for name, part, expected in parts:
            if part is not None and tuple(part.shape) != expected:
                raise ValueError(
                    f"A batch has latents of shape {shape} and {name} of shape {tuple(part.shape)}, expected {expected}."
                )
        if self._sized and batch.sizes is None:
            raise ValueError(
                "A batch has no sizes, but this model needs them: (B, 6), original height and width, top and left of the crop, "
                "target height and width, in pixels."
            )
        if self._sized and not bool((batch.prompt_token_ids == self._eos).any(dim=1).all()):
            raise ValueError(
                f"A batch has a prompt without EOS (id {self._eos}), where this model reads the whole prompt."
            )
        if batch.sizes is not None and not bool(batch.sizes.isfinite().all()):
            raise ValueError("A batch has sizes that are not finite (NaN or infinite).")
        if not (batch.latents.isfinite().all() and batch.noise.isfinite().all()):
            raise ValueError("A batch has latents or noise that are not finite (NaN or infinite).")
        if batch.mask is not None and not bool((batch.mask.flatten(1).sum(1) > 0).all()):
            raise ValueError("A batch has a mask that is black for a sample, which leaves nothing to learn from.")

    def digest_of_first(self) -> bytes:
        """Tells most series of batches from another before the first is taken."""
        first = list(itertools.islice(self._source, 1))
        self._source = itertools.chain(first, self._source)
        digest = hashlib.sha256()
        for batch in first:
            _add_to(digest, batch)
        return digest.digest()

    def state(self) -> dict[str, Tensor]:
        """A digest of all batches so far."""
        return {"digest": torch.tensor(list(self._digest.digest()), dtype=torch.uint8)}

    def check(self, step: int, state: dict[str, Tensor]) -> None:
        """It must be a digest."""
        digest = state.get("digest")
        if state.keys() != {"digest"} or digest is None or digest.dtype != torch.uint8 or digest.shape != (32,):
            raise ValueError("the state of its batches is not that of batches that were given")

    def skip_to(self, step: int, state: dict[str, Tensor]) -> bool:
        """Go on after `step` batches. Returns False, and stays at the first one, if they are not those at whose end `state`
        was taken."""
        skipped = list(itertools.islice(self, step))
        if len(skipped) == step and torch.equal(state["digest"], self.state()["digest"]):
            return True
        self._source = itertools.chain(skipped, self._source)
        self._digest = hashlib.sha256()
        return False


class RewindableBatches:
    """Batches that can be taken back: those since the last `keep` come again after `rewind`.

    A GPU works on a step while the one before it is reported, so a step may have to be done again that others followed.
    """

    def __init__(self, source: BatchSource) -> None:
        self._source = source
        self._taken: deque[tuple[TrainingBatch, dict[str, Tensor]]] = deque()
        self._next = 0
        self.state = source.state()
        """The source's state after the last batch that was kept."""

    def take(self) -> TrainingBatch | None:
        """The next batch, or None if there are no more."""
        if self._next == len(self._taken):
            batch = next(self._source, None)
            if batch is None:
                return None
            self._taken.append((batch, self._source.state()))
        self._next += 1
        return self._taken[self._next - 1][0]

    def keep(self) -> None:
        """The oldest batch is done with."""
        _, self.state = self._taken.popleft()
        self._next -= 1

    def rewind(self) -> None:
        """Give out again what was taken and not kept."""
        self._next = 0

    def check(self, step: int, state: dict[str, Tensor]) -> None:
        """Raises ValueError if `state` cannot have been taken after `step` batches of this source."""
        self._source.check(step, state)

    def skip_to(self, step: int, state: dict[str, Tensor]) -> bool:
        """Go on after `step` batches, at whose end `state` was taken. Returns False if these are other batches."""
        same = self._source.skip_to(step, state)
        self.state = self._source.state()
        return same


def _check_range(name: str, values: Tensor, count: int, meaning: str) -> None:
    low, high = int(values.min()), int(values.max())
    if not 0 <= low <= high < count:
        raise ValueError(f"A batch has {name} from {low} to {high}, but they must be from 0 to {count - 1}: {meaning}.")


def _add_to(digest: hashlib._Hash, batch: TrainingBatch) -> None:
    parts = batch.tensors()
    for part in parts[:5] if batch.sizes is None else parts:  # as before there were sizes
        digest.update(b"none" if part is None else f"{part.dtype} {tuple(part.shape)}".encode())
        if part is not None:
            digest.update(part.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())


def batches_from_photos(
    backbone: Backbone,
    vectors: int,
    settings: InversionSettings,
    images: Tensor | Sequence[Tensor],
    masks: Tensor | Sequence[Tensor] | None,
) -> tuple[PhotoBatches, bytes]:
    """The batches, and a digest of the pixels and masks that they come from."""
    resolution = settings.resolution or backbone.resolution
    sized = len(backbone.widths) > 1
    photos = training_images(images, resolution)
    weights = None
    if masks is not None:
        groups = [images] if isinstance(images, Tensor) else images
        sizes = [(int(image.shape[0]), int(image.shape[1])) for group in groups for image in group]
        weights = latent_masks(masks, sizes, resolution)
    prompts = [
        token_ids_with_placeholders(backbone, prompt, vectors)
        for prompt in training_prompts(settings.templates, settings.subject)
    ]
    both = backbone.posterior(torch.cat([photos, photos.flip(2)]))
    if not (both.mean.isfinite().all() and both.std.isfinite().all()):
        raise ValueError(
            "The VAE turns the photo into numbers that are not finite (NaN or infinite), from which nothing can be learned. "
            "Use the model's own VAE or another one. Its file may be damaged: then copy it again."
        )
    upright, mirrored = (Posterior(mean, std) for mean, std in zip(both.mean.chunk(2), both.std.chunk(2), strict=True))
    digest = hashlib.sha256(photos.numpy().tobytes())
    digest.update(both.vae.encode())
    if weights is not None:
        digest.update(weights.numpy().tobytes())
    batches = PhotoBatches(
        upright,
        mirrored,
        torch.tensor(prompts),
        batch_size=settings.batch_size,
        flip_probability=settings.flip_probability,
        seed=settings.seed,
        masks=weights,
        timesteps=settings.timesteps,
        # A photo is cut and scaled before it is learned, and to be drawn like a whole picture of that size.
        sizes=torch.tensor([resolution, resolution, 0.0, 0.0, resolution, resolution]) if sized else None,
    )
    return batches, digest.digest()
