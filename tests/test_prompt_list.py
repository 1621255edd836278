"""Many prompts from a box or a file, and labels of them that every file system takes."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from crossinit_core.files import is_windows_device
from crossinit_core.prompt_labels import LONGEST_LABEL_IN_BYTES, label_of_prompt, labels_of_prompts


@pytest.mark.parametrize(
    ("prompt", "label"),
    [
        ("a photo of a {} person", "a-photo-of-a-person"),
        ("a photo of a ({}:1.2) person, smiling!", "a-photo-of-a-person-smiling"),
        ("embedding:anna as a Knight", "anna-as-a-knight"),
        ("{anna} and {ben} shake hands", "anna-and-ben-shake-hands"),
        ("../../etc/passwd", "etc-passwd"),
        ("C:\\temp\\x:y|z?*<>\"'%date%", "c-temp-x-y-z-date"),
        ("CON", "prompt-con"),
        ("lpt1", "prompt-lpt1"),
        ("con artist", "con-artist"),
        ("...", "prompt"),
        ("🙂 🙂", "prompt"),
        ("Ein Mädchen am Fluß", "ein-mädchen-am-fluß"),
        ("Ein Ma\u0308dchen", "ein-mädchen"),
        ("一个{}人的照片，微笑", "一个-人的照片-微笑"),
        ("हिन्दी में चित्र", "हिन्दी-में-चित्र"),
        ("f/1.8, 35 mm", "f-1-8-35-mm"),
        ("a photo of a %person% person", "a-photo-of-a-person"),
        ("COM\u00b9", "com"),
        ("half an emoji \ud83d", "half-an-emoji"),
    ],
)
def test_a_prompt_becomes_a_file_name(prompt: str, label: str) -> None:
    assert label_of_prompt(prompt) == label


@pytest.mark.parametrize("prompt", ["a very " * 60 + "long prompt", "长" * 300, "x" * 500, "मि" * 200])
def test_a_long_prompt_is_cut_short(prompt: str) -> None:
    label = label_of_prompt(prompt)
    assert 20 < len(label) <= 60 and len(label.encode()) <= LONGEST_LABEL_IN_BYTES
    assert not label.endswith("-") and (" " not in prompt or label.endswith(("very", "-a")))


def test_no_two_labels_are_alike_on_windows_and_macos() -> None:
    prompts = ["A smile", "a smile!", "a smile 2", "a (smile)", "Straße", "STRASSE", "é", "e\u0301"]
    labels = labels_of_prompts(prompts)
    assert labels[:2] == ("a-smile", "a-smile-2")
    assert len({label.casefold() for label in labels}) == len(prompts)
    assert labels_of_prompts(prompts[:3]) == labels[:3]
    assert not any(is_windows_device(label) for label in labels_of_prompts(["nul", "NUL", "aux"]))


def test_twenty_thousand_equal_prompts_are_numbered() -> None:
    assert labels_of_prompts(["a smile"] * 20_000)[-1] == "a-smile-20000"


@pytest.fixture
def node(pack: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The node, with an input folder of its own and no page to send text to."""
    from types import SimpleNamespace

    import folder_paths
    import server

    monkeypatch.setattr(folder_paths, "get_input_directory", lambda: str(tmp_path))
    quiet = SimpleNamespace(send_sync=lambda *_: None)
    monkeypatch.setattr(server.PromptServer, "instance", quiet, raising=False)
    return pack.nodes.prompt_list.CrossInitPromptList.PREPARE_CLASS_CLONE({"hidden_inputs": {}})


def test_prompts_of_the_box_come_first(node: Any, tmp_path: Path) -> None:
    """Prompts come from the box and then from the file."""
    (tmp_path / "sets").mkdir()
    (tmp_path / "sets" / "mine.txt").write_bytes("\ufeffa {} person\r\n\r\n# no\r\nun {} café\r\n".encode())
    assert "sets/mine.txt" in node.define_schema().inputs[1].options
    prompts, labels, prefixes, count = node.execute("{} dancing\n\n", "sets/mine.txt", "anna").result
    assert prompts == ["{} dancing", "a {} person", "un {} café"] and count == 3
    assert labels == ["dancing", "a-person", "un-café"]
    assert prefixes[2] == "anna/un-café/un-café"
    assert node.execute("# only the file", "sets/mine.txt").result[0] == prompts[1:]


