"""The workflows that learn a face, in the short form that `author` turns into files."""

from __future__ import annotations

from .author import Node, Workflow
from .layout import Column, Frame, lay_out
from .shipped_parts import (
    CLIP,
    LEARN,
    LOAD,
    LOOK,
    MORE_PHOTOS,
    USE,
    checkpoint,
    decode,
    grid,
    latent,
    learn,
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
    together,
)

BY_NAMES, BY_WORDS, BY_PLAIN = "Learn Face (names)", "Learn Face (words)", "Learn Face (plain)"
"""Titles of the three of workflow 12."""


def learn_a_face() -> Workflow:
    return lay_out(
        [
            Frame(
                "1. Checkpoint and photo",
                LOAD,
                [
                    Column(320, [checkpoint(), photo()]),
                    Column(
                        320,
                        [
                            prepare(),
                            note(
                                "What you need",
                                "A Stable Diffusion **2.x** or **1.x** checkpoint in *ComfyUI/models/checkpoints*, for "
                                "example **v2-1_512-ema-pruned**, and one photo.",
                                "Prepare Face Photo finds the face, turns it upright and crops it. It needs OpenCV; without, "
                                "set **framing** to *by hand*.",
                            ),
                        ],
                    ),
                ],
            ),
            Frame(
                "2. Learn the face",
                LEARN,
                [
                    Column(
                        320,
                        [
                            names(),
                            start(),
                            note(
                                "How to learn",
                                "Press **Run**. Learn Face shows what the model sees of the person while it learns.",
                                "- **full**: 320 steps, the best likeness\n- **fast**: 25 steps, a first impression",
                                "**Cancel** keeps what was learned: the next run goes on from there.",
                                "Learning starts at the average of many well-known faces, so the bundled names are fine for "
                                "everybody.",
                            ),
                        ],
                    ),
                    Column(380, [learn()]),
                ],
            ),
            Frame(
                "3. Keep it",
                LOOK,
                [
                    Column(
                        340,
                        [
                            save_token(),
                            note(
                                "Where it goes",
                                "The face is an 8 KB file in *models/embeddings*. Every prompt node understands it from now on: "
                                "**embedding:my-face person**",
                            ),
                            Node(
                                "loss",
                                "LossGraphNode",
                                330,
                                {"filename_prefix": "loss"},
                                {"loss": ("learn", 1)},
                                grows=True,
                            ),
                        ],
                    )
                ],
            ),
        ],
        [
            Frame(
                "4. Use it",
                USE,
                [
                    Column(
                        340,
                        [
                            note(
                                "What to write",
                                "**{}** in the prompt is the person, and the word **person** after it helps. Try:",
                                "- a {} person with a happy expression\n- a {} person on the beach\n"
                                "- a {} person as a firefighter\n- a {} person in a chef outfit\n"
                                "- cubism painting of a {} person\n- a sand sculpture of a {} person",
                                "More or less of the person: **({}:1.2)** or **({}:0.8)**",
                                "A new prompt does not learn anew; only the picture is made again.",
                                "The saved face needs no learning at all: see *02-use-a-learned-face*.",
                            )
                        ],
                    ),
                    Column(440, [positive("a photo of a {} person", "learn"), negative(), latent()]),
                    Column(340, [sampler(), decode()]),
                    Column(620, [save_picture("learned-face")]),
                ],
            )
        ],
    )


def learn_a_face_fast() -> Workflow:
    return lay_out(
        [
            Frame(
                "1. Checkpoint and photo",
                LOAD,
                [Column(320, [checkpoint(), photo(), prepare()])],
            ),
            Frame(
                "2. Learn it in 25 steps",
                LEARN,
                [
                    Column(
                        320,
                        [
                            names(),
                            start(),
                            note(
                                "Fast",
                                "The same as *01-learn-a-face* in a tenth of the time: **preset** is *fast*.",
                                "25 steps give a person of the right kind: hair, age, the shape of the face. For a close "
                                "likeness set it to *full*; nothing else has to change.",
                                "Good for a first look, for trying photos and prompts, and where there is no GPU.",
                            ),
                        ],
                    ),
                    Column(360, [learn("fast")]),
                ],
            ),
            Frame(
                "3. Keep it and use it",
                USE,
                [
                    Column(
                        360,
                        [
                            save_token("my-face-fast"),
                            positive("a photo of a {} person", "learn"),
                            negative(),
                            latent(),
                        ],
                    ),
                    Column(480, [sampler(), decode(), save_picture("learned-face-fast", height=360)]),
                ],
            ),
        ]
    )


