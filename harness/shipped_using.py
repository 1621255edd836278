"""The workflows that put a learned face into pictures, in the short form that `author` turns into files."""

from __future__ import annotations

from .author import Node, Workflow
from .layout import Column, Frame, lay_out
from .shipped_parts import (
    CLIP,
    CONTROLNET,
    CONTROLNET_URL,
    FAMILY,
    LEARN,
    LOAD,
    LOOK,
    LORA,
    OTHER_FILES,
    PHOTO,
    SCENE,
    SECOND_TOKEN_FILE,
    USE,
    VAE,
    checkpoint,
    decode,
    grid,
    latent,
    load_token,
    negative,
    note,
    photo,
    positive,
    sampler,
    save_picture,
    together,
)

FIRST_SAMPLER, SECOND_SAMPLER = "KSampler (first pass)", "KSampler (second pass)"
FIRST_DECODE, FIRST_PICTURE = "VAE Decode (first pass)", "First pass"
EDGES, SHEET, STRIP = "Its edges", "Contact sheet", "Five expressions"
FOLDERS = "Save Image (a folder for each prompt)"
"""Titles that tell nodes of one type apart."""

PROMPTS = (
    "a photo of a {} person",
    "a {} person with a sad expression",
    "a {} person on the beach",
    "a {} person wearing headphones",
    "a {} person wearing a cowboy hat",
    "a {} person wearing a scifi spacesuit in space",
    "a pencil sketch of a {} person",
    "cubism painting of a {} person",
)
EXPRESSIONS = ("neutral", "happy", "sad", "surprised", "angry")


def use_a_learned_face() -> Workflow:
    return lay_out(
        [
            Frame(
                "1. Checkpoint and face",
                LOAD,
                [
                    Column(
                        340,
                        [
                            checkpoint(),
                            load_token(),
                            Node("apply", "CrossInitApply", 180, {}, {"clip": CLIP, "token": ("face", 0)}),
                            note(
                                "The face",
                                "Choose the file that *01-learn-a-face* saved. Files of the published code, diffusers, A1111, "
                                "kohya, InvokeAI and OneTrainer load as well.",
                                FAMILY,
                            ),
                        ],
                    )
                ],
            ),
            Frame(
                "2. Prompt",
                LEARN,
                [
                    Column(
                        400,
                        [
                            Node(
                                "positive",
                                "CLIPTextEncode",
                                190,
                                {"text": "a photo of a embedding:my-face person on the beach"},
                                {"clip": ("apply", 0)},
                                title="Prompt",
                            ),
                            negative(),
                            note(
                                "The prompt",
                                "Apply Learned Token teaches CLIP the name, so every ordinary prompt node after it understands "
                                "**embedding:my-face**. Keep the word **person** after it.",
                                "- a photo of a embedding:my-face person in a chef outfit\n"
                                "- a (embedding:my-face:1.2) person with a dog\n"
                                "- cubism painting of a embedding:my-face person",
                                "A file in *models/embeddings* is understood without Apply as well.",
                            ),
                        ],
                    )
                ],
            ),
            Frame(
                "3. Picture",
                USE,
                [
                    Column(320, [latent(), sampler(), decode()]),
                    Column(560, [save_picture("learned-face")]),
                ],
            ),
        ]
    )


