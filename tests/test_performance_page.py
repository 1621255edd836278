"""The benchmark of ComfyUI's modes and the page that is made of it: what crashed is not right, what is missing is not told."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest

from benchmarks import modes, performance_page
from benchmarks.performance_page import KEPT, TRIED, page
from benchmarks.speed.sections import PRESETS
from crossinit_core.learning.settings import presets_of

RIGHT = {
    "right": True, "precision": "float16", "cosine_of_movement": 0.99999, "ratio_of_distance": 1.0,
    "again after a picture": "same bits",
}  # fmt: skip


@pytest.fixture
def ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """ran(program): what comes of a mode whose process runs this program; its argument is where to write what it found."""

    def run(program: str) -> dict[str, Any]:
        file = str(tmp_path / "lowvram.json")
        monkeypatch.setattr(modes, "_command", lambda *_: [sys.executable, "-c", program, file])
        return modes._run(Namespace(out=tmp_path), "lowvram")

    return run


WRITE = f"import sys; open(sys.argv[1], 'w').write({json.dumps(RIGHT)!r})"


def test_a_finished_mode_is_believed(ran: Any) -> None:
    """A mode that came to its end is as right as it says."""
    assert ran(WRITE) == RIGHT


def test_a_crashed_mode_is_wrong(ran: Any) -> None:
    """It is wrong whatever it found before it crashed."""
    found = ran(f"{WRITE}; print('a line'); sys.exit('Segmentation fault')")
    assert found["again after a picture"] == "same bits", "what it found is kept"
    assert modes.outcome(found) == "WRONG"
    assert found["code"] == 1 and found["end"] == "Segmentation fault"


def test_earlier_results_do_not_count(ran: Any) -> None:
    assert modes.outcome(ran(WRITE)) == "right"
    assert modes.outcome(ran("raise MemoryError")) == "WRONG"
    assert modes.outcome(ran("pass")) == "WRONG", "an end without a result is none"


def test_a_mode_whose_library_is_missing_is_refused(ran: Any) -> None:
    found = ran(
        "import sys; sys.exit('To use the `--use-sage-attention` feature, the `sageattention` package must be installed')"
    )
    assert modes.outcome(found) == "refused"


def test_the_exit_code_tells_of_a_crashed_mode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks.speed import host

    monkeypatch.setattr(host, "make_checkpoint", lambda *_, **__: None)
    programs = {"lowvram": "raise MemoryError", "novram": "import sys; sys.exit('to use the `--use-x`')"}
    monkeypatch.setattr(modes, "_command", lambda _, name: [sys.executable, "-c", programs[name]])
    assert modes.main(["--out", str(tmp_path), "--only", "novram"]) == 0
    assert modes.main(["--out", str(tmp_path), "--only", "novram", "lowvram"]) == 1
    kept = json.loads((tmp_path / "modes.json").read_text(encoding="utf-8"))
    assert {name: modes.outcome(row) for name, row in kept.items()} == {"novram": "refused", "lowvram": "WRONG"}


# ---- the page


def _read(name: str) -> Any:
    return json.loads((KEPT / name).read_text(encoding="utf-8"))


def _page(speed: dict[str, Any] | None = None, repeats: dict[str, Any] | None = None, **rows: dict[str, Any]) -> str:
    speed = _read("published.json") | _read("ours.json") | (speed or {})
    return page(speed, repeats or {}, _read("memory.json"), rows, json.loads(TRIED.read_text(encoding="utf-8")))


def _row(text: str, name: str) -> list[str]:
    line = next(line for line in text.splitlines() if line.startswith(f"| {name} |"))
    return [cell.strip() for cell in line.split("|")[1:-1]]


def test_the_page_is_up_to_date(tmp_path: Path) -> None:
    """It is what its program makes of the numbers that are kept."""
    assert performance_page.main(["--out", str(tmp_path / "page.md")]) == 0
    kept = (performance_page.ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
    assert (tmp_path / "page.md").read_text(encoding="utf-8") == kept


def test_what_the_page_says_of_attention_is_what_was_measured() -> None:
    rows = _read("attention.json")["rows"]
    for shape in {row["shape"] for row in rows}:
        each = {row["kernel"]: row for row in rows if row["shape"] == shape}
        own, cudnn = each["this pack"], each["cuDNN"]
        assert own["repeats"] and own["both_ms"] == min(row["both_ms"] for row in each.values() if row["repeats"]), (
            shape
        )
        assert 0.89 < cudnn["both_ms"] / own["both_ms"] < 2.55 and "cuDNN, exact" not in each, shape
        assert cudnn["repeats"] == shape.endswith("the prompt")


def test_every_preset_that_the_page_times_is_one() -> None:
    for family in PRESETS:
        modes = _read(f"presets/{family}/ours.json")["modes"]
        timed = {name.removesuffix(" preset"): row["steps"] for name, row in modes.items() if name.endswith(" preset")}
        assert timed == {name: presets_of(family)[name].steps for name in ("swift", "best", "full")}


def test_the_page_tells_of_bad_modes() -> None:
    """Bad modes crashed, were refused, or had wrong numbers."""
    text = _page(
        fine=RIGHT,
        early={"right": False, "refused": False, "code": -9, "end": "Killed"},
        late={**RIGHT, "right": False, "refused": False, "code": 1, "end": "out of memory"},
        missing={"right": False, "refused": True, "code": 1, "end": "install sageattention"},
        off={**RIGHT, "right": False, "cosine_of_movement": 0.5},
    )
    words = {name: _row(text, name)[1] for name in ("fine", "early", "late", "missing", "off")}
    assert words == {"fine": "right", "early": "WRONG", "late": "WRONG", "missing": "refused", "off": "WRONG"}
    assert "*early* ended with code -9 before all checks were made: Killed" in text
    assert "*missing* is one that ComfyUI refused to start in: install sageattention" in text
    assert len({len(_row(text, name)) for name in words}) == 1


def test_the_page_compares_pictures() -> None:
    """Pictures from before and after learning are compared."""
    differs = "differ by 1.0e-03"
    text = _page(new={**RIGHT, "picture before learning, twice": "same bits", "picture after learning": differs})
    assert _row(text, "new")[-2:] == ["same bits", differs]
    assert f"A picture before learning, twice: same bits; after all of these runs: {differs}." in _page(
        speed={"picture before learning, twice": "same bits", "picture after learning": differs}
    )


def test_the_page_shows_the_spread() -> None:
    """It is the spread of several runs of the fast preset."""
    text = _page(repeats={"seconds": [2.0, 1.5, 3.25], "until_first_step": [0.75, 0.5, 1.0]})
    assert "Learned 3 times in a row it took 1.50 to 3.25 s, in the median 2.00, of which 0.50 to 1.00 s" in text
    assert "times in a row" not in _page()


def test_the_miniature_only_if_measured() -> None:
    assert "embedded miniature" not in _page(default=RIGHT)
    assert "the embedded miniature, whose weights are real" in _page(**{"default": RIGHT, "embedded miniature": RIGHT})


def test_sdxl_is_compared_with_its_own_recipe_at_the_same_size() -> None:
    """Rows at 1024 px with the published recipe at 1024 px, all others with that at 768 px."""

    def row(ms: float, **more: Any) -> dict[str, Any]:
        return {"ms_a_step": ms, "seconds_400": 0.4 * ms, "peak_gib": 9.0, **more}

    ours = {"steps": 10, "seconds": 1.0, "until_first_step": 0.5}
    sdxl = {
        **_read("sdxl/ours.json"),
        "published": row(300.0),
        "published, 1024 px": row(800.0),
        "modes": {"default, 10 steps": row(100.0, **ours), "1024 px": row(200.0, **ours)},
    }
    speed = _read("published.json") | _read("ours.json")
    text = page(speed, {}, [], {}, json.loads(TRIED.read_text(encoding="utf-8")), None, sdxl)
    text = text[text.index("## SDXL") :]
    assert _row(text, "default, 10 steps")[5] == "3.0 x"
    assert _row(text, "1024 px")[5] == "4.0 x"
    assert _row(text, "published recipe")[2:4] == ["300", "120"]
    assert _row(text, "published recipe, 1024 px")[2:4] == ["800", "320"]


def test_a_mode_that_fell_short_says_in_what() -> None:
    far = {"cosine_of_movement": 0.998, "ratio_of_distance": 1.0}
    assert "*new* fell short, or differed, in: bf16." in _page(new={**RIGHT, "bf16": far})
    assert "fell short" not in _page(new=RIGHT)
