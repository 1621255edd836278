"""Renaming and taking away faces from the page, on the side of the server: what is heard, what is touched, what is kept."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from crossinit_core import load_learned_token
from crossinit_core.tokens.moving import remove_token_file, rename_token_file
from devtools.docs import locales
from tests.tiny_faces import save_face

RENAME, REMOVE = "/crossinit/faces/rename", "/crossinit/faces/remove"
WEB = Path(__file__).resolve().parents[1] / "web"


def _metadata(path: Path) -> dict[str, str]:
    with safe_open(path, "pt") as file:
        return dict(file.metadata())


def _contents(folder: Path) -> dict[str, str]:
    """Every file below a folder, with a digest of its bytes."""
    files = (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


# Files


@pytest.mark.parametrize("layout", [None, "emb_params", "emp_params"])
def test_a_renamed_face_is_the_same_person(tmp_path: Path, layout: str | None) -> None:
    path = save_face(tmp_path, "anna", beside=True, layout=layout)
    before, facts, tensors = load_learned_token(path), _metadata(path), list(load_file(path).values())
    renamed = rename_token_file(path, "Zoë")
    assert renamed == tmp_path / "Zoë.safetensors"
    after = load_learned_token(renamed)
    assert torch.equal(after.vectors, before.vectors) and after.name == "Zoë"
    assert [tensor.numpy().tobytes() for tensor in load_file(renamed).values()] == [
        tensor.numpy().tobytes() for tensor in tensors
    ]
    assert not any("anna" in key for key in load_file(renamed))
    now = _metadata(renamed)
    assert now["modelspec.title"] == "Zoë" and now["modelspec.trigger_phrase"] == "embedding:Zoë person"
    changed = {"modelspec.title", "modelspec.trigger_phrase", "modelspec.usage_hint"}
    assert {key: value for key, value in now.items() if key not in changed} == {
        key: value for key, value in facts.items() if key not in changed
    }
    # What lies beside it went with it, and says the new name.
    assert sorted(_contents(tmp_path)) == ["Zoë.metadata.json", "Zoë.preview.png", "Zoë.safetensors"]
    details = json.loads((tmp_path / "Zoë.metadata.json").read_text(encoding="utf-8"))
    assert (details["file_name"], details["model_name"]) == ("Zoë", "Zoë")
    assert details["civitai"]["trainedWords"] == ["embedding:Zoë person"]
    assert details["sha256"] == hashlib.sha256(renamed.read_bytes()).hexdigest()


@pytest.mark.parametrize("name", ["clip_l", "emb_params", "__metadata__", "string_to_param", "a.b"])
def test_a_name_that_means_something_inside_a_file_is_harmless(tmp_path: Path, name: str) -> None:
    path = save_face(tmp_path, "anna")
    vectors = load_learned_token(path).vectors
    assert torch.equal(load_learned_token(rename_token_file(path, name)).vectors, vectors)


def test_a_name_of_other_case_is_another_name(tmp_path: Path) -> None:
    """On file systems that do not tell them apart as well as on those that do."""
    path = save_face(tmp_path, "anna", beside=True)
    vectors = load_learned_token(path).vectors
    assert torch.equal(load_learned_token(rename_token_file(path, "Anna")).vectors, vectors)
    assert sorted(_contents(tmp_path)) == ["Anna.metadata.json", "Anna.preview.png", "Anna.safetensors"]


def test_files_of_others_beside_a_face_stay(tmp_path: Path) -> None:
    path = save_face(tmp_path, "anna", beside=True)
    Image.new("RGB", (8, 8)).save(tmp_path / "anna.preview.png")
    (tmp_path / "anna.txt").write_text("my notes", encoding="utf-8")
    theirs = {name: digest for name, digest in _contents(tmp_path).items() if name.endswith((".png", ".txt"))}
    renamed = rename_token_file(path, "berta")
    remove_token_file(renamed, tmp_path / "removed")
    left = {name: digest for name, digest in _contents(tmp_path).items() if not name.startswith("removed/")}
    assert left == theirs
    assert sorted(_contents(tmp_path / "removed")) == [
        "berta.metadata.json",
        "berta.preview.png",
        "berta.safetensors",
    ]


def test_a_face_that_was_taken_away_is_still_there(tmp_path: Path) -> None:
    """And nobody's place is taken: the second of a name gets a number."""
    removed = tmp_path / "removed"
    for seed, expected in enumerate(["anna", "anna-2", "anna-3"]):
        path = save_face(tmp_path, "anna", beside=True, seed=seed)
        before = _contents(tmp_path)
        kept = remove_token_file(path, removed)
        assert kept == removed / f"{expected}.safetensors"
        assert _contents(removed)[kept.name] == before["anna.safetensors"]
        assert (removed / f"{expected}.preview.png").is_file()
        assert not [name for name in _contents(tmp_path) if name.startswith("anna")]
    assert len(list(removed.glob("*.safetensors"))) == 3