def test_a_prompt_file_that_changed_is_read_again(node: Any, tmp_path: Path) -> None:
    path = tmp_path / "mine.txt"
    path.write_text("one", encoding="utf-8")
    before = node.fingerprint_inputs("", "mine.txt")
    path.write_text("one\ntwo", encoding="utf-8")
    assert node.fingerprint_inputs("", "mine.txt") != before


def test_prompt_lists_that_cannot_be_read_are_named(node: Any, tmp_path: Path) -> None:
    """No prompt, a missing file and a file of another encoding are named."""
    with pytest.raises(ValueError, match="'prompts' holds no prompt"):
        node.execute(" \n# nothing")
    with pytest.raises(ValueError, match=r"'gone\.txt' is gone"):
        node.execute("", "gone.txt")
    (tmp_path / "latin.txt").write_bytes("café".encode("latin-1"))
    with pytest.raises(ValueError, match=r"'latin\.txt' is not UTF-8"):
        node.execute("", "latin.txt")


@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("inside", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\x1d", "\x1e"])
def test_only_line_ends_end_a_prompt(node: Any, tmp_path: Path, line_end: str, inside: str) -> None:
    prompts = [f"a {{}} person,{inside}soft light", "a {} person in snow"]
    (tmp_path / "mine.txt").write_bytes(line_end.join(prompts).encode())
    assert node.execute("", "mine.txt").result[0] == prompts
    assert node.execute(line_end.join(prompts)).result[0] == prompts


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_prompt_files_of_every_editor_are_read(node: Any, tmp_path: Path, encoding: str) -> None:
    (tmp_path / "mine.txt").write_bytes("un {} caf\u00e9\n\u200b\n\ufeff# no\n\u4e00\u4e2a{}\n".encode(encoding))
    assert node.execute("", "mine.txt").result[0] == ["un {} caf\u00e9", "\u4e00\u4e2a{}"]


@pytest.mark.parametrize("content", [b"a {} person\0\n", "a {}".encode("utf-16-le")])
def test_a_prompt_file_with_nul_is_refused(node: Any, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "mine.txt").write_bytes(content)
    with pytest.raises(ValueError, match=r"prompt file 'mine\.txt' is not a text file: it holds NUL"):
        node.execute("", "mine.txt")


def test_a_prompt_that_comfyui_cannot_read_is_named(node: Any) -> None:
    with pytest.raises(ValueError, match="Prompt 2 has more than 100 parentheses"):
        node.execute("a {}\n" + "(" * 2000)
    with pytest.raises(ValueError, match="Prompt 1 has 200,000 characters"):
        node.execute("a" * 200_000)
    assert "half of a character" in str(node.validate_inputs(prompts="\ud83d"))


@pytest.mark.parametrize(
    "folder",
    [
        *("../out", "/etc", "C:/out", "\\\\server\\x", "a/../../b", "x|y", "."),
        *("con", "a/NUL.txt", "COM\u00b9/x", "conout$", "faces./anna", "x\x7f", "a" * 200, "a/" * 100, "\ud83d"),
    ],
)
def test_a_folder_outside_of_output_is_refused_when_queued(node: Any, folder: str) -> None:
    refused = str(node.validate_inputs(folder=folder))
    assert ("half of a character" if folder == "\ud83d" else "must be a name below") in refused
    assert len(refused) <= 600 and refused.isprintable()


@pytest.mark.parametrize(("folder", "prefix"), [("", "x/x"), ("a\\b", "a/b/x/x"), (" my faces / 1 ", "my faces/1/x/x")])
def test_a_folder_below_output_is_taken(pack: ModuleType, node: Any, folder: str, prefix: str) -> None:
    assert node.validate_inputs(folder=folder) is True
    assert pack.nodes.prompt_list.prefix_of(folder, "x") == prefix
