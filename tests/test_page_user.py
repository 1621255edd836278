"""What people do with the pack in ComfyUI's real page, by hand: build, run, cancel, change a prompt, come back another day.

On the miniature, with a server of their own that holds nothing but the pack.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

from devtools.comfyui.links import PACK_NAME, prepare_base
from devtools.comfyui.server import ComfyServer
from devtools.page import hands
from devtools.page.driver import ComfyPage
from devtools.workflows.miniature import DRESSED, DRESSED_PICTURES, DRESSED_SAMPLER, PLAIN_SAMPLER
from devtools.workflows.settings import SMALL_MINIATURE
from devtools.workflows.shipped import MINIATURE, WORKFLOWS
from miniature.training.pack import WEIGHTS

REPOSITORY = Path(__file__).resolve().parents[1]
FILES = REPOSITORY / "workflows"
SCREENSHOTS = REPOSITORY / "test-output"
LEARN, SAVE, LOAD = "CrossInitLearn", "CrossInitSave", "CrossInitLoad"

pytestmark = pytest.mark.skipif(not WEIGHTS.is_dir(), reason="there are no weights of the miniature")


@pytest.fixture(scope="module")
def server(start_server: Callable[..., ComfyServer], tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyServer]:
    base = tmp_path_factory.mktemp("user")
    prepare_base(base, REPOSITORY)
    with start_server(base) as server:
        yield server


@pytest.fixture(scope="module")
def page(server: ComfyServer, browser: Any) -> Iterator[ComfyPage]:
    page = ComfyPage.open(browser, server.url)
    yield page
    page.close()


def _embeddings(server: ComfyServer) -> set[str]:
    assert server.base is not None
    return {path.name for path in (server.base / "models" / "embeddings").iterdir()}


def _open_miniature(page: ComfyPage, **learn: int) -> None:
    """The shipped workflow on the miniature, at its least work."""
    page.load(FILES / f"{MINIATURE}.json")
    for node, name, value in (*SMALL_MINIATURE, *((LEARN, name, value) for name, value in learn.items())):
        page.set_widget(node, name, value)


def test_a_graph_built_by_hand_learns_a_face(page: ComfyPage, server: ComfyServer) -> None:
    """A graph is built from the search box, wired by dragging, and learns a face."""
    hands.new_graph(page)
    for typed, name, at in (
        ("miniature", "Load Miniature Model", (250, 180)),
        ("portrait", "Paint Drawn Person", (250, 420)),
        ("celebrity", "Load Celebrity Names", (250, 680)),
        ("textual inversion", "Cross Initialization", (640, 180)),
        ("train", "Learn Face", (1000, 180)),
        ("embedding", "Save Learned Token", (1450, 180)),
    ):
        hands.add_from_search(page, typed, name, at)
    model, start = "CrossInitMiniature", "CrossInitInitialize"
    for wire in (
        (model, "MODEL", LEARN, "model"),
        (model, "CLIP", LEARN, "clip"),
        (model, "VAE", LEARN, "vae"),
        ("CrossInitDrawnPerson", "image", LEARN, "image"),
        (model, "CLIP", start, "clip"),
        ("CrossInitCelebrityNames", "names", start, "names"),
        (start, "cross_init", LEARN, "cross_init"),
        (LEARN, "token", SAVE, "token"),
    ):
        hands.connect(page, *wire)
    for name, value in (("preset", "custom"), ("steps", 2), ("batch_size", 1)):
        page.set_widget(LEARN, name, value)
    page.set_widget(SAVE, "name", "by-hand")
    page.run()
    page.screenshot(SCREENSHOTS / "built-by-hand.png")
    assert not page.errors()
    assert page.text(LEARN).startswith("learned in")
    assert "embedding:by-hand person" in page.text(SAVE)
    assert "by-hand.safetensors" in _embeddings(server)


def test_a_crop_is_looked_at_before_it_is_learned(page: ComfyPage) -> None:
    wires = {
        "model": ("model", 0),
        "clip": ("model", 1),
        "vae": ("model", 2),
        "image": ("face", 0),
        "mask": ("face", 1),
    }
    hands.put(
        page,
        {
            "model": hands.Placed("CrossInitMiniature", (50, 100)),
            "person": hands.Placed("CrossInitDrawnPerson", (50, 320)),
            "face": hands.Placed(
                "CrossInitPrepareFace", (400, 150), {"framing": "by hand", "resolution": 128}, {"image": ("person", 0)}
            ),
            "start": hands.Placed("CrossInitInitializeWords", (50, 700), inputs={"clip": ("model", 1)}),
            "learn": hands.Placed(LEARN, (800, 100), inputs=wires | {"cross_init": ("start", 0)}),
            "save": hands.Placed(SAVE, (1250, 100), {"name": "never"}, {"token": ("learn", 0)}),
        },
    )
    page.run_selected("CrossInitPrepareFace")
    assert not page.errors()
    assert "Prepare Face Photo" in page.ran() and not {"Learn Face (train)", "Save Learned Token"} & set(page.ran())
    assert page.pictures("CrossInitPrepareFace")
    page.screenshot(SCREENSHOTS / "crop-alone.png")


def test_every_template_is_opened_from_the_browser_of_templates(page: ComfyPage) -> None:
    hands.new_graph(page)
    for name in WORKFLOWS:
        hands.open_template(page, PACK_NAME, name)
        page.wait_for_graph(json.loads((FILES / f"{name}.json").read_text(encoding="utf-8")))
        assert not [error for error in page.errors() if error.endswith("is unknown")], name


def test_another_prompt_draws_anew_and_learns_nothing(page: ComfyPage) -> None:
    _open_miniature(page)
    page.run()
    assert {"Learn Face (train)", PLAIN_SAMPLER, DRESSED_SAMPLER} <= set(page.ran())
    page.set_widget(DRESSED, "text", "a {} person wearing headphones")
    page.run()
    assert page.ran()[:2] == [DRESSED, DRESSED_SAMPLER]
    assert DRESSED_PICTURES in page.ran()
    assert not {"Learn Face (train)", "Cross Initialization", PLAIN_SAMPLER} & set(page.ran())


def test_a_run_that_was_cancelled_goes_on_where_it_stopped(page: ComfyPage, server: ComfyServer) -> None:
    many = 2000  # so that Cancel comes in time, however fast the machine
    _open_miniature(page, steps=many, seed=7)
    done = 0
    for _ in range(2):
        page.start()
        page.wait_until_said(LEARN, "step ")
        page.cancel()
        assert not page.errors() and not page.failed()
        assert page.said(LEARN)[0].startswith(f"step {done + 1} of {many}")
        done = _steps_done(server, many)
        goes_on = "the next run with the same inputs goes on from there"
        page.wait_for_text(LEARN, f"cancelled at step {done} of {many}; {goes_on}")
    page.set_widget(LEARN, "steps", done + 2)
    page.run()
    assert re.match(r"learned in [\d.]+ s \(2 steps\)", page.text(LEARN)), page.text(LEARN)


def _steps_done(server: ComfyServer, steps: int) -> int:
    """How far the one run of so many steps is, by its resume file."""
    assert server.base is not None
    (file,) = (server.base / "output" / "crossinit" / "resume").glob(f"*-{steps}.resume.safetensors")
    with safe_open(file, framework="pt") as opened:
        return int(opened.metadata()["step"])


def test_a_saved_token_is_offered_at_once_and_after_a_restart(
    page: ComfyPage, server: ComfyServer, browser: Any, tmp_path: Path
) -> None:
    _open_miniature(page)
    page.set_widget(SAVE, "name", "another-day")
    page.run()
    saved = "another-day.safetensors"

    # At once, and to a workflow that names it.
    page.wait_until_offered(LOAD, "file", saved)
    hands.put(page, {"token": hands.Placed(LOAD, (300, 200), {"file": saved})})
    naming = tmp_path / "names-it.json"
    naming.write_text(json.dumps(page.page.evaluate("() => app.graph.serialize()")), encoding="utf-8")
    hands.new_graph(page)
    page.load(naming)
    page.settle()
    assert saved in page.options(LOAD, "file")
    assert not page.errors()

    server.stop()
    server.start()
    tomorrow = ComfyPage.open(browser, server.url)
    try:
        hands.new_graph(tomorrow)
        hands.add_from_search(tomorrow, "load learned", "Load Learned Token", (300, 200))
        hands.add_from_search(tomorrow, "save learned", "Save Learned Token", (900, 200))
        hands.connect(tomorrow, LOAD, "token", SAVE, "token")
        assert saved in tomorrow.options(LOAD, "file")
        tomorrow.set_widget(LOAD, "file", saved)
        tomorrow.set_widget(SAVE, "name", "another-day-copy")
        tomorrow.run()
        assert not tomorrow.errors()
        assert tomorrow.text(LOAD).startswith("another-day: 2 vectors")
        assert "another-day-copy.safetensors" in _embeddings(server)
    finally:
        tomorrow.close()
