"""The texts of the nodes in the languages of ComfyUI's page. See devtools/docs/locales.py."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from devtools.docs import locales

LANGUAGES = locales.languages()

# What stays as it is, in every language.
_NAMES = {"clip", "vae", "token", "prompt", "prompts", "tokens", "zoom", "image", "format", "vector", "model"}


# How a language marks the name of a node inside a sentence.
_QUOTES = {
    "es": "«»", "fr": "«»", "ja": "「」", "ko": "‘’", "pt-BR": "“”", "ru": "«»", "tr": "“”", "zh": "“”", "zh-TW": "「」"
}  # fmt: skip
_NO_NODE = {"平均的な有名人", "平均名人", "평균적인 유명인"}  # an average celebrity, which is nobody
# What readers stumbled on, and what ComfyUI's page says in its place.
_NOT = {
    "es": r"checkpoint|Viene de",
    "fr": r"checkpoint|\btokens?\b|Vient d",
    "ja": r"動き回|[()]",
    "pt-BR": r"Vem de",
    "ru": r"[Ии]зуч",
    "tr": r"checkpoint|yığın|kesinli",
    "zh": r"词元|[()]",
    "zh-TW": r"[()]",
}


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


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_tooltip_uses_the_words_of_the_page(language: str) -> None:
    if language in _NOT:
        found = [text for _, text in locales.texts(locales.read(language)) if re.search(_NOT[language], text)]
        assert not found


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_node_that_a_tooltip_names_is_there(language: str, page_texts: str) -> None:
    """By its name in that language: a node or a socket of the pack, or something of ComfyUI's page."""
    tree, quotes = locales.read(language), _QUOTES[language]
    left, right = quotes[0], quotes[1]
    texts = dict(locales.texts(tree))
    own = {text for path, text in texts.items() if path.endswith(("display_name", ".name"))}
    own |= {re.sub(r" ?[(（].*", "", name) for name in own}
    named = {name.strip() for text in texts.values() for name in re.findall(f"{left}(.+?){right}", text)}
    assert len(named) > 5
    strangers = named - own - _NO_NODE
    assert not {name for name in strangers if name.lower() not in page_texts}


@pytest.fixture(scope="module")
def page_texts() -> str:
    """All that ComfyUI's page says in any language, in small letters."""
    package = pytest.importorskip("comfyui_frontend_package", reason="there is no page of ComfyUI")
    assets = Path(package.__path__[0]) / "static" / "assets"
    files = [path for kind in ("nodeDefs", "main") for path in assets.glob(f"{kind}-*.js")]
    return "".join(path.read_text(encoding="utf-8") for path in files).lower()
