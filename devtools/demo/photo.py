"""The demo on a checkpoint and a photo: the shipped workflow `01-learn-a-face`, exactly as the page would run it."""

from __future__ import annotations

import argparse
import shutil
import time
from pathlib import Path

from crossinit_core.files import write_atomically

from ..standins.photos import put_astronaut
from ..workflows.graph import Change, Workflow, ids_of, with_values
from ..workflows.prompt import to_prompt
from ..workflows.saved_workflow import saved_workflow
from ..workflows.shipped import WORKFLOWS
from .parts import Progress, fetch, list_results, running

TOKEN = "demo-face"
PROMPT = "a photo of a {} person"


def run(arguments: argparse.Namespace) -> None:
    """Learn the face, and leave the token, the picture and the loss plot in the output folder."""
    out: Path = arguments.out
    checkpoint = put_checkpoint(arguments.checkpoint, arguments.base)
    photo = portrait(arguments.photo, arguments.base / "input")
    shutil.copyfile(photo, out / f"photo{photo.suffix}")
    with running(arguments.comfyui, arguments.base) as client:
        info = client.object_info()
        workflow = _workflow(checkpoint, photo, arguments)
        prompt, saved_form = to_prompt(workflow, info), saved_workflow(workflow, info)
        began = time.monotonic()
        history = client.run(prompt, saved_form, on_event=Progress(workflow), timeout=24 * 3600)
        print(f"\nThe workflow took {time.monotonic() - began:.0f} s.")
        ids = ids_of(workflow)
        saved = history.outputs[ids["CrossInitSave"]]
        file = saved["file"][0]
        write_atomically(out / file, (arguments.base / "models" / "embeddings" / file).read_bytes())
        fetch(client, history.images(ids["SaveImage"]), out / "picture")
        fetch(client, history.images(ids["LossGraphNode"]), out / "loss")
    list_results(out)
    print(f"\nIn any prompt of ComfyUI: {saved['prompt_text'][0]}")


def _workflow(checkpoint: str, photo: Path, arguments: argparse.Namespace) -> Workflow:
    changes: list[Change] = [
        ("CheckpointLoaderSimple", "ckpt_name", checkpoint),
        ("LoadImage", "image", photo.name),
        ("CrossInitLearn", "preset", arguments.preset or "fast"),
        ("CrossInitSave", "name", TOKEN),
        ("CrossInitSave", "if_exists", "replace it"),
        ("CrossInitEncodePrompt", "text", arguments.prompt or PROMPT),
    ]
    return with_values(WORKFLOWS["01-learn-a-face"], *changes)


def put_checkpoint(given: Path, base: Path) -> str:
    """The checkpoint's name in ComfyUI's list, after putting it there.

    In a folder of the demo's own, so that another file of that name is neither taken for it nor replaced by it.
    """
    if not given.is_file():
        raise ValueError(f"There is no checkpoint at '{given}'. Give the path of a .safetensors or .ckpt file.")
    folder = base / "models" / "checkpoints"
    if _holds(folder / given.name, given):
        return given.name
    place = folder / "demo" / given.name
    place.parent.mkdir(parents=True, exist_ok=True)
    if not _holds(place, given):
        place.unlink(missing_ok=True)
        try:
            place.symlink_to(given.resolve())
        except OSError:  # Windows without the right to make links
            shutil.copy2(given, place)
    return str(place.relative_to(folder))  # with the system's own separator, as ComfyUI lists it


def _holds(place: Path, given: Path) -> bool:
    """Whether a place has this very file, or an earlier copy of it as it is now."""
    if not place.is_file():
        return False
    if place.samefile(given):
        return True
    there, here = place.stat(), given.stat()
    # File systems of memory sticks keep times to two seconds.
    return not place.is_symlink() and there.st_size == here.st_size and abs(there.st_mtime - here.st_mtime) <= 2


def portrait(given: Path | None, folder: Path) -> Path:
    """The photo in ComfyUI's input folder. By default the portrait that scikit-image carries (NASA, public domain)."""
    if given is not None:
        if not given.is_file():
            raise ValueError(f"There is no photo at '{given}'.")
        place = folder / given.name
        return place if _holds(place, given) else Path(shutil.copy2(given, place))
    path = folder / "astronaut.png"
    if not path.is_file():
        put_astronaut(path)
    return path
