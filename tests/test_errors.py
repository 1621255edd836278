"""The core's errors say what is wrong, and the nodes what to do about it in a graph."""

from __future__ import annotations

import ast
import re
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

import pytest
import torch

from crossinit_core.errors import InputError, Subject, add_note, notes_on

CORE = Path(__file__).resolve().parents[1] / "crossinit_core"
OF_A_HOST = re.compile(
    r"comfy|connect|\bnodes?\b|\bsockets?\b|\bwires?\b|\bwidgets?\b|\bgraph\b|\bpage\b|restart|queue|checkpoint loader|"
    r"bounding_box|center_[xy]|crop_size|cross_init\b|\bLoad\b",
    re.IGNORECASE,
)
LOGGED = {"debug", "info", "warning", "error", "exception"}


def _told(tree: ast.Module) -> Iterator[ast.Constant]:
    """The texts in what is raised and logged, and the module's constants, of which errors are made."""
    for statement in ast.walk(tree):
        logs = isinstance(statement, ast.Call) and getattr(statement.func, "attr", "") in LOGGED
        if isinstance(statement, ast.Raise) or logs or (statement in tree.body and isinstance(statement, ast.Assign)):
            for part in ast.walk(statement):
                if isinstance(part, ast.Constant) and isinstance(part.value, str) and " " in part.value.strip():
                    yield part


