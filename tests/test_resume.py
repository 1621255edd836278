"""A run that was stopped goes on where it was, and ends as if it had never been stopped."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from itertools import count, repeat
from pathlib import Path
from typing import Any

import pytest
import torch

from crossinit_core import InversionResult, TrainingBatch, invert
from crossinit_core.diffusers_backbone import DiffusersBackbone
from tests.resumed import PHOTO, SETTINGS, Cancel, files_in, notes_of, same, step_in, stop_after
from tests.tiny_learning import Watched


@pytest.fixture(scope="module")
def uninterrupted(backbone: DiffusersBackbone, v0: torch.Tensor) -> InversionResult:
    return invert(backbone, v0, SETTINGS, images=PHOTO)


class Interrupted(Watched):
    """A backbone whose UNet raises `error` at its `call`-th use."""

    def __init__(self, backbone: DiffusersBackbone, call: int, error: BaseException) -> None:
        uses = count(1)

        def interrupted(predict: Callable[..., torch.Tensor], *inputs: torch.Tensor) -> torch.Tensor:
            if next(uses) == call:
                raise error
            return predict(*inputs)

        super().__init__(backbone, interrupted)


@pytest.mark.parametrize("step", [1, 2, 4])
def test_a_cancelled_run_goes_on_and_ends_the_same(
    backbone: DiffusersBackbone, v0: torch.Tensor, uninterrupted: InversionResult, tmp_path: Path, step: int
) -> None:
    with pytest.raises(Cancel):
        invert(backbone, v0, SETTINGS, images=PHOTO, resume_folder=tmp_path, on_step=stop_after(step))
    assert step_in(tmp_path) == step
    seen: list[int] = []
    result = invert(
        backbone,
        v0,
        SETTINGS,
        images=PHOTO,
        resume_folder=tmp_path,
        on_step=lambda report: seen.append(report.step),
    )
    assert result.resumed_from == step
    assert seen == list(range(step + 1, 6))
    assert same(result, uninterrupted)
    assert result.token.metadata["crossinit.steps"] == "5"


@pytest.mark.parametrize("error", [KeyboardInterrupt(), MemoryError(), RuntimeError("CUDA error: unspecified")])
def test_a_run_that_dies_goes_on(
    backbone: DiffusersBackbone,
    v0: torch.Tensor,
    uninterrupted: InversionResult,
    tmp_path: Path,
    error: BaseException,
) -> None:
    """A run that dies in the middle of a step goes on and ends the same."""
    with pytest.raises(type(error)) as stopped:
        invert(Interrupted(backbone, 4, error), v0, SETTINGS, images=PHOTO, resume_folder=tmp_path)
    assert step_in(tmp_path) == 3
    assert f"Stopped after step 3; the next run with the same inputs continues from {tmp_path}" in notes_of(
        stopped.value
    )
    result = invert(backbone, v0, SETTINGS, images=PHOTO, resume_folder=tmp_path)
    assert result.resumed_from == 3
    assert same(result, uninterrupted)


def test_half_a_batch_that_was_done_is_done_again(
    backbone: DiffusersBackbone, v0: torch.Tensor, tmp_path: Path
) -> None:
    settings = replace(SETTINGS, micro_batch_size=1)
    with pytest.raises(Cancel):
        invert(Interrupted(backbone, 6, Cancel()), v0, settings, images=PHOTO, resume_folder=tmp_path)
    result = invert(backbone, v0, settings, images=PHOTO, resume_folder=tmp_path)
    assert result.resumed_from == 2
    assert same(result, invert(backbone, v0, settings, images=PHOTO))


def test_a_run_may_be_stopped_again_and_again(
    backbone: DiffusersBackbone, v0: torch.Tensor, uninterrupted: InversionResult, tmp_path: Path
) -> None:
    for step in (1, 2, 3, 4):
        with pytest.raises(Cancel):
            invert(backbone, v0, SETTINGS, images=PHOTO, resume_folder=tmp_path, on_step=stop_after(step))
    result = invert(backbone, v0, SETTINGS, images=PHOTO, resume_folder=tmp_path)
    assert result.resumed_from == 4
    assert same(result, uninterrupted)


def test_a_run_without_steps_leaves_nothing(backbone: DiffusersBackbone, v0: torch.Tensor, tmp_path: Path) -> None:
    """A run that is stopped before its first step leaves nothing."""
    with pytest.raises(Cancel) as stopped:
        invert(Interrupted(backbone, 1, Cancel()), v0, SETTINGS, images=PHOTO, resume_folder=tmp_path / "r")
    assert not files_in(tmp_path / "r")
    assert not notes_of(stopped.value)


def test_a_resumed_run_still_says_where_it_continues(
    backbone: DiffusersBackbone, v0: torch.Tensor, tmp_path: Path
) -> None:
    """A run that is stopped before it gets on still says where it continues."""
    invert(backbone, v0, replace(SETTINGS, steps=3), images=PHOTO, resume_folder=tmp_path)
    with pytest.raises(Cancel) as stopped:
        invert(Interrupted(backbone, 1, Cancel()), v0, SETTINGS, images=PHOTO, resume_folder=tmp_path)
    assert "Stopped after step 3" in notes_of(stopped.value)


def test_an_overflow_keeps_what_was_learned(
    backbone: DiffusersBackbone, v0: torch.Tensor, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """In bf16, and then in fp32 from the same step on: only the end of the second is an end."""
    uses = count(1)
    host = Watched(backbone, lambda predict, *inputs: predict(*inputs) * (1 if next(uses) < 3 else torch.nan))
    settings = replace(SETTINGS, precision="bf16")
    with caplog.at_level(logging.INFO), pytest.raises(FloatingPointError, match=r"Step 3 .* float32") as stopped:
        invert(host, v0, settings, images=PHOTO, resume_folder=tmp_path)
    assert step_in(tmp_path) == 2
    assert "Stopped after step 2" in notes_of(stopped.value)
    assert caplog.text.count("Stopped after") == 1
    result = invert(backbone, v0, settings, images=PHOTO, resume_folder=tmp_path)
    assert result.resumed_from == 2


def test_a_longer_run_continues_a_shorter_one(
    backbone: DiffusersBackbone, v0: torch.Tensor, uninterrupted: InversionResult, tmp_path: Path
) -> None:
    invert(backbone, v0, replace(SETTINGS, steps=3), images=PHOTO, resume_folder=tmp_path)
    result = invert(backbone, v0, SETTINGS, images=PHOTO, resume_folder=tmp_path)
    assert result.resumed_from == 3
    assert same(result, uninterrupted)


def test_a_finished_run_returns_at_once(
    backbone: DiffusersBackbone, v0: torch.Tensor, uninterrupted: InversionResult, tmp_path: Path
) -> None:
    invert(backbone, v0, SETTINGS, images=PHOTO, resume_folder=tmp_path)
    unused = Interrupted(backbone, 1, AssertionError("a step was made"))
    result = invert(unused, v0, SETTINGS, images=PHOTO, resume_folder=tmp_path, on_step=stop_after(5))
    assert result.resumed_from == SETTINGS.steps
    assert same(result, uninterrupted)


@pytest.mark.parametrize("change", [{"micro_batch_size": 1}, {"gradient_checkpointing": True}, {"resume_every": 1}])
def test_a_run_may_go_on_with_less_memory(
    backbone: DiffusersBackbone,
    v0: torch.Tensor,
    uninterrupted: InversionResult,
    tmp_path: Path,
    change: dict[str, Any],
) -> None:
    """After running out of memory, a run may go on with less."""
    invert(backbone, v0, replace(SETTINGS, steps=3), images=PHOTO, resume_folder=tmp_path)
    result = invert(backbone, v0, replace(SETTINGS, **change), images=PHOTO, resume_folder=tmp_path)
    assert result.resumed_from == 3
    torch.testing.assert_close(result.token.vectors, uninterrupted.token.vectors, atol=1e-5, rtol=0)


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _text(path: Path) -> None:
    path.write_bytes(b"not a safetensors file at all")


def _cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def _of_another_run(path: Path) -> None:
    content = path.read_bytes()
    key = b'"fingerprint":"'
    place = content.index(key) + len(key)
    path.write_bytes(content[:place] + b"0" * 64 + content[place + 64 :])


@pytest.mark.parametrize("damage", [_empty, _text, _cut_off, _of_another_run])
def test_a_damaged_resume_file_is_set_aside(
    backbone: DiffusersBackbone,
    v0: torch.Tensor,
    uninterrupted: InversionResult,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    damage: Callable[[Path], None],
) -> None:
    invert(backbone, v0, replace(SETTINGS, steps=2), images=PHOTO, resume_folder=tmp_path)
    (path,) = files_in(tmp_path)
    damage(path)
    damaged = path.read_bytes()
    with caplog.at_level(logging.WARNING):
        result = invert(backbone, v0, SETTINGS, images=PHOTO, resume_folder=tmp_path)
    (note,) = result.notes
    assert note in caplog.text and len(note) <= 600 and "\n" not in note
    assert f"The resume file '{path.name}' cannot be used: it" in note and note.endswith("This run starts anew.")
    assert result.resumed_from == 0
    assert same(result, uninterrupted)
    assert path.with_name(f"{path.name}.damaged").read_bytes() == damaged
    assert step_in(tmp_path) == 5


def test_a_run_that_starts_anew_is_protected(
    backbone: DiffusersBackbone, v0: torch.Tensor, uninterrupted: InversionResult, tmp_path: Path
) -> None:
    """A run that shall start anew does so, and has a resume file all the same."""
    with pytest.raises(Cancel):
        invert(backbone, v0, SETTINGS, images=PHOTO, resume_folder=tmp_path, on_step=stop_after(3))
    with pytest.raises(Cancel):
        invert(backbone, v0, SETTINGS, images=PHOTO, resume_folder=tmp_path, resume=False, on_step=stop_after(2))
    assert step_in(tmp_path) == 2
    assert same(invert(backbone, v0, SETTINGS, images=PHOTO, resume_folder=tmp_path), uninterrupted)


def test_an_unwritable_folder_ends_no_run(
    backbone: DiffusersBackbone,
    v0: torch.Tensor,
    uninterrupted: InversionResult,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A folder that cannot be written does not end the run, and is told once, before the first step."""
    taken = tmp_path / "resume"
    taken.write_text("a file where the folder should be", encoding="utf-8")
    told: list[Any] = []
    settings = replace(SETTINGS, resume_every=1)
    with caplog.at_level(logging.WARNING):
        result = invert(
            backbone,
            v0,
            settings,
            images=PHOTO,
            resume_folder=taken,
            on_note=told.append,
            on_step=lambda report: told.append(report.step),
        )
    assert same(result, uninterrupted)
    assert told == [*result.notes, 1, 2, 3, 4, 5]
    assert f"The resume folder '{taken}' could not be written" in result.notes[0]
    assert result.notes[0] in caplog.text
    told.clear()
    inputs: dict[str, Any] = {"images": PHOTO, "resume_folder": taken, "on_note": told.append}
    with caplog.at_level(logging.INFO), pytest.raises(Cancel) as stopped:
        invert(backbone, v0, SETTINGS, on_step=stop_after(3), **inputs)
    assert "continues" not in notes_of(stopped.value) + caplog.text, "it would start anew"
    assert told[0] == result.notes[0]
    assert told[1].startswith("Stopped after step 3, which could not be kept") and told[1].endswith("starts anew.")


