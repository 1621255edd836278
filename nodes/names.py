"""Load Celebrity Names."""

from __future__ import annotations

from pathlib import Path

from comfy_api.latest import io

from ..crossinit_core import CelebrityNames, load_celebrity_names
from ..crossinit_core.celebrity_names import BUNDLED_LIST, parse_celebrity_names
from ..crossinit_core.text import normal_form, quoted
from .errors import tells_errors
from .files import stamp, text_files
from .host.folders import models_folders
from .host.page import show_text
from .sockets import CATEGORY, SEARCH_ALIASES, CelebrityNamesSocket
from .texts import check_box

FOLDER = "celebrity_names"
BUNDLED = "bundled list"
ONLY_EXTRA = "only the extra names"


@tells_errors
class CrossInitCelebrityNames(io.ComfyNode):
    """Names of well-known people, whose average is where every learned face starts."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CrossInitCelebrityNames",
            display_name="Load Celebrity Names",
            category=CATEGORY,
            description=(
                "Names of well-known people. Stable Diffusion knows these faces, and their average is a good place to "
                "start learning a new one. The bundled list is fine for everybody."
            ),
            search_aliases=SEARCH_ALIASES,
            inputs=[
                io.Combo.Input(
                    "list",
                    options=[BUNDLED, ONLY_EXTRA, *user_lists()],
                    default=BUNDLED,
                    tooltip=(
                        "The bundled list holds several hundred people from all over the world, women and men alike. "
                        f"Your own lists: .txt files in ComfyUI/models/{FOLDER}, one name a line, UTF-8."
                    ),
                ),
                io.String.Input(
                    "extra_names",
                    default="",
                    multiline=True,
                    optional=True,
                    advanced=True,
                    placeholder="More names, one a line",
                    tooltip="Added to the list, one name a line. A name that occurs twice counts twice.",
                ),
            ],
            outputs=[
                CelebrityNamesSocket.Output(
                    "names", display_name="names", tooltip="For the Cross Initialization node."
                ),
                io.Int.Output("count", display_name="count", tooltip="How many names there are."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, extra_names: str | None = None) -> bool:
        """Refuses names that cannot be sent when the graph is queued."""
        check_box(extra_names, "extra_names")
        return True

    @classmethod
    def fingerprint_inputs(cls, list: str, extra_names: str = "") -> str:
        path = BUNDLED_LIST if list in (BUNDLED, ONLY_EXTRA) else user_lists().get(list)
        return f"{list}|{extra_names}|{stamp(path)}"

    @classmethod
    def execute(cls, list: str, extra_names: str = "") -> io.NodeOutput:
        names = _names(list, extra_names)
        show_text(cls, f"{len(names)} names" if len(names) > 1 else "1 name")
        return io.NodeOutput(names, len(names))


def user_lists() -> dict[str, Path]:
    """The user's .txt files by the name that the node shows; the folder is made when ComfyUI first asks."""
    return text_files(models_folders(FOLDER))


def _names(choice: str, extra: str) -> CelebrityNames:
    check_box(extra, "extra_names")
    more = parse_celebrity_names(extra, "extra names") if normal_form(extra).strip() or choice == ONLY_EXTRA else None
    if choice == ONLY_EXTRA and more:
        return more
    if choice == BUNDLED:
        names = load_celebrity_names()
    else:
        path = user_lists().get(choice)
        if path is None:
            raise ValueError(
                f"The list of names '{quoted(choice)}' is gone. Put it back into models/{FOLDER}, or choose another."
            )
        names = load_celebrity_names(path)
    return names.plus(more) if more else names
