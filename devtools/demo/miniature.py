"""The demo on the miniature: the shipped workflow `04-try-it-without-downloads` with one prompt after the other."""

from __future__ import annotations

import argparse
import io
import json
import os
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from crossinit_core.files import write_atomically
from miniature.training import pack
from miniature.training.captions import Prompt

from ..comfyui.answers import Event, History
from ..comfyui.client import Client
from ..workflows.graph import Change, ids_of, with_values
from ..workflows.miniature import DRESSED, DRESSED_PICTURES, PLAIN, PLAIN_PICTURES, SHOWN, WORKFLOW
from ..workflows.prompt import to_prompt
from ..workflows.saved_workflow import saved_workflow
from ..workflows.shipped import WORKFLOWS
from ..workflows.widgets import Json
from .jury import Findings, Jury, Pictures
from .parts import Progress, fetch, list_results, running, write_picture
from .sheet import Tile, contact_sheet

PERSON = SHOWN
"""Unless --person says another."""

TOKEN = "demo-drawn-person"
SHEET = "contact-sheet.png"
EACH = 2
"""Pictures of each prompt; the sheet shows the first."""

PROMPTS = (
    Prompt("a photo of a {} person", {}),
    Prompt("a {} person with a happy expression", {"expression": "happy"}),
    Prompt("a {} person with a sad expression", {"expression": "sad"}),
    Prompt("a {} person with a surprised expression", {"expression": "surprised"}),
    Prompt("a {} person with an angry expression", {"expression": "angry"}),
    Prompt("a {} person wearing sunglasses on the beach", {"eyewear": "sunglasses", "background": "beach"}),
    Prompt("a {} person wearing headphones", {"headphones": "yes"}),
    Prompt("a {} person wearing a spacesuit in space", {"clothing": "spacesuit", "background": "space"}),
    Prompt("a pencil sketch of a {} person", {"style": "sketch"}),
    Prompt("a watercolour painting of a {} person", {"style": "watercolour"}),
    Prompt("a {} person and Anne Hathaway in the snow", {"companion": "yes", "background": "snow"}),
)

COLUMNS = 4
SAID = {"headphones": "headphones", "companion": "two people"}
"""What is said of an attribute instead of its value."""


@dataclass(frozen=True)
class Run:
    """What came out: the portrait and the pictures of every prompt, the loss plot, what Learn Face said at last, the
    saved file's name, and the workflow."""

    portrait: Pictures
    pictures: list[Pictures]
    loss: list[Json]
    learned: str
    file: str
    workflow: Json


def run(arguments: argparse.Namespace) -> None:
    """Show the whole in a ComfyUI that is started for it."""
    began = time.monotonic()
    person = PERSON if arguments.person is None else arguments.person
    if person < 0:
        raise ValueError(f"--person is {person}, but must be 0 or more.")
    pack.read_config(pack.WEIGHTS)
    learning = {"preset": arguments.preset or "swift"}
    # Half of the cores: threads that wait for each other slow a tiny model down, on a busy machine several times.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 2) // 2)))
    with running(arguments.comfyui, arguments.base) as client:
        made, findings = show(client, arguments.base, arguments.out, person, PROMPTS, learning)
    print(f"\nPerson {person}: {made.learned}.")
    print("\n".join(described(findings)))
    print(f"The demo took {time.monotonic() - began:.0f} s.")
    list_results(arguments.out)
    print(f"\nLook at {arguments.out / SHEET}.")
    print("To go on in ComfyUI: python3 run.py serve, and drop workflow.json onto its page.")


def show(
    client: Client, base: Path, out: Path, person: int, prompts: Sequence[Prompt], learning: Mapping[str, object]
) -> tuple[Run, Findings]:
    """Learn a person, sample every prompt, have the pictures judged; leave a contact sheet and all that it came from.

    base is the server's base directory. The first prompt is the plain one. learning changes widgets of Learn Face.
    """
    jury = Jury(pack.WEIGHTS, person)
    made = learn_and_sample(client, person, prompts, learning)
    paintings = through_vae(client, jury.paintings(prompts), base / "input")
    findings = jury.findings(prompts, made.pictures, paintings)
    fetch(client, made.loss, out / "loss")
    write_atomically(out / made.file, (base / "models" / "embeddings" / made.file).read_bytes())
    workflow = json.dumps(made.workflow, indent=1, ensure_ascii=False)
    write_atomically(out / "workflow.json", f"{workflow}\n".encode())
    write_picture(out / "portrait.png", Image.fromarray(made.portrait[0]))
    write_picture(out / SHEET, sheet(jury, prompts, made, findings), optimize=True)
    return made, findings


