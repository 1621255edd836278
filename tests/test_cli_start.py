"""How the command line starts: quickly, and with a sentence for a model that is not on this machine."""

from __future__ import annotations

import ast
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import crossinit_core
from crossinit_core import cli
from crossinit_core.commands import options
from crossinit_core.commands.arguments import Parser, local_path

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        ["train", "--help"],
        ["generate", "--help"],
        ["train", "--scale_lr"],
        ["tain"],
        [],
    ],
    ids=" ".join,
)
def test_help_waits_for_no_pytorch(arguments: list[str]) -> None:
    code = f"""
import sys
from crossinit_core.cli import main
try:
    main({arguments!r})
except SystemExit:
    pass
heavy = {{"torch", "numpy", "PIL", "diffusers", "transformers"}} & set(sys.modules)
print(*sorted(heavy), file=sys.stderr)
sys.exit(len(heavy))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, encoding="utf-8"
    )
    assert done.returncode == 0, done.stderr


def test_every_exported_name_is_where_it_is_said() -> None:
    """What type checkers see under TYPE_CHECKING is what Python finds."""
    tree = ast.parse(Path(crossinit_core.__file__).read_text(encoding="utf-8"))
    seen = {
        alias.name: node.module
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.level
        for alias in node.names
    }
    assert set(seen) == set(crossinit_core.__all__)
    for name, module in seen.items():
        assert getattr(crossinit_core, name) is getattr(import_module(f"crossinit_core.{module}"), name)
    assert set(crossinit_core.__all__) <= set(dir(crossinit_core))
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = crossinit_core.nothing
    with pytest.raises(ImportError, match="nothing"):
        from crossinit_core import nothing  # noqa: F401


def test_the_version_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.split() == ["crossinit", crossinit_core.__version__]


def test_the_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    shown = capsys.readouterr().out
    for name in (
        "train",
        "train-many",
        "evaluate",
        "reproduce",
        "generate",
        "convert",
        "blend",
        "rescale",
        "report",
        "inspect",
    ):
        assert f"\n    {name}" in shown
        with pytest.raises(SystemExit) as ended:
            cli.main([name, "--help"])
        assert ended.value.code == 0
        assert f"{name} [-h]" in capsys.readouterr().out


MODELS = {
    "hub id": ("stabilityai/stable-diffusion-2-1", "(hf download stabilityai/stable-diffusion-2-1 --local-dir FOLDER)"),
    "bare name": ("stable-diffusion-2-1-base", "(hf download OWNER/NAME --local-dir FOLDER)"),
    "address": ("https://huggingface.co/owner/name", "is an address, and nothing is downloaded here"),
    "address of a file": ("HTTP://example.org/model.safetensors", "is an address, and nothing is downloaded here"),
    "another scheme": ("s3://bucket/model", "is an address, and nothing is downloaded here"),
    "checkpoint that is gone": ("models/sd15.safetensors", "no checkpoint file at 'models"),
    "pickled checkpoint that is gone": ("sd15.ckpt", "no checkpoint file at 'sd15.ckpt'"),
    "folder that is gone": ("../gone/from/here", "Give the path of a folder in diffusers' layout"),
    "photo": ("me.jpg", "is a file, but a model is expected"),
    "empty folder": ("empty", "it is empty"),
    "nothing": ("", "it is empty, but a path was expected"),
}


@pytest.mark.parametrize("case", MODELS)
def test_each_kind_of_missing_model_has_a_sentence(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("me.jpg").write_bytes(b"a photo")
    Path("empty").mkdir()
    model, message = MODELS[case]
    try:
        code = cli.main(["train", model, "me.jpg"])
    except SystemExit as ended:
        code = int(str(ended.code))
    err = capsys.readouterr().err
    assert code == 2 and message in err.replace("\\", "/"), err
    assert err.count("\n") == 1 and len(err) <= 600


def test_missing_packages_are_named_by_their_extra(
    tiny_models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "diffusers", None)
    monkeypatch.chdir(tmp_path)
    from PIL import Image

    Image.new("RGB", (64, 64)).save("me.png")
    assert cli.main(["train", str(tiny_models / "tiny-eps"), "me.png"]) == 2
    err = capsys.readouterr().err
    assert "extra 'cli'" in err and f'-m pip install "{REPOSITORY}[cli]"' in err and err.count("\n") == 1


def test_an_address_in_python_is_said_too() -> None:
    from crossinit_core.diffusers_backbone import DiffusersBackbone

    with pytest.raises(ValueError, match="is an address, and nothing is downloaded"):
        DiffusersBackbone.from_pretrained("https://huggingface.co/owner/name")


@pytest.mark.parametrize("text", ["C://models/sd15", "C:\\models", "me.jpg", "./a:b", "\\\\server\\share", "~/x"])
def test_paths_of_every_system_are_paths(text: str) -> None:
    assert local_path(text) == Path(text)


def test_torchrun_takes_no_option_for_its_own() -> None:
    """It reads options behind the program's name, too, and takes the beginning of one of its own for that one."""
    run = pytest.importorskip("torch.distributed.run", reason="this PyTorch has no torchrun")
    command = Parser()
    options.of_train(command)
    for action in command._actions:
        value = ["1"] * (action.nargs if isinstance(action.nargs, int) else 1)
        for name in (name for name in action.option_strings if name.startswith("--")):
            given = ["-m", "crossinit_core", "train", "model", name, *value]
            assert run.get_args_parser().parse_args(given).training_script_args == given[2:]
