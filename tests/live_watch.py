"""Runs in the live ComfyUI of the tests: prompts built node by node, and what came of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from safetensors.torch import load_file

from devtools.comfyui.answers import Event, History
from devtools.workflows.graph import with_values
from devtools.workflows.parts import CHECKPOINT, PHOTO
from devtools.workflows.prompt import to_prompt
from devtools.workflows.settings import SMALL
from devtools.workflows.shipped import WORKFLOWS

STEPS = 3

Ref = list[Any]


class Prompt(dict[str, Any]):
    """A prompt in API form, built node by node: `add` returns the node's id, `ref` one of its outputs."""

    def add(self, class_type: str, **inputs: Any) -> str:
        number = str(len(self) + 1)
        self[number] = {"class_type": class_type, "inputs": inputs}
        return number

    def ref(self, class_type: str, **inputs: Any) -> Ref:
        return [self.add(class_type, **inputs), 0]

    def checkpoint(self, name: str) -> tuple[Ref, Ref, Ref]:
        """MODEL, CLIP and VAE."""
        number = self.add("CheckpointLoaderSimple", ckpt_name=name)
        return [number, 0], [number, 1], [number, 2]

    def photo(self) -> Ref:
        return self.ref("LoadImage", image=PHOTO)

    def learn(
        self, model: Ref, clip: Ref, vae: Ref, *, image: Ref | None = None, start: Ref | None = None, **more: Any
    ) -> str:
        """Learn Face at the smallest size, from the words "human face" so that nothing else takes time."""
        start = start or self.ref("CrossInitInitializeWords", clip=clip, words="human face")
        small = {"preset": "custom", "seed": 0, "steps": STEPS, "batch_size": 1, "resolution": 64}
        return self.add(
            "CrossInitLearn",
            model=model,
            clip=clip,
            vae=vae,
            image=image or self.photo(),
            cross_init=start,
            **{**small, **more},
        )

    def save(self, token: Ref, name: str | Ref, **more: Any) -> str:
        return self.add("CrossInitSave", token=token, name=name, **more)

    def load(self, file: str) -> Ref:
        return self.ref("CrossInitLoad", file=file)

    def sample(self, model: Ref, positive: Ref, negative: Ref, latent: Ref) -> str:
        return self.add(
            "KSampler",
            model=model,
            positive=positive,
            negative=negative,
            latent_image=latent,
            seed=7,
            steps=2,
            cfg=7.5,
            sampler_name="euler",
            scheduler="normal",
            denoise=1.0,
        )

    def latent(self) -> Ref:
        return self.ref("EmptyLatentImage", width=64, height=64, batch_size=1)


@dataclass
class Watched:
    """A run and its events."""

    history: History
    events: list[Event] = field(default_factory=list)

    def of(self, node: str, kind: str) -> list[Event]:
        return [event for event in self.events if event.type == kind and event.node_id == node]

    def steps(self, node: str) -> list[int]:
        """The steps that a node reported; empty if it did not run."""
        return [int(event.data["value"]) for event in self.of(node, "progress")]

    def cached(self) -> set[str]:
        return {str(node) for event in self.events if event.type == "execution_cached" for node in event.data["nodes"]}

    def previews(self, node: str) -> list[bytes]:
        return [event.image for event in self.of(node, "preview") if event.image]


def watch(live: Any, prompt: dict[str, Any], on_event: Callable[[Event], None] | None = None) -> Watched:
    """Run a prompt and keep its events; `on_event` hears of each as it comes."""
    events: list[Event] = []

    def listen(event: Event) -> None:
        events.append(event)
        if on_event:
            on_event(event)

    return Watched(live.client.run(prompt, on_event=listen), events)


def shipped(live: Any, *changes: tuple[str, str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """Workflow 01 at the smallest size as a prompt, and its node ids by type."""
    workflow = with_values(WORKFLOWS["01-learn-a-face"], *SMALL, *changes)
    ids = {node.type: str(number) for number, node in enumerate(workflow[0], start=1)}
    return to_prompt(workflow, live.info), ids


def file_of(history: History, node: str) -> str:
    """The file that a Save Learned Token node wrote, as its output names it."""
    return str(history.outputs[node]["file"][0])


def vectors_of(live: Any, file: str) -> torch.Tensor:
    """The tensor (K, d) of a file in the embeddings folder."""
    tensors = load_file(live.embeddings / file)
    assert len(tensors) == 1
    return next(iter(tensors.values()))


def _picture(live: Any, copies: int) -> bytes:
    """A picture of an ordinary prompt. `copies` only keeps ComfyUI from taking the last one out of its cache."""
    prompt = Prompt()
    model, clip, vae = prompt.checkpoint(CHECKPOINT)
    latent = prompt.latent()
    for _ in range(copies):
        latent = prompt.ref("RepeatLatentBatch", samples=latent, amount=1)
    text = prompt.ref("CLIPTextEncode", clip=clip, text="a photo of a man with a hat")
    empty = prompt.ref("CLIPTextEncode", clip=clip, text="")
    sampler = prompt.sample(model, text, empty, latent)
    picture = prompt.add(
        "SaveImage", images=prompt.ref("VAEDecode", samples=[sampler, 0], vae=vae), filename_prefix="host"
    )
    run = watch(live, prompt)
    assert run.steps(sampler) == [1, 2], "the picture came out of the cache"
    return live.client.view(run.history.images(picture)[0])


@dataclass
class Learned:
    """Workflow 01 after its run, between two pictures that have nothing to do with it."""

    run: Watched
    prompt: dict[str, Any]
    ids: dict[str, str]
    before: bytes
    after: bytes

    @property
    def node(self) -> str:
        return self.ids["CrossInitLearn"]

    @property
    def file(self) -> str:
        return file_of(self.run.history, self.ids["CrossInitSave"])


def learn_a_face(live: Any) -> Learned:
    """Run workflow 01 at the smallest size, and make a picture before and after it."""
    prompt, ids = shipped(live, ("CrossInitSave", "name", "astronaut"))
    before = _picture(live, copies=0)
    run = watch(live, prompt)
    return Learned(run, prompt, ids, before, after=_picture(live, copies=1))
