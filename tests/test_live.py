"""The pack in a live ComfyUI on the CPU, as people use it: workflows posted, events followed, files read."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from harness.answers import Event, History, Interrupted, PromptError
from harness.author import build
from harness.graphs import set_widget, to_api
from harness.shipped import WORKFLOWS as SHIPPED
from harness.shipped_parts import CHECKPOINT, LORA, PHOTO, TOKEN_FILE
from harness.stage import SD1_CHECKPOINT, SMALL

WORKFLOWS = Path(__file__).resolve().parents[1] / "workflows"
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

    def save(self, token: Ref, name: str, **more: Any) -> str:
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
        """The steps that a node reported; empty where it did not run."""
        return [int(event.data["value"]) for event in self.of(node, "progress")]

    def cached(self) -> set[str]:
        return {str(node) for event in self.events if event.type == "execution_cached" for node in event.data["nodes"]}

    def previews(self, node: str) -> list[bytes]:
        return [event.image for event in self.of(node, "preview") if event.image]


def _watch(live: Any, prompt: dict[str, Any], on_event: Callable[[Event], None] | None = None) -> Watched:
    events: list[Event] = []

    def listen(event: Event) -> None:
        events.append(event)
        if on_event:
            on_event(event)

    return Watched(live.client.run(prompt, on_event=listen), events)


def _shipped(live: Any, *changes: tuple[str, str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """Workflow 01 at the smallest size as a prompt, and its node ids by type."""
    workflow = json.loads((WORKFLOWS / "01-learn-a-face.json").read_text(encoding="utf-8"))
    for node, name, value in (*SMALL, *changes):
        set_widget(workflow, node, name, value, live.info)
    return to_api(workflow, live.info), {node["type"]: str(node["id"]) for node in workflow["nodes"]}


def _file(history: History, node: str) -> str:
    return str(history.outputs[node]["file"][0])


def _vectors(live: Any, file: str) -> torch.Tensor:
    tensors = load_file(live.embeddings / file)
    assert len(tensors) == 1
    return next(iter(tensors.values()))


def _pixels(picture: bytes) -> bytes:
    with Image.open(io.BytesIO(picture)) as image:
        return image.convert("RGB").tobytes()


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
    run = _watch(live, prompt)
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
        return _file(self.run.history, self.ids["CrossInitSave"])


@pytest.fixture(scope="module")
def learned(live: Any) -> Learned:
    prompt, ids = _shipped(live, ("CrossInitSave", "name", "astronaut"))
    before = _picture(live, copies=0)
    run = _watch(live, prompt)
    return Learned(run, prompt, ids, before, after=_picture(live, copies=1))


# The main job


def test_workflow_01_learns_a_face_saves_it_and_makes_a_picture_of_it(live: Any, learned: Learned) -> None:
    assert learned.file == "astronaut.safetensors"
    vectors = _vectors(live, learned.file)
    assert vectors.shape == (2, 1024)
    assert vectors.dtype == torch.float32
    assert torch.isfinite(vectors).all()
    history = learned.run.history
    assert history.outputs[learned.ids["CrossInitSave"]]["prompt_text"] == ["embedding:astronaut person"]
    for node, size in (("SaveImage", (64, 64)), ("LossGraphNode", (840, 520))):
        (picture,) = history.images(learned.ids[node])
        with Image.open(io.BytesIO(live.client.view(picture))) as image:
            assert image.size == size
            low, high = image.convert("L").getextrema()
            assert high - low > 50, "the picture is one flat colour"


def test_learning_shows_its_steps_a_line_of_text_and_a_picture(learned: Learned) -> None:
    assert learned.run.steps(learned.node) == list(range(1, STEPS + 1))
    lines = [event.data["text"] for event in learned.run.of(learned.node, "progress_text")]
    assert lines[0].startswith(f"step 1 of {STEPS} · loss ")
    assert re.fullmatch(rf"learned in [\d.]+ s \({STEPS} steps\), loss \d\.\d+", lines[-1])
    previews = learned.run.previews(learned.node)
    assert previews, "no preview came, although ComfyUI's default shows none anywhere"
    for preview in previews:
        with Image.open(io.BytesIO(preview)) as image:
            assert image.format == "JPEG"
            assert min(image.size) >= 64


def test_the_token_file_says_how_it_came_about(live: Any, learned: Learned) -> None:
    with safe_open(live.embeddings / learned.file, framework="pt") as file:
        metadata = file.metadata()
    assert metadata["modelspec.architecture"] == "stable-diffusion-v2-512/textual-inversion"
    assert metadata["crossinit.steps"] == str(STEPS)
    assert metadata["crossinit.checkpoint"] == Path(CHECKPOINT).stem


def test_a_picture_of_an_ordinary_prompt_is_the_same_before_and_after_learning(learned: Learned) -> None:
    assert _pixels(learned.before) == _pixels(learned.after)


def test_the_same_seed_learns_the_same_token_again_and_reuses_its_file(live: Any, learned: Learned) -> None:
    # Without resume the node is another one to ComfyUI's cache, and has no file to continue from.
    prompt, ids = _shipped(live, ("CrossInitSave", "name", "astronaut"), ("CrossInitLearn", "resume", False))
    before = _vectors(live, learned.file)
    run = _watch(live, prompt)
    assert run.steps(ids["CrossInitLearn"]) == list(range(1, STEPS + 1))
    assert _file(run.history, ids["CrossInitSave"]) == learned.file
    assert sorted(path.name for path in live.embeddings.glob("astronaut*")) == [learned.file]
    assert torch.equal(_vectors(live, learned.file), before)


def test_a_face_is_not_learned_twice_even_where_comfyui_forgot_it(live: Any, learned: Learned) -> None:
    run = _watch(live, _only(learned.prompt, learned.ids["CrossInitSave"]))
    assert learned.node not in run.cached()
    assert not run.steps(learned.node)
    lines = [event.data["text"] for event in run.of(learned.node, "progress_text")]
    assert lines == [f"already learned: these {STEPS} steps came from the resume file"]


def test_a_new_prompt_text_does_not_learn_anew(live: Any, learned: Learned) -> None:
    live.client.run(_only(learned.prompt, learned.ids["CrossInitSave"]))
    prompt, ids = _shipped(
        live, ("CrossInitSave", "name", "astronaut"), ("CrossInitEncodePrompt", "text", "oil painting of a {} person")
    )
    run = _watch(live, prompt)
    assert learned.node in run.cached()
    assert not run.steps(learned.node)
    assert run.steps(ids["KSampler"]) == [1, 2]
    assert run.history.images(ids["SaveImage"])


def test_a_lora_on_the_model_changes_what_is_learned(live: Any, learned: Learned) -> None:
    prompt, ids = _shipped(live, ("CrossInitSave", "name", "with-lora"))
    source = prompt[ids["CrossInitLearn"]]["inputs"]["model"]
    prompt["lora"] = {
        "class_type": "LoraLoader",
        "inputs": {
            "model": source,
            "clip": [source[0], 1],
            "lora_name": LORA,
            "strength_model": 1.0,
            "strength_clip": 0.0,
        },
    }
    prompt[ids["CrossInitLearn"]]["inputs"]["model"] = ["lora", 0]
    run = _watch(live, _only(prompt, ids["CrossInitSave"]))
    assert run.steps(ids["CrossInitLearn"]) == list(range(1, STEPS + 1))
    plain, other = _vectors(live, learned.file), _vectors(live, _file(run.history, ids["CrossInitSave"]))
    assert other.shape == plain.shape
    assert not torch.equal(other, plain)


# Cancel, and other bases


def test_a_cancelled_run_stops_within_a_step_and_the_next_run_ends_as_if_nothing_had_been(live: Any) -> None:
    steps, last = 6, 2
    resume = live.output / "crossinit" / "resume"
    already = set(resume.glob("*.safetensors"))

    def graph(name: str, **more: Any) -> tuple[Prompt, str, str]:
        prompt = Prompt()
        # A step takes long enough here for a cancel to arrive in the middle of it.
        node = prompt.learn(*prompt.checkpoint(SD1_CHECKPOINT), steps=steps, batch_size=3, seed=11, **more)
        return prompt, node, prompt.save([node, 0], name)

    prompt, node, _ = graph("cancelled")
    events: list[Event] = []

    def cancel(event: Event) -> None:
        events.append(event)
        if event.type == "progress" and event.data["value"] == last:
            live.client.interrupt()

    with pytest.raises(Interrupted):
        live.client.run(prompt, on_event=cancel)
    reported = [event.data["value"] for event in events if event.type == "progress"]
    assert last <= max(reported) <= last + 1
    assert not (live.embeddings / "cancelled.safetensors").exists()
    (file,) = set(resume.glob("*.safetensors")) - already
    with safe_open(file, framework="pt") as state:
        done = int(state.metadata()["step"])
    assert last <= done <= last + 1

    prompt, node, save = graph("continued")
    run = _watch(live, prompt)
    assert run.steps(node) == list(range(done + 1, steps + 1))
    continued = _vectors(live, _file(run.history, save))

    prompt, node, save = graph("uninterrupted", resume=False)
    run = _watch(live, prompt)
    assert run.steps(node) == list(range(1, steps + 1))
    assert torch.equal(_vectors(live, _file(run.history, save)), continued)
    assert continued.shape[1] == 768
    assert torch.isfinite(continued).all()


def test_photos_of_different_sizes_are_learned_together(live: Any) -> None:
    prompt = Prompt()
    photos = prompt.ref("ProbePhotos", sizes="64x64 96x128")
    node = prompt.learn(*prompt.checkpoint(SD1_CHECKPOINT), image=photos, steps=1, batch_size=2)
    save = prompt.save([node, 0], "two-photos")
    run = _watch(live, prompt)
    assert run.steps(node) == [1]
    assert torch.isfinite(_vectors(live, _file(run.history, save))).all()


# Tokens in prompts


LONG = ", ".join(["a castle on a hill far away beyond the river"] * 9) + ", and a {} person before it"


@pytest.fixture(scope="module")
def published(live: Any, reference: Path) -> list[str]:
    """The two published embeddings, loaded from their own format and saved by the pack: file names."""
    names = ["28017", "28021"]
    for name in names:
        source = reference / "learned-embeddings" / f"{name}.bin"
        (live.embeddings / f"published-{name}.bin").write_bytes(source.read_bytes())
    prompt = Prompt()
    saves = [prompt.save(prompt.load(f"published-{name}.bin"), f"person-{name}") for name in names]
    run = _watch(live, prompt)
    files = [_file(run.history, save) for save in saves]
    for name, file in zip(names, files, strict=True):
        content = torch.load(reference / "learned-embeddings" / f"{name}.bin", weights_only=True)
        rows = [content[key].reshape(1, -1).float() for key in sorted(content)]
        assert torch.equal(_vectors(live, file), torch.cat(rows))
    return files


def _three_ways(live: Any, file: str, text: str) -> dict[str, dict[str, torch.Tensor]]:
    """The conditioning of one prompt through ComfyUI's own `embedding:NAME`, through Apply and through Encode Prompt."""
    name = Path(file).stem
    prompt = Prompt()
    _, clip, _ = prompt.checkpoint(CHECKPOINT)
    token = prompt.load(file)
    taught = prompt.ref("CrossInitApply", clip=clip, token=token, name="somebody")
    ways = {
        "file": prompt.ref("CLIPTextEncode", clip=clip, text=text.replace("{}", f"embedding:{name}")),
        "apply": prompt.ref("CLIPTextEncode", clip=taught, text=text.replace("{}", "embedding:somebody")),
        "encode": prompt.ref("CrossInitEncodePrompt", clip=clip, text=text, **{"tokens.token0": token}),
    }
    for way, conditioning in ways.items():
        prompt.add("ProbeConditioning", conditioning=conditioning, name=f"probe-{way}")
    live.client.run(prompt)
    return {way: load_file(live.output / f"probe-{way}.safetensors") for way in ways}