def test_the_core_speaks_of_no_graph() -> None:
    texts = [
        (path.relative_to(CORE.parent), text.lineno, text.value)
        for path in sorted(CORE.rglob("*.py"))
        for text in _told(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert len(texts) > 100
    # A CUDA graph is another thing.
    found = [text for text in texts if OF_A_HOST.search(str(text[2]).replace("CUDA graph", ""))]
    assert not found, "\n".join(map(str, found))


def test_nothing_but_the_host_folder_touches_comfyui() -> None:
    inside = re.compile(
        r"^\s*(?:import|from) (?:comfy\b|comfy_extras|comfy_execution|folder_paths|server|latent_preview)"
    )
    nodes = CORE.parent / "nodes"
    found = [
        f"{path.relative_to(nodes)}: {line}"
        for path in sorted(nodes.rglob("*.py"))
        if path.relative_to(nodes).parts[0] != "host"
        for line in path.read_text(encoding="utf-8").splitlines()
        if inside.match(line)
    ]
    assert not found, "\n".join(found)


@pytest.fixture
def shown(comfyui: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What stands on nodes and in notes."""
    import server

    told: list[str] = []

    class Page:
        client_id = "me"

        def send_sync(self, event: str, detail: dict[str, str], client: str) -> None:
            assert client == "me"
            told.append(detail["text" if event == "crossinit.text" else "message"])

    monkeypatch.setattr(server.PromptServer, "instance", Page(), raising=False)
    return told


def _refusal(node: Any, shown: list[str], **inputs: Any) -> str:
    """The text of what a node in a graph raises, which stands on the node and in a note as well."""
    placed = node.PREPARE_CLASS_CLONE({"hidden_inputs": {}})
    placed.hidden.unique_id = "1"
    with pytest.raises((ValueError, RuntimeError)) as caught:
        placed.execute(**inputs)
    # ComfyUI writes the module of any other kind of error before the message.
    assert type(caught.value).__module__ == "builtins"
    text = str(caught.value)
    assert shown == [text, text] and len(text) <= 600
    return text


def _frame(node: Any, shown: list[str], **inputs: Any) -> str:
    given = {"framing": ["find the face"], "face": [1], "resolution": [128], **inputs}
    return _refusal(node, shown, image=[torch.rand(1, 128, 128, 3)], **given)


@pytest.mark.parametrize(
    ("inputs", "fact", "remedy"),
    [
        ({}, "No face was found on the photo of 128 x 128 px", "set framing to 'by hand'"),
        ({"mask": [torch.zeros(1, 8, 8)]}, "The mask has nothing white", "connected to mask, or disconnect it"),
        ({"bounding_box": [[]]}, "The list of boxes holds no face", "the node that bounding_box comes from"),
        (
            {"framing": ["by hand"], "center_x": [1.0], "center_y": [1.0], "crop_size": [0.02], "zoom": [0.25]},
            "outside",
            "Check center_x",
        ),
    ],
)
def test_prepare_face_says_what_to_do(
    nodes: dict[str, Any], shown: list[str], inputs: dict[str, Any], fact: str, remedy: str
) -> None:
    text = _frame(nodes["CrossInitPrepareFace"], shown, **inputs)
    assert fact in text and remedy in text


def test_a_photo_among_several_keeps_its_remedy(nodes: dict[str, Any], shown: list[str]) -> None:
    mask = torch.cat([torch.ones(1, 8, 8), torch.zeros(1, 8, 8)])
    photos = torch.rand(2, 128, 128, 3)
    inputs = {"framing": ["find the face"], "face": [1], "resolution": [64], "mask": [mask]}
    text = _refusal(nodes["CrossInitPrepareFace"], shown, image=[photos], **inputs)
    assert text.startswith("Photo 2 of 2: The mask has nothing white") and text.endswith("or disconnect it.")


def test_without_a_face_detector_the_node_says_what_to_do(
    nodes: dict[str, Any], shown: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    monkeypatch.setitem(sys.modules, "facenet_pytorch", None)
    text = _frame(nodes["CrossInitPrepareFace"], shown)
    assert "-m pip install" in text and "restart ComfyUI" in text and "'by hand'" in text


def test_a_token_without_a_known_start_asks_for_it(pack: ModuleType, nodes: dict[str, Any], shown: list[str]) -> None:
    token = pack.crossinit_core.LearnedToken(torch.ones(2, 8), "anna", "width-8")
    text = _refusal(nodes["CrossInitRescale"], shown, token=token, amount=0.5)
    assert "'anna' does not say how long" in text and "Connect cross_init" in text


def test_a_long_error_keeps_what_to_do_about_it(pack: ModuleType) -> None:
    error = pack.nodes.errors._with_remedy(InputError("very " * 300, "photo"))
    assert len(str(error)) <= 600 and str(error).endswith(pack.nodes.errors.REMEDIES["photo"])


def test_every_subject_has_a_remedy(pack: ModuleType) -> None:
    assert set(pack.nodes.errors.REMEDIES) == set(get_args(Subject))


def _wired(nodes: dict[str, Any]) -> list[tuple[str, str]]:
    kinds = {"CELEBRITY_NAMES", "CROSS_INIT", "LEARNED_TOKEN", "MODEL", "CLIP", "VAE", "IMAGE", "MASK"}
    return [
        (number, entry.id)
        for number, node in nodes.items()
        for entry in node.define_schema().inputs
        if entry.get_io_type() in kinds or entry.id == "tokens"
    ]


@pytest.mark.parametrize("value", ["a string", {"vectors": 1}, 5])
def test_a_wrong_value_on_a_wire_is_one_sentence(nodes: dict[str, Any], shown: list[str], value: Any) -> None:
    """Only a graph in API form can bring one."""
    wires = _wired(nodes)
    assert len(wires) >= 15
    for number, name in wires:
        shown.clear()
        listed = nodes[number].define_schema().is_input_list
        given = {"token0": value} if name == "tokens" else [value] if listed else value
        text = _refusal(nodes[number], shown, **{name: given})
        socket = "token0" if name == "tokens" else name
        assert text.startswith(f"'{socket}' got ") and "Connect " in text, (number, name)


@pytest.mark.parametrize(
    ("told", "read"),
    [
        ("<img src=x onerror=alert(1)>", "\u2039img src=x onerror=alert(1)\u203a"),
        ("<script", "\u2039script"),
        ("norm 0.4 -> 0.3", "norm 0.4 -> 0.3"),
        ("[[here|https://example.org]]", "[ [here|https://example.org]]"),
        ("__LNK0__", "_ _LNK0__"),
    ],
)
def test_no_text_is_markup_in_a_page(pack: ModuleType, told: str, read: str) -> None:
    assert pack.nodes.host.page.harmless(told) == read


def test_an_error_of_another_kind_keeps_its_kind(pack: ModuleType) -> None:
    """ComfyUI frees memory after one kind."""
    error = pack.nodes.errors._without_markup(torch.OutOfMemoryError("<b>no memory"))
    assert isinstance(error, torch.OutOfMemoryError) and str(error) == "\u2039b\u203ano memory"
    assert "<" not in str(pack.nodes.errors._without_markup(KeyError("<b>")))


def test_notes_on_an_error_keep_their_order() -> None:
    """Python's own are among them, and Python shows ours: both are in `__notes__`, which 3.10 has no method for."""
    error = KeyboardInterrupt()
    assert notes_on(error) == ()
    add_note(error, "one")
    error.add_note("two")
    add_note(error, "three")
    assert notes_on(error) == ("one", "two", "three")
    assert "one\ntwo\nthree" in "".join(traceback.format_exception(error))
