"""Random and broken files and texts, one kind after the other, in processes of their own.

A kind is a function that gets a folder and returns a maker: `make(numbers)` gives a `Try`. To fuzz something else, write
such a function and name it in `KINDS`.
"""

from __future__ import annotations

import io
import itertools
import os
import random
import shutil
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from devtools.hostile.token_files import damaged, valid_files

from . import ROOT
from .guard import guarded, limit_memory
from .learner import Child
from .mutations import any_text, mutated, with_broken_header
from .record import Record

HANGS_AFTER = 30.0
"""Seconds of silence after which a process is taken for hanging."""

CASES = Path(os.environ.get("CROSSINIT_CASES", ROOT.parent / "shared" / "cases")) / "inputs"


@dataclass(frozen=True)
class Try:
    """An input: `use` reads it, and raises as `guarded` wants it. `file` must be named in a refusal, if it is a file."""

    use: Callable[[], object]
    file: Path | None = None


Maker = Callable[[random.Random], Try]


def fuzz(kind: str, seconds: float, folder: Path, seed: int, out: Path) -> Record:
    """For so long; inputs that failed are kept under `out`."""
    record = Record(
        f"fuzzing: {kind}",
        "A good value, or one line of at most 600 characters that names the file, within a second of CPU time and 200 MB.",
    )
    until = time.monotonic() + seconds
    number, refused, slowest, largest = 0, 0, 0.0, 0
    while time.monotonic() < until:
        place = folder / f"fuzz-{kind}-{number}"
        place.mkdir()
        child = Child(partial(_work, kind, place, seed, number, until))
        try:
            while True:
                made, outcome = child.news(HANGS_AFTER)
                number = made + 1
                record.add(outcome.problem and f"input {made}: {outcome.problem}")
                refused += outcome.refused
                slowest, largest = max(slowest, outcome.seconds), max(largest, outcome.memory)
                if outcome.problem:
                    _keep(place, out / "failed" / f"{kind}-{made}")
        except (TimeoutError, EOFError) as end:
            hung = isinstance(end, TimeoutError)
            if hung:
                child.kill()
            code = child.end()
            if hung or code != 0:
                record.add(f"input {number}: {'it hangs' if hung else f'the process ended with {code}'}")
                _keep(place, out / "failed" / f"{kind}-{number}")
                number += 1
        shutil.rmtree(place, ignore_errors=True)
    record.facts = {
        "refused": refused,
        "slowest, s of CPU time": round(slowest, 3),
        "most memory, MB": round(largest / 2**20, 1),
    }
    return record


def _work(kind: str, place: Path, seed: int, first: int, until: float, send: Callable[[Any], None]) -> None:
    warnings.simplefilter("ignore")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # libtiff says there what it thinks of each file
    make = KINDS[kind](place)
    limit_memory()
    for number in itertools.count(first):
        if time.monotonic() > until:
            return
        attempt = make(random.Random(f"{seed} {kind} {number}"))
        send((number, guarded(attempt.use, attempt.file.name if attempt.file else None)))


def _keep(place: Path, to: Path) -> None:
    for path in place.glob("input*"):
        if path.is_file() and path.stat().st_size < 2**24 and len(list(to.parent.glob("*"))) < 100:
            to.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, to.with_name(f"{to.name}{path.suffix}"))


def tokens(folder: Path) -> Maker:
    """Token files of every layout that we have, broken."""
    from crossinit_core import LearnedToken, load_learned_token, save_learned_token
    from crossinit_core.tokens.learned_token import check_token_name

    breakers: list[Callable[[bytes, random.Random], bytes]] = [mutated]
    contents: list[tuple[str, bytes]] = []
    # Layouts and damages that the tests of token files try as well.
    breakers.append(damaged)
    contents += [(Path(name).suffix, content) for name, content in valid_files(768).items()]

    vectors = torch.randn(2, 768, generator=torch.Generator().manual_seed(0))
    token = LearnedToken(vectors, "anna", "sd1", {"crossinit.steps": "320"})
    seeds = [save_learned_token(token, folder / f"seed{suffix}") for suffix in (".safetensors", ".pt", ".bin")]
    layouts: list[Any] = [
        {"anna_v0": vectors[0], "anna_v1": vectors[1]},
        {"<anna>": vectors[0], "<anna>_1": vectors[1]},
        {"string_to_param": torch.nn.ParameterDict({"*": vectors}), "name": "anna", "step": 3},
        {"emb_params": vectors},
        [{"anna": vectors}],
        vectors,
    ]
    contents += [(path.suffix, path.read_bytes()) for path in seeds]
    for legacy, content in itertools.product((True, False), layouts):
        buffer = io.BytesIO()
        torch.save(content, buffer, _use_new_zipfile_serialization=not legacy)
        contents.append((".pt", buffer.getvalue()))
    if CASES.is_dir():
        names = sorted(path for path in CASES.iterdir() if path.suffix in (".safetensors", ".pt", ".bin"))
        contents += [(path.suffix, path.read_bytes()) for path in names if path.stat().st_size < 2**18]

    def make(numbers: random.Random) -> Try:
        suffix, content = numbers.choice(contents)
        if suffix == ".safetensors" and content[8:9] == b"{" and numbers.random() < 0.5:
            try:
                broken = with_broken_header(content, numbers)
            except ValueError:  # a case whose header is no JSON
                broken = mutated(content, numbers)
        elif numbers.random() < 0.2:
            broken = mutated(content, numbers, numbers.choice(contents)[1])
        else:
            broken = numbers.choice(breakers)(content, numbers)
        path = folder / f"input{numbers.choice((suffix, suffix, suffix, '.safetensors', '.pt', '.bin'))}"
        path.write_bytes(broken)

        def use() -> None:
            found = load_learned_token(path)
            assert found.vectors.dtype == torch.float32 and found.vectors.ndim == 2, "vectors of another type"
            assert found.vectors.isfinite().all(), "vectors that are not finite"
            assert len(found.vectors) <= 75 and found.vectors.shape[1] <= 8192, f"vectors {tuple(found.vectors.shape)}"
            assert check_token_name(found.name) == found.name, "a name that no token may have"

        return Try(use, path)

    return make


