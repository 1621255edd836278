"""A resume file's bytes: how a run's state is written, and what is checked before a byte of it is believed.

The file is safetensors, which cannot run code. Its metadata hold a SHA-256 over the whole file, header included, in which
the checksum's own digits count as zeros: any bit that differs is found. Files of version 0.1.0 have no checksum. They are
still read; then every value must be one that a run can have, and no unknown key may be there.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from safetensors.torch import load, save
from torch import Tensor

from ..precision import Precision
from ..text import quoted
from .settings import InversionSettings
from .state import RunState
from .steps import LOSS_SCALE

FORMAT = "crossinit-resume-1"

_NO_CHECKSUM = "0" * 64
_CHECKSUM = re.compile(rb'"checksum":"([0-9a-f]{64})"')
_REQUIRED = {"format", "fingerprint", "step", "losses", "distances", "loss_scale", "settings"}
_KNOWN_WITHOUT_CHECKSUM = _REQUIRED | {"angles", "precision"}
_DTYPES = {"F32", "I64", "U8"}
_OPTIMIZER, _BATCHES = "optimizer.", "draws."
_STEP = re.compile(r"[1-9][0-9]{0,8}")
_SAFER: dict[str, int] = {"fp16": 0, "bf16": 1, "fp32": 2}
"""A run goes on in its precision or in one that holds larger numbers, never in one that holds smaller ones."""

CheckState = Callable[[int, dict[str, Tensor]], None]
"""Raises ValueError if the tensors cannot be those after a number of steps."""


@dataclass(frozen=True)
class Expected:
    """What the state of a run must fit to.

    `fingerprint` names the run; `shape` is that of its vectors (K, d), `steps` how far it is to go, and `precision` what
    its first model computes in. `check_optimizer` and `check_batches` know what those two keep.
    """

    fingerprint: str
    shape: torch.Size
    steps: int
    precision: Precision
    check_optimizer: CheckState
    check_batches: CheckState

    @property
    def most_header_bytes(self) -> int:
        """What a header may have: three numbers of up to 25 characters a step, and a MiB for the rest."""
        return 2**20 + 128 * min(self.steps, 2**20)

    @property
    def most_bytes(self) -> int:
        """What a file may have: vectors, the optimizer's tensors, and 800 bytes for each photo."""
        return self.most_header_bytes + 64 * self.shape.numel() + 2**24


def encode(state: RunState, fingerprint: str) -> bytes:
    """The bytes of a resume file."""
    tensors = {"vectors": state.vectors}
    tensors |= {f"{_OPTIMIZER}{key}": value for key, value in state.optimizer.items()}
    tensors |= {f"{_BATCHES}{key}": value for key, value in state.batches.items()}
    tensors = {key: value.detach().cpu().contiguous().clone() for key, value in tensors.items()}
    metadata = {
        "format": FORMAT,
        "fingerprint": fingerprint,
        "step": str(state.step),
        "losses": json.dumps(state.losses),
        "distances": json.dumps(state.distances),
        "angles": json.dumps(state.angles),
        "precision": state.precision,
        "loss_scale": repr(state.loss_scale),
        "settings": json.dumps(state.settings),
        "checksum": _NO_CHECKSUM,
    }
    content = save(tensors, metadata)
    place = _header(content).index(f'"checksum":"{_NO_CHECKSUM}"'.encode()) + 8 + len('"checksum":"')
    digest = hashlib.sha256(content).hexdigest().encode()
    return content[:place] + digest + content[place + len(digest) :]


def decode(content: bytes, expected: Expected) -> RunState:
    """The state in a resume file's bytes, of which `expected.most_bytes` are read at most.

    Raises ValueError with the reason, a part of a sentence, for whatever is wrong.
    """
    if len(content) > expected.most_bytes:
        raise ValueError(f"it has more than {expected.most_bytes / 2**20:.0f} MB")
    header = _header(content, expected.most_header_bytes)
    checked = _verify(content, header)
    metadata = _check_header(header, strict=not checked)
    try:
        tensors = load(content)
    except Exception as error:  # its reader raises many kinds
        raise ValueError(f"it is not a safetensors file: {quoted(error)}") from None
    if metadata["fingerprint"] != expected.fingerprint:
        raise ValueError("it belongs to another run")
    step = _step(metadata["step"], expected.steps)
    vectors = tensors.pop("vectors")
    if vectors.dtype != torch.float32 or vectors.shape != expected.shape:
        raise ValueError(f"its vectors are {tuple(vectors.shape)}, expected {tuple(expected.shape)} in float32")
    if not vectors.isfinite().all():
        raise ValueError("its vectors hold values that are not finite")
    optimizer, batches = _under(_OPTIMIZER, tensors), _under(_BATCHES, tensors)
    if len(optimizer) + len(batches) != len(tensors):
        raise ValueError("it holds a tensor that no run writes")
    expected.check_optimizer(step, optimizer)
    expected.check_batches(step, batches)
    angles = _numbers("angles", metadata.get("angles", "[]"), 180.001)
    if len(angles) > step:
        raise ValueError(f"it has {len(angles)} angles after {step} steps")
    precision = _precision(metadata.get("precision", ""), expected.precision)
    return RunState(
        step=step,
        vectors=vectors,
        optimizer=optimizer,
        batches=batches,
        losses=_one_a_step("losses", metadata["losses"], step),
        distances=_one_a_step("distances", metadata["distances"], step),
        angles=angles,
        precision=precision,
        loss_scale=_loss_scale(metadata["loss_scale"], precision),
        settings=_settings(metadata["settings"]),
    )


