"""What ComfyUI's registry asks of a pack (docs.comfy.org/registry/specifications), read with ComfyUI's own parser."""

from __future__ import annotations

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

from devtools import release

REPOSITORY = Path(__file__).resolve().parents[1]
PYPROJECT = REPOSITORY / "pyproject.toml"
ICON = REPOSITORY / release.ICON


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
    newest = re.search(r"^## (\S+)", changelog, re.MULTILINE)
    assert newest and newest[1] == parsed.project.version


def test_licence_description_systems_and_accelerators_are_understood(parsed: Any) -> None:
    assert (REPOSITORY / parsed.project.license.file).read_text(encoding="utf-8").startswith("MIT License")
    assert 20 < len(parsed.project.description) < 200
    assert parsed.project.supported_os == ["OS Independent"]
    assert parsed.project.supported_accelerators == []  # it asks for none
    assert parsed.tool_comfy.publisher_id and parsed.tool_comfy.display_name
    # The pattern of comfy-cli, which leaves out what does not follow it.
    assert re.fullmatch(r">=\d+\.\d+\.\d+", parsed.project.supported_comfyui_version)


def test_what_the_readme_and_the_registry_say_of_comfyuis_version_agrees(parsed: Any) -> None:
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    oldest = parsed.project.supported_comfyui_version.removeprefix(">=").removesuffix(".0")
    assert f"({oldest} or newer" in readme


def test_the_dependencies_are_those_that_comfyui_manager_installs(parsed: Any) -> None:
    lines = (REPOSITORY / "requirements.txt").read_text(encoding="utf-8").splitlines()
    wanted = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    assert sorted(parsed.project.dependencies) == sorted(wanted)


def test_pip_installs_the_core_from_a_clone_and_nothing_else(tmp_path: Path) -> None:
    """What `pip install ".[cli]"` builds, without pip: setuptools' own part, which needs no network."""
    pytest.importorskip("setuptools", minversion="61")
    clone, made = tmp_path / "clone", tmp_path / "made"
    no_caches = shutil.ignore_patterns("__pycache__")
    for name in ("crossinit_core", "nodes", "devtools", "web", "locales"):
        shutil.copytree(REPOSITORY / name, clone / name, ignore=no_caches)
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
        assert icon.convert("RGBA").getextrema()[3] == (0, 255), "its corners are see-through"
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
    assert after.tool_comfy.icon.endswith("/Somebody/comfyui-crossinit/main/docs/images/icon.png")
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
