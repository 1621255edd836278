"""The graph that shows everything on the miniature that comes with the pack."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .author import GROUP_COLORS, Group, Node, Note

WORKFLOW = "04-try-it-without-downloads"

PLAIN, DRESSED = "The person, plain", "The person in a prompt"
PLAIN_SAMPLER, DRESSED_SAMPLER = "KSampler (plain)", "KSampler (prompt)"
PLAIN_PICTURES, DRESSED_PICTURES = "Save Image (plain)", "Save Image (prompt)"
"""Titles of nodes of which there are two."""

SHOWN = 20
"""The drawn person in the file."""

STEPS, BATCH_SIZE, LEARNING_RATE = 120, 4, 0.08
"""How Learn Face is set: a minute on two processor cores. The vectors go as far from their start as the published ones do
in 320 steps; the rate does that on a model as small as this."""

Workflow = tuple[Sequence[Node], Mapping[str, Note], Sequence[Group]]


def _pictures(key: str, titles: tuple[str, str, str], text: str, x: int, look: int, prefix: str) -> list[Node]:
    """From a prompt, at `x`, to its pictures, at `look`."""
    values = {
        "seed": 42,
        "control_after_generate": "fixed",
        "steps": 16,
        "cfg": 3.0,
        "sampler_name": "dpmpp_2m",
        "scheduler": "normal",
        "denoise": 1.0,
    }
    return [
        Node(
            f"{key}_prompt",
            "CrossInitEncodePrompt",
            (x, 1030),
            (340, 150),
            {"text": text},
            {"clip": ("miniature", 1), "tokens.token0": ("learn", 0)},
            title=titles[0],
        ),
        Node(
            f"{key}_sampler",
            "KSampler",
            (x, 1240),
            (340, 270),
            values,
            {
                "model": ("miniature", 0),
                "positive": (f"{key}_prompt", 0),
                "negative": ("negative", 0),
                "latent_image": ("latent", 0),
            },
            title=titles[1],
        ),
        Node(
            f"{key}_decode",
            "VAEDecode",
            (x, 1570),
            (340, 50),
            {},
            {"samples": (f"{key}_sampler", 0), "vae": ("miniature", 2)},
        ),
        Node(
            f"{key}_save",
            "SaveImage",
            (look, 1030),
            (420, 590),
            {"filename_prefix": prefix},
            {"images": (f"{key}_decode", 0)},
            title=titles[2],
        ),
    ]


def try_it_without_downloads() -> Workflow:
    plain = (PLAIN, PLAIN_SAMPLER, PLAIN_PICTURES)
    dressed = (DRESSED, DRESSED_SAMPLER, DRESSED_PICTURES)
    nodes = [
        Node("miniature", "CrossInitMiniature", (40, 80), (340, 130)),
        Node("person", "CrossInitDrawnPerson", (40, 310), (340, 390), {"seed": SHOWN}),
        Node("names", "CrossInitCelebrityNames", (440, 80), (320, 180)),
        Node(
            "start",
            "CrossInitInitialize",
            (440, 320),
            (320, 200),
            {"vectors": 2},
            {"clip": ("miniature", 1), "names": ("names", 0)},
        ),
        Node(
            "learn",
            "CrossInitLearn",
            (820, 80),
            (380, 820),
            {
                "preset": "custom",
                "seed": 0,
                "steps": STEPS,
                "batch_size": BATCH_SIZE,
                "learning_rate": LEARNING_RATE,
            },
            {
                "model": ("miniature", 0),
                "clip": ("miniature", 1),
                "vae": ("miniature", 2),
                "image": ("person", 0),
                "cross_init": ("start", 0),
            },
        ),
        Node(
            "save_token",
            "CrossInitSave",
            (1260, 80),
            (340, 260),
            {"name": "drawn-person", "if_exists": "replace it"},
            {"token": ("learn", 0)},
        ),
        Node("loss", "LossGraphNode", (1660, 80), (480, 500), {"filename_prefix": "loss"}, {"loss": ("learn", 1)}),
        Node(
            "negative",
            "CLIPTextEncode",
            (40, 1440),
            (340, 90),
            {"text": ""},
            {"clip": ("miniature", 1)},
            title="Negative prompt (empty, as published)",
        ),
        Node("latent", "EmptyLatentImage", (40, 1250), (340, 110), {"width": 128, "height": 128, "batch_size": 4}),
        *_pictures("plain", plain, "a photo of a {} person", 440, 1240, "drawn-person-plain"),
        *_pictures("dressed", dressed, "a {} person wearing sunglasses on the beach", 840, 1720, "drawn-person"),
    ]
    notes = {
        "note_load": Note(
            "Press **Run**. Nothing is downloaded: the tiny model comes with the pack. It knows drawn faces only, and draws "
            "128 x 128 px.\n\nThe portrait shows somebody whom it has never seen. Another **seed** is another person.",
            (40, 760),
            (340, 140),
            "What this is",
        ),
        "note_learn": Note(
            "Learning starts at the average of the drawn celebrities, and finds the words that make the model draw this "
            "person.\n\nLearn Face shows what the model sees while it learns. This takes a few seconds on a GPU and about "
            "a minute without one.\n\nThe settings are made for this tiny model: fewer steps than usual, at a higher learning rate. For "
            "Stable Diffusion take the presets.\n\n**Cancel** keeps what was learned: the next run goes on from there.",
            (440, 580),
            (320, 320),
            "How it learns",
        ),
        "note_save": Note(
            "The person is a file in *models/embeddings* now. It fits this model only.\n\nFor **real people**, load a Stable "
            "Diffusion checkpoint and a photo: *01-learn-a-face* is this graph with both.",
            (1260, 400),
            (340, 180),
            "Where it goes",
        ),
        "note_use": Note(
            "**{}** is the person. Change the second prompt and press **Run**: nothing is learned anew. Try:\n\n"
            "- a {} person with a sad expression\n- a pencil sketch of a {} person\n- a {} person wearing headphones\n"
            "- a {} person and Anne Hathaway in the snow",
            (40, 1030),
            (340, 160),
            "What to write",
        ),
    }
    groups = [
        Group("1. Model and person", ("miniature", "person", "note_load"), GROUP_COLORS["load"]),
        Group("2. Learn the face", ("names", "start", "learn", "note_learn"), GROUP_COLORS["learn"]),
        Group("3. Keep it", ("save_token", "loss", "note_save"), GROUP_COLORS["look"]),
        Group(
            "4. Use it",
            (
                "note_use",
                "negative",
                "latent",
                *(f"{key}_{part}" for key in ("plain", "dressed") for part in ("prompt", "sampler", "decode", "save")),
            ),
            GROUP_COLORS["use"],
        ),
    ]
    return nodes, notes, groups
