"""Face crops, prompt lists and blends in a live ComfyUI, wired as in a graph."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data

from crossinit_core import LearnedToken, load_learned_token, save_learned_token
from devtools.comfyui.answers import PromptError

Prompt = dict[str, Any]


def _node(class_type: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": class_type, "inputs": inputs}


def _prepare(**more: Any) -> dict[str, Any]:
    return _node("CrossInitPrepareFace", **{"framing": "find the face", "face": 1, "resolution": 128, **more})


@pytest.fixture(scope="module")
def astronaut(live: Any) -> str:
    """A photo in the server's input folder in which the face is a small part."""
    Image.fromarray(data.astronaut()).save(live.base / "input" / "whole-astronaut.png")
    return "whole-astronaut.png"


def _pixels(live: Any, history: Any, node: str) -> list[np.ndarray]:
    folder = {"output": live.output, "temp": live.base / "temp"}
    entries = history.outputs[node]["images"]
    return [
        np.asarray(Image.open(folder[entry["type"]] / entry["subfolder"] / entry["filename"]).convert("RGB"))
        for entry in entries
    ]


def test_photos_of_two_sizes_become_portraits(live: Any, astronaut: str) -> None:
    """Photos of two sizes become one batch of portraits with masks."""
    prompt = {
        "1": _node("LoadImage", image=astronaut),
        "2": _node("ImageScale", image=["1", 0], upscale_method="bicubic", width=700, height=700, crop="disabled"),
        "4": _prepare(image=["1", 0]),
        "5": _prepare(image=["2", 0]),
        "6": _node("ImageBatch", image1=["4", 0], image2=["5", 0]),
        "7": _node("SaveImage", images=["6", 0], filename_prefix="portraits"),
        "8": _node("MaskToImage", mask=["4", 1]),
        "9": _node("SaveImage", images=["8", 0], filename_prefix="masks"),
        "10": _node("PreviewAny", source=["4", 2]),
    }
    history = live.client.run(prompt)
    one, two = _pixels(live, history, "7")
    assert one.shape == (128, 128, 3)
    assert np.abs(one.astype(float) - two).mean() < 8
    mask = _pixels(live, history, "9")[0]
    assert mask[64, 64, 0] > 250 and mask[64, 2, 0] < 5
    assert "the only face, straightened" in history.outputs["10"]["text"][0]
    # What the node itself shows: the portrait with the rest darkened.
    shown = _pixels(live, history, "4")[0]
    assert shown[64, 2].mean() < one[64, 2].mean() / 2 and abs(shown[64, 64].mean() - one[64, 64].mean()) < 3


def test_comfyuis_bounding_box_frames_the_face(live: Any, astronaut: str) -> None:
    """A bounding box of ComfyUI's own node frames the face."""
    prompt = {
        "1": _node("LoadImage", image=astronaut),
        "2": _node("PrimitiveBoundingBox", x=180, y=62, width=88, height=110),
        "3": _prepare(image=["1", 0], bounding_box=["2", 0]),
        "4": _node("PreviewAny", source=["3", 2]),
    }
    assert "the only face of bounding_box, straightened" in live.client.run(prompt).outputs["4"]["text"][0]


def test_a_bounding_box_is_a_socket(live: Any) -> None:
    """A bounding box is a socket, not a widget that always holds a box."""
    kind, options = live.info["CrossInitPrepareFace"]["input"]["optional"]["bounding_box"]
    assert kind == "BOUNDING_BOX" and options["forceInput"] is True


def test_a_drawn_person_is_framed_by_hand(live: Any) -> None:
    prompt = {
        "1": _node("CrossInitDrawnPerson", seed=0),
        "2": _prepare(image=["1", 0], framing="by hand", center_y=0.45, crop_size=0.7),
        "3": _node("SaveImage", images=["2", 0], filename_prefix="drawn"),
    }
    assert _pixels(live, live.client.run(prompt), "3")[0].shape == (128, 128, 3)


def test_no_face_is_one_readable_sentence_at_the_node(live: Any) -> None:
    prompt = {
        "1": _node("EmptyImage", width=300, height=200, batch_size=1, color=0x808080),
        "2": _prepare(image=["1", 0]),
        "3": _node("PreviewImage", images=["2", 0]),
    }
    with pytest.raises(PromptError, match=r"No face was found on the photo of 300 x 200 px.*'by hand'"):
        live.client.run(prompt)


def test_save_image_sorts_pictures_by_prompt(live: Any) -> None:
    """Save Image sorts pictures into a folder for each prompt."""
    (live.base / "input" / "more-prompts.txt").write_text("A {} smile\n", encoding="utf-8")
    prompt = {
        "1": _node("CrossInitPromptList", prompts="a {} smile\n一个{}人", file="more-prompts.txt", folder="by-prompt"),
        "2": _node("EmptyImage", width=64, height=64, batch_size=1, color=0),
        "3": _node("SaveImage", images=["2", 0], filename_prefix=["1", 2]),
        "4": _node("PreviewAny", source=["1", 0]),
    }
    live.client.run(prompt)
    made = sorted(path.relative_to(live.output).as_posix() for path in (live.output / "by-prompt").rglob("*.png"))
    assert made == sorted(f"by-prompt/{label}/{label}_00001_.png" for label in ("a-smile", "a-smile-2", "一个-人"))


