"""Who imports whom in this repository, read from the source without importing anything."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

PACKAGES = ("benchmarks", "crossinit_core", "devtools", "miniature", "nodes", "tests")


def module_files(root: Path) -> dict[str, Path]:
    """Every module of the repository at `root` by its dotted name, packages by that of their folder."""
    files = [path for package in PACKAGES for path in sorted((root / package).rglob("*.py"))]
    return {".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): path for path in files}


def import_graph(root: Path) -> dict[str, set[str]]:
    """What each module imports: modules of the repository by their dotted names, others as they are written.

    Imports inside functions count, those under TYPE_CHECKING do not. `from package import name` is an import of the module
    `package.name` if there is one, otherwise of the package. That Python runs the packages above a module first is left
    out: a package that offers what its modules define would be a circle with each of them.
    """
    modules = module_files(root)
    return {
        name: set(_imports(name, path.name == "__init__.py", ast.parse(path.read_text(encoding="utf-8")), modules))
        for name, path in modules.items()
    }


def _imports(module: str, is_package: bool, tree: ast.AST, modules: dict[str, Path]) -> Iterator[str]:
    for node in executed(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            source = _source(module, is_package, node)
            for alias in node.names:
                inner = f"{source}.{alias.name}"
                yield inner if inner in modules else source


def _source(module: str, is_package: bool, node: ast.ImportFrom) -> str:
    """The dotted name of what `from ... import` names, for instance `crossinit_core.learning` for `from . import`."""
    if not node.level:
        return node.module or ""
    # A dot is the package that the module is in; the repository itself is the package above all of them.
    parts = module.split(".")
    above = parts[: len(parts) - node.level + is_package]
    return ".".join([*above, *([node.module] if node.module else [])])


def executed(node: ast.AST, functions: bool = True) -> Iterator[ast.AST]:
    """All nodes of the syntax tree but those under `if TYPE_CHECKING`; without `functions`, what runs on import alone."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        if not functions and isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        yield child
        yield from executed(child, functions)


def circle(graph: dict[str, set[str]]) -> list[str]:
    """One circle of imports, from a module back to itself; empty if there is none."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        found: list[str] = error.args[1]
        return found[::-1]  # the sorter names what is imported first
    return []


def within(graph: dict[str, set[str]], package: str) -> dict[str, set[str]]:
    """The part of the graph that lies inside one package."""
    inside = {name for name in graph if name.split(".")[0] == package}
    return {name: graph[name] & inside for name in sorted(inside)}


def between_wings(graph: dict[str, set[str]], package: str) -> dict[str, set[str]]:
    """What each folder of a package imports of its other folders. Files beside the folders are left out."""
    wings = {".".join(name.split(".")[:2]) for name in graph if name.startswith(f"{package}.") and name.count(".") > 1}
    found: dict[str, set[str]] = {wing: set() for wing in sorted(wings)}
    for name, imported in within(graph, package).items():
        wing = ".".join(name.split(".")[:2])
        if wing in wings:
            found[wing] |= {".".join(one.split(".")[:2]) for one in imported} & (wings - {wing})
    return found
