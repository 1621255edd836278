"""The evaluation of folders of pictures: whose they are, of which prompt, and what the table says."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from crossinit_core import cli
from crossinit_core.commands.pictures import PlacedPrompt
from crossinit_core.evaluation.page import chart, page, table
from crossinit_core.evaluation.pictures import find_people, paper_prompts, read_rgb
from crossinit_core.evaluation.protocol import PersonScores, Scored, estimate, score_person, summarize

PROMPTS = ("a photo of a {} person", "a {} person on the beach", "a sad {} person")
COLOURS = {"anna": (200, 40, 40), "bob": (40, 40, 200)}
GREY = (90, 90, 90)


class Colours:
    """Takes the mean colour for a face, and grey pictures for none: a recognizer whose every number is known."""

    name, scale = "mean colours", "1 is the same colour."

    def embed(self, picture: np.ndarray) -> np.ndarray:
        mean = picture.reshape(-1, 3).mean(axis=0) - picture.mean()
        return mean[None].astype(np.float32) if np.abs(mean).max() > 1 else np.zeros((0, 3), np.float32)

    def similarity(self, features: np.ndarray, references: np.ndarray) -> np.ndarray:
        first, second = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (features, references))
        return np.asarray(first @ second.T, np.float64)


class Lengths:
    """Scores a prompt by its length."""

    name = "lengths of prompts"

    def score(self, pictures: Sequence[np.ndarray], prompts: Sequence[str]) -> list[float | None]:
        return [len(prompt) / 100 for prompt in prompts]


def _save(path: Path, colour: tuple[int, int, int], size: int = 64) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (size, size), colour).save(path)
    return path


def _prompts_of(folder: Path, photo: Path, prompts: Sequence[str] = PROMPTS) -> dict[str, str | None]:
    (person,) = find_people(folder, photo, prompts)
    return {file.path.relative_to(folder).as_posix(): file.prompt for file in person.pictures}


def test_the_publications_prompts_place_somebody() -> None:
    prompts = paper_prompts()
    assert len(prompts) == 20 and len(set(prompts)) == 20
    assert all(len(PlacedPrompt.of(prompt, ["anna"]).pieces) == 3 for prompt in prompts)


@pytest.mark.parametrize(
    ("name", "prompt"),
    [
        ("001-a-photo-of-a-person-7.png", PROMPTS[0]),
        ("002-a-person-on-the-beach-0-2.png", PROMPTS[1]),
        ("a_photo_of_a_{}_person/0.png", PROMPTS[0]),
        ("a photo of a {} person/3.jpg", PROMPTS[0]),
        ("a-person-on-the-beach/00001_.png", PROMPTS[1]),
        ("imgs/00001_id00003_a sks person on the beach/00000.jpg", PROMPTS[1]),
        ("a sad 28017_v0 28017_v1 person/0.png", PROMPTS[2]),
        ("a_{}_person_on_the_beach-2/0.png", PROMPTS[1]),
        ("a painting of a {} person/0.png", "a painting of a {} person"),
        ("a_cat_and_sks/0.png", "a cat and {}"),
        ("ComfyUI_00001_.png", None),
    ],
)
def test_a_picture_says_its_prompt(tmp_path: Path, name: str, prompt: str | None) -> None:
    """By its name or its folder's, as each program writes them."""
    photo = _save(tmp_path / "photo.png", COLOURS["anna"])
    _save(tmp_path / "made" / name, GREY)
    assert _prompts_of(tmp_path / "made", photo) == {name: prompt}


def test_long_prompts_are_known_by_their_beginning(tmp_path: Path) -> None:
    """Names of files and folders are cut; those of folders then end in a digest."""
    photo = _save(tmp_path / "photo.png", COLOURS["anna"])
    long = next(prompt for prompt in paper_prompts() if "camping stove" in prompt)
    name = "009-a-person-wearing-the-sweater-a-backpack-and-camping-stove-outdoors-RAW-ultra-0.png"
    folder = f"{long[:90].replace(' ', '_')}-0a1b2c3d/0.png"
    for each in (name, folder):
        _save(tmp_path / "made" / each, GREY)
    assert _prompts_of(tmp_path / "made", photo, paper_prompts()) == {name: long, folder: long}


