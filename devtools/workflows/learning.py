"""The workflows that learn a face, as short descriptions (`graph`)."""

from __future__ import annotations

from .graph import Node, Workflow
from .layout import Column, Frame, lay_out
from .parts import (
    CLIP,
    LARGE,
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

PROMPT = "a photo of a {} person"


def learn_a_face() -> Workflow:
    needed = note(
        "What you need",
        "An **SD 2.x** or **SD 1.x** checkpoint in *ComfyUI/models/checkpoints*, for example **v2-1_512-ema-pruned**, and one "
        "photo. For **SDXL** open *14-learn-a-face-on-sdxl*.",
        "Prepare Face Photo finds the face, turns it upright and crops it. It needs facenet-pytorch or OpenCV 4; without "
        "both, set **framing** to *by hand*.",
        "To see the crop before you learn it, select Prepare Face Photo and press the **▷** above it.",
        LARGE,
    )
    how = note(
        "How to learn",
        "Press **Run**. Learn Face shows what the model sees of the person while it learns.",
        "- **best**: 100 steps\n- **swift**: 25, for a first look\n- **full**: 320, as the paper does",
        "**Cancel** keeps what was learned: the next run goes on from there.",
        "Learning starts at the average of many well-known faces, so the bundled names are fine for everybody.",
    )
    where = note(
        "Where it goes",
        "The face is a small file in *models/embeddings*, of 56 KB at most with its picture. Every prompt node understands it from now on: "
        "**embedding:my-face person**",
    )
    prompts = note(
        "What to write",
        "**{}** in the prompt is the person, and the word **person** after it helps. Try:",
        "- a {} person with a happy expression\n- a {} person on the beach\n- a {} person as a firefighter\n"
        "- a {} person in a chef outfit\n- cubism painting of a {} person\n- a sand sculpture of a {} person",
        "A prompt is ignored? Turn **likeness and prompt** down to 0.8, then to 0.6.",
        "A new prompt does not learn anew; only the picture is made again.",
        "The saved face needs no learning at all: see *02-use-a-learned-face*.",
    )
    loss = Node("loss", "LossGraphNode", 330, {"filename_prefix": "loss"}, {"loss": ("learn", 1)}, grows=True)
    photos = [Column(320, [checkpoint(), photo()]), Column(320, [prepare(), needed])]
    learning = [Column(320, [names(), start(), how]), Column(380, [learn()])]
    using = [
        Column(340, [prompts]),
        Column(440, [positive(PROMPT, "learn"), negative(), latent()]),
        Column(340, [sampler(), decode()]),
        Column(620, [save_picture("learned-face")]),
    ]
    return lay_out(
        [
            Frame("1. Checkpoint and photo", LOAD, photos),
            Frame("2. Learn the face", LEARN, learning),
            Frame("3. Keep it", LOOK, [Column(340, [save_token(), where, loss])]),
        ],
        [Frame("4. Use it", USE, using)],
    )


def learn_a_face_fast() -> Workflow:
    fast = note(
        "Fast",
        "The same as *01-learn-a-face* in a few seconds on a fast GPU: **preset** is *swift*.",
        "It learns the direction of the vectors alone. On drawn faces its 25 steps came closer to the person than *full*'s 320; on real "
        "checkpoints nobody has measured it.",
        "For more likeness try *best*; nothing else has to change.",
        "Good for a first look, for trying photos and prompts, and without a GPU.",
        LARGE,
    )
    using = [
        Column(360, [save_token(), positive(PROMPT, "learn"), negative(), latent()]),
        Column(480, [sampler(), decode(), save_picture("learned-face-fast")]),
    ]
    return lay_out(
        [
            Frame("1. Checkpoint and photo", LOAD, [Column(320, [checkpoint(), photo(), prepare()])]),
            Frame(
                "2. Learn it in 25 steps",
                LEARN,
                [Column(320, [names(), start(), fast]), Column(360, [learn("swift", name="my-face-fast")])],
            ),
            Frame("3. Keep it and use it", USE, using),
        ]
    )


def learn_from_several_photos() -> Workflow:
    several = note(
        "Several photos",
        "Three to ten photos of one person, of any size and shape. They are learned together, so that what they share, the "
        "face, counts more than light and background.",
        "More photos: add a Load Image and connect it to **Create List**. Fewer: mute the second or the third; the first one is needed.",
        LARGE,
    )
    masks = note(
        "Masks",
        "**mask** is white where face and hair are. With it connected, nothing else of the photos is learned: no clothes, no "
        "wall, no neighbour.",
        "Look at Prepare Face Photo above: what is dark there is not learned.",
    )
    photos = [photo(title="Photo 1 of the person")]
    photos += [
        photo(f"photo_{number}", file, f"Photo {number} of the person")
        for number, file in enumerate(MORE_PHOTOS, start=2)
    ]
    listed = together([node.key for node in photos], "All photos in a list")
    using = [
        Column(360, [save_token(), positive(PROMPT, "learn"), negative(), latent()]),
        Column(580, [sampler(), decode(), save_picture("learned-face")]),
    ]
    return lay_out(
        [
            Frame(
                "1. Checkpoint and photos",
                LOAD,
                [Column(320, [checkpoint(), several]), *(Column(320, [node]) for node in photos)],
            ),
            Frame("2. Faces and masks", LOOK, [Column(460, [listed, prepare(("list", 0))])]),
        ],
        [
            Frame(
                "3. Learn the face",
                LEARN,
                [Column(320, [names(), start(), masks]), Column(360, [learn()])],
            ),
            Frame("4. Keep it and use it", USE, using),
        ],
    )


def compare_initializations() -> Workflow:
    explained = note(
        "What is compared",
        "- **names**: what the text encoder makes of the average celebrity. The published method\n"
        "- **words**: what it makes of *human face*. For pets and things write what they are\n"
        "- **plain**: the average celebrity as the dictionary has it. Ordinary textual inversion, only there to compare",
        "Each learns the same photo with the same seed. The report shows how far each had to go; the pictures, who still "
        "listens to the prompt.",
        "With *full* instead of *fast* the differences are larger. The report needs matplotlib.",
        "Two of them alone: mute *words* or *plain*. The pictures need *names*; the report takes those that are there.",
        LARGE,
    )
    words = Node("start_words", "CrossInitInitializeWords", 200, {"words": "human face"}, {"clip": CLIP})
    starts = [
        Column(340, [names(), start("start_names", "Cross Initialization (names)")]),
        Column(340, [words, start("start_plain", "Plain start", method="plain textual inversion")]),
        Column(420, [explained]),
    ]
    ways = ("names", "words", "plain")
    learned = [f"learn_{way}" for way in ways]
    tokens = {f"tokens.token{number}": (key, 0) for number, key in enumerate(learned)}
    report = Node("report", "CrossInitReport", 700, {}, tokens, grows=True)
    learning = [Column(340, [learn("fast", f"learn_{way}", f"start_{way}", f"Learn Face ({way})")]) for way in ways]
    sampling = [
        Column(340, [positive("a {} person on the beach", "list"), negative(), latent()]),
        Column(340, [sampler(control="fixed"), decode()]),
        Column(340, [grid(3, 512)]),
        Column(780, [save_picture("compared", "grid", title="Names, words, plain")]),
    ]
    return lay_out(
        [
            Frame("1. Checkpoint and photo", LOAD, [Column(320, [checkpoint(), photo()]), Column(320, [prepare()])]),
            Frame("2. Three starts", LOOK, starts),
        ],
        [
            Frame("3. Learn from each", LEARN, learning),
            Frame("4. Compare", LOOK, [Column(780, [report, together(learned)])]),
        ],
        [Frame("5. The same prompt for all three", USE, sampling)],
    )