def with_controlnet() -> Workflow:
    models = ({"name": CONTROLNET, "url": CONTROLNET_URL, "directory": "controlnet"},)
    return lay_out(
        [
            Frame(
                "1. Checkpoint and face",
                LOAD,
                [
                    Column(
                        340,
                        [
                            checkpoint(),
                            load_token(),
                            note(
                                "The face",
                                "A face from *01-learn-a-face*. Encode Prompt with Learned Token makes ordinary conditioning, so "
                                "ControlNet and every other node takes it.",
                            ),
                            note(
                                "The pose",
                                "A ControlNet for SD 2.1 goes into *models/controlnet*; its family must be that of the "
                                "checkpoint.",
                                "Where the pose's own face shows through, lower **strength** or **end_percent**.",
                                "For a stick figure instead of a photo: **control_v11p_sd21_openpose**, without Canny.",
                            ),
                        ],
                    )
                ],
            ),
            Frame(
                "2. Pose and edges",
                LOOK,
                [
                    Column(
                        340,
                        [
                            photo("pose", PHOTO, "Picture that gives the pose"),
                            Node(
                                "edges",
                                "Canny",
                                90,
                                {"low_threshold": 0.2, "high_threshold": 0.6},
                                {"image": ("pose", 0)},
                            ),
                            Node("look", "PreviewImage", 260, {}, {"images": ("edges", 0)}, title=EDGES),
                            Node("controlnet", "ControlNetLoader", 60, {"control_net_name": CONTROLNET}, models=models),
                        ],
                    )
                ],
            ),
            Frame(
                "3. Prompt and pose together",
                LEARN,
                [
                    Column(
                        400,
                        [
                            positive("a photo of a {} person wearing a scifi spacesuit in space", "face"),
                            negative(),
                            Node(
                                "control",
                                "ControlNetApplyAdvanced",
                                220,
                                {"strength": 0.8, "start_percent": 0.0, "end_percent": 0.8},
                                {
                                    "positive": ("positive", 0),
                                    "negative": ("negative", 0),
                                    "control_net": ("controlnet", 0),
                                    "image": ("edges", 0),
                                },
                            ),
                        ],
                    )
                ],
            ),
            Frame(
                "4. Picture",
                USE,
                [
                    Column(320, [latent(), sampler(positive=("control", 0), negative=("control", 1)), decode()]),
                    Column(520, [save_picture("learned-face-posed")]),
                ],
            ),
        ]
    )


def one_face_many_prompts() -> Workflow:
    return lay_out(
        [
            Frame(
                "1. Checkpoint and face",
                LOAD,
                [
                    Column(
                        340,
                        [
                            checkpoint(),
                            load_token(),
                            note(
                                "What happens",
                                "**Prompt List** gives one prompt after the other, and ComfyUI runs everything behind it once for "
                                "each. Every picture has the same seed.",
                                "Save Image gets **filename_prefix** from the list: *output/crossinit* has a folder for each "
                                "prompt.",
                                "Long lists: put a *.txt* file with one prompt a line into *ComfyUI/input* and choose it at "
                                "**file**.",
                            ),
                        ],
                    )
                ],
            ),
            Frame(
                "2. Prompts",
                LEARN,
                [
                    Column(
                        440,
                        [
                            Node("prompts", "CrossInitPromptList", 400, {"prompts": "\n".join(PROMPTS)}),
                            positive(("prompts", 0), "face"),
                            negative(),
                        ],
                    )
                ],
            ),
            Frame(
                "3. Pictures",
                USE,
                [
                    Column(
                        320,
                        [
                            latent(),
                            sampler(control="fixed"),
                            decode(),
                        ],
                    ),
                    Column(
                        360,
                        [save_picture(("prompts", 2), title=FOLDERS)],
                    ),
                ],
            ),
            Frame(
                "4. Contact sheet",
                LOOK,
                [Column(640, [grid(4, 256), save_picture("contact-sheet", "grid", "save_sheet", SHEET)])],
            ),
        ]
    )


def change_the_expression() -> Workflow:
    prompts = "\n".join(f"a {{}} person with {_article(name)} expression" for name in EXPRESSIONS)
    return lay_out(
        [
            Frame(
                "1. Checkpoint and face",
                LOAD,
                [
                    Column(
                        340,
                        [
                            checkpoint(),
                            load_token(),
                            note(
                                "Expressions",
                                "One prompt a line, the same seed for all: only the expression changes.",
                                "Where the photo's own expression stays, weaken the face a little, **({}:0.85)**, or set "
                                "*Rescale Learned Token* before the prompt.",
                            ),
                        ],
                    )
                ],
            ),
            Frame(
                "2. Five prompts",
                LEARN,
                [
                    Column(
                        440,
                        [
                            Node("prompts", "CrossInitPromptList", 340, {"prompts": prompts}),
                            positive(("prompts", 0), "face"),
                            negative(),
                        ],
                    )
                ],
            ),
            Frame("3. Pictures", USE, [Column(320, [latent(), sampler(control="fixed"), decode()])]),
            Frame(
                "4. Side by side",
                LOOK,
                [Column(900, [grid(5, 512), save_picture("expressions", "grid", title=STRIP)])],
            ),
        ]
    )


