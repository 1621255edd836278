"""What a ComfyUI server says: messages on the way, what is left of a finished prompt, and why one failed."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import aiohttp

Json = dict[str, Any]

# Types of binary websocket messages (protocol.py in ComfyUI).
_PREVIEW, _TEXT, _PREVIEW_WITH_METADATA = 1, 3, 4


class PromptError(RuntimeError):
    """A prompt was refused, or a node of it failed."""

    def __init__(self, message: str, node_id: str = "", node_type: str = "", traceback: str = "") -> None:
        where = f"node {node_id} ({node_type}): " if node_id else ""
        super().__init__(where + message)
        self.message = message
        self.node_id = node_id
        self.node_type = node_type
        self.traceback = traceback


class Interrupted(RuntimeError):  # noqa: N818  (not a fault: somebody pressed Cancel)
    """The prompt was cancelled while it ran."""


@dataclass(frozen=True)
class Event:
    """One message of the server.

    `type` is ComfyUI's own name (execution_start, executing, progress, progress_state, executed,
    progress_text, ...), or "preview" with an encoded picture in `image` (JPEG or PNG bytes).
    """

    type: str
    data: Json
    image: bytes | None = None

    @property
    def node_id(self) -> str | None:
        node = self.data.get("node", self.data.get("node_id"))
        return None if node is None else str(node)


@dataclass(frozen=True)
class History:
    """What the server keeps about a finished prompt. `outputs` maps node ids to their UI output."""

    prompt_id: str
    outputs: dict[str, Json] = field(default_factory=dict)
    status: Json = field(default_factory=dict)

    def images(self, node_id: str | int | None = None) -> list[Json]:
        """References of the pictures of one node, or of all: what `Client.view` takes."""
        nodes = self.outputs.values() if node_id is None else [self.outputs.get(str(node_id), {})]
        return [image for output in nodes for image in output.get("images", [])]


_OUR_TEXT = "crossinit.text"
"""A line of text as the nodes of this pack send it."""


def events_in(message: aiohttp.WSMessage) -> Iterator[Event]:
    """The events of a websocket message, or none."""
    if message.type == aiohttp.WSMsgType.TEXT:
        content = json.loads(message.data)
        data = content.get("data") or {}
        # As ComfyUI's own lines of text are called, which come as binary frames.
        yield Event("progress_text" if content["type"] == _OUR_TEXT else content["type"], data)
    elif message.type == aiohttp.WSMsgType.BINARY:
        yield from _binary_event(message.data)


def _binary_event(data: bytes) -> Iterator[Event]:
    """Layouts of `PromptServer.send_image`, `send_image_with_metadata` and `send_progress_text`."""
    kind, second = struct.unpack(">II", data[:8])
    rest = data[8:]
    if kind == _PREVIEW:
        yield Event("preview", {}, rest)
    elif kind == _PREVIEW_WITH_METADATA:
        yield Event("preview", json.loads(rest[:second]), rest[second:])
    elif kind == _TEXT:
        node_id, text = rest[:second].decode("utf-8"), rest[second:].decode("utf-8")
        yield Event("progress_text", {"node_id": node_id, "text": text})


def belongs(event: Event, prompt_id: str) -> bool:
    """Old previews and texts do not say which prompt they are of: they are of the one that runs."""
    if "prompt_id" in event.data:
        return bool(event.data["prompt_id"] == prompt_id)
    return event.type in ("preview", "progress_text")


def ends(event: Event, prompt_id: str) -> bool:
    """Whether this is the last event of the prompt, however it ended: that no node of it runs. Success, an error and
    a cancel are said before the history is written, and this after it."""
    ours = event.type == "executing" and event.data.get("prompt_id") == prompt_id
    return ours and event.data.get("node") is None


def raise_failure(history: History) -> None:
    """Raises PromptError if a node failed, and Interrupted if somebody pressed Cancel."""
    for name, data in history.status.get("messages", []):
        if name == "execution_error":
            raise PromptError(
                f"{data.get('exception_type', 'error')}: {str(data.get('exception_message', '')).strip()}",
                str(data.get("node_id", "")),
                str(data.get("node_type", "")),
                "".join(data.get("traceback", [])),
            )
        if name == "execution_interrupted":
            node = f"{data.get('node_id')} ({data.get('node_type')})"
            raise Interrupted(f"Prompt {history.prompt_id} was interrupted in node {node}.")


def refusal(status: int, result: Json, prompt_api: Json) -> PromptError:
    """Why the server refused a prompt: its general reason, and what is wrong at which node."""
    general = result.get("error") or {}
    if isinstance(general, str):  # some middleware answers with plain text
        general = {"message": general}
    lines = [f"{general.get('message', '')} {general.get('details', '')}".strip()] if general else []
    nodes: Json = result.get("node_errors") or {}
    for node_id, node in nodes.items():
        for error in node.get("errors", []):
            lines.append(f"node {node_id} ({node.get('class_type')}): {error.get('message')}: {error.get('details')}")
    first = next(iter(nodes), "")
    message = f"The server refused the prompt (HTTP {status}):\n" + "\n".join(lines)
    error = PromptError(message)
    error.node_id = str(first)
    error.node_type = str(prompt_api.get(first, {}).get("class_type", ""))
    return error
