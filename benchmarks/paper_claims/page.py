"""The page on disk: its text, its numbers and those of a second world beside it, and its pictures in images/."""

from __future__ import annotations

from pathlib import Path

from .both_worlds import World, numbers_path
from .document import document
from .plan import Plan, command
from .plots import save_people, save_plot
from .results import Results, Summary, plan_of, summarize, write_summary
from .statistics import Numbers
from .verdicts import RATE_RULE, fast_learning_rate, verdicts

SHOWN = {
    "plot": ("Likeness and editability, norms over steps, and lambda", ""),
    "people": ("One person, learned in each way, for ten prompts", "-people"),
}
"""Pictures of the page: their alternative text, and how the name of their file ends."""


def write_docs(path: Path, results: Results, plan: Plan, beside: World | None = None) -> None:
    """The page, its numbers beside it (NAME.json), and its pictures in images/; prints the verdicts."""
    summary = summarize(results, plan)
    save_plot(Numbers(summary), plan, image_path(path, "plot"))
    shown = {"plot"}
    if save_people(results.folder / "pictures", plan, image_path(path, "people")):
        shown.add("people")
    write_summary(path.with_suffix(".json"), summary)
    _write(path, summary, plan, shown, beside)


def write_page(path: Path, summary: Summary, beside: World | None = None) -> None:
    """The page alone, from its numbers and with the pictures that exist; prints the verdicts."""
    shown = {name for name in SHOWN if image_path(path, name).is_file()}
    _write(path, summary, plan_of(summary), shown, beside)


def image_path(page: Path, name: str) -> Path:
    """The file of a picture of `SHOWN`."""
    return page.parent / "images" / f"{page.stem}{SHOWN[name][1]}.png"


def _write(path: Path, summary: Summary, plan: Plan, shown: set[str], beside: World | None) -> None:
    if beside:
        write_summary(numbers_path(path, beside[0]), beside[1])
    images = {name: (SHOWN[name][0], f"images/{image_path(path, name).name}") for name in shown}
    again = command(plan, "--out FOLDER", "--docs docs/paper-claims.md")
    path.write_text(document(summary, plan, images, again, beside), encoding="utf-8")
    numbers = Numbers(summary)
    for verdict in verdicts(numbers, plan):
        print(f"{verdict.word}: {verdict.claim} {verdict.evidence}")
    print(f"{RATE_RULE} Chosen: {fast_learning_rate(numbers, plan)[0]}")
