"""What token files say of themselves: `report` and `inspect`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from PIL import Image

from ..families import describe_widths, encoder_names, shown_widths
from ..files import check_can_write
from ..text import quoted
from ..tokens.metadata import START, norms_by_encoder
from ..tokens.report import by_encoder, describe_tokens
from ..tokens.report_figure import draw_report
from ..tokens.token_files import load_learned_token
from .pictures import write_picture

_LONGEST_LINE = 580
_LONGEST_PICTURE = 200


def report(options: argparse.Namespace) -> None:
    """Print how tokens were learned, as far as their files say it, and draw their charts."""
    out: Path | None = options.out
    if out:
        if out.suffix.lower() != ".png":
            raise ValueError(f"--out is '{quoted(out, 200)}', but the file name must end in .png.")
        check_can_write(out, what="report")
    tokens = [load_learned_token(path) for path in options.tokens]
    if out:
        write_picture(Image.fromarray(draw_report(tokens)), out)
    for line in describe_tokens(tokens).splitlines():
        print(f"{'  ' if line.startswith('  ') else ''}{quoted(line.strip(), _LONGEST_LINE)}")
    if out:
        print(out)


def inspect(options: argparse.Namespace) -> None:
    """Print what token files hold."""
    facts = [_facts(path) for path in options.tokens]
    if options.json:
        print(json.dumps(facts if len(facts) > 1 else facts[0], ensure_ascii=False, indent=2))
        return
    for fact in facts:
        known = fact.pop("metadata")
        widths, norms = fact.pop("widths"), fact.pop("norms")
        for name, of_one in zip(encoder_names(widths), by_encoder(norms, widths), strict=True):
            fact[f"norms, {name}" if name else "norms"] = " ".join(map(str, of_one))
        fact["width"] = f"{shown_widths(widths)} ({describe_widths(widths)})"
        for key, value in (*fact.items(), *known.items()):
            print(f"{quoted(key, 60):<28} {quoted(value, 500)}")


def _shown(key: str, value: str) -> str:
    """A metadata value; of what is no text, a picture or vectors, only what it is."""
    if key == START:
        return f"vectors in {len(value)} characters"
    head, comma, content = value.partition(",")
    if value.startswith("data:") and comma and len(value) > _LONGEST_PICTURE:
        return f"{quoted(head, 60)} of {len(content)} characters"
    return value


def _facts(path: Path) -> dict[str, Any]:
    """What a token file holds; `norms` are those of each text encoder's part, one encoder after the other."""
    token = load_learned_token(path)
    return {
        "file": str(path),
        "name": token.name,
        "vectors": len(token.vectors),
        "width": token.width,
        "widths": list(token.widths),
        "base": token.base,
        "norms": [round(norm, 4) for norm in norms_by_encoder(token.vectors, token.widths).tolist()],
        "metadata": {key: _shown(key, value) for key, value in sorted(token.metadata.items())},
    }