def test_several_people_are_told_by_names(tmp_path: Path) -> None:
    """A file or a folder of photos for each; masks, hidden files and texts are nobody's pictures."""
    _save(tmp_path / "photos" / "Anna.png", COLOURS["anna"])
    _save(tmp_path / "photos" / "bob" / "1.png", COLOURS["bob"])
    _save(tmp_path / "photos" / "bob" / "1-masklabel.png", GREY)
    _save(tmp_path / "photos" / "carol.png", GREY)
    for name in ("anna", "bob"):
        _save(tmp_path / "made" / name / "001-a-photo-of-a-person-0.png", COLOURS[name])
    _save(tmp_path / "made" / "bob" / ".cache" / "2.png", GREY)
    (tmp_path / "made" / "bob" / "notes.txt").write_text("nothing", encoding="utf-8")
    anna, bob = find_people(tmp_path / "made", tmp_path / "photos", PROMPTS)
    assert (anna.name, bob.name) == ("Anna", "bob")
    assert [path.name for path in bob.photos] == ["1.png"] and len(bob.pictures) == 1


def test_transparent_and_grey_pictures_are_read(tmp_path: Path) -> None:
    Image.new("RGBA", (70, 70), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    Image.fromarray(np.full((70, 70), 40_000, np.uint16)).save(tmp_path / "deep.png")
    assert read_rgb(tmp_path / "clear.png").min() == 255
    deep = read_rgb(tmp_path / "deep.png")
    assert deep.shape == (70, 70, 3) and deep.dtype == np.uint8 and 154 <= deep.min() == deep.max() <= 157


def _scores(name: str, identities: Sequence[float | None], shown: Sequence[float] = (0.2, 0.3)) -> PersonScores:
    prompts = PROMPTS[: len(identities)]
    values = [*shown, *[shown[-1]] * len(identities)][: len(identities)]
    pictures = [
        Scored(f"{name}-{i}", p, a, b) for i, (p, a, b) in enumerate(zip(prompts, identities, values, strict=True))
    ]
    return PersonScores(name, 1, 0, tuple(pictures))


def test_each_person_counts_once() -> None:
    """Not each picture; and pictures without a face are left out of identity, and counted beside it."""
    found = summarize([_scores("anna", [0.8, None]), _scores("bob", [0.2, 0.4])], Colours(), Lengths())
    assert found.overall.identity.mean == pytest.approx((0.8 + 0.3) / 2)
    assert found.overall.faceless.mean == pytest.approx(0.25)
    assert found.overall.shown.mean == pytest.approx(0.25)
    beach = found.prompts[1]
    assert beach.prompt == PROMPTS[1] and beach.pictures == 2
    assert beach.identity.mean == pytest.approx(0.4) and beach.identity.count == 1
    assert beach.faceless.mean == pytest.approx(0.5)


def test_the_interval_is_that_of_the_mean() -> None:
    """About two standard errors to each side, the same every time; none for one person or nobody."""
    values = np.random.default_rng(0).normal(0.5, 0.1, 400).tolist()
    found = estimate(values)
    error = float(np.std(values, ddof=1)) / 20
    assert found.low is not None and found.high is not None
    assert found.high - found.low == pytest.approx(2 * 1.96 * error, rel=0.05)
    assert found == estimate(values)
    assert estimate([0.5, None]).low is None and estimate([0.5, None]).mean == 0.5
    assert estimate([None]).mean is None


def test_the_page_names_who_measured(tmp_path: Path) -> None:
    found = summarize([_scores("an|na", [0.8, None]), _scores("bob", [0.2, 0.4])], Colours(), None)
    text = page(found, "evaluation.png")
    assert "Identity: mean colours." in text and "prompt similarity |" not in table(found)
    assert "| all | 4 | 0.550 [" in text and r"| an\|na |" in text and "25%" in text
    assert "Means over 2 people" in text
    picture = chart(found)
    assert picture is not None and picture.startswith(b"\x89PNG")
    assert json.loads(json.dumps(found.as_json()))["overall"]["identity"]["count"] == 2


def test_scores_of_pictures_come_from_their_pixels(tmp_path: Path) -> None:
    photo = _save(tmp_path / "photo.png", COLOURS["anna"])
    for number, colour in enumerate((COLOURS["anna"], COLOURS["bob"], GREY)):
        _save(tmp_path / "made" / f"001-a-photo-of-a-person-{number}.png", colour)
    (person,) = find_people(tmp_path / "made", photo, PROMPTS)
    found = score_person(person, Colours(), Lengths())
    same, other, none = (scored.identity for scored in found.pictures)
    assert same == pytest.approx(1) and other is not None and other < 0 and none is None
    assert [scored.shown for scored in found.pictures] == [len(PROMPTS[0]) / 100] * 3


def make_colours() -> Colours:
    return Colours()


def make_lengths() -> Lengths:
    return Lengths()


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Any]:
    """Run a command in an empty folder, where the judges of this file are a module: exit code, stdout, stderr."""
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.setitem(sys.modules, "judges", sys.modules[__name__])

    def call(*arguments: object) -> tuple[int, str, str]:
        code = cli.main([str(argument) for argument in arguments])
        return code, *capsys.readouterr()

    return call