def _same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize(
    ("text", "sections"),
    [("a photo of a {} person", 1), ("a photo of a ({}:1.2) person, smiling", 1), (LONG, 2)],
    ids=["plain", "weighted", "longer than 77 tokens"],
)
def test_a_saved_token_means_the_same_by_file_by_apply_and_by_encode_prompt(
    live: Any, learned: Learned, text: str, sections: int
) -> None:
    ways = _three_ways(live, learned.file, text)
    assert ways["file"]["0.context"].shape == (1, 77 * sections, 1024)
    assert _same(ways["apply"], ways["file"])
    assert _same(ways["encode"], ways["file"])


@pytest.mark.parametrize("index", [0, 1], ids=["28017", "28021"])
def test_a_published_embedding_means_the_same_by_file_by_apply_and_by_encode_prompt(
    live: Any, published: list[str], index: int
) -> None:
    ways = _three_ways(live, published[index], "a photo of a {} person")
    assert _same(ways["apply"], ways["file"])
    assert _same(ways["encode"], ways["file"])


def test_two_people_in_one_prompt(live: Any, published: list[str]) -> None:
    first, second = published
    prompt = Prompt()
    model, clip, _ = prompt.checkpoint(CHECKPOINT)
    tokens = [prompt.load(file) for file in published]
    both = {f"tokens.token{index}": token for index, token in enumerate(tokens)}
    in_order = prompt.ref("CrossInitEncodePrompt", clip=clip, text="a {} person and a {} person", **both)
    by_file = prompt.ref(
        "CLIPTextEncode",
        clip=clip,
        text=f"a embedding:{Path(first).stem} person and a embedding:{Path(second).stem} person",
    )
    swapped = prompt.ref("CrossInitEncodePrompt", clip=clip, text="a {2} person and a {1} person", **both)
    taught = clip
    for token, name in zip(tokens, ("ann", "ben"), strict=True):
        taught = prompt.ref("CrossInitApply", clip=taught, token=token, name=name)
    chained = prompt.ref("CLIPTextEncode", clip=taught, text="a embedding:ann person and a embedding:ben person")
    ways = {"in-order": in_order, "by-file": by_file, "swapped": swapped, "chained": chained}
    for name, conditioning in ways.items():
        prompt.add("ProbeConditioning", conditioning=conditioning, name=name)
    sampler = prompt.sample(model, in_order, prompt.ref("CLIPTextEncode", clip=clip, text=""), prompt.latent())
    prompt.add("SaveLatent", samples=[sampler, 0], filename_prefix="two-people")
    run = _watch(live, prompt)
    assert run.steps(sampler) == [1, 2]
    seen = {name: load_file(live.output / f"{name}.safetensors") for name in ways}
    assert _same(seen["in-order"], seen["by-file"])
    assert _same(seen["chained"], seen["by-file"])
    assert not _same(seen["swapped"], seen["by-file"])


