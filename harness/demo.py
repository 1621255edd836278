"""The main job through a live ComfyUI server: learn a face from a photo, save it, make a picture with it.

It runs the shipped workflow `01-learn-a-face`, exactly as the page would, and leaves the token, the picture and the loss
plot in a folder. Without a checkpoint of yours it makes a stand-in with random weights.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from pathlib import Path

from .client import Client, Event, Interrupted, PromptError
from .graphs import Json, set_widget, to_api
from .links import prepare_base
from .server import ComfyServer, ServerError

PACK = Path(__file__).resolve().parent.parent
STANDIN = "crossinit-standin-sd21.safetensors"
TOKEN = "demo-face"
PROMPT = "a photo of a {} person"


def main() -> int:
    """Run the demo; the exit code is 0 where everything was made."""
    parser = argparse.ArgumentParser(prog="run.py demo", description=__doc__)
    parser.add_argument("--comfyui", type=Path, required=True, help="the ComfyUI folder to run")
    parser.add_argument("--base", type=Path, required=True, help="the server's own folder for models and pictures")
    parser.add_argument("--out", type=Path, default=Path("demo-output"), help="where the results go")
    parser.add_argument("--checkpoint", type=Path, help="a Stable Diffusion 2.x or 1.x checkpoint")
    parser.add_argument("--photo", type=Path, help="a photo of a person")
    parser.add_argument("--preset", choices=("fast", "full"), default="fast", help="25 or 320 steps, with a checkpoint")
    parser.add_argument("--prompt", default=PROMPT, help="{} is the person")
    arguments = parser.parse_args()
    try:
        run(arguments)
    except (PromptError, ServerError, OSError, ValueError) as error:
        print(f"\nThe demo stopped: {error}", file=sys.stderr)
        return 1
    except (KeyboardInterrupt, Interrupted):
        print("\nCancelled. What was learned is kept: the next demo goes on from there.", file=sys.stderr)
        return 130
    return 0


def run(arguments: argparse.Namespace) -> None:
    """Set the stage, run the workflow, collect what it made."""
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    arguments.comfyui, arguments.base = arguments.comfyui.resolve(), arguments.base.resolve()
    prepare_base(arguments.base, PACK)
    standin = arguments.checkpoint is None
    checkpoint = _checkpoint(arguments.checkpoint, arguments.base)
    photo = portrait(arguments.photo, arguments.base / "input")
    shutil.copyfile(photo, out / f"photo{photo.suffix}")

    print("Starting ComfyUI ...", flush=True)
    log = arguments.base / "demo-server.log"
    with ComfyServer(arguments.comfyui, arguments.base, log=log) as server, Client(server.url) as client:
        print(f"ComfyUI answers at {server.url} after {server.seconds_to_start:.0f} s.", flush=True)
        info = client.object_info()
        workflow = _workflow(info, checkpoint, photo, arguments, standin)
        began = time.monotonic()
        history = client.run(to_api(workflow, info), workflow, on_event=_Progress(workflow), timeout=24 * 3600)
        print(f"\nThe workflow took {time.monotonic() - began:.0f} s.")
        ids = {node["type"]: str(node["id"]) for node in workflow["nodes"]}
        saved = history.outputs[ids["CrossInitSave"]]
        shutil.copyfile(arguments.base / "models" / "embeddings" / saved["file"][0], out / saved["file"][0])
        _fetch(client, history.images(ids["SaveImage"]), out / "picture")
        _fetch(client, history.images(ids["LossGraphNode"]), out / "loss")

    print(f"\nIn {out}:")
    for path in sorted(out.iterdir()):
        print(f"  {path.name:32s} {path.stat().st_size / 1024:8.1f} KB")
    print(f"\nIn any prompt of ComfyUI: {saved['prompt_text'][0]}")
    if standin:
        print(
            "\nNo checkpoint was given, so this ran on a stand-in with RANDOM weights, made on the spot: it proves that "
            "everything works,\nbut its pictures are noise. For a face: python run.py demo --checkpoint "
            "v2-1_512-ema-pruned.safetensors --photo me.jpg --preset full"
        )


def _workflow(info: Json, checkpoint: str, photo: Path, arguments: argparse.Namespace, standin: bool) -> Json:
    workflow: Json = json.loads((PACK / "workflows" / "01-learn-a-face.json").read_text(encoding="utf-8"))
    changes: list[tuple[str, str, object]] = [
        ("CheckpointLoaderSimple", "ckpt_name", checkpoint),
        ("LoadImage", "image", photo.name),
        ("CrossInitLearn", "preset", arguments.preset),
        ("CrossInitSave", "name", TOKEN),
        ("CrossInitSave", "if_exists", "replace it"),
        ("CrossInitEncodePrompt", "text", arguments.prompt),
    ]
    if standin:
        # Random weights learn nothing, so the smallest sizes show as much as the largest.
        changes += [
            ("CrossInitLearn", "preset", "custom"),
            ("CrossInitLearn", "steps", 25),
            ("CrossInitLearn", "batch_size", 1),
            ("CrossInitLearn", "resolution", 128),
            ("EmptyLatentImage", "width", 256),
            ("EmptyLatentImage", "height", 256),
            ("KSampler", "steps", 4),
        ]
    for node, name, value in changes:
        set_widget(workflow, node, name, value, info)
    return workflow


def _checkpoint(given: Path | None, base: Path) -> str:
    """The checkpoint's name in ComfyUI's list, after putting it there."""
    folder = base / "models" / "checkpoints"
    if given is None:
        from .standins import make_sd2_checkpoint

        if not (folder / STANDIN).is_file():
            print("Making a stand-in checkpoint with random weights ...", flush=True)
            make_sd2_checkpoint(folder / STANDIN)
        return STANDIN
    if not given.is_file():
        raise ValueError(f"There is no checkpoint at '{given}'. Give the path of a .safetensors or .ckpt file.")
    place = folder / given.name
    if not place.exists():
        try:
            place.symlink_to(given.resolve())
        except OSError:  # Windows without the right to make links
            shutil.copyfile(given, place)
    return given.name


def portrait(given: Path | None, folder: Path) -> Path:
    """The photo in ComfyUI's input folder. By default the portrait that scikit-image carries (NASA, public domain)."""
    if given is not None:
        if not given.is_file():
            raise ValueError(f"There is no photo at '{given}'.")
        return Path(shutil.copyfile(given, folder / given.name))
    path = folder / "astronaut.png"
    if not path.is_file():
        from PIL import Image
        from skimage import data

        head = (92, 0, 348, 256)  # left, top, right, bottom: Eileen Collins' head and shoulders
        Image.fromarray(data.astronaut()).crop(head).resize((512, 512), Image.Resampling.LANCZOS).save(path)
    return path


def _fetch(client: Client, images: list[Json], target: Path) -> None:
    for number, image in enumerate(images, start=1):
        name = target.name if number == 1 else f"{target.name}-{number}"
        (target.parent / f"{name}{Path(image['filename']).suffix}").write_bytes(client.view(image))


class _Progress:
    """The server's events as lines in a terminal."""

    def __init__(self, workflow: Json) -> None:
        self._names = {str(node["id"]): node.get("title") or node["type"] for node in workflow["nodes"]}
        self._shown = 0.0

    def __call__(self, event: Event) -> None:
        if event.type == "executing" and event.node_id:
            print(f"\n  {self._names.get(event.node_id, event.node_id)}", end="", flush=True)
        elif event.type == "progress_text" and time.monotonic() - self._shown > 1:
            self._shown = time.monotonic()
            print(f"\n    {event.data['text']}", end="", flush=True)


if __name__ == "__main__":
    sys.exit(main())
