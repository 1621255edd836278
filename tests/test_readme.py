"""What people read, the README, the help pages and the texts of nodes: it agrees with what the pack does."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from crossinit_core import LearnedToken, save_learned_token
from crossinit_core.families import BASES
from crossinit_core.learning.settings import presets_of
from crossinit_core.tokens.metadata import START, packed
from crossinit_core.tokens.thumbnails import LONGEST_URI, thumbnail_of
from devtools.docs import locales

REPOSITORY = Path(__file__).resolve().parents[1]
README = REPOSITORY / "README.md"
DOCS = REPOSITORY / "docs"
INDEX = DOCS / "README.md"
LEARN = REPOSITORY / "web" / "docs" / "CrossInitLearn.md"
LEARN_IN_CHINESE = LEARN.with_suffix("") / "zh.md"
PAGES = sorted(
    path
    for pattern in ("*.md", "docs/*.md", "web/docs/*.md", "web/docs/*/*.md")
    for path in REPOSITORY.glob(pattern)
    if path.name != "CHANGELOG.md"
)


def _name(path: Path) -> str:
    return path.relative_to(REPOSITORY).as_posix()


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


@pytest.mark.parametrize("page", [DOCS / "what-to-expect.md", LEARN, LEARN_IN_CHINESE], ids=_name)
@pytest.mark.parametrize("preset", presets_of("sdxl"))
def test_the_table_of_presets_is_right(page: Path, preset: str) -> None:
    """Steps and learning rate of both columns; and what all of a family's presets have in common."""
    rows = [line for line in _text(page).splitlines() if line.startswith("|")]
    cells = next(row.split("|")[2:-1] for row in rows if re.match(rf"\| \*{preset}\*[,，]? ?[^|]*\|", row))
    common = [cell for row in rows if row.startswith("| all of them") for cell in row.split("|")[2:-1]]
    if not common:  # a help page has a narrow panel: a sentence there
        text = " ".join(_text(page).split())
        said = re.search(r"(?:in common|共同之处).*?SD 1\.x([^;；]+)[;；](.+?\*squared\*)", text)
        assert said
        common = list(said.groups())
    for base, cell, shared in zip(("sd2", "sdxl"), cells, common, strict=True):
        settings = presets_of(base)[preset]
        assert re.findall(r"[\d.]+", cell) == [str(settings.steps), f"{settings.learning_rate:g}"]
        assert re.findall(r"\d+", shared) == [
            str(number) for number in (settings.batch_size, settings.resolution) if number
        ]
        if settings.method == "published":  # the others have no regularizer
            assert ("squared" in shared) == (settings.regularizer == "squared")


@pytest.mark.parametrize(
    "page", [page for page in PAGES if page.parent == REPOSITORY or "web" in page.parts], ids=_name
)
def test_whoever_names_the_families_names_all(page: Path) -> None:
    """In a paragraph, or a row of a table with its head, or an entry of a list. Pages of `docs` tell of single ones, too."""
    short = [part for part in _parts(_text(page)) if _names_some(part)]
    assert not short, short


@pytest.mark.parametrize("language", ["english", *locales.languages()])
def test_whoever_names_the_families_in_a_tooltip_names_all(language: str) -> None:
    path = locales.ENGLISH if language == "english" else locales.FOLDER / language / "nodeDefs.json"
    texts = re.findall(r'"(?:tooltip|description)": "(.+)"', _text(path))
    assert texts and not [text for text in texts if _names_some(text)]


def _names_some(text: str) -> bool:
    """Whether it names two families of the three, as if there were no more."""
    sd1 = re.search(r"(SD|Stable Diffusion) 1\.[x5]|\b[12]\.x\W{1,30}?1\.x", text)
    sd2 = re.search(r"(SD|Stable Diffusion) 2\.[x1]", text)
    return bool(sd1 and sd2 and "SDXL" not in text)


def _parts(text: str) -> Iterator[str]:
    for block in re.split(r"\n\n+|\n(?=- )", text):
        lines = block.splitlines()
        if lines and lines[0].startswith("|"):
            yield from (f"{lines[0]}\n{line}" for line in lines[2:])
        else:
            yield block


@pytest.mark.parametrize("page", [DOCS / "install.md", DOCS / "checkpoints.md"], ids=_name)
def test_sdxl_stands_beside_the_others(page: Path) -> None:
    """With its size, its file, and what of its distilled models."""
    text = _text(page)
    assert re.search(r"\| SDXL \|.*1024 px", text)
    assert "sd_xl_base_1.0" in text
    assert "Turbo" in text