def resume_files(folder: Path) -> Maker:
    """A resume file that is broken anywhere; with a right checksum, and without one as of version 0.1.0."""
    import json

    from safetensors.torch import load, save

    from crossinit_core import InversionSettings
    from crossinit_core.backbone import Posterior
    from crossinit_core.learning import resume_format
    from crossinit_core.learning.batches import PhotoBatches
    from crossinit_core.learning.resume_folder import read_at_most
    from crossinit_core.learning.state import RunState
    from crossinit_core.learning.step import check_optimizer

    settings = InversionSettings(steps=12, batch_size=2, resolution=64)
    start = torch.randn(2, 768, generator=torch.Generator().manual_seed(0))
    latents = Posterior(torch.zeros(1, 4, 8, 8), torch.ones(1, 4, 8, 8))
    prompt = torch.zeros(1, 77, dtype=torch.int64)
    batches = PhotoBatches(latents, latents, prompt, batch_size=2, flip_probability=0.5, seed=settings.seed)
    for _ in range(settings.steps):
        next(batches)
    moments = {"exp_avg": start / 100, "exp_avg_sq": start.square()}
    state = RunState(12, start + 0.1, moments, batches.state(), (0.5,) * 12, (0.1,) * 12, (1.0,) * 12, "fp32")
    state = replace(state, settings=asdict(settings))
    content = resume_format.encode(state, "0" * 64)
    metadata = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]
    tensors = load(content)
    expected = resume_format.Expected(
        "0" * 64, start.shape, settings.steps, "fp32", partial(check_optimizer, start, settings, (768,)), batches.check
    )
    whole = resume_format.decode(content, expected)
    old = {key: value for key, value in metadata.items() if key != "checksum"}
    unsigned = save(tensors, old)

    def make(numbers: random.Random) -> Try:
        kind = numbers.randrange(4)
        if kind == 0:
            broken = mutated(content, numbers)
        elif kind == 1:
            broken = mutated(unsigned, numbers)
        elif kind == 2:
            broken = with_broken_header(unsigned, numbers)
        else:
            broken = _with_other_values(old, tensors, numbers)
        place = folder / "input.resume.safetensors"
        place.write_bytes(broken)

        def use() -> None:
            state = resume_format.decode(read_at_most(place, expected.most_bytes)[0], expected)
            if kind == 0:
                assert broken == content, "a file that was changed was believed"
            assert state.vectors.isfinite().all() and 1 <= state.step <= settings.steps
            assert len(state.losses) == len(state.distances) == state.step
            assert batches.skip_to(state.step, state.batches)
            batch = next(batches)
            assert batch.latents.isfinite().all() and batch.noise.isfinite().all()

        return Try(use)

    assert whole.step == settings.steps
    return make


def _with_other_values(metadata: dict[str, str], tensors: dict[str, torch.Tensor], numbers: random.Random) -> bytes:
    """A file that is in order, and whose values are not."""
    from safetensors.torch import save

    metadata, tensors = dict(metadata), {key: tensor.clone() for key, tensor in tensors.items()}
    if numbers.random() < 0.5:
        key = numbers.choice(list(metadata))
        texts = [
            "-1",
            "0",
            "9" * 30,
            "nan",
            "1e999",
            "[" * 5000,
            "[NaN]",
            "{}",
            "null",
            '["a"]',
            "fp16",
            "65536.0",
            "0.3",
        ]
        metadata[key] = numbers.choice(texts)
    else:
        key = numbers.choice(list(tensors))
        flat = tensors[key].view(-1).view(torch.uint8).numpy()
        for _ in range(numbers.randint(1, 8)):
            flat[numbers.randrange(len(flat))] = numbers.randrange(256)
        if numbers.random() < 0.2:
            tensors[key] = tensors[key][: numbers.randrange(len(tensors[key]))]
    return save(tensors, metadata)


