"""The commands of run.py. Standard library only."""

from __future__ import annotations

import argparse
import ast
import json
import os
import signal
import subprocess
import sys
import tempfile
import webbrowser
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from .comfyui import older
from .comfyui.links import prepare_base
from .comfyui.server import ComfyServer, ServerError, offline_environment
from .setup import browser, hosts
from .setup.environment import prepare_existing, prepare_pinned
from .setup.progress import CommandError, run_logged, say
from .setup.stages import Layout, Stamps

QUICK = "not live and not page and not gpu and not slow"
"""The quick tests, as pytest's -m takes it. The markers are explained in pyproject.toml."""


@dataclass(frozen=True)
class Environment:
    """What the commands work with. `pinned` is False for a ComfyUI that was there before."""

    comfyui: Path
    python: Path
    base: Path
    pinned: bool


def main(arguments: Sequence[str], root: str | Path, description: str | None = None) -> int:
    """Run one command of run.py for the checkout at `root`; returns the exit code."""
    options, passed = parse(arguments, description)
    run: Command = options.command
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        # A shell script's background job starts so, and its children could then not be asked to stop.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    home = options.home or (Path(os.environ["CROSSINIT_HOME"]) if os.environ.get("CROSSINIT_HOME") else None)
    layout = Layout(Path(root), home.expanduser().absolute() if home else None)
    try:
        return run(options, passed, layout)
    except KeyboardInterrupt:
        say("\nInterrupted. Run the same command again to go on.")
        return 130
    except (hosts.SetupError, ServerError, CommandError, FileExistsError) as error:
        print(f"\nrun.py: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"\nrun.py: {_of_the_disk(error, layout)}", file=sys.stderr)
        return 1


def check_place(folder: Path) -> None:
    """See that files can be made in a folder, which need not exist yet. Raises SetupError with the way out."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"\0" * 4096)
            file.flush()
    except OSError as error:
        raise hosts.SetupError(
            f"{folder} cannot be written ({error.strerror or error}). The environment is made there: give another folder with "
            "--home FOLDER, or in the variable CROSSINIT_HOME."
        ) from None


def _of_the_disk(error: OSError, layout: Layout) -> str:
    """What the system refused, with the path that it is about and the way out."""
    place = error.filename2 or error.filename or layout.made
    return (
        f"{place}: {error.strerror or error}. Free some space there or allow writing; --home FOLDER puts the environment, "
        "ComfyUI and its data into another folder, and demo --out FOLDER the pictures."
    )


def parse(arguments: Sequence[str], description: str | None = None) -> tuple[argparse.Namespace, list[str]]:
    """The options of run.py, and the arguments that go on to pytest, ComfyUI, the demo or a benchmark."""
    where = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    group = where.add_argument_group("where to run")
    group.add_argument(
        "--comfyui",
        type=Path,
        metavar="PATH",
        help="use this ComfyUI and its Python, and install nothing there (COMFYUI_PATH does the same); "
        "otherwise the ComfyUI in whose custom_nodes this folder lies, else a pinned one in .host/",
    )
    group.add_argument("--python", type=Path, metavar="PATH", help="the Python that runs that ComfyUI")
    group.add_argument(
        "--home",
        type=Path,
        metavar="FOLDER",
        help="where .venv and .host are made (CROSSINIT_HOME does the same); default: beside run.py",
    )
    group.add_argument("--install-missing", action="store_true", help="let pip install what that Python lacks")

    parser = argparse.ArgumentParser(
        prog="run.py",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, run: Command, text: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, parents=[where], help=text, description=text, allow_abbrev=False)
        command.set_defaults(command=run)
        return command

    demo = add(
        "demo", run_demo, "Learn a face through a live ComfyUI; leaves a contact sheet, the token and the workflow."
    )
    demo.add_argument(
        "--person", type=int, metavar="N", help="which drawn person to learn, from 0; needs no checkpoint"
    )
    demo.add_argument(
        "--checkpoint", type=Path, metavar="FILE", help="a checkpoint of SDXL, SD 2.x or SD 1.x, to learn a photo"
    )
    demo.add_argument("--photo", type=Path, metavar="FILE", help="a portrait photo, with --checkpoint")
    demo.add_argument("--preset", choices=("fast", "full"), help="how long to learn")
    demo.add_argument("--out", type=Path, metavar="FOLDER", help="default: demo-output beside run.py, or in --home")

    test = add("test", run_test, "Run the tests. All other arguments go to pytest, for instance: -k graphs -x")
    test.add_argument(
        "--quick", action="store_true", help="only what needs no ComfyUI server, no browser, no GPU and little time"
    )

    serve = add("serve", run_serve, "Open ComfyUI with this pack in it. Arguments behind -- go to ComfyUI.")
    serve.add_argument("--port", type=int, default=8188, help="default: %(default)s")
    serve.add_argument("--no-browser", action="store_true", help="only print the address")

    bench = add("bench", run_bench, "Run a benchmark, or list them. Arguments behind -- go to the benchmark.")
    bench.add_argument("name", nargs="?", help="a file or folder of benchmarks/, without .py")

    setup = add("setup", run_setup, "Prepare what the other commands need, so that they need no network.")
    setup.add_argument("--for", dest="groups", default="demo,test,bench", metavar="LIST", help="default: %(default)s")

    own, passed = list(arguments), []
    if "--" in own:
        split = own.index("--")
        own, passed = own[:split], own[split + 1 :]
    options, unknown = parser.parse_known_args(own)
    if unknown and options.command in (run_serve, run_setup):
        behind = " Arguments for ComfyUI go behind --" if options.command is run_serve else ""
        parser.error(f"unknown arguments: {' '.join(unknown)}.{behind}")
    return options, unknown + passed


def run_demo(options: argparse.Namespace, passed: list[str], layout: Layout) -> int:
    for name, path in (("checkpoint", options.checkpoint), ("photo", options.photo)):
        if path is not None and not path.is_file():
            raise hosts.SetupError(f"--{name} {path} is not a file.")
    # The drawn person needs nothing but ComfyUI.
    environment = prepare(options, layout, ["demo"] if options.checkpoint else [])
    command = hosts.module_command(environment.python, layout.root, "devtools.demo.demo")
    paths = {
        "comfyui": environment.comfyui,
        "base": environment.base,
        "checkpoint": options.checkpoint,
        "photo": options.photo,
        "out": options.out or layout.made / "demo-output",
    }
    for name, path in paths.items():
        if path is not None:
            command += [f"--{name}", str(path.absolute())]
    for name in ("preset", "person"):
        if getattr(options, name) is not None:
            command += [f"--{name}", str(getattr(options, name))]
    return run_child(command + passed, layout, environment)


def run_test(options: argparse.Namespace, passed: list[str], layout: Layout) -> int:
    environment = prepare(options, layout, ["test"])
    tier: list[str] = []
    variables: dict[str, str] = {}
    if options.quick:
        tier = ["-m", QUICK]
    else:
        if chromium := prepare_browser(layout, environment):
            variables["CROSSINIT_CHROMIUM"] = str(chromium)
        prepare_older(layout, environment)
    # Tests that are named on the command line take the place of the whole folder.
    named = any(not word.startswith("-") and (layout.root / word.split("::")[0]).exists() for word in passed)
    command = hosts.module_command(environment.python, layout.root, "pytest")
    return run_child([*command, *([] if named else ["tests"]), *tier, *passed], layout, environment, variables)


def run_bench(options: argparse.Namespace, passed: list[str], layout: Layout) -> int:
    folder = layout.root / "benchmarks"
    present = {path.stem: path for path in folder.glob("*.py") if not path.stem.startswith("_")}
    present |= {path.parent.name: path.with_name("__init__.py") for path in folder.glob("*/__main__.py")}
    present = dict(sorted(present.items()))
    if options.name is None:
        say("Benchmarks (python3 run.py bench NAME):" if present else f"{folder} holds no benchmarks.")
        for name, path in present.items():
            text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
            say(f"  {name:<24} {text.partition(chr(10))[0]}")
        return 0
    if options.name not in present:
        raise hosts.SetupError(f"There is no benchmark '{options.name}'. There are: {', '.join(present) or 'none'}.")
    environment = prepare(options, layout, ["bench"])
    command = hosts.module_command(environment.python, layout.root, f"benchmarks.{options.name}")
    return run_child(command + passed, layout, environment)


def run_setup(options: argparse.Namespace, passed: list[str], layout: Layout) -> int:
    # What serve and the drawn demo ask for comes first: it is a stage of its own.
    for group in ["", *filter(None, map(str.strip, options.groups.split(",")))]:
        environment = prepare(options, layout, [group] if group else [])
        if group == "test":
            prepare_browser(layout, environment, try_again=True)
            prepare_older(layout, environment, try_again=True)
        say(f"Ready for {group or 'serve'}: ComfyUI {environment.comfyui}, Python {environment.python}")
    return 0


def run_serve(options: argparse.Namespace, passed: list[str], layout: Layout) -> int:
    environment = prepare(options, layout, [])
    extra = list(passed)
    if not environment.pinned and not _lies_in(environment.comfyui / "custom_nodes", layout.root):
        config = layout.host / "extra_model_paths.yaml"
        # JSON is YAML. ComfyUI adds the folder to those in which it looks for packs.
        folders = {"crossinit": {"custom_nodes": str(environment.base / "custom_nodes")}}
        config.write_text(json.dumps(folders, ensure_ascii=False) + "\n", encoding="utf-8")
        extra += ["--extra-model-paths-config", str(config)]

    # A ComfyUI of the user's own keeps its models, pictures and settings: no base directory.
    base = environment.base if environment.pinned else None
    server = ComfyServer(environment.comfyui, base, python=environment.python, port=options.port, extra_args=extra)
    _on_terminate(_interrupt)
    try:
        with server:
            say(f"\nComfyUI with this pack: {server.url}  (Ctrl-C stops it)")
            if not options.no_browser and _has_display():
                webbrowser.open(server.url)
            code = server.process.wait()
            raise ServerError(f"ComfyUI ended by itself with exit code {code}.")
    except KeyboardInterrupt:
        say("\nStopped.")
        return 0


def prepare(options: argparse.Namespace, layout: Layout, groups: Sequence[str]) -> Environment:
    """The environment that the options ask for, with the packages of `groups`; made if it is ours to make."""
    check_place(layout.made)
    found = hosts.find_comfyui(options.comfyui, os.environ, layout.root)
    if found is None or (layout.comfyui.exists() and found.samefile(layout.comfyui)):
        prepare_pinned(layout, groups)
        environment = Environment(layout.comfyui, layout.python, layout.base, pinned=True)
    else:
        python = hosts.choose_python(found, options.python)
        prepare_existing(layout, python, groups, install_missing=options.install_missing)
        environment = Environment(found, python, layout.base, pinned=False)
    prepare_base(environment.base, layout.root)
    return environment


def prepare_browser(layout: Layout, environment: Environment, try_again: bool = False) -> Path | None:
    """A browser for the page tests. After a failure only `setup` tries again."""
    stamps = Stamps(layout.stamps)
    known = stamps.get("browser") or ""
    failed = known.startswith("failed:")
    if found := browser.find_browser(os.environ, installed=None if failed or not known else Path(known)):
        return found
    if failed and not try_again:
        say(f"There is no browser, so the page tests will be skipped. To try again: run.py setup. {known}")
        return None
    say("Installing Chromium for the page tests ...")
    try:
        found = browser.install_browser(environment.python, lambda line: run_logged(line, "Chromium", layout.log))
    except RuntimeError as error:
        stamps.add("browser", f"failed: {error}")
        say(f"No browser could be installed, so the page tests will be skipped: {error}")
        return None
    stamps.add("browser", str(found))
    return found


def prepare_older(layout: Layout, environment: Environment, try_again: bool = False) -> None:
    """An older ComfyUI and two more pages for the tests, beside the pinned one. After a failure only `setup` tries again."""
    stamps = Stamps(layout.stamps)
    for release, stamp in ((older.OLDEST, "older"), (older.BETWEEN, "page between"), (older.NEWEST, "newer page")):
        if not environment.pinned or release.is_in(layout.host):
            continue
        known = stamps.get(stamp) or ""
        if known.startswith("failed:") and not try_again:
            say(f"ComfyUI {release.name} is not there; its tests will be skipped. To try again: run.py setup. {known}")
            continue
        say(f"Fetching ComfyUI {release.name} for the tests ...")
        try:
            older.fetch(release, layout.host, environment.python, lambda line: run_logged(line, "ComfyUI", layout.log))
        except RuntimeError as error:
            stamps.add(stamp, f"failed: {error}")
            say(f"ComfyUI {release.name} could not be fetched, so its tests will be skipped: {error}")


def run_child(
    command: Sequence[str], layout: Layout, environment: Environment, variables: dict[str, str] | None = None
) -> int:
    """Run a command to its end and return its exit code."""
    surroundings = {**offline_environment(), "COMFYUI_PATH": str(environment.comfyui), **(variables or {})}
    child = subprocess.Popen(command, cwd=layout.root, env=surroundings)
    # Being terminated reaches the child as Ctrl-C, so that it stops its own ComfyUI server first.
    _on_terminate(lambda: child.terminate() if os.name == "nt" else child.send_signal(signal.SIGINT))
    while True:
        try:
            return child.wait()
        except KeyboardInterrupt:  # the child got it as well and cleans up
            continue


Command = Callable[[argparse.Namespace, list[str], Layout], int]


def _on_terminate(action: Callable[[], None]) -> None:
    signal.signal(signal.SIGTERM, lambda number, frame: action())


def _interrupt() -> None:
    raise KeyboardInterrupt


def _lies_in(custom_nodes: Path, root: Path) -> bool:
    """Whether this pack is one of the packs in a custom_nodes folder, itself or through a link."""
    return any(entry.is_dir() and entry.samefile(root) for entry in custom_nodes.glob("*"))


def _has_display() -> bool:
    if os.environ.get("CI"):
        return False
    if sys.platform in ("win32", "darwin"):
        return True
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
