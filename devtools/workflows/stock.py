"""The workflows that put a learned face beside ComfyUI's own nodes: ControlNet, LoRA, a second pass, inpainting."""

from __future__ import annotations

from .graph import Node, Workflow
from .layout import Column, Frame, lay_out
from .parts import (
    CLIP,
    CONTROLNET,
    CONTROLNET_URL,
    LARGE_PICTURE,
    LEARN,
    LOAD,
    LOOK,
    LORA,
    MODEL,
    PHOTO,
    SCENE,
    USE,
    VAE,
    checkpoint,
    decode,
    latent,
    load_token,
    negative,
    note,
    photo,
    positive,
    sampler,
    save_picture,
)

FIRST_SAMPLER, SECOND_SAMPLER = "KSampler (first pass)", "KSampler (second pass)"
EDGES, FIRST_DECODE, FIRST_PICTURE = "Its edges", "VAE Decode (first pass)", "First pass"
"""Titles that tell nodes of one type apart."""


def edges(controlnet: str, url: str) -> list[Node]:
    """A picture that gives the pose, its edges, and the ControlNet for them."""
    thresholds = {"low_threshold": 0.2, "high_threshold": 0.6}
    models = ({"name": controlnet, "url": url, "directory": "controlnet"},)
    return [
        photo("pose", PHOTO, "Picture that gives the pose"),
        Node("edges", "Canny", 90, thresholds, {"image": ("pose", 0)}),
        Node("look", "PreviewImage", 260, {}, {"images": ("edges", 0)}, title=EDGES),
        Node("controlnet", "ControlNetLoader", 60, {"control_net_name": controlnet}, models=models),
    ]


def control(strength: float, end: float) -> Node:
    """Both prompts with the edges."""
    links = {
        "positive": ("positive", 0),
        "negative": ("negative", 0),
        "control_net": ("controlnet", 0),
        "image": ("edges", 0),
    }
    values = {"strength": strength, "start_percent": 0.0, "end_percent": end}
    return Node("control", "ControlNetApplyAdvanced", 220, values, links)


def with_controlnet() -> Workflow:
    face = note(
        "The face",
        "A face from *01-learn-a-face*. Encode Prompt with Learned Token makes ordinary conditioning, so ControlNet and every "
        "other node takes it.",
        LARGE_PICTURE,
    )
    pose = note(
        "The pose",
        "A ControlNet for SD 2.1 goes into *models/controlnet*; its family must be that of the checkpoint.",
        "If the pose's own face shows through, lower **strength** or **end_percent**.",
        "For a stick figure instead of a photo: **control_v11p_sd21_openpose**, without Canny.",
    )
    prompt = positive("a photo of a {} person wearing a scifi spacesuit in space", "face")
    posed = sampler(positive=("control", 0), negative=("control", 1))
    pictures = [Column(320, [latent(), posed, decode()]), Column(520, [save_picture("learned-face-posed")])]
    return lay_out(
        [
            Frame("1. Checkpoint and face", LOAD, [Column(340, [checkpoint(), load_token(), face, pose])]),
            Frame("2. Pose and edges", LOOK, [Column(340, edges(CONTROLNET, CONTROLNET_URL))]),
            Frame("3. Prompt and pose together", LEARN, [Column(400, [prompt, negative(), control(0.8, 0.8)])]),
            Frame("4. Picture", USE, pictures),
        ]
    )


def lora_and_second_pass() -> Workflow:
    about_lora = note(
        "With a LoRA",
        "Any LoRA for SD 2.1 goes into *models/loras*: choose yours at **lora_name**. One for SD 1.5 or SDXL has no effect.",
        "The prompts get their CLIP from the LoRA. If it changes the face too much, lower **strength_model**.",
    )
    passes = note(
        "Two passes",
        "The first pass samples at the size that the checkpoint was made for. The second makes the picture half as large again "
        "and samples it again in part: sharper eyes and hair.",
        "**denoise** of the second pass: less stays closer to the first.",
        LARGE_PICTURE,
    )
    strengths = {"lora_name": LORA, "strength_model": 0.8, "strength_clip": 0.8}
    lora = Node("lora", "LoraLoader", 130, strengths, {"model": MODEL, "clip": CLIP})
    model, clip = ("lora", 0), ("lora", 1)
    shown = {"images": ("first_decode", 0)}
    first = [
        sampler(model=model, title=FIRST_SAMPLER),
        decode(key="first_decode", title=FIRST_DECODE),
        Node("first", "PreviewImage", 260, {}, shown, title=FIRST_PICTURE, grows=True),
    ]
    larger = {"upscale_method": "lanczos", "scale_by": 1.5}
    second = [
        Node("bigger", "ImageScaleBy", 90, larger, {"image": ("first_decode", 0)}),
        Node("again", "VAEEncode", 60, {}, {"pixels": ("bigger", 0), "vae": VAE}),
        sampler(model=model, image=("again", 0), denoise=0.45, key="second_sampler", title=SECOND_SAMPLER),
        decode("second_sampler"),
    ]
    prompt = positive("a photo of a {} person in the forest", "face", clip=clip)
    return lay_out(
        [
            Frame("1. Checkpoint, LoRA and face", LOAD, [Column(340, [checkpoint(), lora, load_token(), about_lora])]),
            Frame("2. Prompt", LEARN, [Column(400, [prompt, negative(clip), latent(), passes])]),
            Frame("3. First pass", USE, [Column(340, first)]),
            Frame("4. Second pass", LOOK, [Column(340, second), Column(560, [save_picture("learned-face-large")])]),
        ]
    )


def inpaint_into_a_photo() -> Workflow:
    how = note(
        "How to",
        "Load the photo that the face goes into. Right-click *Load Image*, **Open in Mask Editor**, and paint over the head "
        "with its hair.",
        "Say in the prompt what the photo shows, so that the head fits.",
        "**denoise** 1 makes a new head. 0.6 keeps the pose and the light of the old one, and some of its face.",
        "The last node puts the new head back, so that everything outside of the mask stays as it was.",
    )
    size = {"upscale_method": "lanczos", "megapixels": 0.3, "resolution_steps": 8}
    scene = [
        photo("scene", SCENE, "Photo with its mask painted"),
        Node("scaled", "ImageScaleToTotalPixels", 110, size, {"image": ("scene", 0)}),
        Node("mask", "GrowMask", 90, {"expand": 6, "tapered_corners": True}, {"mask": ("scene", 1)}),
    ]
    prompt = [
        positive("a photo of a {} person on the beach", "face"),
        negative(),
        Node("encode", "VAEEncode", 60, {}, {"pixels": ("scaled", 0), "vae": VAE}),
        Node("masked", "SetLatentNoiseMask", 60, {}, {"samples": ("encode", 0), "mask": ("mask", 0)}),
    ]
    parts = {"destination": ("scaled", 0), "source": ("decode", 0), "mask": ("mask", 0)}
    whole = Node("whole", "ImageCompositeMasked", 160, {"x": 0, "y": 0, "resize_source": False}, parts)
    sampling = [
        Column(340, [sampler(image=("masked", 0), denoise=0.9), decode(), whole]),
        Column(520, [save_picture("learned-face-inpainted", "whole")]),
    ]
    return lay_out(
        [
            Frame("1. Checkpoint and face", LOAD, [Column(340, [checkpoint(), load_token(), how])]),
            Frame("2. Photo and mask", LOOK, [Column(360, scene)]),
            Frame("3. Prompt, and what to replace", LEARN, [Column(400, prompt)]),
            Frame("4. Picture", USE, sampling),
        ]
    )
