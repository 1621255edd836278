"""A resume file is not believed: whatever is wrong with it is found, said in a line, and the run starts anew."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import hypothesis
import hypothesis.strategies as st
import pytest
import torch
from safetensors.torch import load, save

from crossinit_core import InversionResult, invert
from crossinit_core.diffusers_backbone import DiffusersBackbone
from crossinit_core.learning.resume_format import Expected, decode, encode
from tests.resumed import PHOTO, SETTINGS, Cancel, expected_of, same, stop_after

Metadata = dict[str, str]
Tensors = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def uninterrupted(backbone: DiffusersBackbone, v0: torch.Tensor) -> InversionResult:
    return invert(backbone, v0, SETTINGS, images=PHOTO)


@pytest.fixture(scope="module")
def stopped(backbone: DiffusersBackbone, v0: torch.Tensor, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The resume file of a run that was cancelled after 3 of 5 steps; a test writes its content elsewhere."""
    folder = tmp_path_factory.mktemp("resume")
    with pytest.raises(Cancel):
        invert(backbone, v0, SETTINGS, images=PHOTO, resume_folder=folder, on_step=stop_after(3))
    (path,) = folder.iterdir()
    return path


@pytest.fixture(scope="module")
def expected(backbone: DiffusersBackbone, v0: torch.Tensor, stopped: Path) -> Expected:
    return expected_of(backbone, v0, stopped.read_bytes())


def _parts(content: bytes) -> tuple[Metadata, Tensors]:
    length = int.from_bytes(content[:8], "little")
    return dict(json.loads(content[8 : 8 + length])["__metadata__"]), load(content)


def _older(change: Callable[[Metadata, Tensors], object], content: bytes) -> bytes:
    """The file as version 0.1.0 wrote it, without a checksum, and changed."""
    metadata, tensors = _parts(content)
    del metadata["checksum"]
    change(metadata, tensors)
    return save(tensors, metadata)


def _raw(header: bytes, data: bytes = b"") -> bytes:
    return len(header).to_bytes(8, "little") + header + data


def _note_on(
    content: bytes | Callable[[Path], None],
    stopped: Path,
    folder: Path,
    backbone: DiffusersBackbone,
    v0: torch.Tensor,
    uninterrupted: InversionResult,
) -> str:
    """Put it in the place of the resume file, and see that the run starts anew and ends right. Returns the note."""
    path = folder / stopped.name
    path.write_bytes(content) if isinstance(content, bytes) else content(path)
    result = invert(backbone, v0, SETTINGS, images=PHOTO, resume_folder=folder)
    assert result.resumed_from == 0
    assert same(result, uninterrupted)
    (note,) = result.notes
    assert path.name in note and len(note) <= 600 and note.isprintable()
    assert note.endswith("This run starts anew.")
    assert os.path.lexists(path.with_name(f"{path.name}.damaged"))
    assert invert(backbone, v0, SETTINGS, images=PHOTO, resume_folder=folder).resumed_from == 5
    return note


def test_every_flipped_bit_is_found(backbone: DiffusersBackbone, v0: torch.Tensor, stopped: Path) -> None:
    """In header, metadata, checksum and tensors: of each byte one bit, and of every seventh byte all."""
    content = stopped.read_bytes()
    expected = expected_of(backbone, v0, content)
    assert decode(content, expected).step == 3
    accepted = []
    for place in range(len(content)):
        for bit in range(8) if place % 7 == 0 else (place % 8,):
            changed = bytearray(content)
            changed[place] ^= 1 << bit
            try:
                decode(bytes(changed), expected)
            except ValueError:
                continue
            accepted.append((place, bit))
    assert not accepted


def test_a_file_that_is_cut_off_is_found(backbone: DiffusersBackbone, v0: torch.Tensor, stopped: Path) -> None:
    content = stopped.read_bytes()
    expected = expected_of(backbone, v0, content)
    for length in (*range(0, len(content), 101), len(content) - 1):
        with pytest.raises(ValueError):
            decode(content[:length], expected)
    with pytest.raises(ValueError):
        decode(content + b"\0", expected)


def test_what_is_written_is_read(backbone: DiffusersBackbone, v0: torch.Tensor, stopped: Path) -> None:
    content = stopped.read_bytes()
    expected = expected_of(backbone, v0, content)
    state = decode(content, expected)
    again = decode(encode(state, expected.fingerprint), expected)
    assert (again.step, again.losses, again.angles, again.loss_scale) == (3, state.losses, state.angles, 1.0)
    assert torch.equal(again.vectors, state.vectors)


