"""What the page's panel of faces asks for beyond ComfyUI's own routes: to rename a face, and to take one away.

| POST, JSON | does | answers |
|---|---|---|
| `/crossinit/faces/rename` `{"file", "name"}` | gives a token file another name in its folder | `{"file", "name"}` |
| `/crossinit/faces/remove` `{"file"}` | moves it to `output/crossinit/removed` | `{"kept"}`, where it is now |

Both answer `{"error"}`, one line, with a status of 400 or more if nothing was done. Only ComfyUI's own page, in a browser on
the same computer, is heard; only files that this pack wrote are touched, and only those that lie in an embeddings folder by
themselves, not behind a link.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from aiohttp import web
from server import PromptServer

from ...crossinit_core.text import normal_form, quoted
from ...crossinit_core.tokens.learned_token import check_token_name
from ...crossinit_core.tokens.moving import check_is_ours, remove_token_file, rename_token_file
from ...crossinit_core.tokens.token_files import SUFFIXES
from .folders import embedding_names, embedding_path, embeddings_folders, folders_with_embeddings, output_folder

log = logging.getLogger(__name__)

Json = dict[str, Any]

_MOST_BYTES = 16 * 2**10
"""Of what is asked: a path and a name."""
_LONGEST_LINE = 600
_PASSED_ON = ("Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Real-IP")
"""What a program between browser and server adds: then the other end, which is on this computer, is not the browser."""


def add_face_routes() -> None:
    """Once, before ComfyUI takes the routes over: one that is there twice would stop it."""
    routes = getattr(getattr(PromptServer, "instance", None), "routes", None)
    if routes is None:  # a program may load nodes without a server
        return
    there = {getattr(route, "path", "") for route in routes}
    for path, change in {"/crossinit/faces/rename": _rename, "/crossinit/faces/remove": _remove}.items():
        if path not in there:
            routes.post(path)(_answering(change))


def removed_folder() -> Path:
    """Where faces are that were taken away: no prompt finds them there, but people do."""
    return output_folder() / "crossinit" / "removed"


def _answering(change: Callable[[Json], Json]) -> Callable[[web.Request], Any]:
    async def answer(request: web.Request) -> web.Response:
        if objection := _objection(request):
            return _error(objection, 403)
        try:
            if not 0 < (request.content_length or 0) <= _MOST_BYTES:
                raise ValueError(f"The request must have 1 to {_MOST_BYTES} bytes of JSON.")
            asked = json.loads(await request.read())
            if not isinstance(asked, dict):
                raise ValueError("The request must be a JSON object.")
            # Disks may be slow, and the server has others to answer.
            return web.json_response(await asyncio.get_running_loop().run_in_executor(None, change, asked))
        except FileExistsError as error:
            return _error(str(error), 409)
        except OSError as error:
            reason = quoted(error.strerror or type(error).__name__)
            return _error(f"Nothing was changed: {reason}. Look whether the disk is full or the folder read-only.", 500)
        except (ValueError, RecursionError) as error:
            return _error(str(error), 400)

    return answer


def _error(text: str, status: int) -> web.Response:
    return web.json_response({"error": quoted(text, _LONGEST_LINE)}, status=status)


def _objection(request: web.Request) -> str:
    """Why a request is not heard; empty if it comes from ComfyUI's own page on this computer.

    ComfyUI's own check of origins (`create_origin_only_middleware` in server.py) may be switched off, and takes any origin if the
    server has a name; this one holds always.
    """
    peer = request.transport.get_extra_info("peername") if request.transport else None
    here = (
        isinstance(peer, tuple) and _is_here(str(peer[0])) and not any(name in request.headers for name in _PASSED_ON)
    )
    host = request.headers.get("Host", "")
    if not here or not _names_here(host):
        return "Faces can be renamed and deleted only in a browser on the computer on which ComfyUI runs."
    origin = urlsplit(request.headers.get("Origin", ""))
    same = origin.scheme in ("http", "https") and origin.netloc.lower() == host.lower()
    if not same or request.headers.get("Sec-Fetch-Site", "same-origin") != "same-origin":
        return "Only ComfyUI's own page may ask for this."
    if request.content_type != "application/json":
        return "The request must be JSON."
    return ""


def _is_here(address: str) -> bool:
    """Whether an address is this computer itself: 127.0.0.0/8 or ::1, also written as ::ffff:127.0.0.1."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(found, "ipv4_mapped", None)
    return (mapped or found).is_loopback


def _names_here(host: str) -> bool:
    """Whether a browser that asks for this host cannot mean another computer. A foreign name may lead here too: then its owner's
    page would be this server's own origin."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    return name == "localhost" or _is_here(name)


def _rename(asked: Json) -> Json:
    path, name = _own_file(asked.get("file")), asked.get("name")
    if not isinstance(name, str):
        raise ValueError("The new name must be a text.")
    name = check_token_name(name.strip())
    if others := [other for other in _namesakes(name) if not other.samefile(path)]:
        raise FileExistsError(
            f"'{quoted(others[0].name)}' is in the embeddings folder already, and embedding:{name} would mean either. Choose "
            "another name."
        )
    try:
        renamed = rename_token_file(path, name)
    except FileExistsError:
        raise FileExistsError(f"'{name}.safetensors' is there already. Choose another name.") from None
    return {"file": (Path(asked["file"]).parent / renamed.name).as_posix(), "name": renamed.stem}


def _remove(asked: Json) -> Json:
    kept = remove_token_file(_own_file(asked.get("file")), removed_folder())
    return {"kept": str(kept)}


def _own_file(shown: object) -> Path:
    """The token file of this pack that ComfyUI's list shows by this name. Raises ValueError for anything else."""
    listed = {name.replace("\\", "/") if os.name == "nt" else name: name for name in embedding_names()}
    wanted = shown.replace("\\", "/") if isinstance(shown, str) and os.name == "nt" else shown
    path = embedding_path(listed[wanted]) if isinstance(wanted, str) and wanted in listed else None
    if path is None:
        raise ValueError(f"'{quoted(shown)}' is not in the embeddings folder (any more). Refresh the list.")
    real = os.path.realpath(path)
    relative = Path(listed[str(wanted)])
    if not any(real == str(Path(os.path.realpath(folder)) / relative) for folder in embeddings_folders()):
        raise ValueError(f"'{quoted(shown)}' lies behind a link. Rename or delete it where it lies.")
    check_is_ours(path)
    return path


def _namesakes(name: str) -> list[Path]:
    """Files that `embedding:NAME` may mean, on some system or other."""
    wanted = {normal_form(name + suffix).casefold() for suffix in ("", *SUFFIXES)}
    return [
        folder / file
        for folder, files in folders_with_embeddings()
        for file in files
        if normal_form(file).casefold() in wanted and (folder / file).is_file()
    ]
