"""Text that comes from people and from files: how it is read, compared, and quoted in a message."""

from __future__ import annotations

import codecs
import re
import unicodedata
from pathlib import Path

MOST_BYTES = 16 * 2**20
"""The largest text file that is read: no list of names or prompts comes near it."""

LONGEST_QUOTE = 120

_UTF16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_LINE_END = re.compile(r"\r\n|\r|\n")
_INVISIBLE = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
"""Unicode categories that show nothing, or turn the text around them: control and format characters, halves of a
surrogate pair, private and unassigned ones, line and paragraph separators."""


def lines_of(text: str) -> list[str]:
    r"""The lines of a text. Only `\n`, `\r\n` and `\r` end one: `str.splitlines` also cuts at eight characters that people
    paste without seeing them, such as U+2028."""
    lines = _LINE_END.split(text)
    return lines[:-1] if not lines[-1] else lines


def normal_form(text: str) -> str:
    """A text as names are kept and compared: composed (Unicode's NFC), without format characters such as U+200B or U+FEFF.

    Two names that look alike because of these are then one.
    """
    kept = "".join(character for character in text if unicodedata.category(character) != "Cf")
    return unicodedata.normalize("NFC", kept)


def check_text(text: str, what: str) -> str:
    """The text itself, if it can be written and sent. `what` names it in the message: `The prompt`.

    Raises ValueError for half a surrogate pair, which no encoding has, and for NUL.
    """
    for position, character in enumerate(text, start=1):
        if "\ud800" <= character <= "\udfff":
            raise ValueError(
                f"{what} holds half of a character at place {position} (U+{ord(character):04X}), as a cut-off emoji leaves "
                "behind. Delete it and type it again."
            )
        if character == "\0":
            raise ValueError(f"{what} holds a NUL character at place {position}. Delete it.")
    return text


def quoted(text: object, longest: int = LONGEST_QUOTE) -> str:
    """A foreign text as a message may show it: one line, nothing invisible, shortened in its middle if it is long."""
    text = str(text)
    half = (longest - len(" ... ")) // 2
    if len(text) > longest:
        text = f"{text[:half]} ... {text[-half:]}"
    return "".join("?" if unicodedata.category(character) in _INVISIBLE else character for character in text)


def read_text(path: Path, what: str) -> str:
    """The text of a file in UTF-8 with or without a byte order mark, or in UTF-16 with one. `what` names its kind in
    messages: `list of names`.

    Raises FileNotFoundError, or ValueError that names the file, the line and what to do.
    """
    name = quoted(path.name)
    if not path.is_file():
        raise FileNotFoundError(f"There is no {what} at '{quoted(path, 300)}'. Choose a text file (.txt).")
    size = path.stat().st_size
    if size > MOST_BYTES:
        raise ValueError(
            f"The {what} '{name}' has {size / 2**20:.0f} MB, but at most {MOST_BYTES // 2**20} are read. "
            "Choose a text file (.txt)."
        )
    raw = path.read_bytes()
    encoding = "UTF-16" if raw.startswith(_UTF16_MARKS) else "UTF-8"
    raw = raw.removeprefix(codecs.BOM_UTF8)
    try:
        text = raw.decode(encoding)
    except UnicodeDecodeError as error:
        before = raw[: error.start].decode(encoding, errors="replace")
        raise ValueError(
            f"The {what} '{name}' is not {encoding} text: line {len(_LINE_END.findall(before)) + 1} holds the byte "
            f"0x{raw[error.start]:02x}. Save the file as UTF-8 (in Notepad: Save as, Encoding, UTF-8)."
        ) from None
    if "\0" in text:
        raise ValueError(f"The {what} '{name}' is not a text file: it holds NUL. Choose a .txt file.")
    return text
