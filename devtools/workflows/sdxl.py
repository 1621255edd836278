"""The workflows for SDXL, as short descriptions (`graph`): learn a face, and put it beside ComfyUI's own nodes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .graph import Node, Note, Workflow
from .layout import Column, Frame, lay_out
from .parts import (
    CHECKPOINT_XL,
    CHECKPOINT_XL_URL,
    CONTROLNET_XL,
    CONTROLNET_XL_URL,
    LEARN,
    LOAD,
    LOOK,
    TOKEN_FILE_XL,
    USE,
    checkpoint,
    decode,
    latent,
    learn,
    load_token,
    names,
    negative,
    note,
    photo,
    positive,
    prepare,
    sampler,
    save_picture,
    save_token,
    start,
)
from .stock import control, edges

SIDE = 1024
"""Side of SDXL's own pictures, in pixels."""
LEARNED_AT = 768
"""Side at which the presets learn on SDXL, in pixels."""

NAME = Path(TOKEN_FILE_XL).stem
"""Of its own, so that a face of another family stays."""

SAMPLING: dict[str, Any] = {"steps": 30, "cfg": 7.0, "scheduler": "karras"}
"""What most people sample SDXL with."""

CHILDREN = (
    "Children of SDXL work as well: Pony, Illustrious, NoobAI, Juggernaut, RealVisXL. Learn the face on the checkpoint that "
    "draws it: on another child it may lose likeness."
)


def learn_a_face_on_sdxl() -> Workflow:
    needed = note(
        "What you need",
        "An **SDXL** checkpoint in *ComfyUI/models/checkpoints*, for example **sd_xl_base_1.0**, and one photo.",
        CHILDREN,
        "Not the refiner, and not a checkpoint for inpainting.",
        "Prepare Face Photo finds the face, turns it upright and crops it. It needs facenet-pytorch or OpenCV 4; without "
        "both, set **framing** to *by hand*.",
    )
    how = note(
        "How to learn",
        "Press **Run**. Learn Face takes SDXL's own settings for its preset, and says which.",
        "- **full**: 400 steps, batch 4, 768 px, as published\n- **best**: 100 steps of a newer way, not tried on SDXL",
        "Both text encoders are learned, from the average of many well-known faces.",
        "To learn at SDXL's own 1024 px: set **resolution** of Prepare Face Photo and of Learn Face (an advanced input) to "
        "1024. A step takes about half as long again, and needs more memory.",
        "On a small GPU **memory** of Learn Face takes care by itself.",
    )
    honest = note(
        "What to expect",
        "The 400 steps are those of a published run. They were reproduced number by number, but on a tiny model: nobody has "
        "yet looked at a face that this pack learned on a real SDXL checkpoint.",
        "Compare with *01-learn-a-face* on SD 2.1, for which the method was made.",
    )
    where = note(
        "Where it goes",
        "The face is a small file in *models/embeddings*, of 56 KB at most with its picture and the vectors for both text encoders. Every prompt node understands "
        f"it from now on: **embedding:{NAME} person**",
    )
    prompts = note(
        "What to write",
        "**{}** in the prompt is the person, and the word **person** after it helps. Try:",
        "- a {} person with a happy expression\n- a {} person on the beach\n- a {} person as a firefighter\n"
        "- cubism painting of a {} person",
        "More or less of the person: **({}:1.2)** or **({}:0.8)**",
        "Pony, Illustrious and NoobAI want their own words beside it, such as **score_9** or **masterpiece**.",
        "SDXL draws at **1024 px**: smaller pictures come out worse.",
    )
    photos = [
        Column(320, [checkpoint(CHECKPOINT_XL, CHECKPOINT_XL_URL), photo()]),
        Column(320, [prepare(resolution=LEARNED_AT), needed]),
    ]
    learning = [Column(340, [names(), start(), how]), Column(380, [learn("full", name=NAME)])]
    loss = Node("loss", "LossGraphNode", 330, {"filename_prefix": "loss"}, {"loss": ("learn", 1)}, grows=True)
    using = [
        Column(340, [prompts, honest]),
        Column(440, [positive("a photo of a {} person", "learn"), negative(), latent(SIDE, SIDE)]),
        Column(340, [sampler(**SAMPLING), decode()]),
        Column(620, [save_picture("learned-face-xl")]),
    ]
    return lay_out(
        [
            Frame("1. SDXL checkpoint and photo", LOAD, photos),
            Frame("2. Learn the face", LEARN, learning),
            Frame("3. Keep it", LOOK, [Column(340, [save_token(), where, loss])]),
        ],
        [Frame("4. Use it at 1024 px", USE, using)],
    )


def sdxl_with_controlnet() -> Workflow:
    face = note(
        "The face",
        "A face from *14-learn-a-face-on-sdxl*. One of SD 2.x or 1.x does not fit, and is refused.",
        CHILDREN,
        "Encode Prompt with Learned Token makes ordinary conditioning, so ControlNet and every other node takes it.",
    )
    pose = note(
        "The pose",
        "A ControlNet for **SDXL** goes into *models/controlnet*. One for SD 1.5 or 2.1 does not fit.",
        "If the pose's own face shows through, lower **strength** or **end_percent**.",
    )
    prompt = positive("a photo of a {} person wearing a scifi spacesuit in space", "face")
    posed = sampler(positive=("control", 0), negative=("control", 1), **SAMPLING)
    pictures = [
        Column(320, [latent(SIDE, SIDE), posed, decode()]),
        Column(520, [save_picture("learned-face-xl-posed")]),
    ]
    loaded: list[Node | Note] = [checkpoint(CHECKPOINT_XL, CHECKPOINT_XL_URL), load_token(TOKEN_FILE_XL), face, pose]
    return lay_out(
        [
            Frame("1. SDXL checkpoint and face", LOAD, [Column(340, loaded)]),
            Frame("2. Pose and edges", LOOK, [Column(340, edges(CONTROLNET_XL, CONTROLNET_XL_URL))]),
            Frame("3. Prompt and pose together", LEARN, [Column(400, [prompt, negative(), control(0.6, 0.8)])]),
            Frame("4. Picture at 1024 px", USE, pictures),
        ]
    )
