"""Token files made to do harm: one line that names the file, before anything is unpacked."""

from __future__ import annotations

import base64
import io
import json
import os
import pickle
import struct
import subprocess
import sys
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from crossinit_core import load_learned_token
from devtools.hostile.token_files import damaged_files, picture, valid_files
from tests.conftest import REPOSITORY

CASES = Path(os.environ.get("CROSSINIT_CASES", REPOSITORY.parent / "shared" / "cases")) / "inputs"


def _torch(content: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def _safetensors(header: str, data: bytes = b"") -> bytes:
    return struct.pack("<Q", len(header)) + header.encode() + data


def _entry(dtype: str, shape: object, begin: object, end: object) -> str:
    return json.dumps({"<x>": {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}})


def _two(first: object, second: object, place: int) -> str:
    """The header of SDXL's two parts; the second starts at a place of its own."""
    parts = {"clip_l": (first, [0, 64]), "clip_g": (second, [place, place + 64])}
    return json.dumps({key: {"dtype": "F32", "shape": shape, "data_offsets": at} for key, (shape, at) in parts.items()})


def _bomb(content: object = None) -> bytes:
    """A tensor of 40 MB of zeros, deflated to 40 KB."""
    small = zipfile.ZipFile(io.BytesIO(_torch(content or {"<x>": torch.zeros(2, 8)})))
    kept = io.BytesIO()
    with zipfile.ZipFile(kept, "w", zipfile.ZIP_DEFLATED) as target:
        for member in small.namelist():
            content = bytes(40_000_000) if "/data/0" in member else small.read(member)
            target.writestr(member, content)
    return kept.getvalue()


def _many_members() -> bytes:
    kept = io.BytesIO()
    with zipfile.ZipFile(kept, "w") as target:
        for number in range(30_000):
            target.writestr(f"archive/data/{number:0300d}", b"")
    return kept.getvalue()


def _deep_picture() -> bytes:
    text = b"tEXtsd-ti-embedding\0" + base64.b64encode(b"[" * 1_000_000)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", len(text) - 4) + text + struct.pack(">I", zlib.crc32(text))


HOSTILE: dict[str, Callable[[], bytes]] = {
    "sparse": lambda: _torch({"<x>": torch.sparse_coo_tensor(torch.zeros(2, 1).long(), torch.ones(1), (2, 10**9))}),
    "complex": lambda: _torch({"<x>": torch.zeros(2, 8, dtype=torch.complex64)}),
    "quantized": lambda: _torch({"<x>": torch.quantize_per_tensor(torch.zeros(2, 8), 1.0, 0, torch.qint8)}),
    "meta": lambda: _torch({"<x>": torch.zeros(2, 8, device="meta")}),
    "stride 0": lambda: _torch({"<x>": torch.zeros(1, 1).expand(75, 8192)}),
    "stride 0 of 4 GB": lambda: _torch({"<x>": torch.zeros(1, 1).expand(2, 5 * 10**8)}),
    "nested tensors": lambda: _torch({"<x>": torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)])}),
    "whole numbers": lambda: _torch({"<x>": torch.zeros(2, 8, dtype=torch.long)}),
    "bomb": _bomb,
    "many members": _many_members,
    "deep lists": lambda: b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".",
    "tuples that hash for ever": lambda: b"\x80\x02})" + b"2\x86" * 60 + b"Ns.",
    "a number of 5,000 digits": lambda: b"\x80\x02}X\x01\x00\x00\x00aL" + b"9" * 5000 + b"L\ns.",
    "a string of 4 GB": lambda: b"\x80\x02}X\xff\xff\xff\xffabc",
    "reduce of system": lambda: b"\x80\x02cposix\nsystem\nX\x04\x00\x00\x00true\x85R.",
    "recursion": lambda: b"\x80\x02}q\x00X\x01\x00\x00\x00ah\x00s.",
    "a header of gigabytes": lambda: struct.pack("<Q", 2**40) + b"{",
    "a header of nothing": lambda: struct.pack("<Q", 0),
    "a header that is a list": lambda: _safetensors("[]"),
    "a deep header": lambda: _safetensors('{"a":' * 100_000),
    "two parts, one of gigabytes": lambda: _safetensors(_two([2, 8], [2, 10**12], 64), bytes(128)),
    "two parts in one place": lambda: _safetensors(_two([2, 8], [2, 8], 0), bytes(64)),
    "two parts of other numbers": lambda: _torch({"clip_l": torch.zeros(2, 768), "clip_g": torch.zeros(3, 1280)}),
    "two parts of stride 0": lambda: _torch(
        {"clip_l": torch.zeros(1, 1).expand(75, 768), "clip_g": torch.zeros(1, 1).expand(75, 1280)}
    ),
    "two parts that are one": lambda: _torch(dict.fromkeys(("clip_l", "clip_g"), torch.zeros(2, 768))),
    "two parts, one a bomb": lambda: _bomb({"clip_l": torch.zeros(2, 8), "clip_g": torch.zeros(2, 16)}),
    "two parts of all rows": lambda: _torch({"clip_l": torch.zeros(40_000, 8), "clip_g": torch.zeros(40_000, 16)}),
    "a shape of gigabytes": lambda: _safetensors(_entry("F32", [2, 10**12], 0, 64), bytes(64)),
    "a negative shape": lambda: _safetensors(_entry("F32", [-2, -8], 0, 64), bytes(64)),
    "a place outside": lambda: _safetensors(_entry("F32", [2, 8], 64, 128), bytes(64)),
    "offsets of 5,000 digits": lambda: _safetensors(_entry("F32", [2, 8], 0, 64).replace("64", "9" * 5000), bytes(64)),
    "a type that is none": lambda: _safetensors(_entry("F4\n<b>", [2, 8], 0, 64), bytes(64)),
    "a shape that is a word": lambda: _safetensors(_entry("F32", "28", 0, 64), bytes(64)),
    "metadata that is no text": lambda: _safetensors('{"__metadata__":{"a":[1]}}'),
    "data behind the end": lambda: _safetensors(_entry("F32", [2, 8], 0, 64), bytes(65)),
    "a plain pickle": lambda: pickle.dumps({"a": 1}),
    "a picture of lists": lambda: picture({"string_to_param": [[]] * 570_000}),
    "a picture of megabytes": lambda: picture({"string_to_param": "9" * 5_000_000}),
    "a picture of deep lists": lambda: _deep_picture(),
    "a picture": lambda: b"\x89PNG\r\n\x1a\n" + bytes(40),
    "nothing": lambda: b"",
}


