"""`crossinit evaluate`: how alike generated pictures are to photos, and how well they show what their prompts ask."""

from __future__ import annotations

import argparse
import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from ..files import check_can_write, write_atomically
from ..text import quoted
from .signals import Screen

if TYPE_CHECKING:
    from ..evaluation.protocol import Evaluation, PromptScorer
    from ..evaluation.recognizers import Recognizer

PAGE, CHART, FACTS = "evaluation.md", "evaluation.png", "evaluation.json"


def evaluate(options: argparse.Namespace) -> None:
    """Measure how alike generated pictures are to photos, and how well they obey their prompts."""
    from tqdm import tqdm

    from ..evaluation.page import says_whose, table
    from ..evaluation.pictures import find_people
    from ..evaluation.protocol import score_person, summarize

    say = Screen().say
    people = find_people(options.pictures, options.photos, chosen_prompts(options), say)
    if options.out:
        check_can_write(options.out / FACTS, what="evaluation")
    recognizer, scorer = judges(options)
    unknown = sum(picture.prompt is None for person in people for picture in person.pictures)
    if unknown and scorer:
        say(f"{unknown} pictures have no prompt in their names or in their folders': only their identity is measured.")
    scores = []
    count = sum(len(person.pictures) for person in people)
    with tqdm(total=count, unit="picture", dynamic_ncols=True, file=Screen()) as bar:
        for person in people:
            try:
                scores.append(score_person(person, recognizer, scorer, bar.update, say=say))
            except InputError as error:
                if len(people) == 1 or error.subject != "reference":
                    raise
                say(quoted(f"'{person.name}' is left out: {error}", 560))
    if not scores:
        raise ValueError("No face was found on anybody's photos. Use photos on which the whole face is seen.")
    found = summarize(scores, recognizer, scorer)
    if options.out:
        write_evaluation(found, options.out)
        say(f"Written: {options.out / PAGE}")
    if options.json:
        print(json.dumps(found.as_json(), ensure_ascii=False, indent=2))
    else:
        print(f"{says_whose(found)}\n\n{table(found)}")


def chosen_prompts(options: argparse.Namespace) -> tuple[str, ...]:
    """Those of the file, or the publication's."""
    from ..evaluation.pictures import paper_prompts
    from ..prompts import load_prompts

    return load_prompts(options.prompts) if options.prompts else paper_prompts()


def judges(options: argparse.Namespace) -> tuple[Recognizer, PromptScorer | None]:
    """The recognizer and, if one is asked for, the judge of prompts. Raises what says why one cannot be had."""
    from ..evaluation.choice import recognizer_of
    from ..evaluation.clip import ClipScorer
    from .arguments import chosen_device

    own = _own(options.recognizer, "--recognizer")
    recognizer: Recognizer = own() if own else recognizer_of(options.recognizer)
    if not options.clip:
        return recognizer, None
    own = _own(options.clip, "--clip")
    if own:
        return recognizer, own()
    return recognizer, ClipScorer(Path(options.clip), chosen_device(options.clip_device))


def write_evaluation(found: Evaluation, folder: Path) -> None:
    """The page, the numbers and, if matplotlib is there, the chart."""
    from ..evaluation.page import chart, page

    picture = chart(found)
    if picture is not None:
        write_atomically(folder / CHART, picture)
    facts = json.dumps(found.as_json(), ensure_ascii=False, indent=1)
    write_atomically(folder / FACTS, f"{facts}\n".encode())
    write_atomically(folder / PAGE, page(found, CHART if picture else None).encode())


def _own(text: str, option: str) -> Callable[[], Any] | None:
    """The function that `MODULE:FUNCTION` names; None for anything else, such as a path."""
    module, _, name = text.rpartition(":")
    # One letter before the colon is a drive of Windows.
    if len(module) < 2 or not all(part.isidentifier() for part in (*module.split("."), name)) or Path(text).exists():
        return None
    try:
        found: Callable[[], Any] = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"{option} is '{quoted(text, 150)}', but this cannot be imported: {quoted(error, 200)}. Is its folder where Python looks?"
        ) from error
    return found
