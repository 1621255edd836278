"""What ComfyUI's page is told: a line of text on a node, and events for the scripts in web/.

Everything goes as JSON to the one client whose run it is: a binary frame, as `send_progress_text` makes, is a picture to many
programs that speak to ComfyUI, and what goes to nobody in particular goes to everybody.
"""

from __future__ import annotations

import hashlib
import json
import re
from contextvars import ContextVar
from typing import Any

from comfy_api.latest import io
from comfy_execution.progress import get_progress_state
from server import PromptServer

TEXT = "crossinit.text"
"""A line for a node: `node`, its id in the run; `type`, its node id; `text`; `prompt_id`; `wrong`, if it tells of an error."""

QUEUED = "crossinit.queued"
"""A graph with nodes of this pack is about to be checked: `lines`, by id what each last said with these very inputs."""

_MOST_LINES = 1000
_OURS = "CrossInit"

_TAG = re.compile("<([^<>]*)>")
_asking: ContextVar[str | None] = ContextVar("crossinit_asking", default=None)
"""The client that asks to queue a graph. ComfyUI checks the graph in the same task, and does not say for whom."""


def harmless(text: str) -> str:
    r"""A text that is no markup wherever a page puts it, and reads the same: its `<` are U+2039, and the `>` of a tag U+203A.

    Pages before 1.44 write lines of text as HTML (`innerHTML` in ComfyUI_frontend's TextPreviewWidget). All pages take
    `[[text|address]]` there for a link, and stumble over `__LNK0__`, which they put in the place of links.
    """
    text = _TAG.sub("\u2039\\1\u203a", text).replace("<", "\u2039")
    return text.replace("[[", "[ [").replace("__LNK", "_ _LNK")


def show_text(node: type[io.ComfyNode], text: str, *, wrong: bool = False) -> None:
    """A line of text on the node; `wrong` if it tells of an error, and goes when the node runs again."""
    if node.hidden is None:  # called by a program, not by a graph
        return
    number, text = str(node.hidden.unique_id), harmless(text)
    run = get_progress_state()
    if not wrong:
        _remember(run.dynprompt.get_original_prompt(), number, text)
    kind = node.define_schema().node_id
    send_event(TEXT, {"node": number, "type": kind, "text": text, "wrong": wrong})


def send_event(name: str, detail: dict[str, Any], *, queueing: bool = False) -> None:
    """An event for the client whose graph runs or, `queueing`, is being checked; for nobody if that did not say who it is.

    The texts in it are made harmless; an event of a run has its `prompt_id`.
    """
    server = getattr(PromptServer, "instance", None)  # a program may load nodes without a server
    client = _asking.get() if queueing else getattr(server, "client_id", None)
    if server is not None and client is not None:
        safe = {key: harmless(value) if isinstance(value, str) else value for key, value in detail.items()}
        if not queueing:
            safe["prompt_id"] = get_progress_state().prompt_id
        server.send_sync(name, safe, client)


def listen_to_queueing() -> None:
    """From now on each client is told what its nodes last said, and objections to its graph reach it alone."""
    server = getattr(PromptServer, "instance", None)
    if server is not None:
        server.add_on_prompt_handler(_on_prompt)


def _on_prompt(asked: dict[str, Any]) -> dict[str, Any]:
    client, prompt = asked.get("client_id"), asked.get("prompt")
    _asking.set(client if isinstance(client, str) else None)
    if _asking.get() and isinstance(prompt, dict):
        ours = [number for number, node in prompt.items() if _type(node).startswith(_OURS)]
        if ours:
            known = {number: _lines().get(_signature(prompt, number)) for number in ours}
            send_event(QUEUED, {"lines": {number: text for number, text in known.items() if text}}, queueing=True)
    return asked


# What each node last said, by all that decides it: ComfyUI keeps the result of a node, but not its line.


def _lines() -> dict[str, str]:
    """They belong to the server, as its results do."""
    lines: dict[str, str] = vars(PromptServer.instance).setdefault("crossinit_lines", {})
    return lines


def _remember(prompt: dict[str, Any], number: str, text: str) -> None:
    if number not in prompt:
        return  # made by another node while the graph runs
    lines, signature = _lines(), _signature(prompt, number)
    lines.pop(signature, None)
    lines[signature] = text
    if len(lines) > _MOST_LINES:
        lines.pop(next(iter(lines)), None)


def _signature(prompt: dict[str, Any], number: str) -> str:
    """Names a node of a prompt in API form by its inputs and all nodes before it, as ComfyUI's cache does."""
    found: dict[str, Any] = {}
    waiting = [number]
    while waiting:
        one = waiting.pop()
        node = prompt.get(one)
        if one in found or not isinstance(node, dict):
            continue
        inputs = node.get("inputs")
        found[one] = [_type(node), inputs]
        if isinstance(inputs, dict):
            waiting += [value[0] for value in inputs.values() if _is_link(value)]
    return hashlib.sha256(json.dumps(found, sort_keys=True, default=str).encode()).hexdigest()


def _is_link(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str)


def _type(node: Any) -> str:
    return str(node.get("class_type", "")) if isinstance(node, dict) else ""
