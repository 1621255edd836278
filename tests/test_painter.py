"""The drawn world's pictures: every parameter of a face and of a scene is seen where it belongs, and nowhere else."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from miniature.training.captions import posed
from miniature.training.population import World
from miniature.world.identity import CONTINUOUS, VALUES, VECTOR_SIZE, Identity, changed, random_identity, similarity
from miniature.world.painter import contact_sheet, paint, paint_batch
from miniature.world.scene import ATTRIBUTES, PLACES, Scene, plain_scene, random_scene

REPOSITORY = Path(__file__).resolve().parents[1]
Box = tuple[int, int, int, int]  # left, top, right, bottom

HEAD: Box = (20, 10, 108, 112)
EYES: Box = (36, 44, 92, 70)
NOSE: Box = (52, 58, 76, 80)
MOUTH: Box = (44, 70, 84, 96)
LOWER: Box = (34, 70, 94, 112)
HAIR: Box = (16, 8, 112, 60)
FOREHEAD: Box = (40, 28, 88, 56)
SIDES: Box = (24, 50, 104, 76)
BODY: Box = (4, 100, 124, 128)
CORNERS: Box = (0, 0, 128, 12)

REGIONS: dict[str, Box] = {
    "skin": HEAD,
    "skin_warmth": HEAD,
    "face_width": SIDES,
    "face_length": LOWER,
    "jaw": LOWER,
    "chin": LOWER,
    "hairline": FOREHEAD,
    "hair_length": (10, 80, 118, 128),
    "eye_size": EYES,
    "eye_openness": EYES,
    "eye_spacing": EYES,
    "eye_tilt": EYES,
    "brow_thickness": EYES,
    "brow_tilt": EYES,
    "nose_length": NOSE,
    "nose_width": NOSE,
    "mouth_width": MOUTH,
    "lip_fullness": MOUTH,
    "lip_colour": MOUTH,
    "ear_size": SIDES,
    "freckles": SIDES,
    "rosiness": SIDES,
    "lashes": EYES,
    "age": HEAD,
    "hair_style": HAIR,
    "hair_colour": HAIR,
    "fringe": FOREHEAD,
    "eye_colour": EYES,
    "beard": LOWER,
    "mole": (64, 66, 92, 92),
}
SCENE_REGIONS: dict[str, Box] = {
    "expression": MOUTH,
    "eyewear": EYES,
    "hat": (24, 0, 104, 50),
    "headphones": SIDES,
    "clothing": BODY,
    "clothing_colour": BODY,
    "background": CORNERS,
    "style": (0, 0, 128, 128),
}


@pytest.fixture(scope="module")
def someone() -> Identity:
    middle = dict.fromkeys(CONTINUOUS, 0.5) | {"freckles": 0.0, "age": 0.0, "skin": 0.25, "lashes": 0.2}
    named = {"hair_style": "short", "hair_colour": "brown", "fringe": "none", "eye_colour": "blue", "beard": "none"}
    return Identity(**middle, **named, mole="none")  # type: ignore[arg-type]


def _difference(a: NDArray[np.uint8], b: NDArray[np.uint8], box: Box = (0, 0, 128, 128)) -> float:
    left, top, right, bottom = box
    part = np.s_[top:bottom, left:right]
    return float(np.abs(a[part].astype(np.int16) - b[part].astype(np.int16)).mean())


def test_the_same_arguments_give_the_same_bytes(rng: np.random.Generator) -> None:
    who, scene = random_identity(rng), replace(random_scene(rng), background="forest", style="watercolour")
    first = paint(who, scene, 5)
    assert first.shape == (128, 128, 3) and first.dtype == np.uint8
    assert np.array_equal(first, paint(who, scene, 5))
    assert not np.array_equal(first, paint(who, scene, 6))


def test_another_process_paints_the_same() -> None:
    program = """
import hashlib, numpy as np
from miniature.world.identity import random_identity
from miniature.world.painter import paint
from miniature.world.scene import random_scene
rng = np.random.Generator(np.random.PCG64(9))
print(hashlib.sha256(b"".join(paint(random_identity(rng), random_scene(rng), i).tobytes() for i in range(12))).hexdigest())
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    rng = np.random.Generator(np.random.PCG64(9))
    here = b"".join(paint(random_identity(rng), random_scene(rng), i).tobytes() for i in range(12))
    assert done.stdout.strip() == hashlib.sha256(here).hexdigest()


