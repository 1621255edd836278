"""Source files can be read on Windows by tools that take them for cp1252, as comfy-test does."""

from __future__ import annotations

from tests.repository_files import REPOSITORY, archived_files


def test_source_files_hold_no_sign_outside_cp1252() -> None:
    odd = {}
    for name in archived_files():
        if name.endswith((".py", ".js")):
            text = (REPOSITORY / name).read_text(encoding="utf-8")
            found = sorted(set(text) - set(text.encode("cp1252", errors="ignore").decode("cp1252")))
            if found:
                odd[name] = found
    assert not odd
