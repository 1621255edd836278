"""The pack in older ComfyUIs, each with its own page, and in a newer page: those that lie in `.host/`. See devtools/comfyui/older.py."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from crossinit_core import LearnedToken, save_learned_token
from devtools.comfyui.answers import PromptError
from devtools.comfyui.client import Client
from devtools.comfyui.links import prepare_base
from devtools.comfyui.older import NEWEST, OLDEST, RELEASES, Release
from devtools.comfyui.server import ComfyServer
from devtools.docs import locales
from devtools.page.driver import ComfyPage
from devtools.workflows.miniature import DRESSED_PICTURES, PLAIN_PICTURES
from devtools.workflows.settings import SMALL_MINIATURE
from devtools.workflows.shipped import MINIATURE
from miniature.training.pack import WEIGHTS

REPOSITORY = Path(__file__).resolve().parents[1]
HOST = REPOSITORY / ".host"
SCREENSHOTS = REPOSITORY / "test-output"
LEARN = "CrossInitLearn"

THERE = [release for release in (*RELEASES, NEWEST) if release.is_in(HOST)]

pytestmark = [
    pytest.mark.skipif(not THERE, reason=f"python -m devtools.comfyui.older {OLDEST.name} fetches an older ComfyUI"),
    pytest.mark.skipif(not WEIGHTS.is_dir(), reason="there are no weights of the miniature"),
]


@dataclass(frozen=True)
class Old:
    release: Release
    base: Path
    client: Client
    info: dict[str, Any]


@pytest.fixture(
    scope="module",
    params=THERE or [OLDEST],
    ids=lambda release: release.name,
)
def old(
    request: pytest.FixtureRequest, start_server: Callable[..., ComfyServer], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Old]:
    """A server of one of them, with nothing but the pack."""
    release: Release = request.param
    base = tmp_path_factory.mktemp("older")
    prepare_base(base, REPOSITORY)
    arguments = ("--cpu", "--front-end-root", str(release.page_folder(HOST)))
    with start_server(base, release.comfyui(HOST), arguments) as server, Client(server.url) as client:
        yield Old(release, base, client, client.object_info())


def test_the_nodes_are_what_they_are_in_the_newest(old: Old) -> None:
    newest = json.loads(locales.ENGLISH.read_text(encoding="utf-8"))
    assert list(map(_where, locales.texts(locales.english(old.info)))) == list(map(_where, locales.texts(newest)))
    assert all("textual inversion" in old.info[name]["search_aliases"] for name in newest)


def test_the_miniature_runs_in_a_chinese_page(old: Old, browser: Any) -> None:
    """The miniature's workflow runs in its own page, in Chinese."""
    page = ComfyPage.open(browser, old.client.url, {"Comfy.Locale": "zh"})
    page.load(REPOSITORY / "workflows" / f"{MINIATURE}.json")
    for node, name, value in SMALL_MINIATURE:
        page.set_widget(node, name, value)
    page.run()
    page.screenshot(SCREENSHOTS / f"older-{old.release.name}.png")
    assert not page.errors()
    assert not page.complaints
    assert page.title(LEARN) == locales.read("zh")[LEARN]["display_name"]
    assert page.text(LEARN).startswith("learned in")
    assert [page.pictures(node) for node in (PLAIN_PICTURES, DRESSED_PICTURES)] == [[[128, 128]]] * 2
    saved = {path.name for path in (old.base / "models" / "embeddings").iterdir()}
    assert saved == {"drawn-person.safetensors"}

    page.set_widget("CrossInitSave", "name", "two words")
    page.start()
    page.note("for example 'two-words'").wait_for()
    page.close()


def _where(text: tuple[str, str]) -> str:
    return text[0]


def test_an_error_is_one_sentence(old: Old) -> None:
    prompt = {
        "1": {"class_type": "EmptyImage", "inputs": {"width": 300, "height": 200, "batch_size": 1, "color": 0}},
        "2": {
            "class_type": "CrossInitPrepareFace",
            "inputs": {"image": ["1", 0], "framing": "find the face", "face": 1, "resolution": 128},
        },
        "3": {"class_type": "PreviewImage", "inputs": {"images": ["2", 0]}},
    }
    with pytest.raises(PromptError, match=r"No face was found on the photo of 300 x 200 px.*'by hand'"):
        old.client.run(prompt)


def test_a_muted_first_person_stops_nobody(old: Old) -> None:
    """A first person who is muted does not stop the others."""
    token = LearnedToken(torch.ones(2, 256), "somebody", "width-256")
    save_learned_token(token, old.base / "models" / "embeddings" / "somebody.safetensors")
    prompt: dict[str, Any] = {
        "1": {"class_type": "CrossInitMiniature", "inputs": {}},
        "2": {"class_type": "CrossInitLoad", "inputs": {"file": "somebody.safetensors"}},
        "3": {"class_type": "CrossInitReport", "inputs": {"tokens.token1": ["2", 0]}},
        "4": {
            "class_type": "CrossInitEncodePrompt",
            "inputs": {"clip": ["1", 1], "text": "a {} person", "tokens.token1": ["2", 0]},
        },
        "5": {"class_type": "PreviewAny", "inputs": {"source": ["4", 0]}},
    }
    history = old.client.run(prompt)
    assert history.outputs["3"]["images"] and history.outputs["5"]["text"]
    del prompt["3"]["inputs"]["tokens.token1"]
    with pytest.raises(PromptError, match=r"No learned token is connected. Connect at least one"):
        old.client.run(prompt)


@pytest.mark.slow
@pytest.mark.parametrize("release", [one for one in RELEASES if one.is_in(HOST)], ids=lambda release: release.name)
def test_sdxl_is_the_same_in_it(release: Release) -> None:
    """The published run, the checkpoints that are recognised and the prompts, on its own modules."""
    tests = [f"tests/test_sdxl{part}.py" for part in ("", "_layouts", "_prompts", "_previews")]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--no-header", *tests]
    environment = os.environ | {"COMFYUI_PATH": str(release.comfyui(HOST)), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 0, done.stdout[-3000:]