def two_people() -> Workflow:
    return lay_out(
        [
            Frame(
                "1. Checkpoint and faces",
                LOAD,
                [
                    Column(
                        340,
                        [
                            checkpoint(),
                            load_token(title="First person"),
                            load_token(SECOND_TOKEN_FILE, "second_face", "Second person"),
                            note(
                                "Two faces",
                                "Learn each with *01-learn-a-face*, under a **name** of its own. Both must be learned on the "
                                "family of the checkpoint.",
                            ),
                        ],
                    )
                ],
            ),
            Frame(
                "2. Prompt",
                LEARN,
                [
                    Column(
                        420,
                        [
                            positive("a photo of a {} person and a {} person in the snow", "face", "second_face"),
                            negative(),
                            note(
                                "Who is who",
                                "The first **{}** is **token0**, the second **token1**. Names work too: *a {my-face} person and "
                                "a {another-face} person*.",
                                "Where the two look alike or one is missing, try other seeds, weigh the weaker one, **({}:1.2)**, "
                                "or take a wider picture: 768 x 512.",
                                "Up to ten people: every face that you connect opens another socket.",
                            ),
                        ],
                    )
                ],
            ),
            Frame(
                "3. Picture",
                USE,
                [Column(320, [latent(), sampler(), decode()]), Column(560, [save_picture("two-people")])],
            ),
        ]
    )


def lora_and_second_pass() -> Workflow:
    lora = Node(
        "lora",
        "LoraLoader",
        130,
        {"lora_name": LORA, "strength_model": 0.8, "strength_clip": 0.8},
        {"model": ("checkpoint", 0), "clip": CLIP},
    )
    bigger = Node(
        "bigger", "ImageScaleBy", 90, {"upscale_method": "lanczos", "scale_by": 1.5}, {"image": ("first_decode", 0)}
    )
    again = Node("again", "VAEEncode", 60, {}, {"pixels": ("bigger", 0), "vae": VAE})
    model, clip = ("lora", 0), ("lora", 1)
    return lay_out(
        [
            Frame(
                "1. Checkpoint, LoRA and face",
                LOAD,
                [
                    Column(
                        340,
                        [
                            checkpoint(),
                            lora,
                            load_token(),
                            note(
                                "With a LoRA",
                                "Any LoRA for SD 2.1 goes into *models/loras*: choose yours at **lora_name**. One for SD 1.5 or "
                                "SDXL has no effect.",
                                "The prompts get their CLIP from the LoRA. Where it changes the face too much, lower "
                                "**strength_model**.",
                            ),
                        ],
                    )
                ],
            ),
            Frame(
                "2. Prompt",
                LEARN,
                [
                    Column(
                        400,
                        [
                            positive("a photo of a {} person in the forest", "face", clip=clip),
                            negative(clip),
                            latent(),
                            note(
                                "Two passes",
                                "The first pass draws at the size that the checkpoint was made for. The second makes the result "
                                "half as large again and redraws it in part: sharper eyes and hair.",
                                "**denoise** of the second pass: less stays closer to the first.",
                            ),
                        ],
                    )
                ],
            ),
            Frame(
                "3. First pass",
                USE,
                [
                    Column(
                        340,
                        [
                            sampler(model=model, title=FIRST_SAMPLER),
                            Node(
                                "first_decode",
                                "VAEDecode",
                                50,
                                {},
                                {"samples": ("sampler", 0), "vae": VAE},
                                title=FIRST_DECODE,
                            ),
                            Node(
                                "first",
                                "PreviewImage",
                                260,
                                {},
                                {"images": ("first_decode", 0)},
                                title=FIRST_PICTURE,
                                grows=True,
                            ),
                        ],
                    )
                ],
            ),
            Frame(
                "4. Second pass",
                LOOK,
                [
                    Column(
                        340,
                        [
                            bigger,
                            again,
                            sampler(
                                model=model,
                                image=("again", 0),
                                denoise=0.45,
                                key="second_sampler",
                                title=SECOND_SAMPLER,
                            ),
                            decode("second_sampler"),
                        ],
                    ),
                    Column(560, [save_picture("learned-face-large")]),
                ],
            ),
        ]
    )