def test_a_file_of_an_older_version_goes_on(
    backbone: DiffusersBackbone, v0: torch.Tensor, uninterrupted: InversionResult, stopped: Path, tmp_path: Path
) -> None:
    (tmp_path / stopped.name).write_bytes(_older(lambda metadata, tensors: None, stopped.read_bytes()))
    result = invert(backbone, v0, SETTINGS, images=PHOTO, resume_folder=tmp_path)
    assert result.resumed_from == 3 and not result.notes
    assert same(result, uninterrupted)


def _set(**values: str) -> Callable[[Metadata, Tensors], object]:
    return lambda metadata, tensors: metadata.update(values)


def _put(key: str, value: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Metadata, Tensors], object]:
    return lambda metadata, tensors: tensors.update({key: value(tensors[key]).contiguous()})


def _at(place: int, number: float) -> Callable[[torch.Tensor], torch.Tensor]:
    def change(tensor: torch.Tensor) -> torch.Tensor:
        changed = tensor.clone()
        changed.view(-1)[place] = number
        return changed

    return change


def _generator(layout: str, offset: int, value: Any) -> Callable[[Metadata, Tensors], object]:
    def change(tensor: torch.Tensor) -> torch.Tensor:
        content = bytearray(tensor.numpy().tobytes())
        struct.pack_into(layout, content, offset, value)
        return torch.frombuffer(content, dtype=torch.uint8).clone()

    return _put("draws.generator", change)


IMPOSSIBLE: dict[str, tuple[Callable[[Metadata, Tensors], object], str]] = {
    "no step": (lambda metadata, tensors: metadata.pop("step"), "lacks step"),
    "step 0": (_set(step="0"), "step is '0'"),
    "a negative step": (_set(step="-3"), "step is '-3'"),
    "a step beyond the end": (_set(step="6"), "expected 1 to 5"),
    "a step of many digits": (_set(step="9" * 5000), "step is"),
    "a step in other digits": (_set(step="\u0663"), "step is"),
    "another step": (_set(step="4"), "after 4 steps"),
    "a loss too few": (_set(losses="[0.1, 0.2]"), "2 losses after 3"),
    "a loss that is NaN": (_set(losses="[0.1, NaN, 0.2]"), "losses"),
    "a loss that is infinite": (_set(losses="[0.1, 1e999, 0.2]"), "losses"),
    "a loss that is text": (_set(losses='[0.1, "0.2", 0.2]'), "losses"),
    "a loss that is true": (_set(losses="[0.1, true, 0.2]"), "losses"),
    "losses that are an object": (_set(losses="{}"), "losses"),
    "nested losses": (_set(losses="[" * 100_000), "losses"),
    "a negative distance": (_set(distances="[0, -1, 0]"), "distances"),
    "an angle too many": (_set(angles="[0, 0, 0, 0]"), "4 angles"),
    "an angle above 180": (_set(angles="[0, 0, 200]"), "angles"),
    "an unknown precision": (_set(precision="fp8"), "precision is 'fp8'"),
    "a smaller precision": (_set(precision="fp16"), "precision is 'fp16'"),
    "a scale that is NaN": (_set(loss_scale="nan"), "loss scale"),
    "a scale of 0": (_set(loss_scale="0.0"), "loss scale"),
    "a scale of float16": (_set(loss_scale="65536.0"), "loss scale"),
    "settings that are a list": (_set(settings="[]"), "settings"),
    "an unknown key": (_set(checksun="0"), "checksun"),
    "another fingerprint": (_set(fingerprint="0" * 64), "another run"),
    "another format": (_set(format="x\n" * 5000), "format"),
    "a vector that is NaN": (_put("vectors", _at(0, torch.nan)), "not finite"),
    "vectors of float16": (_put("vectors", torch.Tensor.half), "type"),
    "a vector too few": (_put("vectors", lambda tensor: tensor[:1]), "its vectors are (1, 32)"),
    "no vectors": (lambda metadata, tensors: tensors.pop("vectors"), "tensors"),
    "a moment too few": (lambda metadata, tensors: tensors.pop("optimizer.exp_avg"), "optimizer"),
    "a moment that is infinite": (_put("optimizer.exp_avg", _at(3, torch.inf)), "optimizer"),
    "a negative mean of squares": (_put("optimizer.exp_avg_sq", _at(3, -1.0)), "negative"),
    "a moment of another shape": (_put("optimizer.exp_avg", lambda tensor: tensor[:, :3]), "optimizer"),
    "no generator": (lambda metadata, tensors: tensors.pop("draws.generator"), "batches"),
    "a short generator": (_put("draws.generator", lambda tensor: tensor[:100]), "generator"),
    "a generator of zeros": (_put("draws.generator", torch.zeros_like), "generator"),
    "a generator of another seed": (_generator("<Q", 0, 4), "generator"),
    "a generator with nothing left": (_generator("<i", 8, 0), "generator"),
    "a generator far beyond its table": (_generator("<Q", 16, 2**40), "generator"),
    "a generator a little beyond it": (_generator("<Q", 16, 620), "generator"),
    "a pool of a photo that is not there": (_put("draws.pool", _at(0, 1)), "photos to come"),
    "a pool of a negative photo": (_put("draws.pool", _at(0, -1)), "photos to come"),
    "a pool that is too short": (_put("draws.pool", lambda tensor: tensor[1:]), "photos to come"),
    "a pool of bytes": (_put("draws.pool", torch.Tensor.byte), "photos to come"),
    "one more tensor": (lambda metadata, tensors: tensors.update(more=torch.zeros(1)), "tensor that no run"),
}