JUDGES = ("--recognizer", "judges:make_colours", "--clip", "judges:make_lengths")


def test_the_command_evaluates_people(run: Any, tmp_path: Path) -> None:
    for name, colour in COLOURS.items():
        _save(tmp_path / "photos" / f"{name}.png", colour)
        _save(tmp_path / "made" / name / "001-a-photo-of-a-person-0.png", colour)
        _save(
            tmp_path / "made" / name / "012-a-person-and-Anne-Hathaway-taking-a-relaxing-hike-in-the-mountains-0.png",
            GREY,
        )
    code, out, err = run(
        "evaluate", tmp_path / "made", "--photos", tmp_path / "photos", *JUDGES, "--out", tmp_path / "out"
    )
    assert code == 0, err
    assert "| all | 4 | 1.000 [1.000, 1.000] |" in out and "| 50% [50%, 50%] |" in out
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "evaluation.json",
        "evaluation.md",
        "evaluation.png",
    ]
    code, out, err = run(
        "evaluate", tmp_path / "made" / "bob", "--photos", tmp_path / "photos" / "bob.png", *JUDGES, "--json"
    )
    facts = json.loads(out)
    assert code == 0 and facts["overall"]["pictures"] == 2 and facts["recognizer"] == "mean colours"
    assert facts["overall"]["identity"]["low"] is None


def test_one_bad_file_does_not_end_the_rest(run: Any, tmp_path: Path) -> None:
    """A picture that cannot be read, a person whose photo shows no face and one without photos are said and left out."""
    for name, colour in {**COLOURS, "carol": GREY, "dave": COLOURS["anna"]}.items():
        if name != "dave":
            _save(tmp_path / "photos" / name / "1.png", colour)
        _save(tmp_path / "made" / name / "001-a-photo-of-a-person-0.png", COLOURS["anna"])
    _save(tmp_path / "photos" / "anna" / "masks" / "1.png", COLOURS["bob"])
    (tmp_path / "made" / "bob" / "001-a-photo-of-a-person-1.png").write_bytes(b"nothing")
    code, out, err = run("evaluate", tmp_path / "made", "--photos", tmp_path / "photos", *JUDGES, "--json")
    assert code == 0, err
    facts = json.loads(out)
    assert [(person["name"], person["photos"], len(person["pictures"])) for person in facts["people"]] == [
        ("anna", 1, 1),
        ("bob", 1, 1),
    ]
    assert "'carol' is left out: No face was found" in err and "their photos are not there: dave" in err
    assert "001-a-photo-of-a-person-1.png" in err


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_names_of_any_bytes_are_written(run: Any, tmp_path: Path) -> None:
    odd = os.fsdecode(b"ann\xff\n")
    _save(tmp_path / "photos" / f"{odd}.png", COLOURS["anna"])
    _save(tmp_path / "made" / odd / os.fsdecode(b"a cat and sks \xff") / "0.png", COLOURS["anna"])
    code, out, err = run(
        "evaluate", tmp_path / "made", "--photos", tmp_path / "photos", *JUDGES, "--out", tmp_path / "out"
    )
    assert code == 0, err
    assert "| a cat and {} ? | 1 | 1.000 |" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("made", "--photos", "absent"), "no file or folder at 'absent'"),
        (("absent", "--photos", "photo.png"), "no file or folder at 'absent'"),
        (("empty", "--photos", "photo.png"), "no pictures of 'empty'"),
        (("photo.png", "--photos", "photo.png"), "is a file. Give the folder"),
        (("made", "--photos", "grey.png"), "No face was found on the photo"),
        (("made", "--photos", "photo.png", "--recognizer", "judges:nothing"), "cannot be imported"),
        (("made", "--photos", "photo.png", "--recognizer", "ArcFace"), "'dlib' or the path of an .onnx file"),
        (("made", "--photos", "photo.png", "--clip", "absent"), "no CLIP folder at 'absent'"),
        (("made", "--photos", "photo.png", "--clip", "empty"), "has no config.json"),
        (("made", "--photos", "broken.png"), "'broken.png'"),
    ],
)
def test_wrong_inputs_get_one_line(run: Any, arguments: tuple[str, ...], message: str) -> None:
    _save(Path("made/001-a-photo-of-a-person-0.png"), COLOURS["anna"])
    _save(Path("photo.png"), COLOURS["anna"])
    _save(Path("grey.png"), GREY)
    Path("broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    Path("empty").mkdir()
    judges = () if "--recognizer" in arguments else JUDGES[:2]
    code, out, err = run("evaluate", *arguments, *judges)
    assert code == 2 and not out and message in err
    assert len(err.strip().splitlines()[-1]) <= 600


@pytest.fixture(scope="module")
def tiny_clip_folder(tmp_path_factory: pytest.TempPathFactory, tiny_models: Path) -> Path:
    """CLIP with both halves in the layout of transformers, with random weights and the tiny models' tokenizer."""
    import transformers

    folder = tmp_path_factory.mktemp("clip")
    tokenizer: Any = transformers.CLIPTokenizer.from_pretrained(tiny_models / "tiny-eps" / "tokenizer")
    text = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision = {**text, "image_size": 32, "patch_size": 8, "hidden_size": 768}
    text |= {
        "vocab_size": len(tokenizer),
        "eos_token_id": tokenizer.eos_token_id,
        "bos_token_id": tokenizer.bos_token_id,
    }
    torch.manual_seed(0)
    config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)
    transformers.CLIPModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    size = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    transformers.CLIPImageProcessorPil(**size).save_pretrained(folder)
    return folder