@pytest.mark.parametrize("page", [README, DOCS / "checkpoints.md"], ids=_name)
def test_it_says_which_checkpoints_learn(page: Path) -> None:
    """SDXL's well-known children, what is refused, and that no real checkpoint was run."""
    text = _text(page)
    for word in ("Juggernaut", "RealVisXL", "Pony", "Illustrious", "NoobAI", "refiner", "unCLIP", "quantized"):
        assert word in text, word
    assert "real checkpoint" in text


def test_the_first_screen_shows_both_ways_to_start() -> None:
    """For whom, a picture, a ComfyUI that is there, and nothing at all, before anything else and in one look."""
    lines = _text(README).splitlines()
    assert len(lines) < 100
    screen = "\n".join(lines[:50])
    order = (
        "embedding",
        "textual inversion",
        "For whom",
        "<img src=",
        "Two ways to start",
        "git clone",
        "\npython3 run.py demo",
    )
    places = [screen.find(word) for word in order]
    assert -1 not in places
    assert places == sorted(places)
    assert places[-1] < screen.index("## In short")


def test_the_index_leads_to_every_page() -> None:
    pages = {path.name for path in DOCS.glob("*.md")} - {INDEX.name}
    assert pages == set(re.findall(r"^\| \[[^\]]+\]\(([\w-]+\.md)\) \|", _text(INDEX), flags=re.MULTILINE))
    assert "(docs/README.md)" in _text(README)


def test_the_pages_list_every_node_and_workflow() -> None:
    """The page of nodes has each by the name that the page of ComfyUI shows, and that of workflows each file."""
    names = json.loads(_text(locales.ENGLISH))
    shown = {node["display_name"].removesuffix(" (train)") for node in names.values()}
    assert shown == set(re.findall(r"^\| \*\*(.+?)\*\* \|", _text(DOCS / "nodes.md"), flags=re.MULTILINE))
    files = {path.name for path in (REPOSITORY / "workflows").glob("*.json")}
    assert files == set(re.findall(r"\(\.\./workflows/(.+?\.json)\)", _text(DOCS / "workflows.md")))


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", _text(page), flags=re.DOTALL)
    # The page of ComfyUI serves pictures of help pages beside them, whatever their language.
    base = REPOSITORY / "web" / "docs" if page.is_relative_to(REPOSITORY / "web") else page.parent
    found = [*re.findall(r"\]\(([^)\s]+)\)", text), *re.findall(r'(?:src|href)="([^"]+)"', text)]
    broken = [link for link in found if "://" not in link and not _is_there(base, page, link)]
    assert not broken


def _is_there(base: Path, page: Path, link: str) -> bool:
    file, _, anchor = link.partition("#")
    path = base / file if file else page
    return path.exists() and (not anchor or anchor in _anchors(path))


def _anchors(page: Path) -> set[str]:
    """The headings as GitHub makes anchors of them."""
    headings = re.findall(r"^#+ (.+)$", _text(page), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_a_file_is_as_small_as_the_readme_says(tmp_path: Path) -> None:
    """With nothing but vectors and facts, and with the largest picture that Save puts into it."""
    said = re.search(r"a file of (\d+) to (\d+) KB, or up to (\d+) KB if a picture", _text(README))
    assert said
    facts = {"crossinit.facts": "x" * 800}  # about as much as a run writes
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (512, 512, 3), dtype=np.uint8))
    picture = {"modelspec.thumbnail": "x" * max(LONGEST_URI, len(thumbnail_of(noise)))}
    sizes: list[float] = []
    pictured: list[float] = []
    for widths, base in BASES.items():
        if base == "miniature":
            continue
        for metadata, into in ((facts, sizes), (facts | picture, pictured)):
            path = tmp_path / f"{base}.safetensors"
            start = {START: packed(torch.ones(2, sum(widths)))}
            token = LearnedToken(torch.ones(2, sum(widths)), "person", base, metadata | start, widths=widths)
            save_learned_token(token, path)
            into.append(path.stat().st_size / 1000)
    smallest, largest, with_picture = map(int, said.groups())
    assert smallest - 1 < min(sizes) and max(sizes) < largest + 0.5
    assert with_picture - 5 < max(pictured) < with_picture + 0.5
    assert said[0].replace("if a picture", "with a picture") in _text(DOCS / "compared.md")


def test_the_film_is_short_and_small() -> None:
    """It stands before the ways to start, moves, takes less than a minute, and is made by a program."""
    text = _text(README)
    assert 0 < text.find("docs/images/film.webp") < text.index("## Two ways to start")
    path = DOCS / "images" / "film.webp"
    assert path.stat().st_size <= 3_000_000
    with Image.open(path) as film:
        frames, milliseconds = getattr(film, "n_frames", 1), 0
        for number in range(frames):
            film.seek(number)
            film.load()
            milliseconds += film.info["duration"]
    assert frames > 20
    assert 15_000 < milliseconds < 60_000
    assert "devtools.docs.film" in _text(REPOSITORY / "CONTRIBUTING.md")