def test_a_name_that_is_taken_changes_nothing(tmp_path: Path) -> None:
    path = save_face(tmp_path, "anna", beside=True)
    (tmp_path / "berta.safetensors").write_bytes(b"somebody else")
    before = _contents(tmp_path)
    with pytest.raises(FileExistsError):
        rename_token_file(path, "berta")
    assert _contents(tmp_path) == before


def test_a_file_that_cannot_go_stays_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another program holds it, or the folder is read-only: then there are not two of them either."""
    path = save_face(tmp_path, "anna", beside=True)
    before, unlink = _contents(tmp_path), Path.unlink

    def held(self: Path, missing_ok: bool = False) -> None:
        if self == path:
            raise PermissionError(13, "Permission denied")
        unlink(self, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", held)
    for change in (lambda: rename_token_file(path, "berta"), lambda: remove_token_file(path, tmp_path / "removed")):
        with pytest.raises(PermissionError):
            change()
        assert _contents(tmp_path) == before


def test_what_this_pack_did_not_write_is_left_alone(tmp_path: Path) -> None:
    others = {
        "plain.safetensors": lambda path: save_file({"emb_params": torch.ones(2, 8)}, path),
        "theirs.safetensors": lambda path: save_file({"a": torch.ones(2)}, path, {"modelspec.title": "crossinit."}),
        "empty.safetensors": lambda path: path.write_bytes(b""),
        "short.safetensors": lambda path: path.write_bytes(b"\xff" * 8),
        "nested.safetensors": lambda path: path.write_bytes((100_000).to_bytes(8, "little") + b"[" * 100_000),
        "list.safetensors": lambda path: path.write_bytes((2).to_bytes(8, "little") + b"[]"),
        "facts.safetensors": lambda path: path.write_bytes((19).to_bytes(8, "little") + b'{"__metadata__":[]}'),
        "token.pt": lambda path: torch.save({"string_to_param": {"*": torch.ones(2, 8)}}, path),
        "folder.safetensors": lambda path: path.mkdir(),
    }
    for name, make in others.items():
        make(tmp_path / name)
    before = _contents(tmp_path)
    for name in [*others, "nobody.safetensors"]:
        for change in (
            lambda name=name: rename_token_file(tmp_path / name, "mine"),
            lambda name=name: remove_token_file(tmp_path / name, tmp_path / "removed"),
        ):
            with pytest.raises(ValueError, match=f"^'{re.escape(name)}' [^\n]*$"):
                change()
    assert _contents(tmp_path) == before


# The server


@pytest.fixture
def folders(pack: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with `embeddings` and `output`, which ComfyUI knows."""
    import folder_paths

    embeddings, output = tmp_path / "embeddings", tmp_path / "output"
    embeddings.mkdir()
    suffixes = folder_paths.folder_names_and_paths["embeddings"][1]
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "embeddings", ([str(embeddings)], suffixes))
    monkeypatch.setattr(folder_paths, "get_output_directory", lambda: str(output))
    pack.nodes.host.faces_routes.add_face_routes()  # as when ComfyUI asks for the nodes
    return tmp_path


PAGE: Mapping[str, str] = {"Content-Type": "application/json"}
"""With the Origin that belongs to the server: what the page sends."""


def _post(path: str, body: Any, headers: Mapping[str, str | None] = PAGE, host: str = "127.0.0.1") -> tuple[int, Any]:
    """Ask a server with the pack's routes, as it was made by ComfyUI's. A header of None is not sent."""
    import server
    from aiohttp import ClientSession, web
    from aiohttp.test_utils import TestServer

    async def ask() -> tuple[int, Any]:
        app = web.Application()
        app.add_routes(
            [one for one in server.PromptServer.instance.routes if "/crossinit/" in getattr(one, "path", "")]
        )
        async with TestServer(app, host=host) as running, ClientSession() as session:
            address = f"http://{host}:{running.port}"
            sent = {"Origin": address, **PAGE, **headers}
            raw = body if isinstance(body, bytes) else json.dumps(body).encode()
            kept = {name: value.replace("PORT", str(running.port)) for name, value in sent.items() if value is not None}
            async with session.post(address + path, data=raw, headers=kept) as answer:
                text = await answer.text()
                return answer.status, json.loads(text) if text.startswith("{") else text

    return asyncio.run(ask())


