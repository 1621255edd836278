"""What is painted around a face: everything that a prompt talks about, independent of who it is."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from .identity import pick

PLAIN_BACKGROUNDS = ("white", "grey", "blue", "green", "yellow", "orange", "pink", "red", "purple", "brown")
PLACES = ("beach", "forest", "city", "space", "snow")
CLOTHING_COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "white", "black", "grey")

ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "expression": ("neutral", "happy", "sad", "angry", "surprised"),
    "eyewear": ("none", "glasses", "sunglasses"),
    "hat": ("none", "cap", "beanie", "cowboy", "crown"),
    "headphones": ("no", "yes"),
    "clothing": ("tshirt", "sweater", "suit", "spacesuit"),
    "clothing_colour": CLOTHING_COLOURS,
    "background": PLAIN_BACKGROUNDS + PLACES,
    "style": ("plain", "sketch", "watercolour", "pixel", "cubist"),
    "companion": ("no", "yes"),
}
"""Every attribute with its values. The first value is the default, except for colours, which have none."""


@dataclass(frozen=True)
class Scene:
    """What one picture shows besides who. The values of the named attributes are in `ATTRIBUTES`.

    `companion` "yes" is for two people side by side; expression, eyewear, hat, headphones, clothing and pose then
    hold for both. A spacesuit is always white (`clothing_colour` is ignored).

    Pose: `scale` about 0.8..1.25 of the head, `shift_x` and `shift_y` in pixels of a 128 px picture, `roll` in
    degrees, `light` -1 dark .. 1 bright, `mirrored` left-right.
    """

    expression: str = "neutral"
    eyewear: str = "none"
    hat: str = "none"
    headphones: str = "no"
    clothing: str = "tshirt"
    clothing_colour: str = "blue"
    background: str = "white"
    style: str = "plain"
    companion: str = "no"
    scale: float = 1.0
    shift_x: float = 0.0
    shift_y: float = 0.0
    roll: float = 0.0
    light: float = 0.0
    mirrored: bool = False

    def __post_init__(self) -> None:
        for name, values in ATTRIBUTES.items():
            if getattr(self, name) not in values:
                raise ValueError(f"Scene.{name} is {getattr(self, name)!r}, but it is one of {', '.join(values)}.")

    def labels(self) -> dict[str, int]:
        """Every named attribute as the index of its value in `ATTRIBUTES`."""
        return {name: values.index(getattr(self, name)) for name, values in ATTRIBUTES.items()}


def with_pose(scene: Scene, rng: np.random.Generator) -> Scene:
    """The same scene with a small random pose: scale, shift, roll, light, mirroring."""
    chances = rng.random(6)
    return replace(
        scene,
        scale=0.92 + 0.16 * float(chances[0]),
        shift_x=-4.0 + 8.0 * float(chances[1]),
        shift_y=-2.0 + 5.0 * float(chances[2]),
        roll=-5.0 + 10.0 * float(chances[3]),
        light=-0.2 + 0.4 * float(chances[4]),
        mirrored=bool(chances[5] < 0.5),
    )


def plain_scene(rng: np.random.Generator) -> Scene:
    """A plain portrait: nothing that a caption must mention; colours and pose are random."""
    scene = Scene(
        clothing_colour=pick(rng, dict.fromkeys(CLOTHING_COLOURS, 1.0)),
        background=pick(rng, dict.fromkeys(PLAIN_BACKGROUNDS, 1.0)),
    )
    return with_pose(scene, rng)


# How many of the groups of attributes leave their default, and which.
_CHANGES: dict[str, float] = {"1": 50, "2": 33, "3": 17}
_GROUPS: dict[str, float] = {"expression": 28, "eyewear": 14, "head": 28, "clothing": 18, "place": 26, "style": 24}


def random_scene(rng: np.random.Generator, companion: bool = False) -> Scene:
    """A scene in which one, two or three things differ from a plain portrait.

    With a companion, none may differ. A hat and headphones never come together, and a spacesuit has neither.
    """
    scene = plain_scene(rng)
    if companion:
        scene = replace(scene, companion="yes")
    count = int(pick(rng, _CHANGES))
    if companion and rng.random() < 0.25:
        count = 0
    left = dict(_GROUPS)
    for _ in range(count):
        group = pick(rng, left)
        del left[group]
        if group == "head":
            head = pick(rng, {"cap": 1, "beanie": 1, "cowboy": 1, "crown": 1, "headphones": 1})
            scene = replace(scene, headphones="yes") if head == "headphones" else replace(scene, hat=head)
        elif group == "place":
            scene = replace(scene, background=pick(rng, dict.fromkeys(PLACES, 1.0)))
        else:
            values = ATTRIBUTES[group][1:]
            scene = replace(scene, **{group: pick(rng, dict.fromkeys(values, 1.0))})  # type: ignore[arg-type]
    if scene.clothing == "spacesuit":
        scene = replace(scene, hat="none", headphones="no")
    return scene