def test_comfyui_reads_every_format_that_save_learned_token_offers(live: Any, published: list[str]) -> None:
    formats = ("safetensors", "pt", "bin")
    prompt = Prompt()
    for format in formats:
        prompt.save(prompt.load(published[0]), f"format-{format}", format=format)
    live.client.run(prompt)
    prompt = Prompt()
    _, clip, _ = prompt.checkpoint(CHECKPOINT)
    for format in formats:
        conditioning = prompt.ref("CLIPTextEncode", clip=clip, text=f"a embedding:format-{format} person")
        prompt.add("ProbeConditioning", conditioning=conditioning, name=f"format-{format}")
    live.client.run(prompt)
    seen = [load_file(live.output / f"format-{format}.safetensors") for format in formats]
    assert _same(seen[1], seen[0])
    assert _same(seen[2], seen[0])


# Token files


def test_another_person_under_a_taken_name_gets_a_number_and_the_same_person_keeps_it(
    live: Any, published: list[str]
) -> None:
    def save(file: str, **more: Any) -> str:
        prompt = Prompt()
        node = prompt.save(prompt.load(file), "neighbour", **more)
        return _file(live.client.run(prompt), node)

    first, second = published
    assert save(first) == "neighbour.safetensors"
    assert save(second) == "neighbour-2.safetensors"
    assert torch.equal(_vectors(live, "neighbour.safetensors"), _vectors(live, first))
    assert save(first, format="safetensors") == "neighbour.safetensors"
    assert save(second, format="safetensors") == "neighbour-2.safetensors"
    with pytest.raises(PromptError, match="already exists in the embeddings folder") as refused:
        save(second, if_exists="stop with an error")
    assert refused.value.node_type == "CrossInitSave"
    assert save(second, if_exists="replace it") == "neighbour.safetensors"
    assert torch.equal(_vectors(live, "neighbour.safetensors"), _vectors(live, second))