def inpaint_into_a_photo() -> Workflow:
    return lay_out(
        [
            Frame(
                "1. Checkpoint and face",
                LOAD,
                [
                    Column(
                        340,
                        [
                            checkpoint(),
                            load_token(),
                            note(
                                "How to",
                                "Load the photo that the face goes into. Right-click *Load Image*, **Open in Mask Editor**, and "
                                "paint over the head with its hair.",
                                "Say in the prompt what the photo shows, so that the head fits.",
                                "**denoise** 1 draws a new head. 0.6 keeps the pose and the light of the old one, and some of its "
                                "face.",
                                "The last node puts the new head back, so that everything outside of the mask stays as it was.",
                            ),
                        ],
                    )
                ],
            ),
            Frame(
                "2. Photo and mask",
                LOOK,
                [
                    Column(
                        360,
                        [
                            photo("scene", SCENE, "Photo with its mask painted", height=380),
                            Node(
                                "scaled",
                                "ImageScaleToTotalPixels",
                                110,
                                {"upscale_method": "lanczos", "megapixels": 0.3, "resolution_steps": 8},
                                {"image": ("scene", 0)},
                            ),
                            Node(
                                "mask", "GrowMask", 90, {"expand": 6, "tapered_corners": True}, {"mask": ("scene", 1)}
                            ),
                        ],
                    )
                ],
            ),
            Frame(
                "3. Prompt, and where to draw",
                LEARN,
                [
                    Column(
                        400,
                        [
                            positive("a photo of a {} person on the beach", "face"),
                            negative(),
                            Node("encode", "VAEEncode", 60, {}, {"pixels": ("scaled", 0), "vae": VAE}),
                            Node(
                                "masked",
                                "SetLatentNoiseMask",
                                60,
                                {},
                                {"samples": ("encode", 0), "mask": ("mask", 0)},
                            ),
                        ],
                    )
                ],
            ),
            Frame(
                "4. Picture",
                USE,
                [
                    Column(
                        340,
                        [
                            sampler(image=("masked", 0), denoise=0.9),
                            decode(),
                            Node(
                                "whole",
                                "ImageCompositeMasked",
                                160,
                                {"x": 0, "y": 0, "resize_source": False},
                                {"destination": ("scaled", 0), "source": ("decode", 0), "mask": ("mask", 0)},
                            ),
                        ],
                    ),
                    Column(520, [save_picture("learned-face-inpainted", "whole")]),
                ],
            ),
        ]
    )


def other_embeddings() -> Workflow:
    brought = [(tool.lower(), file, tool) for file, tool in OTHER_FILES]
    loads = [load_token(file, key, f"Load Learned Token ({tool})") for key, file, tool in brought]
    saves = [
        Node(
            f"save_{key}",
            "CrossInitSave",
            230,
            {"name": f"{key}-face", "if_exists": "replace it"},
            {"token": (key, 0)},
            title=f"Save Learned Token ({tool})",
        )
        for key, _, tool in brought
    ]
    return lay_out(
        [
            Frame(
                "1. Bring in",
                LOAD,
                [
                    Column(
                        360,
                        [
                            *loads,
                            note(
                                "What loads",
                                "Textual inversions of the published code, diffusers, A1111, kohya, InvokeAI and OneTrainer, for "
                                "SD 2.x or SD 1.x. Put them into *models/embeddings* and choose them here.",
                                "Both vectors of a published file load; ComfyUI's own *embedding:* takes the first alone.",
                                "Files that could run code are refused.",
                            ),
                        ],
                    )
                ],
            ),
            Frame(
                "2. Save in one format",
                LOOK,
                [Column(360, saves)],
            ),
            Frame(
                "3. Look at them",
                LEARN,
                [
                    Column(
                        360,
                        [
                            checkpoint(),
                            together([key for key, _, _ in brought]),
                            positive("a photo of a {} person", "list"),
                            negative(),
                        ],
                    )
                ],
            ),
            Frame(
                "4. Pictures",
                USE,
                [
                    Column(320, [latent(), sampler(control="fixed"), decode()]),
                    Column(620, [grid(3, 512), save_picture("imported-faces", "grid", title="Side by side")]),
                ],
            ),
        ]
    )


def _article(word: str) -> str:
    return f"an {word}" if word[0] in "aeiou" else f"a {word}"
