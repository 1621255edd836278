"""Two people on one server: each hears of what is theirs, and nobody gets a line of text as a picture."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from devtools.comfyui.answers import Event, PromptError
from devtools.comfyui.client import Client
from devtools.comfyui.links import prepare_base
from devtools.comfyui.server import ComfyServer

REPOSITORY = Path(__file__).resolve().parents[1]
TAG = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def server(start_server: Callable[..., ComfyServer], tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyServer]:
    base = tmp_path_factory.mktemp("clients")
    prepare_base(base, REPOSITORY)
    embeddings = base / "models" / "embeddings"
    embeddings.mkdir(parents=True, exist_ok=True)
    save_file({TAG: torch.ones(2, 8), "other": torch.ones(3, 9)}, embeddings / "odd.safetensors")
    with start_server(base) as running:
        yield running


@pytest.fixture
def two(server: ComfyServer) -> Iterator[tuple[Client, Client]]:
    with Client(server.url) as one, Client(server.url) as other:
        one._listen()
        other._listen()
        yield one, other


def _names(extra: str) -> dict[str, Any]:
    return {
        "1": {
            "class_type": "CrossInitCelebrityNames",
            "inputs": {"list": "only the extra names", "extra_names": extra},
        },
        "2": {"class_type": "PreviewAny", "inputs": {"source": ["1", 1]}},
    }


def _heard(client: Client) -> list[Event]:
    """What has come, without ComfyUI's word of its queue, which is for all."""
    events = []
    while not client._events.empty():
        events.append(client._events.get())
    return [event for event in events if event.type != "status" and event.type != "feature_flags"]


def test_a_line_reaches_only_its_own_client(two: tuple[Client, Client]) -> None:
    one, other = two
    lines: list[Event] = []
    one.run(_names("Ada Lovelace"), on_event=lines.append)
    said = [event for event in lines if event.type == "progress_text"]
    assert [event.data["text"] for event in said] == ["1 name"]
    # With the run that it is of, which only JSON says: a binary frame is a picture to many programs.
    assert said[0].data["prompt_id"] and said[0].data["type"] == "CrossInitCelebrityNames"
    assert not _heard(other)


def test_an_error_reaches_only_its_own_client(two: tuple[Client, Client]) -> None:
    one, other = two
    one.run(_names("Alan Turing"))
    heard: list[Event] = []
    with pytest.raises(PromptError, match="holds no name"):
        other.run(_names("# nobody"), on_event=heard.append)
    (note,) = [event.data for event in heard if event.type == "crossinit.error"]
    assert note["id"] == "1" and note["running"]
    assert not [event for event in _heard(one) if event.type.startswith("crossinit") and "message" in event.data]


def test_an_objection_reaches_only_its_own_client(two: tuple[Client, Client]) -> None:
    one, other = two
    one.run(_names("Alan Turing"))  # so that the server's last client is another one
    _heard(one)
    bad = {"1": {"class_type": "CrossInitPromptList", "inputs": {"folder": "../out"}}}
    bad["2"] = {"class_type": "PreviewAny", "inputs": {"source": ["1", 0]}}
    with pytest.raises(PromptError, match="below ComfyUI's output folder"):
        other.queue(bad)
    other.run(_names("Alan Turing"))
    assert not _heard(one)


def test_a_file_brings_no_markup_to_any_client(server: ComfyServer, two: tuple[Client, Client]) -> None:
    one, _ = two
    prompt = {"1": {"class_type": "CrossInitLoad", "inputs": {"file": "odd.safetensors"}}}
    prompt["2"] = {"class_type": "CrossInitSave", "inputs": {"token": ["1", 0], "name": "x"}}
    heard: list[Event] = []
    with pytest.raises(PromptError):
        one.run(prompt, on_event=heard.append)
    told = [event.data for event in heard if event.type in ("progress_text", "crossinit.error", "execution_error")]
    shown = [data.get(key, "") for data in told for key in ("text", "message", "exception_message")]
    assert len([text for text in shown if "img src=x" in text]) >= 3
    assert "<" not in json.dumps(shown)


def test_a_kept_result_brings_its_line(two: tuple[Client, Client]) -> None:
    one, other = two
    one.run(_names("Grace Hopper\nAda Lovelace"))
    other.queue(_names("Grace Hopper\nAda Lovelace"))
    heard: list[Any] = []
    while not (heard and heard[-1].type == "execution_success"):
        heard.append(other._events.get(timeout=60))
    (queued,) = [event.data for event in heard if event.type == "crossinit.queued"]
    assert queued["lines"] == {"1": "2 names"}
    assert not [event for event in heard if event.type == "progress_text"]
