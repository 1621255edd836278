"""Token files made of token files: `convert`, `blend` and `rescale`."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..errors import InputError
from ..families import describe_widths
from ..files import check_can_write
from ..text import quoted
from ..tokens.blending import blend_tokens, rescale_token
from ..tokens.description import described
from ..tokens.layouts import FORMATS, Format
from ..tokens.learned_token import LearnedToken, check_token_name, suggest_token_name
from ..tokens.token_files import SUFFIXES, keeps_metadata, load_learned_token, save_learned_token


def convert(options: argparse.Namespace) -> None:
    """Write a token file in another format, for another tool."""
    known = _format(options)
    token = load_learned_token(options.token, name=options.name)
    _write(token, options.out, known)


def blend(options: argparse.Namespace) -> None:
    """Mix two tokens into one, somebody between two people."""
    known, name = _format(options), _name_of_out(options)
    _check_share("--weight", options.weight, "the first token", "the second")
    first, second = load_learned_token(options.first), load_learned_token(options.second)
    _write(blend_tokens(first, second, options.weight, method=options.method, name=name), options.out, known)


def rescale(options: argparse.Namespace) -> None:
    """Give a token's vectors the length of their start, so that they leave more room for the rest of a prompt."""
    known, name = _format(options), _name_of_out(options)
    _check_share("--amount", options.amount, "as long as it is", "as long as its start")
    try:
        rescaled = rescale_token(load_learned_token(options.token), options.amount)
    except InputError as error:
        if error.subject != "start":
            raise
        raise ValueError(
            f"'{quoted(options.token, 200)}' does not say how long the vectors were that it was learned from: it comes from another "
            "tool or an older version. Only a token that says so can be rescaled."
        ) from error
    _write(rescaled.renamed(name), options.out, known)


def _format(options: argparse.Namespace) -> Format | None:
    """The format that was asked for. Raises ValueError if OUT cannot be written, or not in it."""
    out: Path = options.out
    known = FORMATS[options.format] if options.format else None
    if out.suffix not in SUFFIXES:
        raise ValueError(f"OUT is '{quoted(out, 200)}', but the file name must end in one of {', '.join(SUFFIXES)}.")
    if known and out.suffix != known.suffix:
        raise ValueError(
            f"OUT is '{quoted(out, 200)}', but the format '{options.format}' is written with {known.suffix}. "
            f"Name the file '{quoted(out.with_suffix(known.suffix).name, 100)}'."
        )
    check_can_write(out, what="output file")
    return known


def _name_of_out(options: argparse.Namespace) -> str:
    return check_token_name(options.name or suggest_token_name(options.out.stem))


def _check_share(option: str, value: float, at_0: str, at_1: str) -> None:
    if not 0 <= value <= 1:
        raise ValueError(f"{option} is {value}, but must be from 0 ({at_0}) to 1 ({at_1}).")


def _write(token: LearnedToken, out: Path, known: Format | None) -> None:
    """Write a token, and print what it is and who reads the file."""
    try:
        save_learned_token(described(token), out, known.layout if known else None)
    except OSError as error:
        raise OSError(
            f"'{quoted(out, 250)}' could not be written ({quoted(error.strerror or error)}). Make room or choose another place."
        ) from error
    kept = keeps_metadata(token, out, known.layout if known else None)
    what = f"{out.suffix} of {describe_widths(token.widths)}" if len(token.widths) == 2 else out.suffix
    lost = f" ({what} keeps nothing of their origin)" if token.metadata and not kept else ""
    readers = f", for {', '.join(known.readers_of(token.widths))}" if known else ""
    print(f"{out}: '{token.name}', {len(token.vectors)} vectors{readers}{lost}")