def _texts(numbers: random.Random) -> bytes:
    """A text file as people have it: one of several encodings, perhaps broken."""
    ends = numbers.choice(("\n", "\r\n", "\r"))
    text = ends.join(any_text(numbers, 5) for _ in range(numbers.randint(0, 6)))
    encoding = numbers.choice(("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "cp1252", "utf-32"))
    content = text.encode(encoding, "surrogatepass" if encoding.startswith("utf") else "replace")
    return mutated(content, numbers) if numbers.random() < 0.4 else content


def names(folder: Path) -> Maker:
    """Lists of names, and names of tokens."""
    from crossinit_core import load_celebrity_names
    from crossinit_core.tokens.learned_token import check_token_name, suggest_token_name

    def make(numbers: random.Random) -> Try:
        if numbers.random() < 0.4:
            name = any_text(numbers, 4)

            def use_name() -> None:
                assert check_token_name(suggest_token_name(name)), "a suggestion that is refused"
                check_token_name(name).encode()

            return Try(use_name)
        path = folder / "input.txt"
        path.write_bytes(_texts(numbers))

        def use() -> None:
            found = load_celebrity_names(path)
            assert found.names and all(name == name.strip() and name for name in found.names)
            "".join(found.names).encode()

        return Try(use, path)

    return make


def prompts(folder: Path) -> Maker:
    """Files of prompts, and prompts with people in them."""
    from crossinit_core.prompt_labels import labels_of_prompts
    from crossinit_core.prompts import fill_places, load_prompts
    from crossinit_core.tokens.learned_token import suggest_token_name

    def make(numbers: random.Random) -> Try:
        if numbers.random() < 0.5:
            prompt = any_text(numbers)
            people = [suggest_token_name(any_text(numbers, 2)) for _ in range(numbers.randint(0, 3))]

            def fill() -> None:
                filled = fill_places(prompt, people, lambda index, _: f"<{index}>")
                assert "<0>" in filled or len(people) > 1
                filled.encode()
                "".join(labels_of_prompts([prompt])).encode()

            return Try(fill)
        path = folder / "input.txt"
        path.write_bytes(_texts(numbers))

        def use() -> None:
            found = load_prompts(path)
            assert found and all(found)
            "".join(found).encode()
            labels = labels_of_prompts(found)
            assert len(labels) == len(found) and all(labels)

        return Try(use, path)

    return make


def photos(folder: Path) -> Maker:
    """Small pictures in every format that Pillow writes here, broken."""
    from PIL import Image

    from crossinit_core.photos.images import load_training_photo

    wide, high = 80, 70  # at least 64 px: what is smaller is refused before its pixels are read
    noise = random.Random(0).randbytes(wide * high * 4)
    contents = []
    for mode, (suffix, options) in itertools.product(("RGB", "L", "RGBA", "P", "I;16", "F", "CMYK", "1"), _formats()):
        length = wide * high * {"RGB": 3, "RGBA": 4, "CMYK": 4, "F": 4, "I;16": 2}.get(mode, 1)
        picture = Image.frombytes(mode, (wide, high), noise[: length if mode != "1" else wide // 8 * high])
        buffer = io.BytesIO()
        try:
            picture.save(buffer, **options)
        except (OSError, ValueError, KeyError):
            continue
        contents.append((suffix, buffer.getvalue()))
    if CASES.is_dir():
        found = [path for path in sorted(CASES.iterdir()) if path.suffix in (".png", ".tif")]
        contents += [(path.suffix, path.read_bytes()) for path in found if path.stat().st_size < 2**18]

    def make(numbers: random.Random) -> Try:
        suffix, content = numbers.choice(contents)
        path = folder / f"input{suffix}"
        path.write_bytes(mutated(content, numbers, numbers.choice(contents)[1]))

        def use() -> None:
            # As `train` reads it: of a picture that is right, however large, little is kept.
            photo, size = load_training_photo(path, 64)
            assert photo.shape == (1, 64, 64, 3) and min(size) >= 64, f"a photo {tuple(photo.shape)} of {size}"
            assert photo.isfinite().all() and 0 <= photo.min() <= photo.max() <= 1, "values outside 0..1"

        return Try(use)

    return make


def _formats() -> Iterator[tuple[str, dict[str, Any]]]:
    yield ".png", {"format": "PNG"}
    yield ".jpg", {"format": "JPEG"}
    yield ".webp", {"format": "WEBP"}
    yield ".webp", {"format": "WEBP", "lossless": True}
    yield ".gif", {"format": "GIF"}
    yield ".bmp", {"format": "BMP"}
    yield ".tif", {"format": "TIFF"}
    yield ".tif", {"format": "TIFF", "compression": "tiff_lzw"}
    yield ".avif", {"format": "AVIF"}


KINDS: dict[str, Callable[[Path], Maker]] = {
    "token files": tokens,
    "resume files": resume_files,
    "names": names,
    "prompts": prompts,
    "photos": photos,
}
