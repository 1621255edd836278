"""One person on several devices: processes that share each batch, on a CPU."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from crossinit_core import TrainingBatch, load_learned_token
from crossinit_core.cli import main
from crossinit_core.diffusers_backbone import DiffusersBackbone
from crossinit_core.learning.ranks import ALONE, Together
from tests.conftest import REPOSITORY
from tests.tiny_learning import learn
from tests.tiny_models import Prepared, prepare
from tests.tiny_ranks import UNEVEN, start

posix = pytest.mark.skipif(os.name == "nt", reason="signals of Windows are others")


@dataclass(frozen=True)
class Learned:
    """What two processes came to: `folder` holds it, `ends` are their exit codes and what they wrote to stderr."""

    folder: Path
    ends: list[tuple[int, str]]

    def of(self, name: str, rank: int = 0) -> dict[str, Tensor]:
        return load_file(self.folder / f"{name}-{rank}.safetensors")


@pytest.fixture(scope="module")
def tiny(tiny_models: Path) -> Prepared:
    return prepare(DiffusersBackbone.from_pretrained(tiny_models / "tiny-eps"), steps=4, batch=1)


@pytest.fixture(scope="module")
def both(tiny_models: Path, tiny: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Learned:
    """All of `tiny_ranks.main`, after one process has done two steps of "resumed"."""
    folder = tmp_path_factory.mktemp("ranks")
    learn(tiny, replace(UNEVEN, steps=2), resume_folder=folder / "resume-0")
    return Learned(folder, _ends(start(2, ["-m", "tests.tiny_ranks", tiny_models / "tiny-eps", folder], folder)))


def _ends(processes: Sequence[subprocess.Popen[str]], timeout: float = 240) -> list[tuple[int, str]]:
    try:
        said = [process.communicate(timeout=timeout)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(process.returncode, text) for process, text in zip(processes, said, strict=True)]


@pytest.mark.slow
def test_two_processes_learn_what_one_learns(both: Learned, tiny: Prepared) -> None:
    for name, settings in (("photos", UNEVEN), ("squared", replace(UNEVEN, method="direction", prior=1e-4))):
        alone = learn(tiny, settings)
        found = both.of(name)
        assert (found["vectors"] - alone.token.vectors).abs().max() < 1e-5
        assert torch.allclose(found["losses"], torch.tensor(alone.losses, dtype=torch.float64), atol=1e-6)
        assert torch.equal(found["vectors"], both.of(name, 1)["vectors"]), "the same bits in both"


@pytest.mark.slow
def test_pieces_of_a_batch_give_the_same_bits(both: Learned, tiny: Prepared) -> None:
    in_pieces = learn(tiny, replace(UNEVEN, micro_batch_size=3))
    assert torch.equal(both.of("photos")["vectors"], in_pieces.token.vectors)


@pytest.mark.slow
def test_a_process_without_samples_takes_part(both: Learned, tiny: Prepared) -> None:
    alone = learn(tiny, UNEVEN, batches=tiny.batches(4))
    for rank in (0, 1):
        assert torch.equal(both.of("one sample", rank)["vectors"], alone.token.vectors)


@pytest.mark.slow
def test_too_little_memory_of_one_changes_nothing(both: Learned) -> None:
    for name in ("too much", "low memory"):
        for rank in (0, 1):
            assert (both.of(name, rank)["vectors"] - both.of("photos")["vectors"]).abs().max() < 1e-5, name


@pytest.mark.slow
def test_an_overflow_of_one_counts_for_all(both: Learned, tiny: Prepared) -> None:
    first, last = both.of("overflow"), both.of("overflow", 1)
    assert torch.equal(first["vectors"], last["vectors"])
    alone = learn(tiny, UNEVEN).token.vectors
    # Two steps in bfloat16, and then in float32.
    assert 0 < float((first["vectors"] - alone).abs().max()) < 0.02


@pytest.mark.slow
def test_the_first_process_alone_has_resume_files(both: Learned, tiny: Prepared) -> None:
    assert [int(both.of("resumed", rank)["from"]) for rank in (0, 1)] == [2, 2]
    assert (both.of("resumed")["vectors"] - learn(tiny, UNEVEN).token.vectors).abs().max() < 1e-5
    assert torch.equal(both.of("resumed")["vectors"], both.of("resumed", 1)["vectors"])
    assert list((both.folder / "resume-0").glob("*.safetensors"))
    assert not (both.folder / "resume-1").exists()


@pytest.mark.slow
def test_a_process_that_fails_tells_the_others_why(both: Learned, tiny: Prepared) -> None:
    (first, said), (last, reason) = both.ends
    assert first and last
    assert "RuntimeError: the model is broken" in reason
    assert "ProcessError: Process 2 of 2 stopped: the model is broken" in said
    kept = learn(tiny, replace(UNEVEN, seed=2), resume_folder=both.folder / "broken-0")
    assert kept.resumed_from == 3, "what was done is not lost"


# The command line.

COMMAND = ("-m", "crossinit_core", "train")
SMALL = ("--batch-size", "4", "--resolution", "64", "--resume-folder", "kept")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for name in ("me.png", "other.png"):
        Image.fromarray(rng.integers(0, 255, (80, 70, 3), dtype=np.uint8)).save(tmp_path / name)
    return tmp_path


def _arguments(model: Path, *more: object, photo: str = "me.png") -> list[str]:
    return [*COMMAND, str(model), photo, *SMALL, *map(str, more)]


@pytest.mark.slow
def test_torchrun_makes_one_file_and_says_it_once(
    tiny_models: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_models / "tiny-eps"
    monkeypatch.chdir(place)
    assert main(_arguments(model, "--steps", 6, "--out", "one.pt", "--resume-folder", "other")[2:]) == 0
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1"]
    beside = ("--losses", "losses.jsonl", "--save-every", 4, "--sample-every", 6)
    command = [*torchrun, "--nproc-per-node", "2", *_arguments(model, "--steps", 6, "--out", "two.pt", *beside)]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(command, cwd=place, env=environment, check=True, capture_output=True, text=True)
    assert done.stdout.count("two.pt: 2 vectors, 6 steps") == 1
    assert done.stderr.count("rate 0.005") == 1
    ours, theirs = (load_learned_token(place / name).vectors for name in ("two.pt", "one.pt"))
    assert (ours - theirs).abs().max() < 1e-5
    assert [line.partition(",")[0] for line in (place / "losses.jsonl").read_text(encoding="utf-8").splitlines()] == [
        f'{{"step": {step}' for step in range(1, 7)
    ]
    assert (place / "two-4.pt").is_file() and len(list(place.glob("two-samples/*/00006.png"))) == 1


def _stop(tiny_models: Path, place: Path, number: int, who: Sequence[int]) -> list[tuple[int, str]]:
    """The ends of two processes of which those at `who` get a signal after some steps were kept."""
    processes = start(2, _arguments(tiny_models / "tiny-eps", "--steps", 5000), place)
    until = time.monotonic() + 120
    while not list(place.glob("kept/*.safetensors")) and time.monotonic() < until:
        time.sleep(0.05)
    for index in who:
        processes[index].send_signal(number)
    return _ends(processes, timeout=60)


@pytest.mark.slow
@posix
def test_a_killed_process_ends_the_run_and_nothing_is_lost(tiny_models: Path, place: Path) -> None:
    (code, said), _ = _stop(tiny_models, place, signal.SIGKILL, [1])
    assert code == 2
    assert "the same command continues from here" in said
    assert said.splitlines()[-1].startswith("crossinit: Another of the 2 processes is gone")
    assert "Traceback" not in said
    (file,) = place.glob("kept/*.safetensors")
    with safe_open(file, "pt") as kept:
        assert f"After step {kept.metadata()['step']} of 5000" in said


@pytest.mark.slow
@posix
def test_ctrl_c_stops_all_processes(tiny_models: Path, place: Path) -> None:
    (code, said), (other, silent) = _stop(tiny_models, place, signal.SIGINT, [0, 1])
    assert code in (2, 130)
    assert other
    assert "the same command continues from here" in said
    assert "Traceback" not in said + silent


@pytest.mark.slow
def test_processes_with_other_photos_do_not_learn(tiny_models: Path, place: Path) -> None:
    model = tiny_models / "tiny-eps"
    other = _arguments(model, "--steps", 3, photo="other.png")
    (code, said), _ = _ends(start(2, _arguments(model, "--steps", 3), place, {1: other}))
    assert code == 2
    assert "Process 2 of 2 has another model, other photos or other settings than the first one" in said
    assert len(said.splitlines()[-1]) < 600


@pytest.mark.slow
def test_wrong_inputs_are_said_once(tiny_models: Path, place: Path) -> None:
    model = tiny_models / "tiny-eps"
    (code, said), (other, silent) = _ends(start(2, _arguments(model, "--batch-size", 1), place))
    assert code == other == 2
    assert "2 processes are to learn from batches of 1" in said
    assert not silent


def test_commands_of_one_process_refuse_several(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in {"TORCHELASTIC_RUN_ID": "test", "WORLD_SIZE": "2", "RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    assert main(["inspect", "me.pt"]) == 2
    assert capsys.readouterr().err.splitlines() == [
        "crossinit: torchrun started several processes, but 'inspect' runs in one: leave torchrun out."
    ]


def _one_of(number: int, count: int) -> Together:
    return Together(torch.distributed.HashStore(), number, count, torch.device("cpu"))


def test_every_sample_is_in_one_part() -> None:
    zeros = torch.zeros(8, 4, 8, 8)
    batch = TrainingBatch(zeros, zeros, torch.arange(8), torch.zeros(8, 77, dtype=torch.int64))
    for count in range(1, 11):
        parts = [_one_of(number, count).pieces(batch, 2) for number in range(count)]
        samples = torch.cat([piece.timesteps for part in parts for piece in part])
        assert samples.tolist() == list(range(8))
        assert max(sum(map(len, part)) for part in parts) == _one_of(0, count).part_of(8) == -(-8 // count)
    assert [len(piece) for piece in ALONE.pieces(batch, 3)] == [3, 3, 2]
