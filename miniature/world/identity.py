"""Who is painted: parameters of a face, their vector, and how alike two faces are."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Presentation = Literal["woman", "man"]

CONTINUOUS: dict[str, float] = {
    "skin": 3.0,
    "skin_warmth": 0.7,
    "face_width": 1.6,
    "face_length": 1.4,
    "jaw": 1.4,
    "chin": 0.7,
    "hairline": 0.5,
    "hair_length": 0.6,
    "eye_size": 1.3,
    "eye_openness": 1.0,
    "eye_spacing": 1.0,
    "eye_tilt": 0.8,
    "brow_thickness": 1.2,
    "brow_tilt": 0.8,
    "nose_length": 0.9,
    "nose_width": 0.9,
    "mouth_width": 1.0,
    "lip_fullness": 0.9,
    "lip_colour": 0.8,
    "ear_size": 0.5,
    "freckles": 0.8,
    "rosiness": 0.5,
    "lashes": 0.6,
    "age": 1.0,
}
"""Parameters in [0, 1], each with its weight in `similarity`."""

CATEGORICAL: dict[str, tuple[float, dict[str, str]]] = {
    "hair_style": (
        4.0,
        {
            "bald": "bare",
            "buzz": "bare",
            "short": "cropped",
            "side_part": "cropped",
            "quiff": "cropped",
            "curly": "round",
            "afro": "round",
            "bob": "long",
            "straight": "long",
            "wavy": "long",
            "bun": "tied",
            "ponytail": "tied",
        },
    ),
    "hair_colour": (
        3.0,
        {
            "black": "dark",
            "dark_brown": "dark",
            "brown": "brown",
            "auburn": "red",
            "ginger": "red",
            "dark_blond": "blond",
            "blond": "blond",
            "grey": "silver",
            "white": "silver",
        },
    ),
    "fringe": (0.8, {"none": "none", "straight": "straight", "side": "side"}),
    "eye_colour": (
        1.2,
        {"dark": "dark", "brown": "dark", "hazel": "light", "green": "light", "blue": "pale", "grey": "pale"},
    ),
    "beard": (
        2.5,
        {
            "none": "bare",
            "stubble": "bare",
            "moustache": "some",
            "goatee": "some",
            "full": "full",
        },
    ),
    "mole": (0.5, {"none": "none", "cheek": "some", "lip": "some"}),
}
"""Parameters with named values: the weight in `similarity`, and every value with its family."""

VALUES: dict[str, tuple[str, ...]] = {name: tuple(families) for name, (_, families) in CATEGORICAL.items()}

_Vector = NDArray[np.float32]


@dataclass(frozen=True)
class Identity:
    """One face. Numbers are in [0, 1]; the docstring of a number says what 0 and 1 look like.

    skin light..dark, skin_warmth rosy..golden, face_width and face_length short..long, jaw pointed..round..square,
    chin narrow..wide, hairline low..receding, hair_length (of long hair) short..long, eye_size, eye_openness
    narrow..round, eye_spacing, eye_tilt outer corner down..up, brow_thickness, brow_tilt inner end up..down,
    nose_length, nose_width, mouth_width, lip_fullness, lip_colour natural..red, ear_size, freckles none..many,
    rosiness of the cheeks, lashes, age smooth..lined. The values of the others are in `VALUES`.
    """

    skin: float
    skin_warmth: float
    face_width: float
    face_length: float
    jaw: float
    chin: float
    hairline: float
    hair_length: float
    eye_size: float
    eye_openness: float
    eye_spacing: float
    eye_tilt: float
    brow_thickness: float
    brow_tilt: float
    nose_length: float
    nose_width: float
    mouth_width: float
    lip_fullness: float
    lip_colour: float
    ear_size: float
    freckles: float
    rosiness: float
    lashes: float
    age: float
    hair_style: str
    hair_colour: str
    fringe: str
    eye_colour: str
    beard: str
    mole: str

    def __post_init__(self) -> None:
        for name in CONTINUOUS:
            value = getattr(self, name)
            if not 0.0 <= value <= 1.0:
                raise ValueError(f"Identity.{name} is {value}, but it lies in 0..1.")
        for name, values in VALUES.items():
            if getattr(self, name) not in values:
                raise ValueError(f"Identity.{name} is {getattr(self, name)!r}, but it is one of {', '.join(values)}.")

    def to_vector(self) -> _Vector:
        """(`VECTOR_SIZE`,) float32 in `VECTOR_NAMES` order: the numbers, then each named value as one-hot."""
        numbers = [float(getattr(self, name)) for name in CONTINUOUS]
        for name, values in VALUES.items():
            chosen = getattr(self, name)
            numbers += [float(value == chosen) for value in values]
        return np.array(numbers, dtype=np.float32)

    @classmethod
    def from_vector(cls, vector: NDArray[np.floating]) -> Identity:
        """The identity of a (`VECTOR_SIZE`,) vector: numbers clipped to [0, 1], the largest entry of each one-hot."""
        if vector.shape != (VECTOR_SIZE,):
            raise ValueError(f"An identity vector has shape ({VECTOR_SIZE},), but got {vector.shape}.")
        numbers = {name: min(max(float(vector[i]), 0.0), 1.0) for i, name in enumerate(CONTINUOUS)}
        named = {name: values[int(np.argmax(vector[SLICES[name]]))] for name, values in VALUES.items()}
        return cls(**numbers, **named)  # type: ignore[arg-type]


def _slices() -> dict[str, slice]:
    result = {name: slice(i, i + 1) for i, name in enumerate(CONTINUOUS)}
    start = len(CONTINUOUS)
    for name, values in VALUES.items():
        result[name] = slice(start, start + len(values))
        start += len(values)
    return result


SLICES: dict[str, slice] = _slices()
"""Where each parameter lies in the vector."""

VECTOR_NAMES: tuple[str, ...] = (
    *CONTINUOUS,
    *(f"{name}={value}" for name, values in VALUES.items() for value in values),
)
VECTOR_SIZE: int = len(VECTOR_NAMES)

assert tuple(field.name for field in fields(Identity)) == (*CONTINUOUS, *VALUES)


def similarity(a: Identity | NDArray[np.floating], b: Identity | NDArray[np.floating]) -> float | NDArray[np.float64]:
    """How alike two faces are: 1 - the weighted mean distance of their parameters, in 0..1.

    A number's distance is |a - b|. A named value's distance is the mean of two half L1 distances, between the
    one-hots and between the families of `CATEGORICAL` (so grey and white hair are half as far apart as grey and
    red). Weights are those of `CONTINUOUS` and `CATEGORICAL`.

    Takes identities, or vectors (..., `VECTOR_SIZE`) that broadcast, such as a judge's probabilities in place of
    one-hots; gives a float for two identities, otherwise an array (...).
    """
    first = a.to_vector() if isinstance(a, Identity) else np.asarray(a)
    second = b.to_vector() if isinstance(b, Identity) else np.asarray(b)
    difference = first.astype(np.float64) - second.astype(np.float64)
    total = np.zeros(difference.shape[:-1])
    weights = 0.0
    for name, weight in CONTINUOUS.items():
        total += weight * np.abs(difference[..., SLICES[name]])[..., 0]
        weights += weight
    for name, (weight, families) in CATEGORICAL.items():
        part = difference[..., SLICES[name]]
        groups = sorted(set(families.values()))
        member = np.array([[float(family == group) for group in groups] for family in families.values()])
        total += weight * 0.25 * (np.abs(part).sum(-1) + np.abs(part @ member).sum(-1))
        weights += weight
    result = np.clip(1.0 - total / weights, 0.0, 1.0)
    return float(result) if isinstance(a, Identity) and isinstance(b, Identity) else result


def pick(rng: np.random.Generator, weights: dict[str, float]) -> str:
    """One key, with probability in proportion to its weight. Takes one number from `rng`."""
    left = rng.random() * sum(weights.values())
    for key, weight in weights.items():
        left -= weight
        if left < 0:
            return key
    return key


_HAIR_STYLE: dict[str, dict[str, float]] = {
    "man": {
        "bald": 10, "buzz": 10, "short": 19, "side_part": 17, "quiff": 14, "curly": 9, "afro": 6,
        "bob": 3, "straight": 4, "wavy": 4, "bun": 2, "ponytail": 2,
    },
    "woman": {
        "bald": 1, "buzz": 2, "short": 6, "side_part": 3, "quiff": 2, "curly": 12, "afro": 9,
        "bob": 17, "straight": 16, "wavy": 16, "bun": 8, "ponytail": 8,
    },
}  # fmt: skip
_BEARD: dict[str, dict[str, float]] = {
    "man": {"none": 40, "stubble": 14, "moustache": 13, "goatee": 14, "full": 19},
    "woman": {"none": 1},
}
_HAIR_COLOUR_LIGHT: dict[str, float] = {
    "black": 12, "dark_brown": 15, "brown": 17, "auburn": 10, "ginger": 11, "dark_blond": 12, "blond": 14,
    "grey": 5, "white": 4,
}  # fmt: skip
_HAIR_COLOUR_DARK: dict[str, float] = {
    "black": 45, "dark_brown": 22, "brown": 10, "auburn": 5, "ginger": 2, "dark_blond": 3, "blond": 3,
    "grey": 6, "white": 4,
}  # fmt: skip
_EYE_COLOUR_LIGHT: dict[str, float] = {"dark": 14, "brown": 20, "hazel": 15, "green": 17, "blue": 22, "grey": 12}
_EYE_COLOUR_DARK: dict[str, float] = {"dark": 38, "brown": 34, "hazel": 12, "green": 7, "blue": 5, "grey": 4}


def random_identity(rng: np.random.Generator, presentation: Presentation | None = None) -> Identity:
    """A face from a plausible joint distribution.

    The presentation (at random, evenly, if None) shifts hair style, beard, lashes, lips, brows and jaw; dark skin
    makes dark hair and eyes likelier; age makes grey hair likelier. Everything else is independent and uniform.
    Always takes as many numbers from `rng`.
    """
    chosen: Presentation = "woman" if rng.random() < 0.5 else "man"
    who = presentation or chosen
    man = who == "man"
    number = {name: float(rng.random()) for name in CONTINUOUS}
    number["jaw"] = number["jaw"] ** (0.75 if man else 1.35)
    number["brow_thickness"] = number["brow_thickness"] * 0.75 + (0.25 if man else 0.0)
    number["lashes"] = number["lashes"] * 0.35 if man else 0.25 + 0.75 * number["lashes"]
    number["lip_colour"] = number["lip_colour"] * 0.45 if man else 0.1 + 0.9 * number["lip_colour"]
    number["lip_fullness"] = number["lip_fullness"] * 0.75 + (0.0 if man else 0.25)
    number["hairline"] = number["hairline"] * (1.0 if man else 0.6)
    number["freckles"] = max(0.0, number["freckles"] * 3.0 - 2.0)
    number["age"] = number["age"] ** 1.4
    dark = number["skin"] > 0.5
    style = pick(rng, _HAIR_STYLE[who])
    colour = pick(rng, _HAIR_COLOUR_DARK if dark else _HAIR_COLOUR_LIGHT)
    silver = pick(rng, {"grey": 1, "white": 1})
    if rng.random() < 2.0 * (number["age"] - 0.65):
        colour = silver
    named = {
        "hair_style": style,
        "hair_colour": colour,
        "fringe": pick(rng, {"none": 50, "straight": 18 if man else 28, "side": 25}),
        "eye_colour": pick(rng, _EYE_COLOUR_DARK if dark else _EYE_COLOUR_LIGHT),
        "beard": pick(rng, _BEARD[who]),
        "mole": pick(rng, {"none": 70, "cheek": 15, "lip": 15}),
    }
    return Identity(**number, **named)  # type: ignore[arg-type]


def changed(identity: Identity, **values: float | str) -> Identity:
    """The same face with some parameters replaced."""
    return Identity(**{**asdict(identity), **values})
