"""The summary: all people with their pictures, as HTML pages that open from the disk, without scripts and without a network.

A page has at most `PEOPLE_A_PAGE` people, and pictures are loaded as they come into view, so ten thousand people are read as
easily as ten.
"""

from __future__ import annotations

import html
import json
import struct
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from urllib.parse import quote

from ..files import write_atomically
from ..text import quoted
from ..tokens import metadata
from .failures import reasons
from .people import Person
from .work_list import SUMMARY, picture_path, token_path

PEOPLE_A_PAGE = 200
_MOST_HEADER = 2**22
_STYLE = """
:root { color-scheme: light dark; font: 15px/1.4 system-ui, sans-serif; }
body { margin: 1.5rem auto; max-width: 1500px; padding: 0 1rem; }
h1 { font-size: 1.4rem; }
nav a { margin-right: .6rem; } nav b { margin-right: .6rem; }
ul { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(150px, 1fr)); list-style: none; padding: 0; }
li { overflow-wrap: anywhere; }
img, .none { aspect-ratio: 1; background: #8883; border-radius: 6px; display: block; height: auto; object-fit: cover; width: 100%; }
.none { align-items: center; display: flex; justify-content: center; }
small { display: block; opacity: .75; }
.failed .none { border: 2px solid #c33; box-sizing: border-box; }
"""


def write_pages(people: Sequence[Person], out: Path, model: str) -> Path:
    """Write the pages anew from what lies in the folder; returns the first. Raises OSError if one cannot be written."""
    failed = reasons(out)
    done = sum(token_path(out, person.name).is_file() for person in people)
    lost = sum(person.name in failed and not token_path(out, person.name).is_file() for person in people)
    count = max(1, -(-len(people) // PEOPLE_A_PAGE))
    left = len(people) - done - lost
    head = f"{done} of {len(people)} people learned on {model}, {lost} failed, {left} not yet"
    for number in range(1, count + 1):
        part = people[(number - 1) * PEOPLE_A_PAGE : number * PEOPLE_A_PAGE]
        items = "\n".join(_item(person, out, failed) for person in part)
        write_atomically(_page(out, number), _document(head, number, count, items, part).encode("utf-8", "replace"))
    return _page(out, 1)


def _page(out: Path, number: int) -> Path:
    return out / SUMMARY / ("index.html" if number == 1 else f"page-{number}.html")


def _document(head: str, number: int, count: int, items: str, part: Sequence[Person]) -> str:
    when = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    links = [
        f"<b>{other}</b>" if other == number else f'<a href="{_page(Path(), other).name}">{other}</a>'
        for other in range(1, count + 1)
    ]
    between = f", {html.escape(part[0].name)} to {html.escape(part[-1].name)}" if count > 1 and part else ""
    nav = f"<nav>Page {' '.join(links)}</nav>" if count > 1 else ""
    return f"""<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{html.escape(head)}</title><style>{_STYLE}</style></head>
<body>
<h1>{html.escape(head)}</h1>
<p>{when}{between}. The pictures are the first photos, as they were learned.</p>
{nav}
<ul>
{items}
</ul>
{nav}
</body>
</html>
"""


def _item(person: Person, out: Path, failed: Mapping[str, str]) -> str:
    name = html.escape(person.name)
    path = token_path(out, person.name)
    if path.is_file():
        picture = picture_path(out, person.name)
        shown = '<span class="none">no picture</span>'
        if picture.is_file():
            address = quote(f"{picture.parent.name}/{picture.name}")
            shown = f'<img src="{address}" alt="{name}" loading="lazy" decoding="async" width="150" height="150">'
        return f'<li><a href="../{quote(path.name)}">{shown}</a>{name}<small>{html.escape(_facts(path))}</small></li>'
    if person.name in failed:
        reason = html.escape(quoted(failed[person.name], 300))
        return f'<li class="failed"><span class="none">failed</span>{name}<small>{reason}</small></li>'
    return f'<li><span class="none">not yet</span>{name}</li>'


def _facts(path: Path) -> str:
    """What the file's header says: steps, how far the vectors moved."""
    try:
        with path.open("rb") as file:
            size = struct.unpack("<Q", file.read(8))[0]
            said = json.loads(file.read(min(size, _MOST_HEADER)))["__metadata__"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError, struct.error):
        return ""
    facts = [f"{said[metadata.STEPS]} steps"] if metadata.STEPS in said else []
    if metadata.DISTANCE in said:
        facts.append(f"moved {said[metadata.DISTANCE]}")
    return quoted(", ".join(facts), 80)