@pytest.mark.parametrize("kind", IMPOSSIBLE)
def test_impossible_values_are_found_without_checksum(
    backbone: DiffusersBackbone, v0: torch.Tensor, stopped: Path, kind: str
) -> None:
    """Files of version 0.1.0 have no checksum, so each value is looked at."""
    change, reason = IMPOSSIBLE[kind]
    content = stopped.read_bytes()
    with pytest.raises(ValueError) as refused:
        decode(_older(change, content), expected_of(backbone, v0, content))
    assert reason in str(refused.value)
    assert len(str(refused.value)) < 300 and len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize(
    "header",
    [
        b"{}",
        b"[]",
        b"null",
        b"[" * 300_000,
        b'{"a":' * 200_000,
        b'{"__metadata__":{"step":' + b"1" * 5000 + b"}}",
        b'{"__metadata__":{"step":"1","step":"2"}}',
        b'{"vectors":{"dtype":"F32","shape":[2,1000000000],"data_offsets":[0,8000000000]}}',
        b"\xff\xfe{}",
    ],
    ids=["empty", "a list", "null", "nested", "nested objects", "digits", "twice", "gigabytes", "not UTF-8"],
)
def test_a_header_that_is_a_bomb_is_refused(
    backbone: DiffusersBackbone, v0: torch.Tensor, stopped: Path, header: bytes
) -> None:
    with pytest.raises(ValueError):
        decode(_raw(header), expected_of(backbone, v0, stopped.read_bytes()))


def test_declared_gigabytes_are_not_unpacked(backbone: DiffusersBackbone, v0: torch.Tensor, stopped: Path) -> None:
    content = stopped.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    del header["__metadata__"]["checksum"]
    header["vectors"] = {"dtype": "F32", "shape": [2, 10**9], "data_offsets": [0, 8 * 10**9]}
    with pytest.raises(ValueError, match="not a safetensors file"):
        decode(_raw(json.dumps(header).encode(), content[8 + length :]), expected_of(backbone, v0, content))


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
_KEYS = st.sampled_from(["step", "losses", "distances", "angles", "precision", "loss_scale", "settings", "fingerprint"])


@hypothesis.settings(max_examples=300, deadline=None, derandomize=True)
@hypothesis.given(values=st.dictionaries(_KEYS | st.text(max_size=8), st.text(max_size=20) | _JSON.map(json.dumps)))
def test_any_metadata_is_refused_in_a_line(expected: Expected, stopped: Path, values: dict[str, str]) -> None:
    """Or holds what a run can have."""
    content = stopped.read_bytes()
    try:
        state = decode(_older(lambda metadata, tensors: metadata.update(values), content), expected)
    except ValueError as error:
        assert len(str(error)) < 300 and len(str(error).splitlines()) == 1
    else:
        assert state.step == len(state.losses) == len(state.distances) == 3
        assert values.keys() <= _parts(content)[0].keys()


@hypothesis.settings(max_examples=300, deadline=None, derandomize=True)
@hypothesis.given(header=_JSON, data=st.binary(max_size=64))
def test_any_header_is_refused_in_a_line(expected: Expected, header: Any, data: bytes) -> None:
    for raw in (
        _raw(json.dumps(header).encode(), data),
        _raw(json.dumps({"__metadata__": header}).encode(), data),
        data,
    ):
        with pytest.raises(ValueError) as refused:
            decode(raw, expected)
        assert len(str(refused.value)) < 300 and len(str(refused.value).splitlines()) == 1


def _sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(2**40)


def _link_to_itself(path: Path) -> None:
    path.symlink_to(path)


