"""The code itself: lint, format, types, and what must not be in it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib

import pytest

from tests.import_graph import PACKAGES, between_wings, circle, import_graph, within
from tests.repository_files import REPOSITORY, text_of, tracked_files


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], cwd=REPOSITORY, capture_output=True, text=True, encoding="utf-8", check=False
    )


@pytest.mark.parametrize(
    "command",
    [("ruff", "check"), ("ruff", "format", "--check"), pytest.param(("mypy",), marks=pytest.mark.slow)],
    ids=" ".join,
)
def test_the_tools_find_nothing(command: tuple[str, ...]) -> None:
    done = _run("-m", *command)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"


def _tool(name: str) -> str:
    """A tool that pip installs as a program: that of this Python, otherwise any on the PATH."""
    places = os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", "")])
    return shutil.which(name, path=places) or pytest.skip(f"{name} is not installed: pip install {name}")


def _finds_nothing(name: str, *arguments: str) -> str:
    done = subprocess.run(
        [_tool(name), *arguments], cwd=REPOSITORY, capture_output=True, text=True, encoding="utf-8", check=False
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


def test_the_linter_of_the_page_finds_nothing() -> None:
    files = len(list((REPOSITORY / "web").glob("*.js")))
    assert f"on {files} files" in _finds_nothing("oxlint", "--deny-warnings", "web")


def test_the_linter_of_workflows_finds_nothing() -> None:
    _finds_nothing("zizmor", "--offline", "--pedantic", "--no-progress", ".github/workflows")


@pytest.mark.parametrize(
    ("schema", "files"),
    [
        ("github-workflows", "workflows/*.yml"),
        ("github-issue-forms", "ISSUE_TEMPLATE/[!c]*.yml"),
        ("github-issue-config", "ISSUE_TEMPLATE/config.yml"),
    ],
)
def test_github_understands_its_files(schema: str, files: str) -> None:
    found = [str(path) for path in sorted((REPOSITORY / ".github").glob(files))]
    assert found
    _finds_nothing("check-jsonschema", "--builtin-schema", f"vendor.{schema}", *found)


def test_commits_are_checked_with_the_versions_of_the_tests() -> None:
    """.pre-commit-config.yaml and the test group of pyproject.toml pin the same tools."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    pinned = {one for one in project["optional-dependencies"]["test"] if "==" in one}
    hooks = (REPOSITORY / ".pre-commit-config.yaml").read_text(encoding="utf-8")
    named = set(re.findall(r"[\w-]+==[\w.]+", hooks))
    assert named - pinned == {one for one in named if one.startswith("pre-commit-hooks==")}
    assert {one.split("==")[0] for one in named} >= {"ruff", "oxlint", "zizmor", "check-jsonschema"}


GRAPH = import_graph(REPOSITORY)


def _pairs(importer: str, imported: str) -> list[str]:
    """Imports from modules that match one pattern of modules that match another: `a.b imports c.d`."""
    return [
        f"{name} imports {one}"
        for name in sorted(GRAPH)
        if re.fullmatch(importer, name)
        for one in sorted(GRAPH[name])
        if re.fullmatch(imported, one)
    ]


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_have_no_circle(package: str) -> None:
    """Nor those inside functions: a late import hides a circle, and does not open it."""
    part = within(GRAPH, package)
    assert part
    assert circle(part) == []


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_between_folders_have_no_circle(package: str) -> None:
    assert circle(between_wings(GRAPH, package)) == []


def test_every_import_of_our_own_is_there() -> None:
    """Those inside functions too, which neither a start nor the type checker sees."""
    missing = [
        f"{name} imports {one}"
        for name, imported in GRAPH.items()
        for one in imported
        if one.split(".")[0] in PACKAGES and one not in GRAPH
    ]
    assert missing == []