def test_a_folder_outside_of_output_stops_before_anything_runs(live: Any) -> None:
    prompt = {
        "1": _node("CrossInitPromptList", prompts="x", folder="../out"),
        "2": _node("PreviewAny", source=["1", 0]),
    }
    with pytest.raises(PromptError, match="must be a name below ComfyUI's output folder"):
        live.client.run(prompt)


def test_a_rescaled_blend_is_the_cores(live: Any) -> None:
    """A blend that is rescaled and saved is what the core computes."""
    from crossinit_core.tokens.blending import blend_tokens, rescale_token

    facts = {"crossinit.start_norm": "5.0000 6.0000"}
    tokens = []
    for number, name in enumerate(("blend-ann", "blend-ben")):
        vectors = torch.randn(2, 1024, generator=torch.Generator().manual_seed(number))
        tokens.append(LearnedToken(vectors, name, "sd2", facts))
        save_learned_token(tokens[-1], live.embeddings / f"{name}.safetensors")
    prompt = {
        "1": _node("CrossInitLoad", file="blend-ann.safetensors"),
        "2": _node("CrossInitLoad", file="blend-ben.safetensors"),
        "3": _node("CrossInitBlend", token_a=["1", 0], token_b=["2", 0], weight=0.25, name="both"),
        "4": _node("CrossInitRescale", token=["3", 0], amount=0.5),
        "5": _node("CrossInitSave", token=["4", 0], name="blend-both"),
    }
    history = live.client.run(prompt)
    saved = load_learned_token(Path(live.embeddings) / history.outputs["5"]["file"][0])
    expected = rescale_token(blend_tokens(tokens[0], tokens[1], 0.25), 0.5)
    torch.testing.assert_close(saved.vectors, expected.vectors)
    assert saved.metadata["crossinit.blend"] == "0.75 blend-ann + 0.25 blend-ben (arc)"
    assert "0.5 of the way" in saved.metadata["crossinit.rescaled"]


def test_a_face_with_samples_is_reported(live: Any) -> None:
    """A face is learned with sample pictures and reported beside a saved one."""
    from crossinit_core.tokens.report import NO_HISTORY

    saved = LearnedToken(torch.randn(2, 256), "report-saved", "miniature", {"crossinit.steps": "3"})
    save_learned_token(saved, live.embeddings / "report-saved.safetensors")
    samples = {"sample_every": 2, "sample_prompt": "a {} person", "sample_steps": 2}
    prompt = {
        "1": _node("CrossInitMiniature"),
        "2": _node("CrossInitDrawnPerson", seed=3),
        "3": _node("CrossInitInitializeWords", clip=["1", 1], words="human face"),
        "4": _node(
            "CrossInitLearn",
            model=["1", 0],
            clip=["1", 1],
            vae=["1", 2],
            image=["2", 0],
            cross_init=["3", 0],
            preset="custom",
            seed=0,
            steps=3,
            batch_size=1,
            resume=False,
            **samples,
        ),
        "5": _node("CrossInitLoad", file="report-saved.safetensors"),
        "6": _node("CrossInitReport", **{"tokens.token0": ["4", 0], "tokens.token1": ["5", 0]}),
        "7": _node("PreviewAny", source=["6", 1]),
        "8": _node("SaveImage", images=["6", 0], filename_prefix="report"),
    }
    events: list[Any] = []
    history = live.client.run(prompt, on_event=events.append)
    sizes = []
    for event in events:
        if event.type == "preview" and event.node_id == "4":
            with Image.open(io.BytesIO(event.image)) as picture:
                sizes.append(picture.size)
    assert (1024, 512) in sizes, "no preview had a sample beside it"
    (text,) = history.outputs["7"]["text"]
    learned, loaded = text.split("\n\n")
    assert "'a {} person' after steps 1, 2, 3" in learned and NO_HISTORY not in learned
    assert loaded.startswith("report-saved") and NO_HISTORY in loaded and "steps 3" in loaded
    assert _pixels(live, history, "8")[0].shape[1] == 1440
    assert _pixels(live, history, "6")[0].shape[1] == 1440, "the node itself shows no picture"


@pytest.mark.parametrize(
    ("inputs", "reason"),
    [
        ({}, "No learned token is connected. Connect at least one"),
        ({"tokens.token1": ["1", 1]}, r"tokens\.token1 is connected to CLIP, but takes LEARNED_TOKEN"),
        ({"clip": ["1", 0], "tokens.token0": ["2", 0]}, "clip is connected to MODEL, but takes CLIP"),
    ],
)
def test_a_wrong_or_missing_wire_is_refused_before_anything_runs(
    live: Any, inputs: dict[str, Any], reason: str
) -> None:
    prompt = {
        "1": _node("CrossInitMiniature"),
        "2": _node("CrossInitLoad", file="my-face.safetensors"),
        "3": _node("CrossInitEncodePrompt", **{"clip": ["1", 1], "text": "a {} person", **inputs}),
        "4": _node("PreviewAny", source=["3", 0]),
    }
    with pytest.raises(PromptError, match=reason) as refused:
        live.client.run(prompt)
    assert "refused the prompt" in str(refused.value)