def test_a_token_file_that_changed_is_read_again(live: Any) -> None:
    changing = live.embeddings / "changing.safetensors"
    prompt = Prompt()
    save = prompt.save(prompt.load(changing.name), "changing-copy")
    for value in (0.25, 0.5):
        save_file({"<changing>": torch.full((2, 1024), value)}, changing)
        file = _file(live.client.run(prompt), save)
        assert float(_vectors(live, file).mean()) == value


def test_saved_tokens_appear_in_the_list_of_load_learned_token(live: Any, learned: Learned) -> None:
    options = live.client.object_info()["CrossInitLoad"]["input"]["required"]["file"][1]["options"]
    assert {learned.file, TOKEN_FILE} <= set(options)


# What cannot work says so, at the node where it is


def _refused(live: Any, prompt: Prompt, node_type: str, text: str) -> str:
    """Run a prompt that fails at a node of this type; returns the one sentence or two that people read."""
    with pytest.raises(PromptError, match=re.escape(text)) as refused:
        live.client.run(prompt)
    assert refused.value.node_type == node_type
    message = refused.value.message.removeprefix("ValueError: ")
    assert message.startswith(text) or "Custom validation failed" in message
    last_line = message.splitlines()[-1]
    assert len(last_line) < 400
    assert "Traceback" not in message
    return message


