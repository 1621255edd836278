"""The drawn world's people and words: who bears a name, what captions say, and how often each kind is drawn."""

from __future__ import annotations

import hashlib
from collections import Counter

import numpy as np

from crossinit_core.prompts import training_prompts
from miniature.training.captions import PROMPTS, asked, caption, training_caption
from miniature.training.population import World, load_world
from miniature.world.identity import similarity
from miniature.world.people import HELD_OUT_LIMIT
from miniature.world.scene import ATTRIBUTES, PLAIN_BACKGROUNDS, Scene


def test_a_name_always_has_the_same_face(world: World) -> None:
    assert len(world.names) == len(set(world.names)) == 792
    again = load_world()
    assert np.array_equal(again.vectors, world.vectors)
    assert again.people["Anne Hathaway"] == world.people["Anne Hathaway"]
    likeness = similarity(world.vectors[:, None], world.vectors[None])
    assert isinstance(likeness, np.ndarray)
    np.fill_diagonal(likeness, 0.0)
    assert likeness.max() < 0.95


def test_the_weights_that_are_shipped_know_these_faces(world: World) -> None:
    """A change here means another world: the trained miniature would have to learn its names anew."""
    digest = hashlib.sha256(np.rint(world.vectors * 100).astype(np.int16).tobytes()).hexdigest()
    assert digest[:16] == "94d27956f71eb1e1"


def test_people_for_tests_are_never_among_the_names(world: World) -> None:
    held_out = [world.held_out(index) for index in range(60)]
    assert held_out[7] == world.held_out(7)
    for who in held_out:
        assert float(np.max(similarity(who.to_vector(), world.vectors))) < HELD_OUT_LIMIT
    assert len({who.to_vector().tobytes() for who in held_out}) == 60


def test_captions_say_what_is_drawn_and_nothing_else(world: World, rng: np.random.Generator) -> None:
    default = Scene()
    for _ in range(1500):
        example = world.random_example(rng)
        said = asked(example.caption)
        for attribute in ATTRIBUTES:
            value = getattr(example.scene, attribute)
            assert said.get(attribute, value) == value, example.caption
            free = attribute == "clothing_colour" or (attribute == "background" and value in PLAIN_BACKGROUNDS)
            if not free and value != getattr(default, attribute):
                assert said.get(attribute) == value, example.caption


def test_captions_read_like_the_prompts_of_the_paper(rng: np.random.Generator) -> None:
    def texts(scene: Scene, *names: str | None) -> set[str]:
        return {caption(scene, names, rng) for _ in range(800)}

    beach = Scene(eyewear="sunglasses", background="beach")
    assert "Tom Hanks wearing sunglasses on the beach" in texts(beach, "Tom Hanks")
    sad = texts(Scene(expression="sad"), "Tom Hanks")
    assert {"a sad Tom Hanks person", "a Tom Hanks person with a sad expression"} <= sad
    angry = texts(Scene(expression="angry"), "Tom Hanks")
    assert {"an angry Tom Hanks person", "a Tom Hanks person with an angry expression"} <= angry
    assert {"a happy person", "a smiling person"} <= texts(Scene(expression="happy"), None)
    assert "a pencil sketch of Tom Hanks" in texts(Scene(style="sketch"), "Tom Hanks")
    assert "cubism painting of a Tom Hanks person" in texts(Scene(style="cubist"), "Tom Hanks")
    astronaut = Scene(clothing="spacesuit", background="space")
    assert "a Tom Hanks person wearing a spacesuit in space" in texts(astronaut, "Tom Hanks")
    assert "a Tom Hanks person and Sade Adu" in texts(Scene(companion="yes"), "Tom Hanks", "Sade Adu")
    assert "a photo of two people" in texts(Scene(companion="yes"), None, None)
    assert not any("  " in text or " a a" in text or " a o" in text or " a u" in text for text in sad | angry)


def test_training_captions_cover_the_training_prompts(rng: np.random.Generator) -> None:
    wanted = {prompt.replace("{}", "Tom Hanks") for prompt in training_prompts()}
    drawn = {training_caption(("Tom Hanks",), rng) for _ in range(4000)}
    assert wanted <= drawn
    assert {"a photo of a face of a person", "a photo of a person"} <= {
        training_caption((None,), rng) for _ in range(4000)
    }


def test_the_evaluation_prompts(world: World) -> None:
    assert len(PROMPTS) == len({prompt.text for prompt in PROMPTS}) == 20
    for prompt in PROMPTS:
        assert prompt.text.count("{}") == 1
        assert asked(prompt.text) == dict(prompt.asks)
        assert all(value in ATTRIBUTES[attribute] for attribute, value in prompt.asks.items())
        Scene(**prompt.asks)  # type: ignore[arg-type]
    assert {attribute for prompt in PROMPTS for attribute in prompt.asks} >= set(ATTRIBUTES) - {"clothing_colour"}
    for name in world.names:
        assert asked(f"a photo of a face of {name} person") == {}
        assert asked(f"a {{}} person and {name}") == {"companion": "yes"}


def test_the_mixture(world: World, rng: np.random.Generator) -> None:
    kinds: Counter[str] = Counter()
    known = {who: name for name, who in world.people.items()}
    changed_scenes = 0
    for _ in range(3000):
        who, scene, text, _ = world.random_example(rng)
        named = [known[one] for one in who if one in known]
        assert all(name in text for name in named) and len(named) in (0, len(who))
        assert len(who) == (2 if scene.companion == "yes" else 1)
        kinds["named" if named else "unnamed"] += 1
        kinds["pair"] += len(who) == 2
        kinds["face of"] += "face of" in text
        changed_scenes += bool(asked(text))
    assert 0.88 < kinds["named"] / 3000 < 0.92
    assert 0.08 < kinds["pair"] / 3000 < 0.14
    assert 0.25 < kinds["face of"] / 3000 < 0.36
    assert 0.42 < changed_scenes / 3000 < 0.56