def test_without_a_folder_no_file_is_promised(
    backbone: DiffusersBackbone, v0: torch.Tensor, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO), pytest.raises(Cancel) as stopped:
        invert(backbone, v0, SETTINGS, images=PHOTO, on_step=stop_after(3))
    assert "continues" not in notes_of(stopped.value) + caplog.text


def test_ready_made_batches_are_resumed_too(backbone: DiffusersBackbone, v0: torch.Tensor, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    ids = torch.tensor([[backbone.bos, 49408, 49409, backbone.eos, *repeat(backbone.pad, 73)]])
    batches = [
        TrainingBatch(
            torch.randn(2, 4, 8, 8, generator=generator),
            torch.randn(2, 4, 8, 8, generator=generator),
            torch.randint(0, 1000, (2,), generator=generator),
            ids.expand(2, -1),
        )
        for _ in range(5)
    ]
    with pytest.raises(Cancel):
        invert(backbone, v0, SETTINGS, batches=batches, resume_folder=tmp_path, on_step=stop_after(3))
    result = invert(backbone, v0, SETTINGS, batches=iter(batches), resume_folder=tmp_path)
    assert result.resumed_from == 3
    assert same(result, invert(backbone, v0, SETTINGS, batches=batches))
    masked = [replace(batch, mask=torch.ones(2, 1, 8, 8)) for batch in batches]
    late = [*batches[:2], replace(batches[2], noise=batches[2].noise + 1), *batches[3:]]
    for others in (list(reversed(batches)), masked, late):
        again = invert(backbone, v0, SETTINGS, batches=iter(others), resume_folder=tmp_path)
        assert again.resumed_from == 0
        assert same(again, invert(backbone, v0, SETTINGS, batches=others))
    assert invert(backbone, v0, SETTINGS, batches=iter(batches), resume_folder=tmp_path).resumed_from == 5
    assert invert(backbone, v0, SETTINGS, batches=iter(late), resume_folder=tmp_path).resumed_from == 5
