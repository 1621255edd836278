"""What a saved token says of itself to other tools: title, text, trigger phrase, picture.

ComfyUI's Model Library shows these keys (`ComfyModelDef.load` in its page's modelStore), Custom-Scripts shows them in
"View info" of an `embedding:` completion.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timezone

from PIL import Image

from ..backbone import PredictionType
from ..families import describe_widths
from ..text import normal_form, quoted
from ..version import __version__
from . import metadata as keys
from .learned_token import LearnedToken
from .thumbnails import LONGEST_URI, picture_in, thumbnail_of

CONSENT = "Use it only with that person's consent, and say of each picture that it is generated."
"""The end of every description."""
_CONSENT = CONSENT.removeprefix("U")
_IF_A_PERSON = f"If it is the likeness of a real person: u{_CONSENT}"

_TAGS = ("face", "person", "textual inversion")
_SIZES = {"sd1": 512, "sd2": 512, "sdxl": 1024, "miniature": 128}
"""Of a token that does not say at which size it was learned: what its family was made for."""
_LONGEST_AUTHOR = 200
_LONGEST_TEXT = 4000
_LARGEST = 512 * 2**10
"""Bytes of all metadata but the thumbnail: `/view_metadata` of ComfyUI's server.py reads headers up to 1 MiB."""
_KEPT = {keys.TITLE, keys.DESCRIPTION, keys.TRIGGER_PHRASE, keys.USAGE_HINT, keys.TAGS, keys.BASE, keys.VECTORS}


def trigger_phrase(name: str) -> str:
    """What stands for a person in a prompt: `embedding:NAME person`."""
    return f"embedding:{name} person"


def described(token: LearnedToken, author: str = "", *, picture: bool = True) -> LearnedToken:
    """The token with all `modelspec.*` keys that tools show, under its present name; its vectors stay as they are.

    What a token from elsewhere says is kept: its author, its title, its own description, to which the sentence about consent is
    added. What it does not say is taken from its vectors; the size and the architecture are then its family's usual ones.
    The thumbnail is the run's last generated picture, or the one that the token's file held, made small; without `picture` there
    is none, and none of the file's either. `author` may be empty.
    Raises ValueError if the author's name is longer than 200 characters.
    """
    facts = dict(token.metadata)
    facts.pop(keys.HASH, None)  # of a file that another tool wrote
    thumbnail = _thumbnail(token) if picture else ""
    facts = {key: value for key, value in facts.items() if not _is_picture(key, value)}
    before = _names_before(facts)
    title = facts.get(keys.TITLE, "").strip()
    facts |= {
        keys.TITLE: token.name if not title or title in before else _short(title, _LONGEST_AUTHOR),
        keys.DESCRIPTION: _text(token, facts),
        keys.TRIGGER_PHRASE: trigger_phrase(token.name),
        keys.USAGE_HINT: f"In a prompt: a photo of {trigger_phrase(token.name)} in a garden",
        keys.TAGS: _tags(facts.get(keys.TAGS, "")),
    }
    if author := check_author(author):
        facts[keys.AUTHOR] = author
    facts |= {key: value for key, value in _usual(token, facts).items() if not facts.get(key, "").strip()}
    _make_small(facts)
    if thumbnail:
        facts[keys.THUMBNAIL] = thumbnail
    return replace(token, metadata=facts)


def bare(token: LearnedToken) -> LearnedToken:
    """The token with nothing but its vectors and its name."""
    return replace(token, metadata={}, history=None)


def check_author(author: str) -> str:
    """The author's name on one line, as a file holds it. Raises ValueError if it is longer than 200 characters."""
    author = " ".join(normal_form(author[: 4 * _LONGEST_AUTHOR]).split())
    if len(author) > _LONGEST_AUTHOR:
        raise ValueError(
            f"The author '{quoted(author)}' has more than {_LONGEST_AUTHOR} characters. Give a name, for example 'Ann Lee'."
        )
    return quoted(author, _LONGEST_AUTHOR)