def test_a_circle_is_found_wherever_it_hides() -> None:
    assert circle({"a": {"b"}, "b": {"c", "d"}, "c": {"a"}, "d": set()}) in (
        ["a", "b", "c", "a"],
        ["b", "c", "a", "b"],
        ["c", "a", "b", "c"],
    )
    assert within(GRAPH, "crossinit_core")["crossinit_core.cli"] >= {"crossinit_core.commands.train"}, "a late import"
    assert "crossinit_core.learning.steps" in GRAPH["crossinit_core.learning.inversion"], "a relative one"


@pytest.mark.parametrize(
    ("importer", "imported"),
    [
        (r"crossinit_core\b.*", r"(?!crossinit_core\b)(benchmarks|devtools|miniature|nodes|tests)\b.*"),
        (r"nodes\b.*", r"(benchmarks|devtools|tests|miniature(?!\.world\b))\b.*"),
        (r"miniature(\.world\b.*)?", r"(benchmarks|devtools|nodes|tests|miniature\.training)\b.*"),
        (r"miniature\b.*", r"(benchmarks|devtools|nodes|tests)\b.*"),
        (r"devtools\b.*", r"(benchmarks|tests)\b.*"),
        (r"benchmarks\b.*", r"tests\b.*"),
    ],
    ids=["core", "nodes", "drawn world", "miniature", "devtools", "benchmarks"],
)
def test_imports_point_one_way(importer: str, imported: str) -> None:
    assert _pairs(importer, imported) == []


def test_only_the_host_folder_imports_comfyuis_internals() -> None:
    """Every other node file imports ComfyUI's public interface and libraries alone."""
    allowed = {*sys.stdlib_module_names, "comfy_api", "crossinit_core", "miniature", "nodes", "numpy", "PIL", "torch"}
    names = [name for name in GRAPH if re.fullmatch(r"nodes\b(?!\.host\b).*", name)]
    assert "nodes.sockets" in names
    found = [f"{name} imports {one}" for name in names for one in GRAPH[name] if one.split(".")[0] not in allowed]
    assert sorted(found) == []


def test_the_core_knows_no_host() -> None:
    """Every module is imported in a fresh interpreter: none brings ComfyUI, and diffusers waits until it is used."""
    core = REPOSITORY / "crossinit_core"
    modules = sorted(
        ".".join(path.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__")
        for path in core.rglob("*.py")
    )
    assert "crossinit_core.learning.inversion" in modules
    modules.remove("crossinit_core.models.diffusers_unet")  # the adapter of diffusers' blocks, itself imported late
    program = f"""
import importlib, sys
for name in {modules!r}:
    if name != "crossinit_core.__main__":
        importlib.import_module(name)
print(*sorted(set(sys.modules) & {{"comfy", "comfy_api", "folder_paths", "nodes", "server", "diffusers", "transformers"}}))
"""
    done = _run("-c", program)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []


def test_no_file_holds_a_path_of_somebodys_machine() -> None:
    # Written in pieces, so that this file does not find itself.
    roots = [rf"(?<![\w.}}/:-])/{root}/\w" for root in ("home", "work", "root", "Users", "tmp", "mnt", "media")]
    pattern = re.compile("|".join([*roots, r"\b[A-Z]:\\" + r"\\?(?:Users|home)\b"]))
    found = [
        f"{path.relative_to(REPOSITORY)}:{number}: {line.strip()[:120]}"
        for path in tracked_files()
        for number, line in enumerate((text_of(path) or "").splitlines(), start=1)
        if pattern.search(line)
    ]
    assert not found, "\n".join(found)


def test_every_text_is_utf8_with_unix_line_ends() -> None:
    found = []
    for path in tracked_files():
        if b"\0" in (raw := path.read_bytes()):
            continue
        try:
            raw.decode("utf-8")
        except UnicodeDecodeError as error:
            found.append(f"{path.relative_to(REPOSITORY)}: {error}")
        if b"\r" in raw:
            found.append(f"{path.relative_to(REPOSITORY)}: carriage return")
    assert not found, "\n".join(found)