def test_the_page_renames_and_takes_away(folders: Path) -> None:
    embeddings = folders / "embeddings"
    save_face(embeddings / "family", "anna", beside=True)
    status, answer = _post(RENAME, {"file": str(Path("family/anna.safetensors")), "name": "  Zoë "})
    assert (status, answer) == (200, {"file": "family/Zoë.safetensors", "name": "Zoë"})
    status, answer = _post(REMOVE, {"file": str(Path("family/Zoë.safetensors"))})
    assert status == 200 and Path(answer["kept"]) == folders / "output" / "crossinit" / "removed" / "Zoë.safetensors"
    assert not _contents(embeddings) and len(_contents(folders / "output")) == 3


HOSTILE_NAMES = [
    *(
        "",
        " ",
        ".",
        "..",
        "../x",
        "..\\x",
        "/etc/x",
        "C:x",
        "a/b",
        "a\\b",
        "a b",
        "a:b",
        "con",
        "NUL.txt",
        ".hidden",
        "x.",
    ),
    *("a\0b", "a\nb", "\ud800", "x" * 101, "\u4eba" * 90, "<img src=x onerror=alert(1)>", "{}", "a|b", "a*", '"', "'"),
    *(None, 7, ["a"], {"a": 1}, True),
]


@pytest.mark.parametrize("name", HOSTILE_NAMES, ids=lambda name: ascii(name)[:20])
def test_a_hostile_name_moves_nothing(folders: Path, name: Any) -> None:
    save_face(folders / "embeddings", "anna", beside=True)
    before = _contents(folders)
    status, answer = _post(RENAME, {"file": "anna.safetensors", "name": name})
    assert status == 400 and len(answer["error"]) <= 600 and "\n" not in answer["error"]
    assert _contents(folders) == before


def test_a_name_keeps_no_suffix_and_no_invisible_signs(folders: Path) -> None:
    save_face(folders / "embeddings", "anna")
    status, answer = _post(RENAME, {"file": "anna.safetensors", "name": "ber\u200bta\u202e.safetensors"})
    assert (status, answer["file"]) == (200, "berta.safetensors")


def test_only_listed_files_are_touched(folders: Path) -> None:
    """Not those outside, by whatever path, and none behind a link."""
    embeddings, outside = folders / "embeddings", folders / "outside"
    save_face(embeddings, "anna")
    save_face(outside, "berta")
    save_file({"emb_params": torch.ones(2, 8)}, embeddings / "theirs.safetensors")
    (embeddings / "note.txt").write_text("mine", encoding="utf-8")
    asked: list[Any] = [
        *("../outside/berta.safetensors", "..\\outside\\berta.safetensors", str(outside / "berta.safetensors")),
        *("./anna.safetensors", "x/../anna.safetensors", "anna", "anna.safetensors\0", "/anna.safetensors", ""),
        *("theirs.safetensors", "note.txt", "nobody.safetensors", "\ud800.safetensors"),
        *(None, 3, True, ["anna.safetensors"], {"anna.safetensors": 1}),
    ]
    try:
        (embeddings / "link.safetensors").symlink_to(outside / "berta.safetensors")
        (embeddings / "linked").symlink_to(outside, target_is_directory=True)
    except OSError:
        pass  # this system lets nobody make symbolic links
    else:
        asked += ["link.safetensors", str(Path("linked/berta.safetensors"))]
    before = _contents(folders)
    for file in asked:
        for status, answer in (_post(RENAME, {"file": file, "name": "mine"}), _post(REMOVE, {"file": file})):
            assert status == 400, file
            assert len(answer["error"]) <= 600 and "\n" not in answer["error"]
    assert _contents(folders) == before


