"""Places for a person in the boxes of other nodes: ComfyUI's real page makes dynamic prompts of what is typed there."""

from __future__ import annotations

import pytest

from devtools.page.driver import ComfyPage


@pytest.mark.parametrize(
    ("typed", "sent"),
    [
        ("a photo of a %person% person", "a photo of a %person% person"),
        ("(%anna%:1.2) and %Bob Ray% in a {park|park}", "(%anna%:1.2) and %Bob Ray% in a park"),
        (r"a photo of a \{\} person", None),
        ("a photo of a {} person", "a photo of a  person"),
        ("a {anna} person", "a anna person"),
    ],
)
def test_a_place_survives_dynamic_prompts_as_it_is_documented(classic: ComfyPage, typed: str, sent: str | None) -> None:
    """`{}` does not: if the page leaves it alone one day, the help pages may say so."""
    classic.add_node("CLIPTextEncode")
    classic.set_widget("CLIPTextEncode", "text", typed)
    (encode,) = classic.prompt().values()
    if sent is None:  # with or without the backslashes, by version of the page; both are a place
        assert encode["inputs"]["text"] in (typed, typed.replace("\\", ""))
    else:
        assert encode["inputs"]["text"] == sent


def test_our_own_box_keeps_its_braces(classic: ComfyPage) -> None:
    classic.add_node("CrossInitEncodePrompt")
    text = "a {} person, {anna}, {red|blue}"
    classic.set_widget("CrossInitEncodePrompt", "text", text)
    (encode,) = classic.prompt().values()
    assert encode["inputs"]["text"] == text