def test_a_batch_is_its_single_pictures(world: World, rng: np.random.Generator) -> None:
    examples = [world.random_example(rng) for _ in range(12)]
    batch = paint_batch([e.identities for e in examples], [e.scene for e in examples], range(12))
    assert batch.shape == (12, 128, 128, 3) and batch.dtype == np.uint8
    for i, example in enumerate(examples):
        assert np.array_equal(batch[i], paint(example.identities, example.scene, i))
    assert contact_sheet(batch, 4, gap=2).size == (4 * 130 + 2, 3 * 130 + 2)


def test_a_face_survives_its_vector(rng: np.random.Generator) -> None:
    for _ in range(20):
        who = random_identity(rng)
        vector = who.to_vector()
        assert vector.shape == (VECTOR_SIZE,) and vector.dtype == np.float32
        again = Identity.from_vector(vector)
        assert np.array_equal(again.to_vector(), vector)
        assert similarity(who, again) == pytest.approx(1.0, abs=1e-6)
    noisy = Identity.from_vector(vector + 0.3 * rng.standard_normal(VECTOR_SIZE).astype(np.float32))
    assert all(0.0 <= getattr(noisy, name) <= 1.0 for name in CONTINUOUS)


def test_similarity_grows_with_every_shared_parameter(rng: np.random.Generator) -> None:
    a, b = random_identity(rng), random_identity(rng)
    last = float(similarity(a, b))
    assert 0.0 <= last < 1.0 and similarity(b, a) == pytest.approx(last)
    for name in (*CONTINUOUS, *VALUES):
        b = changed(b, **{name: getattr(a, name)})
        now = float(similarity(a, b))
        assert now >= last - 1e-9
        last = now
    assert last == pytest.approx(1.0)
    grey = changed(a, hair_colour="grey")
    assert similarity(grey, changed(a, hair_colour="white")) > similarity(grey, changed(a, hair_colour="ginger"))
    many = np.stack([random_identity(rng).to_vector() for _ in range(5)])
    assert np.shape(similarity(many[:, None], many)) == (5, 5)


def test_wrong_values_are_named(someone: Identity) -> None:
    with pytest.raises(ValueError, match=r"Identity\.skin is 1\.5"):
        changed(someone, skin=1.5)
    with pytest.raises(ValueError, match=r"Identity\.beard is 'long'"):
        changed(someone, beard="long")
    with pytest.raises(ValueError, match=r"Scene\.hat is 'fez'"):
        Scene(hat="fez")
    with pytest.raises(ValueError, match="takes 2 identities, not 1"):
        paint(someone, Scene(companion="yes"))
    with pytest.raises(ValueError, match=rf"shape \({VECTOR_SIZE},\)"):
        Identity.from_vector(np.zeros(3, dtype=np.float32))


@pytest.mark.parametrize("name", CONTINUOUS)
def test_every_number_of_a_face_is_seen(someone: Identity, name: str) -> None:
    base = changed(someone, hair_style="straight") if name == "hair_length" else someone
    low, high = (paint(changed(base, **{name: value}), Scene()) for value in (0.0, 1.0))
    assert _difference(low, high, REGIONS[name]) > 0.9
    assert _difference(low, high, CORNERS) == 0


@pytest.mark.parametrize("name", VALUES)
def test_every_named_value_of_a_face_is_seen(someone: Identity, name: str) -> None:
    pictures = [paint(changed(someone, **{name: value}), Scene()) for value in VALUES[name]]
    for i, a in enumerate(pictures):
        for b in pictures[:i]:
            assert _difference(a, b, REGIONS[name]) > 0.6
            assert _difference(a, b, (0, 0, 8, 128)) == 0


@pytest.mark.parametrize("name", SCENE_REGIONS)
def test_every_attribute_of_a_scene_is_seen(someone: Identity, name: str) -> None:
    for who in (someone, changed(someone, hair_style="afro", skin=0.9, hair_colour="black", beard="full")):
        pictures = [paint(who, Scene(**{name: value})) for value in ATTRIBUTES[name]]  # type: ignore[arg-type]
        for i, a in enumerate(pictures):
            for b in pictures[:i]:
                assert _difference(a, b, SCENE_REGIONS[name]) > 1.5


