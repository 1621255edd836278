"""Lists of names: read them, check them, and the bundled default list.

A list is plain text, one name a line, as the published code and Celeb Basis use it. Blank lines
and lines that start with `#` are skipped; the order is kept, and a name that occurs twice counts
twice, because that is how the published initialization weights its mean.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from .text import check_text, lines_of, normal_form, quoted, read_text

BUNDLED_LIST = Path(__file__).parent / "data" / "celebrity_names.txt"


@dataclass(frozen=True)
class CelebrityNames:
    """A list of names and where it came from.

    `names` is in file order with duplicates kept; `source` is for people (a file name, "bundled").
    """

    names: tuple[str, ...]
    source: str

    def __len__(self) -> int:
        return len(self.names)

    @property
    def sha256(self) -> str:
        """Hex digest of the names joined by newlines: the same names give the same hash on every system."""
        return hashlib.sha256("\n".join(self.names).encode("utf-8")).hexdigest()

    def plus(self, other: CelebrityNames) -> CelebrityNames:
        """Both lists, one after the other."""
        return CelebrityNames(self.names + other.names, f"{self.source} + {other.source}")


def parse_celebrity_names(text: str, source: str = "text") -> CelebrityNames:
    r"""Names from text, one a line, in their normal form.

    Only `\n`, `\r\n` and `\r` end a line; other separators, such as U+2028, are a space. Raises ValueError if no line holds a
    name, or one cannot be written.
    """
    check_text(text, f"The list of names '{quoted(source)}'")
    lines = (" ".join(normal_form(line).split()) for line in lines_of(text))
    names = tuple(line for line in lines if line and not line.startswith("#"))
    if not names:
        raise ValueError(
            f"The list of names '{quoted(source)}' holds no name. Put one name on each line; "
            "blank lines and lines that start with # do not count."
        )
    return CelebrityNames(names, source)


def load_celebrity_names(path: str | Path | None = None) -> CelebrityNames:
    """Names from a text file (UTF-8, or UTF-16 with a byte order mark), by default the bundled list.

    Raises FileNotFoundError if there is no such file, and ValueError if it is not text in one of
    these encodings or holds no name.
    """
    if path is None:
        return parse_celebrity_names(BUNDLED_LIST.read_text(encoding="utf-8"), "bundled")
    path = Path(path)
    return parse_celebrity_names(read_text(path, "list of names"), os.fsencode(path.name).decode(errors="replace"))
