"""The graph that shows everything on the miniature that comes with the pack."""

from __future__ import annotations

from .graph import GROUP_COLORS, Link, Node, Note, Workflow
from .layout import Column, Frame, lay_out

WORKFLOW = "04-try-it-without-downloads"

PLAIN, DRESSED = "The person, plain", "The person in a prompt"
PLAIN_SAMPLER, DRESSED_SAMPLER = "KSampler (plain)", "KSampler (prompt)"
PLAIN_PICTURES, DRESSED_PICTURES = "Save Image (plain)", "Save Image (prompt)"
"""Titles of nodes of which there are two."""

SHOWN = 20
"""The drawn person in the file: the seed of Paint Drawn Person."""

PRESET = "swift"
"""How Learn Face is set: seconds on two processor cores."""

SAMPLING = {"steps": 16, "cfg": 3.0}
"""How KSampler is set, for the same reason."""

_MODEL: Link = ("miniature", 0)
_CLIP: Link = ("miniature", 1)
_VAE: Link = ("miniature", 2)


def _use(key: str, titles: tuple[str, str, str], text: str, prefix: str) -> tuple[list[Node], Node]:
    """From a prompt to its pictures: the nodes that sample them, and the one that shows them."""
    values = {
        "seed": 42,
        "control_after_generate": "fixed",
        "sampler_name": "dpmpp_2m",
        "scheduler": "normal",
        "denoise": 1.0,
        **SAMPLING,
    }
    links = {
        "model": _MODEL,
        "positive": (f"{key}_prompt", 0),
        "negative": ("negative", 0),
        "latent_image": ("latent", 0),
    }
    prompt = {"clip": _CLIP, "tokens.token0": ("learn", 0)}
    nodes = [
        Node(f"{key}_prompt", "CrossInitEncodePrompt", 280, {"text": text}, prompt, title=titles[0]),
        Node(f"{key}_sampler", "KSampler", 510, values, links, title=titles[1]),
        Node(f"{key}_decode", "VAEDecode", 50, {}, {"samples": (f"{key}_sampler", 0), "vae": _VAE}),
    ]
    pictures = {"images": (f"{key}_decode", 0)}
    return nodes, Node(
        f"{key}_save", "SaveImage", 400, {"filename_prefix": prefix}, pictures, title=titles[2], grows=True
    )


def try_it_without_downloads() -> Workflow:
    plain, plain_pictures = _use(
        "plain", (PLAIN, PLAIN_SAMPLER, PLAIN_PICTURES), "a photo of a {} person", "drawn-person-plain"
    )
    dressed, dressed_pictures = _use(
        "dressed",
        (DRESSED, DRESSED_SAMPLER, DRESSED_PICTURES),
        "a {} person wearing sunglasses on the beach",
        "drawn-person",
    )
    learning = {"preset": PRESET, "seed": 0, "name": "drawn-person"}
    parts: dict[str, Link] = {
        "model": _MODEL,
        "clip": _CLIP,
        "vae": _VAE,
        "image": ("person", 0),
        "cross_init": ("start", 0),
    }
    loss = Node("loss", "LossGraphNode", 340, {"filename_prefix": "loss"}, {"loss": ("learn", 1)}, grows=True)
    start: dict[str, Link] = {"clip": _CLIP, "names": ("names", 0)}
    saving = {"name": "", "if_exists": "replace it"}
    return lay_out(
        [
            Frame(
                "1. Model and person",
                GROUP_COLORS["load"],
                [
                    Column(
                        340,
                        [
                            Node("miniature", "CrossInitMiniature", 160),
                            Node("person", "CrossInitDrawnPerson", 360, {"seed": SHOWN}, grows=True),
                            Note(
                                "Press **Run**. Nothing is downloaded: the tiny model comes with the pack. It knows drawn faces "
                                "only, in pictures of 128 x 128 px.\n\nThe portrait shows somebody whom it has never seen. Another "
                                "**seed** is another person.",
                                "What this is",
                            ),
                        ],
                    )
                ],
            ),
            Frame(
                "2. Learn the face",
                GROUP_COLORS["learn"],
                [
                    Column(
                        320,
                        [
                            Node("names", "CrossInitCelebrityNames", 200),
                            Node("start", "CrossInitInitialize", 200, {"vectors": 2}, start),
                            Note(
                                "Learning starts at the average of the drawn celebrities, and finds the words that make the "
                                "model show this person.\n\nLearn Face shows what the model sees while it learns. With the preset "
                                "*swift* that takes seconds, also without a GPU.\n\n**Cancel** keeps what was learned: the next run goes on from there.",
                                "How it learns",
                            ),
                        ],
                    ),
                    Column(380, [Node("learn", "CrossInitLearn", 880, learning, parts, grows=True)]),
                ],
            ),
            Frame(
                "3. Keep it",
                GROUP_COLORS["look"],
                [
                    Column(
                        340,
                        [
                            Node("save_token", "CrossInitSave", 290, saving, {"token": ("learn", 0)}),
                            Note(
                                "The person is a file in *models/embeddings* now. It fits this model only.\n\nFor **real "
                                "people**, load a Stable Diffusion checkpoint and a photo: *01-learn-a-face* is this graph "
                                "with both.",
                                "Where it goes",
                            ),
                        ],
                    ),
                    Column(480, [loss]),
                ],
            ),
        ],
        [
            Frame(
                "4. Use it",
                GROUP_COLORS["use"],
                [
                    Column(
                        340,
                        [
                            Note(
                                "**{}** is the person. Change the second prompt and press **Run**: nothing is learned anew. "
                                "Try:\n\n- a {} person with a sad expression\n- a pencil sketch of a {} person\n"
                                "- a {} person wearing headphones\n- a {} person and Anne Hathaway in the snow",
                                "What to write",
                            ),
                            Node("latent", "EmptyLatentImage", 110, {"width": 128, "height": 128, "batch_size": 4}),
                            Node(
                                "negative",
                                "CLIPTextEncode",
                                102,
                                {"text": ""},
                                {"clip": _CLIP},
                                title="Negative prompt (empty, as published)",
                            ),
                        ],
                    ),
                    Column(340, plain),
                    Column(340, dressed),
                    Column(420, [plain_pictures]),
                    Column(420, [dressed_pictures]),
                ],
            )
        ],
    )
