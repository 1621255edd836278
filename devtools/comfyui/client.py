"""A small synchronous client of a ComfyUI server. Needs aiohttp, which ComfyUI brings."""

from __future__ import annotations

import asyncio
import json
import threading
import time
import uuid
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Any, TypeVar

import aiohttp

from .answers import Event, History, Json, belongs, ends, events_in, raise_failure, refusal

T = TypeVar("T")

# Asks for previews that say which node they belong to.
_FEATURES = {"type": "feature_flags", "data": {"supports_preview_metadata": True}}
_CLOSED = "connection_closed"


class Client:
    """Talks to one server. The websocket opens with the first prompt and stays open until `close`."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self.client_id = uuid.uuid4().hex
        self._events: SimpleQueue[Event] = SimpleQueue()
        self._listener: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        if self._loop and self._stop and self._listener and self._listener.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
            self._listener.join(5)
        self._listener = None

    # Requests

    def object_info(self) -> Json:
        """The description of every node type the server knows."""
        info: Json = self._get_json("/object_info")
        return info

    def translations(self) -> Json:
        """What the page is given to translate nodes with: by language, `nodeDefs` and more."""
        texts: Json = self._get_json("/i18n")
        return texts

    def queue(self, prompt_api: Json, workflow: Json | None = None) -> str:
        """Queue a prompt in API form and return its id. Raises PromptError if the server refuses it.

        `workflow` is stored in the pictures that the prompt saves, as the page does.
        """
        self._listen()
        body: Json = {"prompt": prompt_api, "client_id": self.client_id}
        if workflow is not None:
            body["extra_data"] = {"extra_pnginfo": {"workflow": workflow}}
        status, answer = _run(self._post("/prompt", body))
        result = json.loads(answer) if answer else {}
        # A prompt is accepted when one of its outputs is valid; the others would be lost silently.
        if status != 200 or result.get("node_errors"):
            if "prompt_id" in result:
                self._expect_ok("/queue", {"delete": [result["prompt_id"]]})
                self.interrupt(result["prompt_id"])
            raise refusal(status, result, prompt_api)
        return str(result["prompt_id"])

    def wait(
        self,
        prompt_id: str,
        on_event: Callable[[Event], None] | None = None,
        timeout: float = 600.0,
    ) -> History:
        """Follow a prompt to its end, calling `on_event` in this thread for each event.

        Raises PromptError if a node failed, Interrupted if it was cancelled, TimeoutError after `timeout` seconds,
        ConnectionError if the server went away and LookupError if it no longer knows the prompt.
        """
        deadline = time.monotonic() + timeout
        for event in self._events_until(deadline, prompt_id):
            if on_event is not None and belongs(event, prompt_id):
                on_event(event)
            if ends(event, prompt_id):
                break
        history = self.history(prompt_id)
        if history is None:
            raise LookupError(f"{self.url} has already forgotten how prompt {prompt_id} ended.")
        raise_failure(history)
        return history

    def run(
        self,
        prompt_api: Json,
        workflow: Json | None = None,
        on_event: Callable[[Event], None] | None = None,
        timeout: float = 600.0,
    ) -> History:
        """`queue` and `wait` in one."""
        return self.wait(self.queue(prompt_api, workflow), on_event, timeout)

    def history(self, prompt_id: str) -> History | None:
        """The record of a finished prompt; None while it waits or runs."""
        record = self._get_json(f"/history/{prompt_id}").get(prompt_id)
        if record is None:
            return None
        return History(prompt_id, record.get("outputs", {}), record.get("status") or {})

    def interrupt(self, prompt_id: str | None = None) -> None:
        """Cancel the prompt that runs (or only `prompt_id`, if that is the one)."""
        self._expect_ok("/interrupt", {"prompt_id": prompt_id} if prompt_id else {})

    def free(self) -> None:
        """Unload every model and forget cached results before the next prompt."""
        self._expect_ok("/free", {"unload_models": True, "free_memory": True})

    def upload_image(self, path: Path) -> str:
        """Copy a picture into the server's input folder; returns the name that LoadImage takes."""
        status, answer = _run(self._upload(path))
        if status != 200:
            raise ConnectionError(f"{self.url}/upload/image refused {path} (HTTP {status}): {answer[:300]!r}")
        uploaded = json.loads(answer)
        folder = uploaded.get("subfolder", "")
        return f"{folder}/{uploaded['name']}" if folder else str(uploaded["name"])

    def view(self, image_ref: Json) -> bytes:
        """The bytes of a picture that `History.images` names."""
        wanted = {key: str(image_ref[key]) for key in ("filename", "subfolder", "type") if key in image_ref}
        status, answer = _run(self._get("/view", wanted))
        if status != 200:
            raise FileNotFoundError(f"{self.url}/view has no picture {wanted} (HTTP {status}).")
        return answer

    # The websocket

    def _listen(self) -> None:
        """Open the websocket before the first prompt, so that no event of it is missed."""
        if self._listener is not None and self._listener.is_alive():
            return
        self._events = SimpleQueue()
        opened: SimpleQueue[bool] = SimpleQueue()
        self._listener = threading.Thread(
            target=lambda: asyncio.run(self._receive(opened)), name="comfyui-events", daemon=True
        )
        self._listener.start()
        if not opened.get():
            reason = self._events.get().data["reason"]
            raise ConnectionError(f"{self.url}/ws cannot be opened: {reason}. Does the server still run?")

    async def _receive(self, opened: SimpleQueue[bool]) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        reason = "closed by the server"
        try:
            async with (
                aiohttp.ClientSession() as session,
                session.ws_connect(f"{self.url}/ws?clientId={self.client_id}", max_msg_size=0) as socket,
            ):
                await socket.send_json(_FEATURES)
                stop = asyncio.create_task(self._stop.wait())
                opened.put(True)
                while not stop.done():
                    message = asyncio.create_task(socket.receive())
                    await asyncio.wait({message, stop}, return_when=asyncio.FIRST_COMPLETED)
                    if not message.done():
                        message.cancel()
                        break
                    if message.result().type in _CLOSING:
                        break
                    for event in events_in(message.result()):
                        self._events.put(event)
                stop.cancel()
        except aiohttp.ClientError as error:
            reason = str(error)
        finally:
            self._events.put(Event(_CLOSED, {"reason": reason}))
            opened.put(False)

    def _events_until(self, deadline: float, prompt_id: str) -> Iterator[Event]:
        """Events as they come. Ends if the history already knows the prompt's end."""
        while True:
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                raise TimeoutError(f"Prompt {prompt_id} did not finish in the time given.")
            try:
                event = self._events.get(timeout=min(2.0, remaining))
            except Empty:
                # The end may have been an event of an earlier `wait`, or lost with a connection.
                if self.history(prompt_id) is not None:
                    return
                continue
            if event.type == _CLOSED:
                raise ConnectionError(f"The connection to {self.url} ended: {event.data['reason']}.")
            yield event

    # HTTP

    def _get_json(self, path: str) -> Any:
        status, answer = _run(self._get(path))
        if status != 200:
            raise ConnectionError(f"{self.url}{path} answered HTTP {status}: {answer[:300]!r}")
        return json.loads(answer)

    def _expect_ok(self, path: str, body: Json) -> None:
        status, answer = _run(self._post(path, body))
        if status != 200:
            raise ConnectionError(f"{self.url}{path} answered HTTP {status}: {answer[:300]!r}")

    async def _get(self, path: str, params: dict[str, str] | None = None) -> tuple[int, bytes]:
        async with aiohttp.ClientSession() as session, session.get(self.url + path, params=params) as answer:
            return answer.status, await answer.read()

    async def _post(self, path: str, body: Json) -> tuple[int, bytes]:
        async with aiohttp.ClientSession() as session, session.post(self.url + path, json=body) as answer:
            return answer.status, await answer.read()

    async def _upload(self, path: Path) -> tuple[int, bytes]:
        form = aiohttp.FormData()
        form.add_field("image", path.read_bytes(), filename=path.name)
        form.add_field("overwrite", "true")
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"{self.url}/upload/image", data=form) as answer,
        ):
            return answer.status, await answer.read()


_CLOSING = (
    aiohttp.WSMsgType.CLOSE,
    aiohttp.WSMsgType.CLOSING,
    aiohttp.WSMsgType.CLOSED,
    aiohttp.WSMsgType.ERROR,
)


def _run(request: Coroutine[Any, Any, T]) -> T:
    """Run one request. In a thread of its own if the caller's thread already runs a loop
    (Playwright's synchronous API does)."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(request)
    result: list[T] = []
    failure: list[BaseException] = []

    def work() -> None:
        try:
            result.append(asyncio.run(request))
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    if failure:
        raise failure[0]
    return result[0]
