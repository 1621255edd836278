"""A page that listens to nodes which run without a server, in the place of `PromptServer.instance`."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

CLIENT = "the-page"


def hearing(texts: list[str]) -> Any:
    """A page that collects the lines of text which nodes say."""

    def send_sync(_event: str, detail: dict[str, Any], client: str) -> None:
        assert client == CLIENT
        if "text" in detail:
            texts.append(detail["text"])

    return SimpleNamespace(client_id=CLIENT, send_sync=send_sync)
