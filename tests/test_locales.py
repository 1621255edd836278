"""The texts of the nodes in the languages of ComfyUI's page. See devtools/docs/locales.py."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from devtools.docs import locales

LANGUAGES = locales.languages()

# What stays as it is, in every language.
_NAMES = {"clip", "vae", "token", "prompt", "prompts", "tokens", "zoom", "image", "format", "vector", "model"}


@pytest.fixture(scope="module")
def english() -> Any:
    return json.loads(locales.ENGLISH.read_text(encoding="utf-8"))


def test_the_translations_are_up_to_date(live: Any, english: Any) -> None:
    """The translations were made from what the nodes say today."""
    today, then = dict(locales.texts(locales.english(live.info))), dict(locales.texts(english))
    changed = sorted(path for path in today.keys() | then.keys() if today.get(path) != then.get(path))
    assert not changed, (
        "write locales/english.json anew (devtools/docs/locales.py says how), and translate:\n" + "\n".join(changed)
    )


def test_chinese_is_among_the_languages() -> None:
    assert {"zh", "zh-TW"} <= set(LANGUAGES)


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_language_has_every_text_and_no_other(language: str, english: Any) -> None:
    wanted, found = dict(locales.texts(english)), dict(locales.texts(locales.read(language)))
    assert list(found) == list(wanted)
    assert not [path for path, text in found.items() if not text.strip()]


@pytest.mark.parametrize("language", LANGUAGES)
def test_nothing_is_left_in_english(language: str, english: Any) -> None:
    wanted = dict(locales.texts(english))
    same = [
        path
        for path, text in locales.texts(locales.read(language))
        if text == wanted[path] and text.lower() not in _NAMES
    ]
    assert not same


@pytest.mark.parametrize("language", LANGUAGES)
def test_translations_keep_values_and_numbers(language: str, english: Any) -> None:
    """The page does not translate what a widget holds, so a tooltip has to name it as it is."""
    found = dict(locales.texts(locales.read(language)))
    kept = re.compile(
        r"by hand|keep the length|plain textual inversion|last layer|what the UNet sees|custom|fp16|embedding:|CelebA-HQ|UTF-8"
        r"|(?:full|fast|fast-published|auto|low|normal|distance|squared|as published)(?=:)|0\.\d+|\d{3,}|SDXL|SD \d\.\w"
    )
    for path, text in locales.texts(english):
        if path.endswith("tooltip"):
            missing = {word for word in kept.findall(text) if word not in found[path]}
            assert not missing, f"{path} says nothing of {missing}"


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_text_is_taken_for_a_command(language: str) -> None:
    """Older pages stop where a text holds an empty brace; `@` and `|` mean something in vue-i18n, too."""
    everything = {**locales.read(language), "main": _main(language)}
    assert not [path for path, text in locales.texts(everything) if re.search(r"[{}@|]", text)]


@pytest.mark.parametrize("language", LANGUAGES)
def test_comfyui_serves_the_translation(live: Any, language: str) -> None:
    served = live.client.translations()[language]
    for name, texts in locales.read(language).items():
        assert served["nodeDefs"][name] == texts
    assert served.get("nodeCategories", {}) == _main(language).get("nodeCategories", {})


def _main(language: str) -> dict[str, Any]:
    path = locales.FOLDER / language / "main.json"
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return content
