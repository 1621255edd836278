"""Who gets which work, and what happens if workers die: with crews in this process, as processes, and on Ray."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from crossinit_core import load_learned_token
from crossinit_core.many.crew import Crew, Order, Report
from crossinit_core.many.driver import MOST_LOST, hand_out
from crossinit_core.many.people import Person
from crossinit_core.many.processes import ProcessCrew
from crossinit_core.many.work_list import token_path
from tests.many_stubs import ByName, Here, Seen, somebody, without_a_model


@pytest.fixture(autouse=True)
def own_tests_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes that are started have this one's path, on which ComfyUI may come, with a package `tests` of its own."""
    others = [path for path in sys.path if not (Path(path) / "tests" / "__init__.py").is_file()]
    monkeypatch.setattr(sys, "path", others)


def _learn(
    names: list[str], crew: Crew, place_of: Callable[[Person], object] = lambda person: None
) -> dict[str, Report]:
    seen = Seen(place_of)
    hand_out([somebody(name) for name in names], crew, seen)
    return seen.reports


def _everything_works(worker: int, person: Person | None) -> Report:
    return Report("done" if person else "ready")


def test_everybody_is_learned_once() -> None:
    crew = Here(3, _everything_works)
    names = [f"p{number}" for number in range(50)]
    assert sorted(_learn(names, crew)) == sorted(names)
    assert (crew.hired, crew.closed, len(crew.given)) == (3, True, 50)


def test_no_more_workers_than_people() -> None:
    crew = Here(8, _everything_works)
    _learn(["anna", "bob"], crew)
    assert crew.hired == 2


def test_one_who_fails_holds_up_nobody() -> None:
    crew = Here(
        2,
        lambda worker, person: Report("failed", "no face")
        if person and person.name == "b"
        else _everything_works(worker, person),
    )
    ended = _learn(["a", "b", "c"], crew)
    assert [ended[name].kind for name in "abc"] == ["done", "failed", "done"]
    assert crew.hired == 2


def test_dead_workers_are_replaced() -> None:
    def answer(worker: int, person: Person | None) -> Report:
        return Report("dead", "killed") if worker % 2 and person else _everything_works(worker, person)

    crew = Here(2, answer)
    assert {report.kind for report in _learn([f"p{number}" for number in range(9)], crew).values()} == {"done"}
    assert crew.most_alive == 2


def test_one_who_kills_every_worker_is_given_up() -> None:
    def answer(worker: int, person: Person | None) -> Report:
        return Report("dead", "killed") if person and person.name == "b" else _everything_works(worker, person)

    crew = Here(2, answer)
    ended = _learn(["a", "b", "c"], crew)
    assert [ended[name].kind for name in "abc"] == ["done", "failed", "done"]
    assert ended["b"].text == f"{MOST_LOST} workers were lost on this person. The last one: killed"
    assert [name for _, name in crew.given].count("b") == MOST_LOST


def test_one_who_gets_farther_each_time_is_not_given_up() -> None:
    deaths: list[int] = []

    def answer(worker: int, person: Person | None) -> Report:
        if person and len(deaths) < 3 * MOST_LOST:
            deaths.append(worker)
            return Report("dead", "killed")
        return _everything_works(worker, person)

    assert _learn(["a"], Here(1, answer), lambda person: len(deaths))["a"].kind == "done"


def test_an_error_of_a_worker_is_tried_on_another() -> None:
    def answer(worker: int, person: Person | None) -> Report:
        return Report("broken", "CUDA error") if person and worker == 1 else _everything_works(worker, person)

    crew = Here(1, answer)
    assert _learn(["a"], crew)["a"].kind == "done"
    assert crew.given == [(1, "a"), (2, "a")]


def test_an_error_that_comes_again_is_the_persons() -> None:
    crew = Here(1, lambda worker, person: Report("broken", "a bug") if person else Report("ready"))
    assert _learn(["a"], crew)["a"] == Report("failed", "2 workers were lost on this person. The last one: a bug")


@pytest.mark.parametrize("when", ["start", "person"])
def test_what_stops_everybody_is_said_once(when: str) -> None:
    def answer(worker: int, person: Person | None) -> Report:
        return Report("stop", "no room") if (person is None) == (when == "start") else Report("ready")

    crew = Here(2, answer)
    with pytest.raises(RuntimeError, match=r"^no room$"):
        _learn(["a", "b", "c"], crew)
    assert crew.closed


def test_workers_that_never_start_end_the_work() -> None:
    crew = Here(2, lambda worker, person: Report("dead", "out of memory"))
    with pytest.raises(RuntimeError, match="6 workers in a row did not start: out of memory"):
        _learn(["a", "b", "c"], crew)
    assert crew.closed


def test_workers_that_come_later_get_work() -> None:
    class Growing(Here):
        def wanted(self) -> int:
            return 1 if len(self.given) < 3 else 4

    crew = Growing(1, _everything_works)
    _learn([f"p{number}" for number in range(12)], crew)
    assert crew.hired == 4
    assert len({worker for worker, _ in crew.given}) == 4


@pytest.mark.slow
def test_processes_die_and_everybody_else_is_learned(tmp_path: Path) -> None:
    crew = ProcessCrew(Order(tmp_path / "model", tmp_path, "cpu"), ByName, ["", ""])
    ended = _learn(["a", "fails", "dies-once", "b", "c"], crew)
    assert {name: report.kind for name, report in ended.items()} == {
        "a": "done",
        "b": "done",
        "c": "done",
        "dies-once": "done",
        "fails": "failed",
    }
    assert ended["a"].notes == ("a note",)
    assert load_learned_token(token_path(tmp_path, "dies-once")).name == "dies-once"


@pytest.mark.slow
def test_each_process_sees_its_own_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    crew = ProcessCrew(Order(tmp_path, tmp_path, "cpu"), _Visible, ["3", "GPU-5"])
    ended = _learn(["a", "b"], crew)
    assert sorted(report.text for report in ended.values()) == ["3", "GPU-5"]
    assert "CUDA_VISIBLE_DEVICES" not in os.environ


class _Visible:
    def __init__(self, order: Order) -> None:
        pass

    def learn(self, person: Person) -> Report:
        import time

        time.sleep(3)  # so that the other one gets the other person
        return Report("done", os.environ["CUDA_VISIBLE_DEVICES"])


@pytest.mark.slow
def test_a_model_that_is_not_there_stops_processes(tmp_path: Path) -> None:
    crew = ProcessCrew(Order(tmp_path / "none", tmp_path, "cpu"), without_a_model, [""])
    with pytest.raises(RuntimeError, match="There is no model at"):
        _learn(["a", "b"], crew)


@pytest.mark.slow
def test_ray_replaces_actors_that_die(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray", reason="Ray is an extra: pip install ray")
    from crossinit_core.many.on_ray import RayCrew

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
    order = Order(tmp_path / "model", tmp_path, "cpu")
    crew = RayCrew(order, ByName, workers=2, per_gpu=1)
    ended = _learn(["a", "fails", "dies-once", "b"], crew)
    assert {name: report.kind for name, report in ended.items()} == {
        "a": "done",
        "b": "done",
        "dies-once": "done",
        "fails": "failed",
    }