def _header(content: bytes, most: int | None = None) -> bytes:
    length = int.from_bytes(content[:8], "little")
    if len(content) < 8 or not 2 <= length <= len(content) - 8 or (most is not None and length > most):
        raise ValueError("it is cut off, or not a safetensors file")
    return content[8 : 8 + length]


def _verify(content: bytes, header: bytes) -> bool:
    """Whether there is a checksum; one that is wrong is an error."""
    found = list(_CHECKSUM.finditer(header))
    if not found:
        return False
    start, end = (8 + place for place in found[0].span(1))
    digest = hashlib.sha256(content[:start] + _NO_CHECKSUM.encode() + content[end:]).hexdigest().encode()
    if len(found) > 1 or digest != found[0][1]:
        raise ValueError("its checksum does not match its content")
    return True


def _check_header(header: bytes, strict: bool) -> dict[str, str]:
    """The metadata of a header whose tensors have names and types that a resume file can have."""
    try:
        entries = json.loads(header.decode(), object_pairs_hook=_without_repeats, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"its header is not JSON: {quoted(error)}") from None
    metadata = entries.pop("__metadata__", None) if isinstance(entries, dict) else None
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError("it has no metadata of a resume file")
    if metadata.get("format") != FORMAT:
        raise ValueError(f"its format is '{quoted(metadata.get('format'))}', expected '{FORMAT}'")
    if missing := _REQUIRED - metadata.keys():
        raise ValueError(f"it lacks {', '.join(sorted(missing))}")
    if strict and (unknown := metadata.keys() - _KNOWN_WITHOUT_CHECKSUM):
        raise ValueError(f"it has no valid checksum, and holds '{quoted(min(unknown))}', which no version wrote")
    if "vectors" not in entries or len(entries) > 32:
        raise ValueError("it does not hold the tensors of a run")
    for key, entry in entries.items():
        if not isinstance(entry, dict) or entry.get("dtype") not in _DTYPES:
            raise ValueError(f"its tensor '{quoted(key)}' has a type that no run writes")
    return metadata


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key is there twice")
    return found


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not a number")


def _step(text: str, steps: int) -> int:
    if not _STEP.fullmatch(text) or int(text) > steps:
        raise ValueError(f"its step is '{quoted(text)}', expected 1 to {steps}")
    return int(text)


def _numbers(name: str, text: str, most: float = math.inf) -> tuple[float, ...]:
    try:
        values = json.loads(text, parse_constant=_no_constant)
        if not isinstance(values, list):
            raise ValueError("not a list")
        if not all(type(value) in (int, float) and 0 <= value <= most and math.isfinite(value) for value in values):
            raise ValueError("a value that is negative, too large or not a number")
    except (ValueError, RecursionError, OverflowError) as error:
        raise ValueError(f"its {name} are not a list of numbers: {quoted(error)}") from None
    return tuple(map(float, values))


def _one_a_step(name: str, text: str, step: int) -> tuple[float, ...]:
    values = _numbers(name, text)
    if len(values) != step:
        raise ValueError(f"it has {len(values)} {name} after {step} steps")
    return values


def _precision(text: str, first: Precision) -> Any:
    """What the next step computes in."""
    if text and _SAFER.get(text, -1) < _SAFER[first]:
        raise ValueError(f"its precision is '{quoted(text)}', but the run began in {first}")
    return cast(Any, text)


def _loss_scale(text: str, precision: str) -> float:
    try:
        scale = float(text)
    except ValueError:
        scale = math.nan
    most = LOSS_SCALE if precision in ("fp16", "") else 1.0
    if not 1 <= scale <= most or math.frexp(scale)[0] != 0.5:
        raise ValueError(f"its loss scale is '{quoted(text)}', expected a power of 2 from 1 to {most:g}")
    return scale


def _settings(text: str) -> dict[str, object]:
    """The settings as they were written; only `InversionSettings` has their keys."""
    try:
        settings = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"its settings are not JSON: {quoted(error)}") from None
    if not isinstance(settings, Mapping) or not settings.keys() & InversionSettings.__dataclass_fields__.keys():
        raise ValueError("its settings are not those of a run")
    return dict(settings)


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
