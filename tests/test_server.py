"""Our server and its client: on servers that die or never answer, and on a live ComfyUI."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from devtools.comfyui.answers import Event, Interrupted, PromptError
from devtools.comfyui.client import Client
from devtools.comfyui.server import ComfyServer, ServerError
from tests.tiny_comfyui import free_port, make_comfyui

ROOT = Path(__file__).resolve().parents[1]
COMFYUI = Path(os.environ.get("COMFYUI_PATH", ROOT / ".host" / "ComfyUI"))


def test_a_server_that_dies_shows_its_last_lines(tmp_path: Path) -> None:
    comfyui = make_comfyui(tmp_path / "ComfyUI", "raise SystemExit('no such model folder')")
    server = ComfyServer(comfyui, tmp_path / "base", extra_args=["--cpu"], log=tmp_path / "server.log")
    with pytest.raises(ServerError, match=r"(?s)exit code 1.*server\.log.*no such model folder"):
        server.start()


def test_a_server_that_never_answers_is_given_up_and_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    main = "import os, time; print('loading in', os.getpid(), flush=True); time.sleep(600)"
    comfyui = make_comfyui(tmp_path / "ComfyUI", main)
    server = ComfyServer(comfyui, tmp_path / "base", extra_args=["--cpu"], log=tmp_path / "server.log", timeout=100)
    real = time.monotonic

    def clock() -> float:
        """The limit is over as soon as the server has said something, however long this machine takes until then."""
        return real() + 100 * bool(re.search(r"loading in \d+\n", server.log_text()))

    monkeypatch.setattr("devtools.comfyui.server.time", SimpleNamespace(monotonic=clock, sleep=time.sleep))
    with pytest.raises(ServerError, match=r"(?s)did not answer within 100 s.*loading"):
        server.start()
    if os.name != "nt":
        number = int(server.log_text().split()[-1])
        with pytest.raises(ProcessLookupError):
            os.kill(number, 0)


def test_a_taken_port_is_refused(tmp_path: Path) -> None:
    import socket

    comfyui = make_comfyui(tmp_path / "ComfyUI", "import time; time.sleep(60)")
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        server = ComfyServer(comfyui, tmp_path / "base", port=other.getsockname()[1], extra_args=["--cpu"])
        with pytest.raises(ServerError, match=r"Port \d+ is taken"):
            server.start()


PROBE_NODES = '''
import time
import comfy.utils
from PIL import Image
from server import PromptServer

class ServerProbe:
    """Reports progress, a preview and a text in each of its steps; fails after the last one if told to."""
    CATEGORY, FUNCTION, RETURN_TYPES, OUTPUT_NODE = "testing", "run", (), True

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {"steps": ("INT", {"default": 1}), "fail": ("BOOLEAN", {"default": False})},
            "hidden": {"unique_id": "UNIQUE_ID"},
        }

    def run(self, steps, fail, unique_id):
        bar = comfy.utils.ProgressBar(steps)
        for step in range(steps):
            time.sleep(0.05)
            PromptServer.instance.send_progress_text(f"step {step + 1}", unique_id)
            bar.update_absolute(step + 1, steps, ("JPEG", Image.new("RGB", (32, 16)), 32))
        if fail:
            raise ValueError("told to fail")
        return {"ui": {"steps": [steps]}}

NODE_CLASS_MAPPINGS = {"ServerProbe": ServerProbe}
'''


@pytest.fixture(scope="module")
def server(start_server: Callable[..., ComfyServer], tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyServer]:
    base = tmp_path_factory.mktemp("base")
    for folder in ("custom_nodes", "input", "models/checkpoints"):
        (base / folder).mkdir(parents=True)
    (base / "custom_nodes" / "server_probe.py").write_text(PROBE_NODES, encoding="utf-8")
    before = files_of(COMFYUI)
    with start_server(base, arguments=()) as running:
        yield running
        assert files_of(COMFYUI) == before, "the server wrote into the ComfyUI folder"


@pytest.fixture
def client(server: ComfyServer) -> Iterator[Client]:
    with Client(server.url) as connected:
        yield connected


def files_of(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts}


def probe(steps: int, fail: bool = False) -> dict[str, Any]:
    return {"1": {"class_type": "ServerProbe", "inputs": {"steps": steps, "fail": fail}}}


def test_a_picture_made_by_the_server_comes_back(client: Client, tmp_path: Path) -> None:
    def picture(colour: int) -> dict[str, Any]:
        size = {"width": 24, "height": 16, "batch_size": 2, "color": colour}
        return {
            "1": {"class_type": "EmptyImage", "inputs": size},
            "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "probe"}},
        }

    assert "SaveImage" in client.object_info()
    history = client.run(picture(255), workflow={"nodes": []})
    pictures = [client.view(reference) for reference in history.images("2")]
    assert [data[:4] for data in pictures] == [b"\x89PNG", b"\x89PNG"]
    assert client.wait(history.prompt_id) == history  # waiting for what has ended is no wait

    (tmp_path / "portrait.png").write_bytes(pictures[0])
    name = client.upload_image(tmp_path / "portrait.png")
    loaded = {
        "1": {"class_type": "LoadImage", "inputs": {"image": name}},
        "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
    }
    assert len(client.run(loaded).images()) == 1
    with pytest.raises(FileNotFoundError, match=r"nothing\.png"):
        client.view({"filename": "nothing.png", "subfolder": "", "type": "output"})


def test_progress_previews_and_texts_arrive_as_events(client: Client) -> None:
    events: list[Event] = []
    history = client.run(probe(3), on_event=events.append)
    assert history.outputs["1"] == {"steps": [3]}
    assert [event.data["value"] for event in events if event.type == "progress"] == [1, 2, 3]
    assert [event.data["text"] for event in events if event.type == "progress_text"] == ["step 1", "step 2", "step 3"]
    previews = [event for event in events if event.type == "preview"]
    assert [event.node_id for event in previews] == ["1", "1", "1"]
    assert all(event.image and event.image.startswith(b"\xff\xd8") for event in previews)
    types = [event.type for event in events]
    assert types[0] == "execution_start"
    assert {"executing", "executed", "progress_state", "execution_success"} <= set(types)
    # Nothing of it is left for the next run to hear: `wait` is over with the server's last word.
    assert types[-1] == "executing" and events[-1].data["node"] is None
    assert types.index("execution_success") == len(types) - 2


def test_a_failing_node_is_named(client: Client) -> None:
    with pytest.raises(PromptError, match=r"node 1 \(ServerProbe\): ValueError: told to fail") as caught:
        client.run(probe(1, fail=True))
    assert (caught.value.node_id, caught.value.node_type) == ("1", "ServerProbe")
    assert "raise ValueError" in caught.value.traceback


def test_a_refused_prompt_says_which_node_and_why(client: Client) -> None:
    image = {"class_type": "EmptyImage", "inputs": {"width": -1, "height": 8, "batch_size": 1, "color": 0}}
    save = {"class_type": "PreviewImage", "inputs": {"images": ["7", 0]}}
    with pytest.raises(PromptError, match=r"node 7 \(EmptyImage\): Value -1 smaller than min") as caught:
        client.queue({"7": image, "8": save})
    assert (caught.value.node_id, caught.value.node_type) == ("7", "EmptyImage")
    with pytest.raises(PromptError, match="Nowhere"):
        client.queue({"1": {"class_type": "Nowhere", "inputs": {}}})
    # One valid output beside it: the server would run that one and drop the other.
    with pytest.raises(PromptError, match="smaller than min"):
        client.queue({"7": image, "8": save, **probe(1)})


def test_a_running_prompt_can_be_interrupted_and_the_next_one_runs(client: Client) -> None:
    def stop(event: Event) -> None:
        if event.type == "progress" and event.data["value"] == 3:
            client.interrupt()

    with pytest.raises(Interrupted, match=r"interrupted in node 1 \(ServerProbe\)"):
        client.run(probe(4000), on_event=stop)
    client.free()
    assert client.run(probe(2)).outputs["1"] == {"steps": [2]}


def test_waiting_has_a_limit(client: Client) -> None:
    class RunsError(Exception):
        pass

    def runs(event: Event) -> None:
        if event.type == "progress":
            raise RunsError

    prompt_id = client.queue(probe(4000))
    with pytest.raises(RunsError):
        client.wait(prompt_id, on_event=runs)
    with pytest.raises(TimeoutError):
        client.wait(prompt_id, timeout=0.5)
    client.interrupt(prompt_id)
    with pytest.raises(Interrupted):
        client.wait(prompt_id)


def test_a_lost_server_is_an_error_and_not_an_endless_wait(tmp_path: Path) -> None:
    with pytest.raises(ConnectionError, match="Does the server still run"):
        Client(f"http://127.0.0.1:{free_port()}").queue(probe(1))
