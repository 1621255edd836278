"""The texts of the nodes: in English from the nodes themselves, in other languages from `locales/`.

    python -m devtools.docs.locales --comfyui COMFYUI --base DIRECTORY

writes `locales/english.json`, the English text from which the translations were made. A test fails once the nodes say
something else: then write it anew, look at what git shows as changed, and translate that in every language.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..comfyui.links import PACK

Json = dict[str, Any]

FOLDER = PACK / "locales"
ENGLISH = FOLDER / "english.json"
"""ComfyUI reads the folders of languages beside it, not this file: the nodes' own text is English."""

CATEGORY = "CrossInit"


def english(info: Mapping[str, Any]) -> Json:
    """The pack's texts in an /object_info, in the layout of ComfyUI's `nodeDefs.json`."""
    return {name: _node(node) for name, node in sorted(info.items()) if node["category"] == CATEGORY}


def read(language: str) -> Json:
    """`nodeDefs.json` of a language of `locales/`."""
    texts: Json = json.loads((FOLDER / language / "nodeDefs.json").read_text(encoding="utf-8"))
    return texts


def panel(language: str) -> dict[str, str]:
    """The texts of the panel of faces (web/faces_texts.js) in `main.json` of a language, English too."""
    texts: Json = json.loads((FOLDER / language / "main.json").read_text(encoding="utf-8"))
    return dict(texts["crossinitFaces"])


def languages() -> list[str]:
    """The languages of `locales/`, as ComfyUI's page calls them."""
    return sorted(path.parent.name for path in FOLDER.glob("*/nodeDefs.json"))


def texts(tree: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, str]]:
    """Every text in a `nodeDefs.json` with where it stands: `CrossInitLearn.inputs.seed.tooltip`."""
    for key, value in tree.items():
        here = f"{path}.{key}" if path else key
        if isinstance(value, str):
            yield here, value
        else:
            yield from texts(value, here)


def write(path: Path, tree: Json) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(tree, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def _node(node: Mapping[str, Any]) -> Json:
    sockets = {
        name: spec for section in ("required", "optional") for name, spec in node["input"].get(section, {}).items()
    }
    inputs = {name: {"name": _label(name, spec), "tooltip": _tooltip(spec)} for name, spec in sockets.items()}
    outputs: Json = {}
    for number, (name, kind) in enumerate(zip(node["output_name"], node["output"], strict=True)):
        # An output that is called like its type is translated by the page.
        outputs[str(number)] = {} if name == kind else {"name": name}
        outputs[str(number)]["tooltip"] = node["output_tooltips"][number]
    found = {"display_name": node["display_name"], "description": node["description"]}
    return found | ({"inputs": inputs} if inputs else {}) | {"outputs": outputs}


def _label(name: str, spec: list[Any]) -> str:
    """What the page calls an input."""
    return str((spec[1] if len(spec) > 1 else {}).get("display_name") or name)


def _tooltip(spec: list[Any]) -> str:
    options = spec[1] if len(spec) > 1 else {}
    if "template" in options:  # sockets of which another appears when the last is taken
        spec = next(iter(options["template"]["input"]["required"].values()))
        options = spec[1]
    return str(options["tooltip"])


def main() -> None:
    """Write locales/english.json anew."""
    from ..comfyui.client import Client
    from ..comfyui.links import prepare_base
    from ..comfyui.server import ComfyServer

    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--comfyui", type=Path, required=True, help="the ComfyUI folder to ask for the pack's nodes")
    parser.add_argument("--base", type=Path, required=True, help="a folder of its own for the server")
    arguments = parser.parse_args()

    base = arguments.base.resolve()
    prepare_base(base, PACK)
    log = base / "locales-server.log"
    with ComfyServer(arguments.comfyui.resolve(), base, log=log) as server, Client(server.url) as client:
        write(ENGLISH, english(client.object_info()))
    print(ENGLISH)


if __name__ == "__main__":
    main()
