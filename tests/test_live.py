"""Learning in a live ComfyUI on the CPU, as people use it: workflows posted, events followed, files read."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors import safe_open

from devtools.comfyui.answers import Event, Interrupted
from devtools.standins.stage import SD1_CHECKPOINT
from devtools.workflows.parts import CHECKPOINT, LORA
from tests.live_watch import STEPS, Learned, Prompt, file_of, shipped, vectors_of, watch


def _pixels(picture: bytes) -> bytes:
    with Image.open(io.BytesIO(picture)) as image:
        return image.convert("RGB").tobytes()


# The main job


def test_workflow_01_learns_and_saves_a_face(live: Any, learned: Learned) -> None:
    """Workflow 01 learns a face, saves it, and makes a picture of it."""
    assert learned.file == "astronaut.safetensors"
    vectors = vectors_of(live, learned.file)
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
            assert high - low > 50, "the picture is one flat colour"  # type: ignore[operator]


def test_learning_shows_steps_text_and_picture(learned: Learned) -> None:
    """Learning shows its steps, a line of text and a picture."""
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


def test_learning_leaves_other_pictures_alone(learned: Learned) -> None:
    """A picture of an ordinary prompt is the same before and after learning."""
    assert _pixels(learned.before) == _pixels(learned.after)


def test_the_same_seed_reuses_its_file(live: Any, learned: Learned) -> None:
    # Without resume the node is another one to ComfyUI's cache, and has no file to continue from.
    """The same seed learns the same token again, and reuses its file."""
    prompt, ids = shipped(live, ("CrossInitSave", "name", "astronaut"), ("CrossInitLearn", "resume", False))
    before = vectors_of(live, learned.file)
    run = watch(live, prompt)
    assert run.steps(ids["CrossInitLearn"]) == list(range(1, STEPS + 1))
    assert file_of(run.history, ids["CrossInitSave"]) == learned.file
    assert sorted(path.name for path in live.embeddings.glob("astronaut*.safetensors")) == [learned.file]
    assert torch.equal(vectors_of(live, learned.file), before)


def test_a_forgotten_face_is_not_learned_twice(live: Any, learned: Learned) -> None:
    """A face is not learned twice, even if ComfyUI forgot it."""
    run = watch(live, _only(learned.prompt, learned.ids["CrossInitSave"]))
    assert learned.node not in run.cached()
    assert not run.steps(learned.node)
    lines = [event.data["text"] for event in run.of(learned.node, "progress_text")]
    assert lines == [f"already learned: these {STEPS} steps came from the resume file"]


def test_a_new_prompt_text_does_not_learn_anew(live: Any, learned: Learned) -> None:
    live.client.run(_only(learned.prompt, learned.ids["CrossInitSave"]))
    prompt, ids = shipped(
        live, ("CrossInitSave", "name", "astronaut"), ("CrossInitEncodePrompt", "text", "oil painting of a {} person")
    )
    run = watch(live, prompt)
    assert learned.node in run.cached()
    assert not run.steps(learned.node)
    assert run.steps(ids["KSampler"]) == [1, 2]
    assert run.history.images(ids["SaveImage"])


def test_a_lora_on_the_model_changes_what_is_learned(live: Any, learned: Learned) -> None:
    prompt, ids = shipped(live, ("CrossInitSave", "name", "with-lora"))
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
    run = watch(live, _only(prompt, ids["CrossInitSave"]))
    assert run.steps(ids["CrossInitLearn"]) == list(range(1, STEPS + 1))
    plain, other = vectors_of(live, learned.file), vectors_of(live, file_of(run.history, ids["CrossInitSave"]))
    assert other.shape == plain.shape
    assert not torch.equal(other, plain)


# Cancel, and other bases


def test_a_cancelled_run_goes_on(live: Any) -> None:
    """A cancelled run stops within a step, and the next run ends as if it had never been cancelled."""
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
    run = watch(live, prompt)
    assert run.steps(node) == list(range(done + 1, steps + 1))
    continued = vectors_of(live, file_of(run.history, save))

    prompt, node, save = graph("uninterrupted", resume=False)
    run = watch(live, prompt)
    assert run.steps(node) == list(range(1, steps + 1))
    assert torch.equal(vectors_of(live, file_of(run.history, save)), continued)
    assert continued.shape[1] == 768
    assert torch.isfinite(continued).all()


def test_an_unwritable_resume_folder_is_said_first(live: Any) -> None:
    """It is said before the first step, and again below the last line."""
    folder, aside = live.output / "crossinit" / "resume", live.output / "crossinit" / "aside"
    folder.parent.mkdir(parents=True, exist_ok=True)
    if folder.exists():
        folder.rename(aside)
    folder.write_text("a file in its place", encoding="utf-8")
    try:
        prompt = Prompt()
        node = prompt.learn(*prompt.checkpoint(SD1_CHECKPOINT), seed=12)
        prompt.save([node, 0], "unkept")
        run = watch(live, prompt)
    finally:
        folder.unlink()
        if aside.exists():
            aside.rename(folder)
    told = [event for event in run.events if event.node_id == node and event.type in ("progress", "progress_text")]
    first, last = told[0], [event.data["text"] for event in told if event.type == "progress_text"][-1]
    assert first.type == "progress_text" and first.data["text"].startswith("starting\n")
    note = first.data["text"].split("\n", 1)[1]
    assert note.startswith("The resume folder") and "could not be written" in note
    assert last.startswith("learned in") and last.split("\n")[1:] == [note]
    assert run.steps(node) == list(range(1, STEPS + 1))


def test_photos_of_different_sizes_are_learned_together(live: Any) -> None:
    prompt = Prompt()
    photos = prompt.ref("ProbePhotos", sizes="64x64 96x128")
    node = prompt.learn(*prompt.checkpoint(SD1_CHECKPOINT), image=photos, steps=1, batch_size=2)
    save = prompt.save([node, 0], "two-photos")
    run = watch(live, prompt)
    assert run.steps(node) == [1]
    assert torch.isfinite(vectors_of(live, file_of(run.history, save))).all()


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
