"""The benchmark of attention kernels compares gradients with float32's, and tells what varies."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from benchmarks import attention
from crossinit_core.gpu.kernels import PLAIN


@pytest.fixture
def without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def _rows(folder: Path) -> dict[str, dict[str, object]]:
    assert attention.main(["--out", str(folder / "found.json"), "--repeats", "2"]) == 0
    rows = json.loads((folder / "found.json").read_text(encoding="utf-8"))["rows"]
    return {row["kernel"]: row for row in rows if row["shape"] == "small"}


@pytest.mark.usefixtures("without_a_gpu")
def test_a_wrong_or_wavering_kernel_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = 0

    def wrong(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
        return PLAIN.attention(q, k, v * 1.1, heads)

    def wavering(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
        nonlocal calls
        calls += 1
        return PLAIN.attention(q, k, v, heads) * (1 + 1e-5 * calls)

    def missing(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
        raise RuntimeError("No available kernel.")

    def some(device: torch.device) -> Iterator[tuple[str, attention.Attention, bool]]:
        yield "right", PLAIN.attention, True
        yield "wrong", wrong, False
        yield "wavering", wavering, False
        yield "missing", missing, False

    monkeypatch.setattr(attention, "kernels", some)
    rows = _rows(tmp_path)
    assert rows.keys() == {"right", "wrong", "wavering"}
    assert rows["right"]["repeats"] and rows["right"]["error"] == 0
    assert rows["wrong"]["error"] == pytest.approx(0.1, rel=0.01)
    assert not rows["wavering"]["repeats"]
    assert not torch.are_deterministic_algorithms_enabled()


def test_bad_repeats_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert attention.main(["--repeats", "0"]) == 2
    assert "--repeats is 0, but must be at least 1" in capsys.readouterr().err