@pytest.mark.parametrize("other", ["berta.safetensors", "deep/Berta.PT", "BERTA.bin", "berta"])
def test_a_name_that_a_prompt_would_find_elsewhere_is_refused(folders: Path, other: str) -> None:
    embeddings = folders / "embeddings"
    save_face(embeddings, "anna")
    (embeddings / other).parent.mkdir(exist_ok=True)
    (embeddings / other).write_bytes(b"somebody else")
    before = _contents(folders)
    status, answer = _post(RENAME, {"file": "anna.safetensors", "name": "berta"})
    assert status == 409 and "Choose another name" in answer["error"]
    assert _contents(folders) == before


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": None},
        {"Origin": "http://127.0.0.1:1"},
        {"Origin": "http://localhost:PORT"},
        {"Origin": "file://127.0.0.1:PORT"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "none"},
        {"Host": "evil.example:PORT", "Origin": "http://evil.example:PORT"},
        {"Host": "127.0.0.1.evil.example", "Origin": "http://127.0.0.1.evil.example"},
        {"Host": "[", "Origin": "http://["},
        {"X-Forwarded-For": "127.0.0.1"},
        {"Forwarded": "for=127.0.0.1"},
        {"X-Real-IP": "127.0.0.1"},
        {"Content-Type": "text/plain"},
        {"Content-Type": "application/x-www-form-urlencoded"},
    ],
    ids=str,
)
def test_a_foreign_page_is_not_heard(folders: Path, headers: Mapping[str, str | None]) -> None:
    save_face(folders / "embeddings", "anna")
    before = _contents(folders)
    for path in (RENAME, REMOVE):
        status, answer = _post(path, {"file": "anna.safetensors", "name": "berta"}, headers)
        assert status == 403 and answer["error"]
    assert _contents(folders) == before


@pytest.mark.parametrize(
    ("address", "heard"),
    [
        ("127.0.0.1", True),
        ("127.8.9.1", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("192.168.1.7", False),
        ("::ffff:192.168.1.7", False),
        ("fe80::1%eth0", False),
        ("0.0.0.0", False),
        ("", False),
    ],
)
def test_another_computer_is_not_heard(pack: ModuleType, address: str, heard: bool) -> None:
    from unittest.mock import Mock

    from aiohttp.test_utils import make_mocked_request

    transport = Mock()
    transport.get_extra_info = lambda name, default=None: (address, 5) if name == "peername" else default
    headers = {"Host": "localhost:8188", "Origin": "http://localhost:8188", **PAGE}
    request = make_mocked_request("POST", RENAME, headers, transport=transport)
    assert (pack.nodes.host.faces_routes._objection(request) == "") == heard


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{", b"null", b"\xff", b"[" * 9000, b'{"file": "' + b"a" * 20_000 + b'"}']
)
def test_what_is_no_request_is_refused(folders: Path, body: bytes) -> None:
    status, answer = _post(RENAME, body)
    assert status == 400 and len(answer["error"]) <= 600


@pytest.mark.usefixtures("folders")
def test_nothing_is_changed_by_looking() -> None:
    """There is nothing to get: a link or a picture in a page cannot ask for it."""
    import server

    ours = [one for one in server.PromptServer.instance.routes if "/crossinit/" in getattr(one, "path", "")]
    assert {(one.method, one.path) for one in ours} == {("POST", RENAME), ("POST", REMOVE)}


def test_two_copies_of_the_pack_ask_once(pack: ModuleType) -> None:
    """ComfyUI would not start with the same route twice."""
    import server
    from aiohttp import web

    pack.nodes.host.faces_routes.add_face_routes()
    routes = [one for one in server.PromptServer.instance.routes if "/crossinit/" in getattr(one, "path", "")]
    web.Application().add_routes(routes)
    assert len(routes) == 2


# Texts


@pytest.mark.parametrize("language", locales.languages())
def test_the_panel_speaks_every_language(language: str) -> None:
    english, found = locales.panel("en"), locales.panel(language)
    assert list(found) == list(english)
    words = re.compile(r"\$[A-Z]+")
    for name, text in found.items():
        assert sorted(words.findall(text)) == sorted(words.findall(english[name])), name
        assert text != english[name], name


def test_every_text_of_the_panel_is_used() -> None:
    source = "".join(path.read_text(encoding="utf-8") for path in WEB.glob("faces*.js"))
    used = set(re.findall(r"(?:say|iconButton|tellEmpty)\('(\w+)'", source)) | set(
        re.findall(r"crossinitFaces\.(\w+)'", source)
    )
    used |= set(re.findall(r"'(save|delete|none|noneHow|noMatch|loading|rename)'", source))
    assert used == set(locales.panel("en"))
