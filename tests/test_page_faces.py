"""The panel of learned faces in ComfyUI's page: a face is found by its picture, and put into a prompt. In ComfyUI's own page and
in the oldest and the newest that lie in `.host/`, with classic nodes and with Nodes 2.0."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from playwright.sync_api import Locator
from safetensors.torch import load_file, save_file

from devtools.comfyui.links import prepare_base
from devtools.comfyui.server import ComfyServer
from devtools.docs import locales
from devtools.page import hands
from devtools.page.driver import ComfyPage
from devtools.page.hands import Placed
from tests.tiny_faces import save_face

REPOSITORY = Path(__file__).resolve().parents[1]
SCREENSHOTS = REPOSITORY / "test-output"
_OTHERS = sorted((REPOSITORY / ".host").glob("page-*"))
PAGES = [None, *_OTHERS[:1], *_OTHERS[1:][-1:]]

pytestmark = pytest.mark.slow

LOAD, SAVE = "CrossInitLoad", "CrossInitSave"
TOGGLE = "Workspace.ToggleSidebarTab.crossinit-faces"

# Custom-Scripts in few lines, if its clone is not in the folder that CROSSINIT_FOREIGN_PACKS names.
COMPLETION = """
export class TextAreaAutoComplete {
  static groups = {}
  static globalWords = {}
  static updateWords(id, words) {
    this.groups[id] = words
    Object.assign(this.globalWords, words)
  }
}
"""
COMPLETER = """
import { app } from '../../scripts/app.js'
import { TextAreaAutoComplete } from './common/autocomplete.js'
app.registerExtension({
  name: 'completion',
  async setup() {
    const words = { 'embedding:': { text: 'embedding:' } }
    for (const name of await app.api.getEmbeddings()) words[`embedding:${name}`] = { text: `embedding:${name}`, info() {} }
    TextAreaAutoComplete.updateWords('pysssss.embeddings', words)
  }
})
"""


pytestmark = pytest.mark.usefixtures("base")
"""First of the fixtures, so that tests are in the order of its parameters and each server starts once."""


@pytest.fixture(scope="module", params=PAGES, ids=lambda page: page.name if page else "own page")
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path | None]:
    base = tmp_path_factory.mktemp("faces")
    prepare_base(base, REPOSITORY)
    real = Path(os.environ.get("CROSSINIT_FOREIGN_PACKS", "")) / "ComfyUI-Custom-Scripts"
    pack = base / "custom_nodes" / "ComfyUI-Custom-Scripts"
    if (real / "__init__.py").is_file():
        shutil.copytree(real, pack)
    else:
        (pack / "js" / "common").mkdir(parents=True)
        (pack / "__init__.py").write_text('WEB_DIRECTORY = "js"\nNODE_CLASS_MAPPINGS = {}\n', encoding="utf-8")
        (pack / "js" / "common" / "autocomplete.js").write_text(COMPLETION, encoding="utf-8")
        (pack / "js" / "autocompleter.js").write_text(COMPLETER, encoding="utf-8")
    save_face(base / "models" / "embeddings", "anna")
    return base, request.param


@pytest.fixture(scope="module")
def server(base: tuple[Path, Path | None], start_server: Callable[..., ComfyServer]) -> Iterator[ComfyServer]:
    folder, page = base
    arguments = ("--cpu", *(("--front-end-root", str(page)) if page else ()))
    with start_server(folder, arguments=arguments) as running:
        yield running


@pytest.fixture(scope="module", params=[False, True], ids=["classic", "newer"])
def page(request: pytest.FixtureRequest, server: ComfyServer, browser: Any) -> Iterator[ComfyPage]:
    page = ComfyPage.open(browser, server.url, {"Comfy.VueNodes.Enabled": request.param})
    page.command(TOGGLE)
    yield page
    page.close()


@pytest.fixture
def embeddings(base: tuple[Path, Path | None]) -> Iterator[Path]:
    """The embeddings folder with Anna in it, and nobody else."""
    folder = base[0] / "models" / "embeddings"
    save_face(folder, "anna")
    yield folder
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def _refresh(page: ComfyPage, *names: str) -> None:
    """Press the button, and wait for exactly these faces, in any order."""
    page.page.get_by_role("searchbox").fill("")
    page.page.locator(".crossinit-head button").click()
    page.page.wait_for_function(
        """names => JSON.stringify([...document.querySelectorAll('.crossinit-name')].map(e => e.textContent).sort())
            === JSON.stringify(names)""",
        arg=sorted(names),
    )


def _card(page: ComfyPage, name: str) -> Locator:
    exactly = page.page.locator(".crossinit-name", has_text=re.compile(f"^{re.escape(name)}$"))
    return page.page.locator(".crossinit-card", has=exactly)


def _prompts(page: ComfyPage, *texts: str) -> list[Locator]:
    """A new graph with prompts, one below another."""
    hands.put(
        page,
        {
            f"prompt{number}": Placed(
                "CLIPTextEncode", (700, 100 + 300 * number), {"text": text}, title=f"Prompt {number}"
            )
            for number, text in enumerate(texts)
        },
    )
    boxes = []
    for text in texts:
        page.page.wait_for_function(
            "text => [...document.querySelectorAll('textarea')].some(box => box.value === text)", arg=text
        )
        values = page.page.locator("textarea").evaluate_all("boxes => boxes.map(box => box.value)")
        boxes.append(page.page.locator("textarea").nth(values.index(text)))
    return boxes


def _text(page: ComfyPage, node: str) -> str:
    """What the page would send."""
    return next(one["inputs"]["text"] for one in page.prompt().values() if one["_meta"]["title"] == node)


def _status(page: ComfyPage, text: str) -> str:
    status = page.page.locator(".crossinit-status", has_text=text)
    status.wait_for()
    return status.inner_text()


def test_a_face_goes_where_the_cursor_was(page: ComfyPage, embeddings: Path) -> None:
    save_face(embeddings, "berta", seed=1, facts={"crossinit.steps": "80", "crossinit.checkpoint": "sd_xl_base_1.0"})
    _refresh(page, "anna", "berta")
    assert "learned on v2-1_512-ema-pruned, 320 steps" in (_card(page, "anna").text_content() or "")
    assert "Mar 4, 2026" in (_card(page, "anna").text_content() or "")
    assert "learned on sd_xl_base_1.0, 80 steps" in (_card(page, "berta").text_content() or "")
    page.page.wait_for_function(
        "() => [...document.querySelectorAll('.crossinit-card img')].every(i => i.naturalWidth)"
    )

    first, second = _prompts(page, "a photo of in a garden", "an oil painting")
    first.click()
    first.evaluate("box => box.setSelectionRange(10, 10)")
    _card(page, "anna").click()
    assert _text(page, "Prompt 0") == "a photo of embedding:anna person in a garden"
    assert _status(page, "anna is in") == "anna is in the prompt of Prompt 0."
    page.page.keyboard.type(" with a hat")  # the cursor is behind the face
    assert first.input_value() == "a photo of embedding:anna person with a hat in a garden"
    for _ in range(12):  # how much one takes back depends on how fast was typed
        if first.input_value() != "a photo of in a garden":
            page.page.keyboard.press("Control+z")
    assert first.input_value() == "a photo of in a garden"

    # The box that was left last, and by the keyboard.
    second.click()
    second.press("End")
    _card(page, "berta").locator(".crossinit-face").focus()
    page.page.keyboard.press("Enter")
    assert _text(page, "Prompt 1") == "an oil painting embedding:berta person"
    page.screenshot(SCREENSHOTS / "faces-panel.png")


def test_a_face_is_dragged_into_a_prompt(page: ComfyPage, embeddings: Path) -> None:
    _refresh(page, "anna")
    _, second = _prompts(page, "not here", "portrait")
    _card(page, "anna").drag_to(second, target_position={"x": 30, "y": 14})
    assert "embedding:anna person" in _text(page, "Prompt 1")
    assert re.fullmatch(r"(portrait )?embedding:anna person( portrait)?", _text(page, "Prompt 1"))
    assert _text(page, "Prompt 0") == "not here"


def test_without_a_prompt_nothing_is_guessed(page: ComfyPage, embeddings: Path) -> None:
    _refresh(page, "anna")
    first, second = _prompts(page, "one", "two")
    _card(page, "anna").click()
    assert _status(page, "Click into") == "Click into a prompt first, then on the face."
    assert (first.input_value(), second.input_value()) == ("one", "two")
    _prompts(page, "the only one")
    _card(page, "anna").click()
    assert "embedding:anna person" in _text(page, "Prompt 0")


def test_faces_are_searched_for(page: ComfyPage, embeddings: Path) -> None:
    save_face(embeddings / "family", "Zoë")
    save_face(embeddings, "سارة", facts={"crossinit.checkpoint": "sd_xl_base_1.0"})
    save_file({"emb_params": torch.ones(2, 8)}, embeddings / "theirs.safetensors")
    _refresh(page, "anna", "Zoë", "سارة")
    search = page.page.get_by_role("searchbox")
    for text, found in {"zoe": ["Zoë"], "FAMILY": ["Zoë"], "سار": ["سارة"], "xl base": ["سارة"], "learned": []}.items():
        search.fill(text)
        shown = page.page.locator(".crossinit-card:visible .crossinit-name")
        assert shown.all_text_contents() == found, text
    page.page.get_by_text("No face matches").wait_for()
    search.fill("")
    # One line of another direction leaves the others alone.
    name = _card(page, "سارة").locator(".crossinit-name")
    assert name.evaluate("e => getComputedStyle(e).direction") == "rtl" or name.evaluate("e => e.tagName") == "BDI"


def test_a_face_in_two_folders_is_told_apart(page: ComfyPage, embeddings: Path) -> None:
    save_face(embeddings / "family", "anna", seed=1)
    save_face(embeddings / "family", "otto", seed=2)
    _refresh(page, "anna", "anna", "otto")
    (box,) = _prompts(page, "of")
    for number in range(3):
        box.press("End")
        page.page.locator(".crossinit-face").nth(number).click()
    assert sorted(re.findall(r"embedding:\S+ person", _text(page, "Prompt 0"))) == [
        "embedding:anna person",
        "embedding:family/anna person",
        "embedding:otto person",
    ]


def test_a_face_is_renamed(page: ComfyPage, embeddings: Path) -> None:
    save_face(embeddings, "berta", beside=True)
    _refresh(page, "anna", "berta")
    before = load_file(embeddings / "berta.safetensors")["<berta>"]
    card = _card(page, "berta")
    card.hover()
    card.get_by_role("button", name="Rename").click()
    form = page.page.locator("form.crossinit-face")
    for wrong, said in {"anna": "Choose another name", "a b": "holds a space"}.items():
        form.get_by_role("textbox").fill(wrong)
        page.page.keyboard.press("Enter")
        assert "\n" not in _status(page, said)
    form.get_by_role("textbox").fill("bea")
    form.get_by_role("button", name="Save").click()
    assert _status(page, "is now") == "berta is now bea. Change it in prompts that name it."
    _card(page, "bea").wait_for()
    assert torch.equal(load_file(embeddings / "bea.safetensors")["<bea>"], before)
    assert sorted(path.name for path in embeddings.glob("b*")) == [
        "bea.metadata.json",
        "bea.preview.png",
        "bea.safetensors",
    ]


def test_a_face_is_deleted_after_a_question(page: ComfyPage, embeddings: Path, base: tuple[Path, Path | None]) -> None:
    save_face(embeddings, "berta")
    _refresh(page, "anna", "berta")
    raw = (embeddings / "berta.safetensors").read_bytes()
    for answer in ("Cancel", "Delete"):
        card = _card(page, "berta")
        card.hover()
        card.get_by_role("button", name="Delete").click()
        form = page.page.locator("form.crossinit-face")
        question = form.locator("p").inner_text().replace("\u200b", "")
        assert question == "Delete berta? The file is moved to output/crossinit/removed."
        assert (embeddings / "berta.safetensors").is_file()
        form.get_by_role("button", name=answer).click()
        form.wait_for(state="detached")
    kept = _status(page, "is deleted").removeprefix("berta is deleted. The file is now ")
    assert Path(kept).read_bytes() == raw and Path(kept).is_relative_to(base[0] / "output" / "crossinit" / "removed")
    _card(page, "berta").wait_for(state="detached")
    assert not (embeddings / "berta.safetensors").exists()


def test_a_saved_face_is_offered_without_a_reload(page: ComfyPage, embeddings: Path) -> None:
    _refresh(page, "anna")
    hands.put(
        page,
        {
            "token": Placed(LOAD, (700, 100), {"file": "anna.safetensors"}),
            "save": Placed(SAVE, (700, 400), {"name": "carla"}, inputs={"token": ("token", 0)}),
        },
    )
    page.run()
    _card(page, "carla").wait_for()
    page.page.wait_for_function(
        """() => {
            const spec = LiteGraph.registered_node_types.CrossInitLoad.nodeData.input.required.file
            return (Array.isArray(spec[0]) ? spec[0] : spec[1].options).includes('carla.safetensors')
        }"""
    )
    page.page.wait_for_function(
        """async () => {
            const path = (await app.api.getExtensions()).find(path => path.endsWith('/common/autocomplete.js'))
            const { TextAreaAutoComplete } = await import(app.api.fileURL(path))
            const words = TextAreaAutoComplete.globalWords
            return 'embedding:carla' in words && 'embedding:anna' in words && 'embedding:' in words
        }"""
    )


def test_names_of_every_kind_are_shown_as_text(page: ComfyPage, embeddings: Path) -> None:
    """And nothing of a file becomes a part of the page."""
    tag = "<img src=x onerror=window.__entered=1>"
    names = ["小明", "Ærøskøbing", "o\u2019brien", "نور", "नेहा", "x" * 100]
    for seed, name in enumerate(names):
        save_face(embeddings, name, seed=seed)
    hostile = {
        "crossinit.checkpoint": tag,
        "crossinit.steps": tag,
        "modelspec.title": tag,
        "modelspec.date": tag,
        "modelspec.thumbnail": f"data:image/svg+xml;base64,{tag}",
    }
    save_file({"<hostile>": torch.ones(2, 8)}, embeddings / "hostile.safetensors", hostile)
    renamed = ["my aunt", "quote'd"]
    if os.name != "nt":
        renamed += ['say "hi"', tag]
    for name in renamed:
        save_face(embeddings, "odd").rename(embeddings / f"{name}.safetensors")
    _refresh(page, "anna", "hostile", *names, *renamed)
    assert "learned on <img" in (_card(page, "hostile").text_content() or "")
    _card(page, "hostile").locator("img").wait_for(state="detached")
    (box,) = _prompts(page, "of")
    box.click()
    for name in names:
        box.press("End")
        _card(page, name).click()
    assert _text(page, "Prompt 0") == " ".join(["of", *(f"embedding:{name} person" for name in names)])
    # A name that a prompt would not read to its end: first another one.
    for name in renamed:
        _card(page, name).click()
        _status(page, "This name cannot stand in a prompt.")
        page.page.locator("form.crossinit-face").get_by_role("textbox").press("Escape")
    assert page.page.evaluate("() => window.__entered") is None
    assert not [one for one in page.complaints if not one.startswith("HTTP 4")]


def test_hundreds_of_faces_load_few_pictures(page: ComfyPage, embeddings: Path) -> None:
    for number in range(300):
        shutil.copyfile(embeddings / "anna.safetensors", embeddings / f"face-{number}.safetensors")
    _refresh(page, "anna", *(f"face-{number}" for number in range(300)))
    page.page.wait_for_function("() => [...document.querySelectorAll('.crossinit-card img')].some(i => i.src)")
    loaded = page.page.locator(".crossinit-card img[src]").count()
    assert 2 <= loaded <= 60
    _card(page, "anna").scroll_into_view_if_needed()
    page.page.wait_for_function(
        "() => [...document.querySelectorAll('.crossinit-card')].at(-1).querySelector('img').naturalWidth"
    )


def test_no_faces_says_what_to_do(page: ComfyPage, embeddings: Path) -> None:
    (embeddings / "anna.safetensors").unlink()
    _refresh(page)
    page.page.get_by_text("No faces yet").wait_for()
    page.page.get_by_text("learn a face and save it").wait_for()


def test_a_server_that_does_not_answer_is_one_line(page: ComfyPage, embeddings: Path) -> None:
    _refresh(page, "anna")
    address = "**/experiment/models/embeddings"
    page.page.route(address, lambda route: route.abort())
    page.page.locator(".crossinit-head button").click()
    assert "\n" not in _status(page, "The faces could not be listed")
    page.page.unroute(address)
    assert _card(page, "anna").is_visible()


def test_the_panel_changes_its_language(page: ComfyPage, embeddings: Path) -> None:
    _refresh(page, "anna")
    try:
        for language in ("zh", "en"):
            texts = locales.panel(language)
            page.page.evaluate("language => app.extensionManager.setting.set('Comfy.Locale', language)", language)
            page.page.get_by_placeholder(texts["search"]).wait_for()
            said = texts["learned"].replace("$MODEL", "v2-1_512-ema-pruned").replace("$STEPS", "320")
            page.page.get_by_text(said).wait_for()
    finally:
        page.page.evaluate("() => app.extensionManager.setting.set('Comfy.Locale', 'en')")