def portrait_of(token: LearnedToken) -> Image.Image | None:
    """A generated picture of the person: the last of the run, else the one in the token's file. Never a photo."""
    if history := token.history:
        last = history.portrait or next(iter(history.samples[-1:]), None)
        if last is not None:
            return Image.fromarray(last.pixels)
    return picture_in(token.metadata.get(keys.THUMBNAIL, ""))


def _thumbnail(token: LearnedToken) -> str:
    picture = portrait_of(token)
    if picture is None:
        return ""
    before = token.metadata.get(keys.THUMBNAIL, "")
    fresh = token.history is not None and (token.history.portrait or token.history.samples)
    # What `thumbnail_of` wrote before would become worse each time.
    own = keys.VERSION in token.metadata and len(before) <= LONGEST_URI
    return before if own and not fresh else thumbnail_of(picture)


def _is_picture(key: str, value: str) -> bool:
    return key in (keys.THUMBNAIL, keys.COVER_IMAGES) or value.startswith("data:image/")


def _names_before(facts: Mapping[str, str]) -> tuple[str, ...]:
    """The name under which this pack saved the token before; its title was that."""
    trigger = facts.get(keys.TRIGGER_PHRASE, "")
    name = trigger.removeprefix("embedding:").removesuffix(" person")
    return (name,) if trigger == trigger_phrase(name) else ()


def _text(token: LearnedToken, facts: Mapping[str, str]) -> str:
    given = facts.get(keys.DESCRIPTION, "").strip()
    learned = keys.STEPS in facts or keys.BLEND in facts
    if given.endswith(_CONSENT) and not learned:
        return given
    if given and not given.endswith(_CONSENT):
        return f"{_short(given, _LONGEST_TEXT)} {_IF_A_PERSON}"
    count = f"{len(token.vectors)} vector{'s' * (len(token.vectors) > 1)} for {describe_widths(token.widths)}"
    if keys.BLEND in facts:
        what = f"A face blended of two learned ones: {_short(facts[keys.BLEND], 300)}."
    elif learned:
        checkpoint, steps = _short(facts.get(keys.CHECKPOINT, ""), 200), keys.steps_of(facts)
        on = f" on {checkpoint}" if checkpoint else ""
        what = (
            f"One person's face, learned{on} with Cross Initialization{f' in {steps} steps' if steps else ''}: {count}."
        )
    else:
        return f"An embedding of {count}. {_IF_A_PERSON}"
    return f"{what} It is the likeness of a person. {CONSENT}"


def _tags(given: str) -> str:
    """`face, person, textual inversion`, after the tags that somebody else gave; tools split them at commas."""
    tags = [" ".join(tag.split()) for tag in _short(given, _LONGEST_TEXT).split(",")]
    return ", ".join(dict.fromkeys([tag for tag in tags if tag] + list(_TAGS)))


def _usual(token: LearnedToken, facts: Mapping[str, str]) -> dict[str, str]:
    """What a token of this family and these vectors says of itself if it says nothing."""
    prediction: PredictionType = "v_prediction" if facts.get(keys.PREDICTION_TYPE) == "v_prediction" else "epsilon"
    size = _SIZES.get(token.base)
    usual = {
        **keys.modelspec(size or 0, prediction, datetime.now(timezone.utc)),
        keys.ARCHITECTURE: f"{token.base}/textual-inversion",
        **keys.modelspec_architecture(token.base, prediction),
        keys.VERSION: __version__,
        keys.BASE: token.base,
        keys.VECTORS: str(len(token.vectors)),
        keys.NORM: keys.listed(keys.norms_by_encoder(token.vectors, token.widths)),
    }
    if size is None:
        del usual[keys.RESOLUTION]
    if keys.PREDICTION_TYPE not in facts:
        del usual[keys.MODELSPEC_PREDICTION_TYPE]
    return usual


def _make_small(facts: dict[str, str]) -> None:
    """Leaves out the longest texts of other tools, if all together are too much for the tools that read them."""
    sizes = {key: len(json.dumps({key: value})) for key, value in facts.items()}
    for key in sorted(sizes, key=lambda key: -sizes[key]):
        if sum(sizes.values()) <= _LARGEST:
            return
        if key not in _KEPT:
            del facts[key], sizes[key]


def _short(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[: longest - 4]} ..."