def test_a_model_and_a_clip_of_different_checkpoints_are_refused(live: Any) -> None:
    prompt = Prompt()
    model, _, vae = prompt.checkpoint(SD1_CHECKPOINT)
    _, clip, _ = prompt.checkpoint(CHECKPOINT)
    prompt.save([prompt.learn(model, clip, vae), 0], "never")
    message = _refused(live, prompt, "CrossInitLearn", "MODEL is SD 1.x")
    assert "CLIP has width 1024" in message
    assert "same checkpoint" in message


def test_an_initialization_of_another_checkpoint_is_refused(live: Any) -> None:
    prompt = Prompt()
    _, other, _ = prompt.checkpoint(CHECKPOINT)
    start = prompt.ref("CrossInitInitializeWords", clip=other, words="human face")
    prompt.save([prompt.learn(*prompt.checkpoint(SD1_CHECKPOINT), start=start), 0], "never")
    _refused(live, prompt, "CrossInitLearn", "The initialization has width 1024")


@pytest.mark.parametrize("at", ["CrossInitInitializeWords", "CrossInitLearn"])
def test_clip_set_last_layer_is_refused_where_it_is_connected(live: Any, at: str) -> None:
    prompt = Prompt()
    model, clip, vae = prompt.checkpoint(CHECKPOINT)
    last = prompt.ref("CLIPSetLastLayer", clip=clip, stop_at_clip_layer=-1)
    start = prompt.ref(
        "CrossInitInitializeWords", clip=last if at == "CrossInitInitializeWords" else clip, words="human face"
    )
    prompt.save([prompt.learn(model, last if at == "CrossInitLearn" else clip, vae, start=start), 0], "never")
    assert "Remove the CLIP Set Last Layer node" in _refused(live, prompt, at, "CLIP stops at layer -1")


def test_a_photo_of_one_pixel_is_refused(live: Any) -> None:
    prompt = Prompt()
    image = prompt.ref("EmptyImage", width=1, height=1, batch_size=1, color=0)
    prompt.save([prompt.learn(*prompt.checkpoint(SD1_CHECKPOINT), image=image), 0], "never")
    _refused(live, prompt, "CrossInitLearn", "The photo is 1 x 1 px, but at least 64 x 64 px are needed")


def test_an_empty_batch_of_photos_is_refused(live: Any) -> None:
    prompt = Prompt()
    image = prompt.ref("ProbePhotos", sizes="")
    prompt.save([prompt.learn(*prompt.checkpoint(SD1_CHECKPOINT), image=image), 0], "never")
    _refused(live, prompt, "CrossInitLearn", "The batch of photos is empty")


def test_a_list_of_two_seeds_is_refused(live: Any) -> None:
    prompt = Prompt()
    seeds = prompt.ref("ProbeSeeds", seeds="1 2")
    prompt.save([prompt.learn(*prompt.checkpoint(SD1_CHECKPOINT), seed=seeds), 0], "never")
    _refused(live, prompt, "CrossInitLearn", "'seed' got a list of 2")


@pytest.mark.parametrize("name", ["../escaped", "my face", "face(1)", "face:1.2", "a/b", "CON"])
def test_a_name_that_cannot_be_a_file_or_stand_in_a_prompt_is_refused_before_anything_runs(
    live: Any, name: str
) -> None:
    prompt = Prompt()
    save = prompt.save(prompt.load(TOKEN_FILE), name)
    message = _refused(live, prompt, "CrossInitSave", f"The token name '{name}'")
    assert "for example '" in message
    assert f"node {save}" in message
    assert not (live.embeddings.parent / "escaped.safetensors").exists()