def test_prompt_similarity_is_that_of_transformers(tiny_clip_folder: Path) -> None:
    """Picture by picture its own prompt without the person's place, whose two spaces stay."""
    import transformers

    from crossinit_core.evaluation.clip import ClipScorer

    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 255, (48, 64, 3), np.uint8) for _ in range(18)]
    prompts = [PROMPTS[i % 3] for i in range(18)]
    scorer = ClipScorer(tiny_clip_folder)
    found = scorer.score(pictures, prompts)
    assert scorer.name == "CLIP ViT-B/8"
    model = transformers.CLIPModel.from_pretrained(tiny_clip_folder).train(False)
    processor = transformers.CLIPImageProcessorPil.from_pretrained(tiny_clip_folder)
    tokenizer: Any = transformers.CLIPTokenizer.from_pretrained(tiny_clip_folder)
    for i in (0, 1, 17):
        text = prompts[i].replace("{}", "")
        pixels = processor(images=Image.fromarray(pictures[i]), return_tensors="pt")
        with torch.no_grad():
            out = model(**tokenizer(text, return_tensors="pt"), pixel_values=pixels["pixel_values"])
        expected = torch.nn.functional.cosine_similarity(out.image_embeds, out.text_embeds).item()
        assert found[i] == pytest.approx(expected, abs=1e-5)


def test_half_a_clip_is_refused(tmp_path: Path, tiny_models: Path, tiny_clip_folder: Path) -> None:
    from crossinit_core.evaluation.clip import ClipScorer

    for name in ("preprocessor_config.json", "tokenizer_config.json", "model.safetensors"):
        (tmp_path / name).write_bytes(b"{}")
    (tmp_path / "config.json").write_text('{"model_type": "clip_text_model"}', encoding="utf-8")
    with pytest.raises(ValueError, match="'clip_text_model', but CLIP with both halves"):
        ClipScorer(tmp_path)
    (tmp_path / "config.json").write_text("[", encoding="utf-8")
    with pytest.raises(ValueError, match=r"config\.json of .* cannot be read"):
        ClipScorer(tmp_path)
    (tmp_path / "config.json").write_bytes((tiny_clip_folder / "config.json").read_bytes())
    with pytest.raises(ValueError, match="cannot be loaded"):
        ClipScorer(tmp_path)
    shutil.copytree(tiny_clip_folder, tmp_path / "text")
    weights = load_file(tiny_clip_folder / "model.safetensors")
    save_file({k: v for k, v in weights.items() if "vision" not in k}, tmp_path / "text" / "model.safetensors")
    with pytest.raises(ValueError, match=r"lack .* of CLIP's, such as 'vision"):
        ClipScorer(tmp_path / "text")
