"""What goes wrong in a graph is said in the page: at its node, as a sentence, in place of a stack."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from devtools.page import hands
from devtools.page.driver import ComfyPage, PageError
from devtools.page.hands import Placed
from devtools.standins.stage import SD1_CHECKPOINT
from miniature.training.pack import WEIGHTS

SCREENSHOTS = Path(__file__).resolve().parents[1] / "test-output"

pytestmark = pytest.mark.skipif(not WEIGHTS.is_dir(), reason="there are no weights of the miniature")

_MODEL = Placed("CrossInitMiniature", (50, 100))
_PERSON = Placed("CrossInitDrawnPerson", (50, 320))
_WORDS = Placed("CrossInitInitializeWords", (380, 600), inputs={"clip": ("model", 1)})
_TOKEN = Placed("CrossInitLoad", (50, 500), {"file": "my-face.safetensors"})


def _learn(**inputs: tuple[str, int]) -> Placed:
    wired = {"model": ("model", 0), "clip": ("model", 1), "vae": ("model", 2), "image": ("person", 0)}
    small = {"preset": "custom", "steps": 1, "batch_size": 1}
    return Placed("CrossInitLearn", (800, 100), small, {**wired, "cross_init": ("start", 0), **inputs})


def _save(name: str, token: str) -> Placed:
    return Placed("CrossInitSave", (1250, 100), {"name": name}, {"token": (token, 0)})


def _show(node: str, output: int = 0) -> Placed:
    return Placed("PreviewAny", (1250, 400), inputs={"source": (node, output)})


@dataclass(frozen=True)
class Mistake:
    """A graph with one, the title of the node at which the page has to say it, and what; and whether before it runs."""

    nodes: Mapping[str, Placed]
    at: str
    says: str
    early: bool = False


MISTAKES = {
    "a checkpoint that does not fit": Mistake(
        {
            "other": Placed("CheckpointLoaderSimple", (50, 700), {"ckpt_name": SD1_CHECKPOINT}),
            "model": _MODEL,
            "person": _PERSON,
            "start": _WORDS,
            "learn": _learn(model=("other", 0)),
            "save": _save("never", "learn"),
        },
        "Learn Face (train)",
        "MODEL is SD 1.x and attends to width 768, but CLIP has width 256",
    ),
    "a start from another CLIP": Mistake(
        {
            "other": Placed("CheckpointLoaderSimple", (50, 700), {"ckpt_name": SD1_CHECKPOINT}),
            "model": _MODEL,
            "person": _PERSON,
            "start": Placed("CrossInitInitializeWords", (380, 600), inputs={"clip": ("other", 1)}),
            "learn": _learn(),
            "save": _save("never", "learn"),
        },
        "Learn Face (train)",
        "The initialization has width 768",
    ),
    "a photo without a face": Mistake(
        {
            "photo": Placed("EmptyImage", (50, 100), {"width": 300, "height": 200}),
            "face": Placed("CrossInitPrepareFace", (420, 100), inputs={"image": ("photo", 0)}),
            "out": Placed("PreviewImage", (900, 100), inputs={"images": ("face", 0)}),
        },
        "Prepare Face Photo",
        "No face was found on the photo of 300 x 200 px.",
    ),
    "no name in the list": Mistake(
        {
            "names": Placed(
                "CrossInitCelebrityNames",
                (50, 100),
                {"list": "only the extra names", "extra_names": "# nobody"},
            ),
            "out": _show("names", 1),
        },
        "Load Celebrity Names",
        "The list of names 'extra names' holds no name",
    ),
    "a token of another family": Mistake(
        {
            "model": _MODEL,
            "token": _TOKEN,
            "apply": Placed("CrossInitApply", (420, 100), inputs={"clip": ("model", 1), "token": ("token", 0)}),
            "out": _show("apply"),
        },
        "Apply Learned Token",
        "was learned on width 1024 (SD 2.x)",
    ),
    # These are found before anything runs.
    "no place for the person": Mistake(
        {
            "model": _MODEL,
            "token": _TOKEN,
            "prompt": Placed(
                "CrossInitEncodePrompt",
                (420, 100),
                {"text": "a photo of a person"},
                {"clip": ("model", 1), "tokens.token0": ("token", 0)},
            ),
            "out": _show("prompt"),
        },
        "Encode Prompt with Learned Token",
        "The prompt 'a photo of a person' has no {} for the person",
        early=True,
    ),
    "a name that cannot be": Mistake(
        {"token": _TOKEN, "save": _save("my face", "token")},
        "Save Learned Token",
        "The token name 'my face' holds a space",
        early=True,
    ),
    "a folder outside of the output folder": Mistake(
        {"list": Placed("CrossInitPromptList", (50, 100), {"folder": "../elsewhere"}), "out": _show("list")},
        "Prompt List",
        "must be a name below ComfyUI's output folder",
        early=True,
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_is_one_sentence_at_its_node(classic: ComfyPage, mistake: Mistake) -> None:
    hands.put(classic, mistake.nodes)
    classic.start()
    with pytest.raises(PageError, match=r"refusal|execution_error"):
        classic.wait_for_end()
    assert classic.failed() == [mistake.at]
    note = classic.note(mistake.says)
    note.wait_for()
    title, sentence = note.inner_text().split("\n", 1)
    assert title == mistake.at
    assert classic.text(mistake.at) == ("" if mistake.early else sentence)
    assert "Traceback" not in sentence and "\n" not in sentence and len(sentence) < 400
    classic.screenshot(SCREENSHOTS / f"mistake-{mistake.at.lower().replace(' ', '-')}.png")
    note.get_by_role("button").click()
    note.wait_for(state="detached")


def test_a_wire_that_is_missing_is_named_at_its_node(classic: ComfyPage) -> None:
    hands.put(
        classic,
        {
            "model": _MODEL,
            "person": _PERSON,
            "learn": Placed(
                "CrossInitLearn",
                (800, 100),
                inputs={"model": ("model", 0), "clip": ("model", 1), "vae": ("model", 2), "image": ("person", 0)},
            ),
            "save": _save("never", "learn"),
        },
    )
    # The portrait, which lacks nothing, is painted all the same.
    classic.start()
    overlay = classic.page.get_by_test_id("error-overlay")
    overlay.get_by_text("Learn Face (train) is missing a required input: cross_init").wait_for()
    assert classic.failed() == ["Learn Face (train)"]


_NAMES = ("CrossInitCelebrityNames", "extra_names")


def _fails(page: ComfyPage) -> None:
    page.start()
    with pytest.raises(PageError, match=r"refusal|execution_error"):
        page.wait_for_end()


def test_a_mistake_that_was_mended_is_no_longer_shown(classic: ComfyPage) -> None:
    hands.put(classic, MISTAKES["no name in the list"].nodes)
    _fails(classic)
    classic.set_widget(*_NAMES, "Ada Lovelace\nAlan Turing")
    classic.run()
    assert not classic.failed()
    assert classic.text("CrossInitCelebrityNames") == "2 names"


def test_a_mistake_that_was_taken_back_is_no_longer_shown(classic: ComfyPage) -> None:
    """Then the node does not run: ComfyUI has its result still."""
    hands.put(classic, MISTAKES["no name in the list"].nodes)
    classic.set_widget(*_NAMES, "Grace Hopper\nKatherine Johnson")
    classic.run()
    classic.set_widget(*_NAMES, "# nobody")
    _fails(classic)
    classic.wait_for_text("CrossInitCelebrityNames", "The list of names")
    classic.set_widget(*_NAMES, "Grace Hopper\nKatherine Johnson")
    classic.run()
    assert "Load Celebrity Names" not in classic.ran()
    assert classic.text("CrossInitCelebrityNames") == "2 names"

    hands.put(classic, {"token": _TOKEN, "save": _save("taken-back", "token")})
    classic.run()
    classic.set_widget("CrossInitSave", "name", "my face")
    _fails(classic)
    classic.set_widget("CrossInitSave", "name", "taken-back")
    classic.run()
    assert classic.text("CrossInitSave").startswith("Saved taken-back")


def test_a_silent_node_forgets_a_mistake(classic: ComfyPage) -> None:
    """A node that says nothing when it goes well says nothing of the mistake either."""
    report = Placed("CrossInitReport", (420, 100), inputs={"clip": ("model", 1), "tokens.token0": ("token", 0)})
    hands.put(classic, {"model": _MODEL, "token": _TOKEN, "report": report})
    _fails(classic)
    classic.wait_for_text("CrossInitReport", "CLIP has width 256")
    classic.page.evaluate("() => app.graph.nodes.find(n => n.type === 'CrossInitReport').disconnectInput('clip')")
    classic.run()
    assert not classic.text("CrossInitReport") and classic.pictures("CrossInitReport")


def test_a_muted_first_person_stops_nobody(classic: ComfyPage) -> None:
    """A first person who is muted does not stop the others."""
    both = {"tokens.token0": ("token", 0), "tokens.token1": ("other", 0)}
    other = Placed("CrossInitLoad", (50, 700), {"file": "another-face.safetensors"}, title="Another")
    report = Placed("CrossInitReport", (420, 100), inputs=both)
    hands.put(classic, {"token": _TOKEN, "other": other, "report": report})
    classic.page.evaluate("() => { app.graph.nodes[0].mode = LiteGraph.NEVER }")
    classic.run()
    assert not classic.failed() and classic.pictures("CrossInitReport")
    assert {"Another", "Learned Token Report"} == set(classic.ran())