def test_a_bad_name_from_another_node_is_refused_as_well(live: Any) -> None:
    prompt = Prompt()
    name = prompt.ref("PrimitiveString", value="../escaped")
    prompt.save(prompt.load(TOKEN_FILE), name)
    _refused(live, prompt, "CrossInitSave", "The token name '../escaped'")
    assert not (live.embeddings.parent / "escaped.safetensors").exists()


@pytest.mark.parametrize(
    ("setting", "value", "problem"),
    [
        ("learning_rate", 0.0, "smaller than min"),
        ("steps", -5, "smaller than min"),
        ("batch_size", 0, "smaller than min"),
    ],
)
def test_settings_out_of_range_are_refused_before_anything_runs(
    live: Any, setting: str, value: float, problem: str
) -> None:
    prompt = Prompt()
    prompt.save([prompt.learn(*prompt.checkpoint(SD1_CHECKPOINT), **{setting: value}), 0], "never")
    with pytest.raises(PromptError, match=f"{problem}.*{setting}") as refused:
        live.client.run(prompt)
    assert refused.value.node_type == "CrossInitLearn"


def test_a_list_without_a_usable_name_is_refused(live: Any) -> None:
    prompt = Prompt()
    _, clip, _ = prompt.checkpoint(SD1_CHECKPOINT)
    names = prompt.ref("CrossInitCelebrityNames", list="only the extra names", extra_names="# nobody\n   \n")
    start = prompt.ref("CrossInitInitialize", clip=clip, names=names, vectors=2)
    prompt.save([prompt.learn(*prompt.checkpoint(SD1_CHECKPOINT), start=start), 0], "never")
    _refused(live, prompt, "CrossInitCelebrityNames", "The list of names 'extra names' holds no name")


@pytest.mark.parametrize("node_type", ["CrossInitApply", "CrossInitEncodePrompt"])
def test_a_token_of_another_family_is_refused(live: Any, node_type: str) -> None:
    prompt = Prompt()
    _, clip, _ = prompt.checkpoint(SD1_CHECKPOINT)
    token = prompt.load(TOKEN_FILE)
    if node_type == "CrossInitApply":
        clip = prompt.ref("CrossInitApply", clip=clip, token=token, name="")
        conditioning = prompt.ref("CLIPTextEncode", clip=clip, text="embedding:my-face")
    else:
        conditioning = prompt.ref("CrossInitEncodePrompt", clip=clip, text="a {} person", **{"tokens.token0": token})
    prompt.add("ProbeConditioning", conditioning=conditioning, name="never")
    message = _refused(live, prompt, node_type, "CLIP has width 768 (SD 1.x)")
    assert "was learned on width 1024 (SD 2.x)" in message


def test_a_prompt_without_a_place_for_the_person_is_refused(live: Any) -> None:
    prompt = Prompt()
    _, clip, _ = prompt.checkpoint(CHECKPOINT)
    conditioning = prompt.ref(
        "CrossInitEncodePrompt", clip=clip, text="a photo of a person", **{"tokens.token0": prompt.load(TOKEN_FILE)}
    )
    prompt.add("ProbeConditioning", conditioning=conditioning, name="never")
    _refused(live, prompt, "CrossInitEncodePrompt", "The prompt 'a photo of a person' has no {} for the person")


@pytest.mark.parametrize("name", sorted(SHIPPED))
def test_a_workflow_file_fits_the_nodes_of_today(live: Any, name: str) -> None:
    """Values are saved by position, so a file that is older than its nodes puts them into the wrong widgets."""
    saved = json.loads((WORKFLOWS / f"{name}.json").read_text(encoding="utf-8"))
    assert saved == build(*SHIPPED[name], live.info), "write it anew: python -m harness.author"


def test_nothing_of_the_pack_went_wrong_in_the_servers_log(live: Any) -> None:
    log = (live.base / "server.log").read_text(encoding="utf-8", errors="replace")
    assert "IMPORT FAILED" not in log
    assert not re.search(r"Cannot import .*crossinit", log)


def _only(prompt: dict[str, Any], output: str) -> dict[str, Any]:
    """The part of a prompt that one node needs."""
    wanted: dict[str, Any] = {}

    def collect(node: str) -> None:
        if node not in wanted:
            wanted[node] = prompt[node]
            for value in prompt[node]["inputs"].values():
                if isinstance(value, list):
                    collect(str(value[0]))

    collect(output)
    return wanted
