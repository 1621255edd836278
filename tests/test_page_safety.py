"""Nobody gets into the page, whatever a file holds; and lines and notes stay as long as they are true. In every page that
lies in `.host/`, with classic nodes and with Nodes 2.0."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from devtools.comfyui.links import prepare_base
from devtools.comfyui.server import ComfyServer
from devtools.page import hands
from devtools.page.driver import ComfyPage, PageError
from devtools.page.hands import Placed

REPOSITORY = Path(__file__).resolve().parents[1]
PAGES = [None, *sorted((REPOSITORY / ".host").glob("page-*"))]
"""The page that ComfyUI brings, and others."""

pytestmark = pytest.mark.usefixtures("server")
"""First of the fixtures, so that tests are in the order of its parameters and each server starts once."""

TAG = '<img src=x onerror="window.__entered=1">'
LOAD, NAMES, SAVE = "CrossInitLoad", "CrossInitCelebrityNames", "CrossInitSave"


@pytest.fixture(scope="module", params=PAGES, ids=lambda page: page.name if page else "own page")
def server(
    request: pytest.FixtureRequest, start_server: Callable[..., ComfyServer], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ComfyServer]:
    base = tmp_path_factory.mktemp("safety")
    prepare_base(base, REPOSITORY)
    embeddings = base / "models" / "embeddings"
    embeddings.mkdir(parents=True, exist_ok=True)
    save_file({TAG: torch.ones(2, 8), "other": torch.ones(3, 9)}, embeddings / "odd.safetensors")
    save_file({"emb_params": torch.ones(2, 8)}, embeddings / "good.safetensors")
    arguments = ("--cpu", *(("--front-end-root", str(request.param)) if request.param else ()))
    with start_server(base, arguments=arguments) as running:
        yield running


@pytest.fixture(scope="module", params=[False, True], ids=["classic", "newer"])
def page(request: pytest.FixtureRequest, server: ComfyServer, browser: Any) -> Iterator[ComfyPage]:
    page = ComfyPage.open(browser, server.url, {"Comfy.VueNodes.Enabled": request.param})
    yield page
    page.close()


def _put(page: ComfyPage, file: str) -> None:
    hands.put(
        page,
        {
            "names": Placed(NAMES, (50, 100), {"list": "only the extra names", "extra_names": "Ada Lovelace"}),
            "count": Placed("PreviewAny", (500, 400), inputs={"source": ("names", 1)}),
            "token": Placed(LOAD, (50, 500), {"file": file}, title=f"My {TAG} face"),
            "save": Placed(SAVE, (500, 600), {"name": "kept"}, inputs={"token": ("token", 0)}),
        },
    )


def test_a_file_brings_no_script_into_the_page(page: ComfyPage) -> None:
    _put(page, "odd.safetensors")
    page.start()
    with pytest.raises(PageError, match=r"refusal|execution_error"):
        page.wait_for_end()
    page.wait_for_text(LOAD, "'odd.safetensors'")
    page.note("'odd.safetensors'").wait_for()
    assert "\u2039img src=x" in page.text(LOAD)
    (note,) = [note for note in page.notes() if "odd.safetensors" in note]
    assert "My \u2039img src=x" in note.split("\n")[0]
    assert page.page.evaluate("() => window.__entered") is None

    page.page.keyboard.press("Escape")  # pages before 1.44 show errors in a dialog of their own

    # The note goes when the run that mends it starts.
    page.set_widget(LOAD, "file", "good.safetensors")
    page.run()
    page.note("'odd.safetensors'").wait_for(state="detached")
    page.wait_for_text(LOAD, "good: 2 vectors")


def test_lines_are_there_after_undo(page: ComfyPage) -> None:
    _put(page, "good.safetensors")
    page.run()
    page.wait_for_text(LOAD, "good: 2 vectors")
    hands.edit(page, SAVE, "name", "other")
    hands.undo(page)
    assert page.widgets(SAVE)["name"] == "kept"
    _assert_lines(page)


def test_lines_are_there_when_a_workflow_is_loaded(page: ComfyPage, browser: Any, tmp_path: Path) -> None:
    _put(page, "good.safetensors")
    page.run()
    page.wait_for_text(LOAD, "good: 2 vectors")
    workflow = tmp_path / "run.json"
    workflow.write_text(json.dumps(page.page.evaluate("() => app.graph.serialize()")), encoding="utf-8")

    # In the same browser, after the page was loaded anew.
    page.reload()
    page.load(workflow)
    _assert_lines(page)

    # In a browser that has never seen it, once it runs: ComfyUI has the results still.
    stranger = ComfyPage.open(browser, page.url, {"Comfy.VueNodes.Enabled": page.has_newer_nodes()})
    stranger.load(workflow)
    stranger.run()
    assert "Load Celebrity Names" not in stranger.ran()
    _assert_lines(stranger)
    stranger.close()


def test_another_graph_of_the_same_nodes_has_their_lines(page: ComfyPage) -> None:
    _put(page, "good.safetensors")
    page.run()
    page.wait_for_text(LOAD, "good: 2 vectors")
    page.page.evaluate("() => app.loadGraphData(app.graph.serialize(), false)")  # as Ctrl+Z makes the graph anew
    _assert_lines(page)

    # ComfyUI has the results still.
    _put(page, "good.safetensors")
    page.run()
    assert "Load Celebrity Names" not in page.ran()
    page.wait_for_text(NAMES, "1 name")


def _assert_lines(page: ComfyPage) -> None:
    page.wait_for_text(LOAD, "good: 2 vectors")
    page.wait_for_text(NAMES, "1 name")
    page.wait_for_text(SAVE, "Saved kept")