def learn_and_sample(client: Client, person: int, prompts: Sequence[Prompt], learning: Mapping[str, object]) -> Run:
    """Run the workflow once for every prompt; only the first run learns."""
    info = client.object_info()
    changes: list[Change] = [
        ("CrossInitDrawnPerson", "seed", person),
        ("CrossInitSave", "name", TOKEN),
        ("EmptyLatentImage", "batch_size", EACH),
        (PLAIN, "text", prompts[0].text),
        *(("CrossInitLearn", name, value) for name, value in learning.items()),
    ]
    workflow = with_values(WORKFLOWS[WORKFLOW], *changes)
    ids = ids_of(workflow)
    progress = _LastWords(ids["CrossInitLearn"], Progress(workflow))
    histories: list[History] = []
    for number, prompt in enumerate(prompts[1:], start=1):
        workflow = with_values(workflow, (DRESSED, "text", prompt.text))
        saved = saved_workflow(workflow, info)
        began = time.monotonic()
        follow = None if histories else progress
        histories.append(client.run(to_prompt(workflow, info), saved, on_event=follow, timeout=24 * 3600))
        if number == 1:
            print("\n\nThe person is learned. Now the prompts:", flush=True)
        seconds = "" if number == 1 else f"  {time.monotonic() - began:.0f} s"
        print(f"  {number:2d} of {len(prompts) - 1}  {prompt.text}{seconds}", flush=True)
    first = histories[0]
    return Run(
        portrait=_pictures(client, first, ids["CrossInitDrawnPerson"]),
        pictures=[
            _pictures(client, first, ids[PLAIN_PICTURES]),
            *(_pictures(client, history, ids[DRESSED_PICTURES]) for history in histories),
        ],
        loss=first.images(ids["LossGraphNode"]),
        learned=progress.text,
        file=str(first.outputs[ids["CrossInitSave"]]["file"][0]),
        workflow=saved,
    )


def through_vae(client: Client, pictures: Pictures, folder: Path) -> Pictures:
    """The pictures as the miniature's VAE gives them back. `folder` is the server's input folder."""
    graph: Json = {"vae": {"class_type": "CrossInitMiniature", "inputs": {}}}
    paths = []
    for number, picture in enumerate(pictures):
        paths.append(folder / f"crossinit-demo-{number}.png")
        Image.fromarray(picture).save(paths[-1])
        graph |= {
            f"load{number}": {"class_type": "LoadImage", "inputs": {"image": paths[-1].name}},
            f"encode{number}": {
                "class_type": "VAEEncode",
                "inputs": {"pixels": [f"load{number}", 0], "vae": ["vae", 2]},
            },
            f"decode{number}": {
                "class_type": "VAEDecode",
                "inputs": {"samples": [f"encode{number}", 0], "vae": ["vae", 2]},
            },
            f"show{number}": {"class_type": "PreviewImage", "inputs": {"images": [f"decode{number}", 0]}},
        }
    try:
        history = client.run(graph)
        return np.concatenate([_pictures(client, history, f"show{number}") for number in range(len(pictures))])
    finally:
        for path in paths:
            path.unlink()


def described(findings: Findings) -> list[str]:
    """The numbers, as lines for people."""
    return [
        f"Likeness {findings.likeness:.2f} of 1: a repainted picture of the same person gets {findings.ceiling:.2f}, the most "
        f"similar celebrity {findings.nearest_name:.2f}, somebody else {findings.floor:.2f}.",
        f"Plain pictures are more like this person than like {findings.rank:.0%} of random people.",
        f"Editability {findings.editability:.0%}: so many pictures show all that their prompt asks.",
    ]


def sheet(jury: Jury, prompts: Sequence[Prompt], made: Run, findings: Findings) -> Image.Image:
    """The portrait, and the first picture of each prompt with what the judge sees in it."""
    tiles = [Tile(made.portrait[0], "The portrait: all that was learned from", framed=True)]
    for prompt, pictures in zip(prompts, made.pictures, strict=True):
        verdict = jury.look(pictures[:1])
        marks: list[tuple[str, bool | None]] = [
            (SAID.get(name, value), bool(verdict.shows({name: value})[0])) for name, value in prompt.asks.items()
        ]
        marks.append((f"likeness {float(verdict.likeness(jury.person)[0]):.2f}", None))
        tiles.append(Tile(pictures[0], prompt.text, marks))
    lines = [f"{{}} is the person. The miniature model, in ComfyUI: {made.learned}.", *described(findings)]
    return contact_sheet("A face, learned from one portrait", lines, tiles, COLUMNS)


def _pictures(client: Client, history: History, node: str) -> Pictures:
    opened = [Image.open(io.BytesIO(client.view(image))).convert("RGB") for image in history.images(node)]
    return np.stack([np.asarray(image) for image in opened])


class _LastWords:
    """Passes events on, and keeps the last text of one node."""

    def __init__(self, node: str, further: Progress) -> None:
        self._node, self._further, self.text = node, further, ""

    def __call__(self, event: Event) -> None:
        if event.type == "progress_text" and event.node_id == self._node:
            self.text = re.sub(r", loss.*", "", str(event.data["text"]))
        self._further(event)
