"""What cannot work in a live ComfyUI says so, at the node where it is; and what the server's log says of the pack."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from devtools.comfyui.answers import PromptError
from devtools.comfyui.links import PACK
from devtools.standins.stage import SD1_CHECKPOINT
from devtools.workflows.parts import CHECKPOINT, TOKEN_FILE
from devtools.workflows.saved_workflow import saved_workflow
from devtools.workflows.shipped import APPS, WORKFLOWS
from tests.live_watch import Prompt


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


def test_parts_of_different_checkpoints_are_refused(live: Any) -> None:
    """A model and a CLIP of different checkpoints are refused."""
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
def test_an_unusable_name_is_refused_at_once(live: Any, name: str) -> None:
    """A name that cannot be a file, or stand in a prompt, is refused before anything runs."""
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
    changed: dict[str, Any] = {setting: value}
    prompt.save([prompt.learn(*prompt.checkpoint(SD1_CHECKPOINT), **changed), 0], "never")
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


@pytest.mark.parametrize("name", sorted(WORKFLOWS))
def test_a_workflow_file_fits_the_nodes_of_today(live: Any, name: str) -> None:
    """Values are saved by position, so a file that is older than its nodes puts them into the wrong widgets."""
    saved = json.loads((PACK / "workflows" / f"{name}.json").read_text(encoding="utf-8"))
    assert saved == saved_workflow(WORKFLOWS[name], live.info, APPS.get(name)), (
        "write it anew: python -m devtools.workflows.author"
    )


def test_the_servers_log_has_no_errors(live: Any) -> None:
    """Of the files test_live*.py this is the last, so the log tells of all their runs."""
    log = (live.base / "server.log").read_text(encoding="utf-8", errors="replace")
    assert "IMPORT FAILED" not in log
    assert not re.search(r"Cannot import .*crossinit", log)
