"""The commands of run.py."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tomllib
import venv
from pathlib import Path

import pytest

from devtools import commands
from devtools.setup import hosts
from tests.tiny_comfyui import free_port, give_torch, make_comfyui

ROOT = Path(__file__).resolve().parents[1]
posix = pytest.mark.skipif(os.name == "nt", reason="sends POSIX signals")


def test_arguments_of_others_are_passed_on() -> None:
    options, passed = commands.parse(["test", "-k", "graphs", "--comfyui", "there", "-x"])
    assert (options.comfyui, passed) == (Path("there"), ["-k", "graphs", "-x"])
    options, passed = commands.parse(["serve", "--port", "9000", "--", "--lowvram", "--port", "1"])
    assert (options.port, passed) == (9000, ["--lowvram", "--port", "1"])
    with pytest.raises(SystemExit):
        commands.parse(["serve", "--lowvram"])


def test_quick_tests_are_a_tier_of_markers_that_pytest_knows() -> None:
    options, passed = commands.parse(["test", "--quick", "-k", "graphs"])
    assert options.quick and passed == ["-k", "graphs"]
    assert not commands.parse(["test"])[0].quick
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    known = {line.split(":")[0] for line in project["tool"]["pytest"]["ini_options"]["markers"]}
    assert set(commands.QUICK.replace("not ", "").split(" and ")) == known


def test_benchmarks_are_listed_with_their_first_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "speed.py").write_text('"""Steps a second.\n\nMore."""\n', encoding="utf-8")
    (tmp_path / "benchmarks" / "_shared.py").write_text("", encoding="utf-8")
    (tmp_path / "benchmarks" / "claims").mkdir()
    (tmp_path / "benchmarks" / "claims" / "__init__.py").write_text('"""What is true."""\n', encoding="utf-8")
    (tmp_path / "benchmarks" / "claims" / "__main__.py").write_text("", encoding="utf-8")
    (tmp_path / "benchmarks" / "parts").mkdir()
    assert commands.main(["bench"], tmp_path) == 0
    out = capsys.readouterr().out
    assert "speed" in out
    assert "Steps a second." in out
    assert "claims" in out and "What is true." in out
    assert "_shared" not in out and "parts" not in out
    assert commands.main(["bench", "sped"], tmp_path) == 1
    assert "no benchmark 'sped'. There are: claims, speed" in capsys.readouterr().err


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
    root = tmp_path / "pack"
    root.mkdir()
    shutil.copy(ROOT / "pyproject.toml", root)
    venv.create(tmp_path / "environment", with_pip=False)  # its Python has neither OpenCV nor matplotlib
    give_torch(tmp_path / "environment")
    python = hosts.python_of(tmp_path / "environment")
    code = "import sys; from devtools.commands import main; sys.exit(main(sys.argv[2:], sys.argv[1]))"
    command = [sys.executable, "-c", code, str(root), "serve", "--comfyui", str(comfyui), "--python", str(python)]
    command += ["--port", str(free_port()), "--no-browser", "--", "--cpu"]
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8"
    )
    assert process.stdout
    lines = iter(process.stdout.readline, "")
    said = []
    for line in lines:
        said.append(line)
        if "Ctrl-C stops it" in line:
            break
    assert any("lacks matplotlib" in line and "opencv-python-headless" in line for line in said), (
        "it is told, and no more"
    )
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
