"""The workflows that put learned faces into ordinary pictures, as short descriptions (`graph`)."""

from __future__ import annotations

from .graph import Node, Workflow
from .layout import Column, Frame, lay_out
from .parts import (
    CLIP,
    FAMILY,
    LARGE_PICTURE,
    LEARN,
    LOAD,
    LOOK,
    OTHER_FILES,
    SECOND_TOKEN_FILE,
    USE,
    checkpoint,
    decode,
    grid,
    latent,
    load_token,
    negative,
    note,
    positive,
    sampler,
    save_picture,
    save_token,
    together,
)

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
EXPRESSIONS = ("a neutral", "a happy", "a sad", "a surprised", "an angry")

FOLDERS, SHEET, STRIP = "Save Image (a folder for each prompt)", "Contact sheet", "Five expressions"
"""Titles of nodes that save pictures."""


def use_a_learned_face() -> Workflow:
    face = note(
        "The face",
        "Choose the file that *01-learn-a-face* saved. Files of the published code, diffusers, A1111, kohya, InvokeAI and "
        "OneTrainer load as well.",
        FAMILY,
        LARGE_PICTURE,
    )
    prompt = note(
        "The prompt",
        "Apply Learned Token teaches CLIP the name, so every ordinary prompt node after it understands "
        "**embedding:my-face**. Keep the word **person** after it.",
        "- a photo of a embedding:my-face person in a chef outfit\n- a (embedding:my-face:1.2) person with a dog\n"
        "- cubism painting of a embedding:my-face person",
        "A prompt is ignored? Turn **likeness and prompt** of Apply down to 0.8, then to 0.6.",
        "A file in *models/embeddings* is understood without Apply as well.",
    )
    apply = Node("apply", "CrossInitApply", 220, {}, {"clip": CLIP, "token": ("face", 0)})
    text = "a photo of a embedding:my-face person on the beach"
    ordinary = Node("positive", "CLIPTextEncode", 190, {"text": text}, {"clip": ("apply", 0)}, title="Prompt")
    pictures = [Column(320, [latent(), sampler(), decode()]), Column(560, [save_picture("learned-face")])]
    return lay_out(
        [
            Frame("1. Checkpoint and face", LOAD, [Column(340, [checkpoint(), load_token(), apply, face])]),
            Frame("2. Prompt", LEARN, [Column(400, [ordinary, negative(), prompt])]),
            Frame("3. Picture", USE, pictures),
        ]
    )


def one_face_many_prompts() -> Workflow:
    happens = note(
        "What happens",
        "**Prompt List** gives one prompt after the other, and ComfyUI runs everything behind it once for each. Every "
        "picture has the same seed.",
        "Save Image gets **filename_prefix** from the list: *output/crossinit* has a folder for each prompt.",
        "Long lists: put a *.txt* file with one prompt a line into *ComfyUI/input* and choose it at **file**.",
        LARGE_PICTURE,
    )
    prompts = Node("prompts", "CrossInitPromptList", 400, {"prompts": "\n".join(PROMPTS)})
    pictures = [
        Column(320, [latent(), sampler(control="fixed"), decode()]),
        Column(360, [save_picture(("prompts", 2), title=FOLDERS)]),
    ]
    sheet = [grid(4, 256), save_picture("contact-sheet", "grid", "save_sheet", SHEET)]
    return lay_out(
        [
            Frame("1. Checkpoint and face", LOAD, [Column(340, [checkpoint(), load_token(), happens])]),
            Frame("2. Prompts", LEARN, [Column(440, [prompts, positive(("prompts", 0), "face"), negative()])]),
            Frame("3. Pictures", USE, pictures),
            Frame("4. Contact sheet", LOOK, [Column(640, sheet)]),
        ]
    )


def change_the_expression() -> Workflow:
    explained = note(
        "Expressions",
        "One prompt a line, the same seed for all: only the expression changes.",
        "If the photo's own expression stays, weaken the face a little, **({}:0.85)**, or set *Rescale Learned Token* "
        "before the prompt.",
        LARGE_PICTURE,
    )
    prompts = "\n".join(f"a {{}} person with {one} expression" for one in EXPRESSIONS)
    listed = Node("prompts", "CrossInitPromptList", 340, {"prompts": prompts})
    return lay_out(
        [
            Frame("1. Checkpoint and face", LOAD, [Column(340, [checkpoint(), load_token(), explained])]),
            Frame("2. Five prompts", LEARN, [Column(440, [listed, positive(("prompts", 0), "face"), negative()])]),
            Frame("3. Pictures", USE, [Column(320, [latent(), sampler(control="fixed"), decode()])]),
            Frame(
                "4. Side by side", LOOK, [Column(900, [grid(5, 512), save_picture("expressions", "grid", title=STRIP)])]
            ),
        ]
    )


def two_people() -> Workflow:
    faces = note(
        "Two faces",
        "Learn each with *01-learn-a-face*, under a **name** of its own. Both must be learned on the family of the checkpoint.",
        LARGE_PICTURE,
    )
    who = note(
        "Who is who",
        "The first **{}** is **token0**, the second **token1**. Names work too: *a {my-face} person and a {another-face} "
        "person*.",
        "If the two look alike or one is missing, try other seeds, weigh the weaker one, **({}:1.2)**, or take a wider "
        "picture: 768 x 512.",
        "Up to ten people: every face that you connect opens another socket.",
    )
    second = load_token(SECOND_TOKEN_FILE, "second_face", "Second person")
    prompt = positive("a photo of a {} person and a {} person in the snow", "face", "second_face")
    pictures = [Column(320, [latent(), sampler(), decode()]), Column(560, [save_picture("two-people")])]
    return lay_out(
        [
            Frame(
                "1. Checkpoint and faces",
                LOAD,
                [Column(340, [checkpoint(), load_token(title="First person"), second, faces])],
            ),
            Frame("2. Prompt", LEARN, [Column(420, [prompt, negative(), who])]),
            Frame("3. Picture", USE, pictures),
        ]
    )


def other_embeddings() -> Workflow:
    brought = {tool.lower(): (tool, file) for file, tool in OTHER_FILES}
    loads = [load_token(file, key, f"Load Learned Token ({tool})") for key, (tool, file) in brought.items()]
    saves = [
        save_token(f"{key}-face", key, f"save_{key}", f"Save Learned Token ({tool})")
        for key, (tool, _) in brought.items()
    ]
    what = note(
        "What loads",
        "Textual inversions of the published code, diffusers, A1111, kohya, InvokeAI and OneTrainer, for the family of your checkpoint. "
        "Put them into *models/embeddings* and choose them here.",
        "Both vectors of a published file load; ComfyUI's own *embedding:* takes the first alone.",
        "Files that could run code are refused.",
        LARGE_PICTURE,
    )
    look = [checkpoint(), together(list(brought)), positive("a photo of a {} person", "list"), negative()]
    pictures = [
        Column(320, [latent(), sampler(control="fixed"), decode()]),
        Column(620, [grid(3, 512), save_picture("imported-faces", "grid", title="Side by side")]),
    ]
    return lay_out(
        [
            Frame("1. Bring in", LOAD, [Column(360, [*loads, what])]),
            Frame("2. Save in one format", LOOK, [Column(360, saves)]),
            Frame("3. Look at them", LEARN, [Column(360, look)]),
            Frame("4. Pictures", USE, pictures),
        ]
    )