def _link_to_nothing(path: Path) -> None:
    path.symlink_to(path.with_name("nothing"))


def _folder(path: Path) -> None:
    path.mkdir()
    (path / "inside").write_bytes(b"")


def _fifo(path: Path) -> None:
    os.mkfifo(path)


def _link_to_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


ODD = [_sparse, _folder, _link_to_itself, _link_to_nothing, _fifo, _link_to_device]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no FIFOs, and links need a permission there")
@pytest.mark.parametrize("odd", ODD)
def test_no_file_at_all_is_set_aside(
    backbone: DiffusersBackbone,
    v0: torch.Tensor,
    uninterrupted: InversionResult,
    stopped: Path,
    tmp_path: Path,
    odd: Callable[[Path], None],
) -> None:
    _note_on(odd, stopped, tmp_path, backbone, v0, uninterrupted)


def test_a_bad_file_never_crashes_a_run(
    backbone: DiffusersBackbone, v0: torch.Tensor, uninterrupted: InversionResult, stopped: Path, tmp_path: Path
) -> None:
    """Through the run itself: a state of the generator with which torch would read beyond its table."""
    change, _ = IMPOSSIBLE["a generator far beyond its table"]
    note = _note_on(_older(change, stopped.read_bytes()), stopped, tmp_path, backbone, v0, uninterrupted)
    assert "random generator" in note
    (tmp_path / stopped.name).unlink()
    change, _ = IMPOSSIBLE["nested losses"]
    _note_on(_older(change, stopped.read_bytes()), stopped, tmp_path, backbone, v0, uninterrupted)
    damaged = [path for path in tmp_path.iterdir() if ".damaged" in path.name]
    assert len(damaged) == 1, "they would pile up"


def test_another_good_file_takes_over(
    backbone: DiffusersBackbone, v0: torch.Tensor, uninterrupted: InversionResult, stopped: Path, tmp_path: Path
) -> None:
    """A run of 5 steps goes on from a good file of 3 steps beside a damaged one of its own."""
    content = stopped.read_bytes()
    (tmp_path / stopped.name).write_bytes(content[:-1])
    (tmp_path / stopped.name.replace("-5.", "-4.")).write_bytes(content)
    result = invert(backbone, v0, SETTINGS, images=PHOTO, resume_folder=tmp_path)
    assert result.resumed_from == 3
    assert same(result, uninterrupted)
    assert "goes on from step 3, which another file holds" in result.notes[0]


def test_a_longer_runs_file_is_left_alone(
    backbone: DiffusersBackbone, v0: torch.Tensor, stopped: Path, tmp_path: Path
) -> None:
    """It is not damaged, only farther on."""
    path = tmp_path / stopped.name
    path.write_bytes(stopped.read_bytes())
    result = invert(backbone, v0, replace(SETTINGS, steps=2), images=PHOTO, resume_folder=tmp_path)
    assert result.resumed_from == 0 and not result.notes
    assert path.read_bytes() == stopped.read_bytes()


@pytest.mark.skipif(os.name == "nt", reason="links need a permission on Windows")
def test_a_damaged_folder_never_stops_a_run(
    backbone: DiffusersBackbone, v0: torch.Tensor, uninterrupted: InversionResult, stopped: Path, tmp_path: Path
) -> None:
    """Folders take the place of the file again and again, and of what is set aside."""
    path = tmp_path / stopped.name
    path.with_name(f"{path.name}.damaged").mkdir()
    for number in range(2, 10):
        path.with_name(f"{path.name}.damaged-{number}").mkdir()
        (path.with_name(f"{path.name}.damaged-{number}") / "inside").touch()
    (path.with_name(f"{path.name}.damaged") / "inside").touch()
    _folder(path)
    result = invert(backbone, v0, SETTINGS, images=PHOTO, resume_folder=tmp_path)
    assert same(result, uninterrupted)
    assert "It stays where it is." in result.notes[0] and "could not be written" in result.notes[1]


@pytest.mark.skipif(os.name == "nt", reason="links need a permission on Windows")
def test_a_link_to_a_good_file_goes_on(
    backbone: DiffusersBackbone, v0: torch.Tensor, uninterrupted: InversionResult, stopped: Path, tmp_path: Path
) -> None:
    """As some people keep their files; the file that it names is not touched."""
    path = tmp_path / stopped.name
    path.symlink_to(stopped)
    result = invert(backbone, v0, SETTINGS, images=PHOTO, resume_folder=tmp_path)
    assert result.resumed_from == 3 and not result.notes
    assert same(result, uninterrupted)
    assert not path.is_symlink() and stopped.is_file()
