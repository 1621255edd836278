"""What a saved token says of itself to other tools: text, trigger phrase, picture; and what it does not say."""

from __future__ import annotations

import base64
import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open

from crossinit_core import LearnedToken, load_learned_token, save_learned_token
from crossinit_core.tokens.blending import blend_tokens
from crossinit_core.tokens.description import CONSENT, bare, described
from crossinit_core.tokens.history import History
from crossinit_core.tokens.small_pictures import Picture
from crossinit_core.tokens.thumbnails import MOST_BYTES, PIXELS, picture_in, thumbnail_of

SHOWN = {
    "modelspec.title",
    "modelspec.description",
    "modelspec.trigger_phrase",
    "modelspec.usage_hint",
    "modelspec.tags",
    "modelspec.resolution",
    "modelspec.architecture",
    "modelspec.date",
    "crossinit.version",
    "crossinit.base",
    "crossinit.vectors",
}
LEARNED = {"crossinit.version": "2.0", "crossinit.steps": "320", "crossinit.checkpoint": "sd21"}


def face(color: tuple[int, int, int], side: int = 512) -> Picture:
    return Picture(1, np.full((side, side, 3), color, np.uint8))


def person(name: str = "anna", base: str = "sd2", width: int = 1024, **more: object) -> LearnedToken:
    return LearnedToken(torch.randn(2, width), name, base, **more)  # type: ignore[arg-type]


def history(**pictures: object) -> History:
    return History((0.1,), (0.0, 0.1), (0.0, 1.0), **pictures)  # type: ignore[arg-type]


def colour_of(uri: str) -> tuple[int, ...]:
    picture = picture_in(uri)
    assert picture
    return tuple(round(value / 50) * 50 for value in np.asarray(picture).mean(axis=(0, 1)))


@pytest.mark.parametrize(
    ("base", "width", "architecture", "resolution"),
    [
        ("sd1", 768, "stable-diffusion-v1/textual-inversion", "512x512"),
        ("sd2", 1024, "stable-diffusion-v2-512/textual-inversion", "512x512"),
        ("sdxl", 2048, "stable-diffusion-xl-v1-base/textual-inversion", "1024x1024"),
    ],
)
def test_a_published_embedding_says_what_it_is(
    tmp_path: Path, base: str, width: int, architecture: str, resolution: str
) -> None:
    save_learned_token(person("anna", base, width), tmp_path / "theirs.bin")
    token = load_learned_token(tmp_path / "theirs.bin")
    assert not token.metadata
    save_learned_token(described(token.renamed("anna")), tmp_path / "anna.safetensors")
    with safe_open(tmp_path / "anna.safetensors", framework="pt") as file:
        facts = file.metadata()
    assert facts.keys() >= SHOWN and "modelspec.author" not in facts and "modelspec.thumbnail" not in facts
    assert facts["modelspec.title"] == "anna" and facts["modelspec.trigger_phrase"] == "embedding:anna person"
    assert "embedding:anna person" in facts["modelspec.usage_hint"]
    assert facts["modelspec.architecture"] == architecture and facts["modelspec.resolution"] == resolution
    assert "that person's consent" in facts["modelspec.description"] and facts["crossinit.vectors"] == "2"


def test_a_learned_face_tells_its_checkpoint_and_steps() -> None:
    token = described(person(metadata=LEARNED | {"modelspec.resolution": "768x768"}), "  Ann\n Lee ")
    assert (
        "on sd21 with Cross Initialization in 320 steps: 2 vectors for SD 2.x"
        in token.metadata["modelspec.description"]
    )
    assert token.metadata["modelspec.description"].endswith(CONSENT)
    assert token.metadata["modelspec.author"] == "Ann Lee" and token.metadata["modelspec.resolution"] == "768x768"
    assert token.metadata["crossinit.version"] == "2.0"


def test_a_new_name_is_told_and_nothing_piles_up() -> None:
    once = described(person(metadata=LEARNED))
    twice = described(once)
    assert dict(twice.metadata) == dict(once.metadata)
    other = described(once.renamed("bea")).metadata
    assert other["modelspec.title"] == "bea" and other["modelspec.trigger_phrase"] == "embedding:bea person"
    assert "anna" not in "".join(other.values())


def test_what_another_author_wrote_is_kept() -> None:
    theirs = {
        "modelspec.title": "Bad Hands",
        "modelspec.author": "Somebody",
        "modelspec.description": "For negative prompts.",
        "modelspec.tags": "negative, hands",
        "modelspec.date": "2023-01-01",
        "modelspec.hash_sha256": "0xabc",
        "ss_training_comment": "hello",
    }
    token = described(described(person(metadata=theirs)))
    facts = token.metadata
    assert [facts[key] for key in ("modelspec.title", "modelspec.author", "modelspec.date")] == [
        "Bad Hands",
        "Somebody",
        "2023-01-01",
    ]
    assert facts["modelspec.description"].startswith("For negative prompts. If it is")
    assert facts["modelspec.description"].count("consent") == 1
    assert facts["modelspec.tags"] == "negative, hands, face, person, textual inversion"
    assert facts["ss_training_comment"] == "hello" and "modelspec.hash_sha256" not in facts