def test_an_attribute_leaves_the_rest_as_it_is(someone: Identity) -> None:
    plain = paint(someone, Scene())
    face: Box = (48, 46, 78, 88)
    for attribute, value, box in (
        ("expression", "angry", BODY),
        ("eyewear", "sunglasses", (44, 80, 84, 96)),
        ("hat", "cap", MOUTH),
        ("hat", "crown", EYES),
        ("headphones", "yes", face),
        ("clothing", "suit", face),
        ("clothing_colour", "red", face),
        *(("background", place, face) for place in PLACES),
    ):
        assert _difference(plain, paint(someone, Scene(**{attribute: value})), box) == 0, (attribute, value)  # type: ignore[arg-type]


def test_glasses_show_the_eyes_and_sunglasses_hide_them(someone: Identity) -> None:
    def seen(eyewear: str) -> float:
        blue, dark = (
            paint(changed(someone, eye_colour=colour), Scene(eyewear=eyewear), 3) for colour in ("blue", "dark")
        )
        return _difference(blue, dark, EYES)

    assert seen("glasses") > 0.7 * seen("none")
    assert seen("sunglasses") < 0.05 * seen("none")


@pytest.mark.parametrize("style", ATTRIBUTES["style"])
@pytest.mark.parametrize("expression", ATTRIBUTES["expression"])
def test_people_differ_in_every_style_and_expression(style: str, expression: str, rng: np.random.Generator) -> None:
    scene = Scene(style=style, expression=expression)
    people = [random_identity(rng) for _ in range(4)]
    pictures = [paint(who, scene, 1) for who in people]
    assert all(_difference(a, b, HEAD) > 4 for i, a in enumerate(pictures) for b in pictures[:i])


def test_two_people_stand_side_by_side(someone: Identity) -> None:
    other = changed(someone, hair_style="afro", skin=0.9, hair_colour="black")
    scene = Scene(companion="yes")
    both, twins = paint((someone, other), scene), paint((someone, someone), scene)
    assert _difference(both, twins, (0, 0, 44, 128)) == 0
    assert _difference(both, twins, (64, 0, 128, 100)) > 10


def test_pose_moves_the_person(someone: Identity) -> None:
    plain = paint(someone, Scene())
    for pose in ({"scale": 0.9}, {"shift_x": 4.0}, {"shift_y": 3.0}, {"roll": 5.0}, {"light": -0.5}, {"light": 0.5}):
        assert _difference(plain, paint(someone, Scene(**pose)), HEAD) > 1  # type: ignore[arg-type]
    parted = changed(someone, hair_style="side_part")
    picture, mirrored = paint(parted, Scene()), paint(parted, Scene(mirrored=True))
    assert _difference(picture[:, ::-1], mirrored, HEAD) < 0.3 * _difference(picture, mirrored, HEAD)


def test_presentation_shifts_but_does_not_decide(rng: np.random.Generator) -> None:
    women = [random_identity(rng, "woman") for _ in range(300)]
    men = [random_identity(rng, "man") for _ in range(300)]
    long = {"bob", "straight", "wavy", "bun", "ponytail"}

    def share(people: list[Identity]) -> float:
        return float(np.mean([who.hair_style in long for who in people]))

    assert 0.02 < share(men) < 0.4 < share(women) < 0.95
    assert 0.4 < float(np.mean([who.beard != "none" for who in men])) < 0.8


def test_dark_bright_close_and_small_are_drawn(someone: Identity, rng: np.random.Generator) -> None:
    scene = replace(plain_scene(rng), light=0.0)
    dark, bright = (paint(someone, posed(scene, f"a {word} photo of the Tom Hanks")) for word in ("dark", "bright"))
    assert dark.mean() + 30 < paint(someone, scene).mean() < bright.mean() - 5
    assert posed(scene, "a close-up photo of a face").scale > scene.scale > posed(scene, "the small face").scale
    assert posed(scene, "a photo of a face") == scene
