"""Fills in what only the publisher of the pack knows: where its repository is, and who publishes it.

    python -m devtools.release https://github.com/OWNER/NAME --publisher OWNER

writes the repository's addresses, the publisher and the icon's address into pyproject.toml, and the address to clone into
README.md. Then: register the publisher at https://registry.comfy.org, and `comfy node publish`.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

ICON = "docs/images/icon.png"
CLONE = "git clone ADDRESS"


def fill_in(root: Path, repository: str, publisher: str, branch: str = "main") -> None:
    """Write the addresses into the files at `root`, again and again if need be. Raises ValueError for what cannot be one."""
    found = re.fullmatch(r"https://github\.com/([\w.-]+)/([\w.-]+?)(?:\.git)?/?", repository)
    if not found:
        raise ValueError(f"The repository is '{repository}', but must look like https://github.com/OWNER/NAME.")
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]*", publisher):
        raise ValueError(f"The publisher is '{publisher}', but must be lower-case letters, digits and hyphens.")
    address = f"https://github.com/{found[1]}/{found[2]}"

    project = root / "pyproject.toml"
    text = project.read_text(encoding="utf-8")
    for table, key, value in (
        ("project.urls", "Repository", address),
        ("project.urls", '"Bug Tracker"', f"{address}/issues"),
        ("tool.comfy", "PublisherId", publisher),
        ("tool.comfy", "Icon", f"{address}/raw/{branch}/{ICON}"),
    ):
        text = _set(text, table, key, value)
    project.write_text(text, encoding="utf-8")

    readme = root / "README.md"
    readme.write_text(readme.read_text(encoding="utf-8").replace(CLONE, f"git clone {address}"), encoding="utf-8")


def _set(text: str, table: str, key: str, value: str) -> str:
    """The same TOML with `key = "value"` in a table, in place of the one that is there."""
    start = text.index(f"[{table}]\n") + len(f"[{table}]\n")
    following = re.search(r"^\[", text[start:], re.MULTILINE)
    end = start + following.start() if following else len(text)
    body = text[start:end]
    line = f'{key} = "{value}"'
    body, replaced = re.subn(rf"^(?:# )?{re.escape(key)} = .*$", line, body, flags=re.MULTILINE)
    return text[:start] + (body if replaced else f"{line}\n{body}") + text[end:]


def main() -> None:
    """Write the publisher's addresses into pyproject.toml and README.md."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("repository", help="https://github.com/OWNER/NAME")
    parser.add_argument("--publisher", required=True, help="the publisher's id at registry.comfy.org")
    parser.add_argument("--branch", default="main", help="the branch of the icon; default: %(default)s")
    arguments = parser.parse_args()
    fill_in(Path(__file__).resolve().parent.parent, arguments.repository, arguments.publisher, arguments.branch)


if __name__ == "__main__":
    main()