@pytest.mark.parametrize("kind", HOSTILE)
@pytest.mark.filterwarnings("ignore")
def test_hostile_files_give_one_line(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"{'x' * 200}.pt"
    path.write_bytes(HOSTILE[kind]())
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=r"^'xxx") as caught:
            load_learned_token(path)
        assert tracemalloc.get_traced_memory()[1] < 60_000_000
    finally:
        tracemalloc.stop()
    assert len(str(caught.value)) <= 600 and str(caught.value).isprintable()


_MEASURED = """
import json, sys, time, warnings
from pathlib import Path
warnings.simplefilter("ignore")
from crossinit_core import load_learned_token

def peak():
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024

good, *files = map(Path, sys.argv[1:])
load_learned_token(good)
before, measured = peak(), {}
for path in files:
    start = time.perf_counter()
    try:
        load_learned_token(path)
        said = ""
    except ValueError as error:
        said = str(error)
    measured[path.name] = (peak() - before, time.perf_counter() - start, said)
print(json.dumps(measured))
"""


@pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="only Linux tells the most memory a program of its own took"
)
@pytest.mark.filterwarnings("ignore")
def test_no_file_takes_much_memory(tmp_path: Path) -> None:
    """One process reads them all, so its peak is that of the worst. A process inherits the peak of `getrusage`."""
    files = {name.replace(" ", "-").replace(",", "") + ".pt": make() for name, make in HOSTILE.items()}
    files |= {
        f"damaged-{place}-{name}": content for place, (name, content) in zip(range(300), damaged_files(9), strict=False)
    }
    good = tmp_path / "good.pt"
    good.write_bytes(valid_files()["named.pt"])
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    header = _entry("F32", [2, 5 * 10**8], 0, 4 * 10**9).encode()
    with (tmp_path / "gigabytes.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        file.truncate(8 + len(header) + 4 * 10**9)
    torch.save({"<x>": torch.zeros(49_408, 1024)[:2]}, tmp_path / "a-part-of-a-vocabulary.pt")
    paths = [tmp_path / name for name in (*files, "gigabytes.safetensors", "a-part-of-a-vocabulary.pt")]
    run = subprocess.run(
        [sys.executable, "-c", _MEASURED, str(good), *map(str, paths)], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    measured = json.loads(run.stdout)
    assert set(measured) == {path.name for path in paths}
    assert max(growth for growth, _, _ in measured.values()) < 200_000_000
    assert all(len(said) <= 600 for _, _, said in measured.values())
    assert measured["gigabytes.safetensors"][2] and not measured["a-part-of-a-vocabulary.pt"][2]


def test_damage_beside_a_token_is_found(tmp_path: Path) -> None:
    """In a tensor of 12 MB, of which the token is a part."""
    table = torch.randn(4000, 768)
    path = tmp_path / "x.pt"
    torch.save({"<x>": table[5:7]}, path)
    assert torch.equal(load_learned_token(path).vectors, table[5:7])
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="is damaged"):
        load_learned_token(path)


def test_the_shared_hostile_files_give_one_line() -> None:
    if not CASES.is_dir():
        pytest.skip(f"the cases are not at {CASES}; set CROSSINIT_CASES")
    for path in sorted(CASES.glob("hostile-*")):
        with pytest.raises(ValueError, match=r"^'hostile-") as caught:
            load_learned_token(path)
        assert path.name[:30] in str(caught.value) and len(str(caught.value)) <= 600


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such files in folders")
def test_pipes_devices_and_loops_are_no_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.pt")
    (tmp_path / "loop.pt").symlink_to(tmp_path / "loop.pt")
    for path in (tmp_path / "pipe.pt", tmp_path / "loop.pt", Path("/dev/zero"), Path("a\0b")):
        with pytest.raises(FileNotFoundError, match="There is no token file at"):
            load_learned_token(path)