def test_the_picture_is_the_last_generated_one() -> None:
    """Never one of the photos or of the noisy previews."""
    red, green, blue, grey = (face(c) for c in ((250, 0, 0), (0, 250, 0), (0, 0, 250), (100, 100, 100)))
    photos = {"photos": (red,), "previews": (grey,)}
    drawn = person(history=history(**photos, samples=(grey, green), portrait=blue))
    assert colour_of(described(drawn).metadata["modelspec.thumbnail"]) == (0, 0, 250)
    sampled = person(history=history(**photos, samples=(grey, green)))
    assert colour_of(described(sampled).metadata["modelspec.thumbnail"]) == (0, 250, 0)
    assert "modelspec.thumbnail" not in described(person(history=history(**photos))).metadata
    assert "modelspec.thumbnail" not in described(drawn, picture=False).metadata


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P"])
def test_a_thumbnail_is_small_whatever_it_shows(mode: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (1024, 700, 3), np.uint8)
    uri = thumbnail_of(Image.fromarray(noise).convert(mode))
    assert len(base64.b64decode(uri.partition(",")[2])) <= MOST_BYTES
    picture = picture_in(uri)
    assert picture and max(picture.size) <= PIXELS and picture.height > picture.width


@pytest.mark.parametrize(
    "uri",
    ["", "data:", "data:image/png;base64,", "data:image/png;base64,!!!!", "data:text/html;base64,PGI+", "http://x/a.png",
     "data:image/svg+xml;base64,PHN2Zy8+", "data:image/webp;base64," + "A" * 4_000_000, "data:image/png;base64,iVBORw0KGgo="],
)  # fmt: skip
def test_a_thumbnail_that_cannot_be_read_is_left_out(uri: str) -> None:
    token = person(metadata=LEARNED | {"modelspec.thumbnail": uri})
    assert "modelspec.thumbnail" not in described(token).metadata


def test_a_foreign_thumbnail_is_made_anew_without_its_secrets() -> None:
    """A camera writes the place into a picture; ours is drawn anew, and then stays as it is."""
    exif = Image.Exif()
    exif[0x010E] = "at home"
    file = io.BytesIO()
    Image.new("RGB", (900, 900), (0, 0, 250)).save(file, "JPEG", exif=exif)
    uri = "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()
    once = described(person(metadata={"modelspec.thumbnail": uri, "ssmd_cover_images": "[]"}))
    kept = once.metadata["modelspec.thumbnail"]
    assert b"at home" in file.getvalue() and b"at home" not in base64.b64decode(kept.partition(",")[2])
    assert described(once).metadata["modelspec.thumbnail"] == kept and colour_of(kept) == (0, 0, 250)
    assert "ssmd_cover_images" not in once.metadata


def test_a_blend_does_not_show_one_persons_face() -> None:
    one, other = (
        described(person(name, metadata=LEARNED, history=history(portrait=face(color))))
        for name, color in (("anna", (250, 0, 0)), ("bea", (0, 250, 0)))
    )
    facts = described(blend_tokens(one, other, 0.5)).metadata
    assert "modelspec.thumbnail" not in facts and facts["modelspec.title"] == "anna-bea"
    assert "blended of two learned ones: 0.5 anna + 0.5 bea" in facts["modelspec.description"]


def test_a_private_token_is_only_vectors(tmp_path: Path) -> None:
    token = described(person(metadata=LEARNED, history=history(portrait=face((0, 0, 250)))))
    save_learned_token(bare(token), tmp_path / "anna.safetensors")
    with safe_open(tmp_path / "anna.safetensors", framework="pt") as file:
        assert not file.metadata() and list(file.keys()) == ["<anna>"]
    assert torch.equal(load_learned_token(tmp_path / "anna.safetensors").vectors, token.vectors)


def test_an_a1111_file_keeps_the_picture(tmp_path: Path) -> None:
    token = described(person(metadata=LEARNED, history=history(portrait=face((0, 0, 250)))))
    save_learned_token(token, tmp_path / "anna.pt")
    assert dict(load_learned_token(tmp_path / "anna.pt").metadata) == dict(token.metadata)


def test_a_header_stays_small_enough_for_comfyui(tmp_path: Path) -> None:
    """`/view_metadata` reads 1 MiB of header; a LoRA trainer's notes may be longer."""
    long = {"ss_tag_frequency": "ü" * 400_000, "ss_other": "kept", "modelspec.author": "x" * 300_000}
    token = described(person(metadata=long | LEARNED, history=history(portrait=face((0, 0, 250)))))
    save_learned_token(token, tmp_path / "anna.safetensors")
    raw = (tmp_path / "anna.safetensors").read_bytes()
    assert int.from_bytes(raw[:8], "little") < 2**20
    facts = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])["__metadata__"]
    assert facts["ss_other"] == "kept" and facts["crossinit.steps"] == "320" and "modelspec.thumbnail" in facts


def test_an_author_of_a_whole_page_is_refused() -> None:
    with pytest.raises(ValueError, match=r"The author 'a+ ... a+' has more than 200 characters. Give a name") as caught:
        described(person(), "a" * 201)
    assert len(str(caught.value)) <= 600


def test_vectors_stay_as_they_are() -> None:
    token = person(metadata=LEARNED, history=history(portrait=face((0, 0, 250))))
    assert torch.equal(described(token).vectors, token.vectors)
    assert replace(described(token), metadata={}).history is token.history