def learn_from_several_photos() -> Workflow:
    keys = ["photo", *(f"photo_{number}" for number in range(2, 2 + len(MORE_PHOTOS)))]
    photos = [photo(title="Photo 1 of the person", height=330)]
    photos += [
        photo(key, file, f"Photo {number} of the person", height=330)
        for number, (key, file) in enumerate(zip(keys[1:], MORE_PHOTOS, strict=True), start=2)
    ]
    return lay_out(
        [
            Frame(
                "1. Checkpoint and photos",
                LOAD,
                [
                    Column(
                        320,
                        [
                            checkpoint(),
                            note(
                                "Several photos",
                                "Three to ten photos of one person, of any size and shape. They are learned together, so that "
                                "what they share, the face, counts more than light and background.",
                                "More photos: add a Load Image and connect it to **Create List**. Fewer: mute one.",
                            ),
                        ],
                    ),
                    *(Column(260, [node]) for node in photos),
                ],
            ),
            Frame(
                "2. Faces and masks",
                LOOK,
                [
                    Column(
                        460,
                        [
                            together(keys, ""),
                            prepare(("list", 0)),
                        ],
                    )
                ],
            ),
        ],
        [
            Frame(
                "3. Learn the face",
                LEARN,
                [
                    Column(
                        320,
                        [
                            names(),
                            start(),
                            note(
                                "Masks",
                                "**mask** is white where face and hair are. With it connected, nothing else of the photos is "
                                "learned: no clothes, no wall, no neighbour.",
                                "Look at Prepare Face Photo above: what is dark there is not learned.",
                            ),
                        ],
                    ),
                    Column(360, [learn()]),
                ],
            ),
            Frame(
                "4. Keep it and use it",
                USE,
                [
                    Column(
                        360,
                        [save_token(), positive("a photo of a {} person", "learn"), negative(), latent()],
                    ),
                    Column(580, [sampler(), decode(), save_picture("learned-face", height=340)]),
                ],
            ),
        ],
    )


def compare_initializations() -> Workflow:
    ways = {"names": BY_NAMES, "words": BY_WORDS, "plain": BY_PLAIN}
    learned = [f"learn_{way}" for way in ways]
    words = Node("start_words", "CrossInitInitializeWords", 200, {"words": "human face"}, {"clip": CLIP})
    explained = note(
        "What is compared",
        "- **names**: what the text encoder makes of the average celebrity. The published method\n"
        "- **words**: what it makes of *human face*. For pets and things write what they are\n"
        "- **plain**: the average celebrity as the dictionary has it. Ordinary textual inversion, only there to compare",
        "Each learns the same photo with the same seed. The report shows how far each had to go; the pictures, who still "
        "listens to the prompt.",
        "With *full* instead of *fast* the differences are larger.",
    )
    report = Node(
        "report",
        "CrossInitReport",
        700,
        {},
        {f"tokens.token{number}": (key, 0) for number, key in enumerate(learned)},
        grows=True,
    )
    return lay_out(
        [
            Frame(
                "1. Checkpoint and photo",
                LOAD,
                [Column(320, [checkpoint(), photo()]), Column(320, [prepare()])],
            ),
            Frame(
                "2. Three starts",
                LOOK,
                [
                    Column(340, [names(), start("start_names", "Cross Initialization (names)")]),
                    Column(340, [words, start("start_plain", "Plain start", method="plain textual inversion")]),
                    Column(420, [explained]),
                ],
            ),
        ],
        [
            Frame(
                "3. Learn from each",
                LEARN,
                [
                    Column(340, [learn("fast", key, f"start_{way}", title)])
                    for key, (way, title) in zip(learned, ways.items(), strict=True)
                ],
            ),
            Frame("4. Compare", LOOK, [Column(780, [report, together(learned)])]),
        ],
        [
            Frame(
                "5. The same prompt for all three",
                USE,
                [
                    Column(340, [positive("a {} person on the beach", "list"), negative(), latent()]),
                    Column(340, [sampler(control="fixed"), decode()]),
                    Column(340, [grid(3, 512)]),
                    Column(780, [save_picture("compared", "grid", title="Names, words, plain")]),
                ],
            )
        ],
    )
