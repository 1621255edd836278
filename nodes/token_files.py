"""Save Learned Token, and Load Learned Token."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from comfy_api.latest import io

from ..crossinit_core import LearnedToken, load_learned_token
from ..crossinit_core.families import BASES, describe_widths, shown_widths
from ..crossinit_core.files import check_can_write
from ..crossinit_core.text import quoted
from ..crossinit_core.tokens.description import bare, check_author, described, trigger_phrase
from ..crossinit_core.tokens.layouts import FORMATS, Format
from ..crossinit_core.tokens.learned_token import check_token_name, numbered
from ..crossinit_core.tokens.saving import save_or_keep
from ..crossinit_core.tokens.sidecars import write_beside
from ..crossinit_core.tokens.token_files import SUFFIXES, files_of_token
from .errors import tells_errors
from .files import stamp
from .host.folders import embedding_names, embedding_path, embeddings_folders, folders_with_embeddings, output_folder
from .host.page import show_text
from .host.tokens import vectors_in_prompts
from .sockets import CATEGORY, SEARCH_ALIASES, LearnedTokenSocket

log = logging.getLogger(__name__)

NUMBER = "add a number"
REPLACE = "replace it"
STOP = "stop with an error"

ALL = "all"
IN_THE_FILE = "in the file"
NO_PICTURE = "no picture"
NOTHING = "nothing"


@tells_errors
class CrossInitSave(io.ComfyNode):
    """A learned token as a file that every tool reads."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CrossInitSave",
            display_name="Save Learned Token",
            category=CATEGORY,
            description=(
                "Saves the learned person into ComfyUI's embeddings folder, a small file, and returns the text to put into "
                "a prompt."
            ),
            search_aliases=SEARCH_ALIASES,
            is_output_node=True,
            inputs=[
                LearnedTokenSocket.Input("token", tooltip="From Learn Face."),
                io.String.Input(
                    "name",
                    default="",
                    tooltip=(
                        "The file's name, and what stands after embedding: in a prompt. Empty: the person's name from Learn "
                        "Face. No spaces."
                    ),
                ),
                io.Combo.Input(
                    "if_exists",
                    options=[NUMBER, REPLACE, STOP],
                    default=NUMBER,
                    optional=True,
                    tooltip=(
                        "What to do if another person is saved under that name. Prompts that already ran keep using a "
                        "replaced file's old content until ComfyUI restarts."
                    ),
                ),
                io.Combo.Input(
                    "format",
                    options=list(FORMATS),
                    default="safetensors",
                    optional=True,
                    advanced=True,
                    tooltip=(
                        "For which tool. safetensors is for ComfyUI, SwarmUI, diffusers, A1111, Forge and kohya; InvokeAI and "
                        "OneTrainer have their own. pt is A1111's old format, bin that of diffusers; the published script reads "
                        "only its own bin. For SDXL take safetensors, pt or bin: the other three cannot hold its tokens."
                    ),
                ),
                io.Combo.Input(
                    "about",
                    options=[ALL, IN_THE_FILE, NO_PICTURE, NOTHING],
                    default=IN_THE_FILE,
                    optional=True,
                    advanced=True,
                    tooltip=(
                        "What the file says of the person, for lists of models. all: a text and a small generated picture, never "
                        "the photo, also beside the file as NAME.preview.png and NAME.metadata.json. in the file: nothing beside "
                        "it. no picture: the text alone. nothing: only the vectors."
                    ),
                ),
                io.String.Input(
                    "author",
                    default="",
                    dynamic_prompts=False,
                    optional=True,
                    advanced=True,
                    tooltip="Who made this, for the text in the file. May be empty.",
                ),
            ],
            outputs=[
                io.String.Output(
                    "prompt_text",
                    display_name="prompt_text",
                    tooltip="What to write in a prompt: embedding:NAME person",
                ),
                LearnedTokenSocket.Output(
                    "saved",
                    display_name="token",
                    tooltip="The same person under the name of the file, for prompts that name it in braces.",
                ),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, name: str | None = None, author: str | None = None) -> bool:
        """Refuses an impossible name or place when the graph is queued, not after half a minute of learning."""
        if author is not None:
            check_author(author)
        if name is not None and name.strip():
            check_token_name(name.strip())
        check_can_write(embeddings_folders()[0] / "any-name.safetensors", what="embeddings folder")
        return True

    @classmethod
    def execute(
        cls,
        token: LearnedToken,
        name: str,
        if_exists: str = NUMBER,
        format: str = "safetensors",
        about: str = IN_THE_FILE,
        author: str = "",
    ) -> io.NodeOutput:
        name = check_token_name(name.strip()) if name.strip() else token.name
        author = check_author(author)

        def says(token: LearnedToken) -> LearnedToken:
            return bare(token) if about == NOTHING else described(token, author, picture=about != NO_PICTURE)

        saved, path = _save(token, name, if_exists, FORMATS[format], says)
        write_beside(says(saved), path, wanted=about == ALL)
        text = trigger_phrase(saved.name)
        said = f"Saved {path.name}.\nPrompt: {text}"  # a node of usual width shows two lines of 35 characters
        if others := _namesakes(saved.name, token):
            said += (
                f"\nBut the embeddings folder holds somebody else under that name, whom a prompt may mean: rename or delete "
                f"{', '.join(map(_shown, others))}."
            )
        show_text(cls, said)
        return io.NodeOutput(text, saved, ui={"prompt_text": [text], "file": [path.name]})


@tells_errors
class CrossInitLoad(io.ComfyNode):
    """A learned token from a file of any tool."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CrossInitLoad",
            display_name="Load Learned Token",
            category=CATEGORY,
            description=(
                "Loads a learned person from the embeddings folder: files of this pack, of the published code, and of "
                "diffusers, A1111, kohya, InvokeAI and OneTrainer."
            ),
            search_aliases=SEARCH_ALIASES,
            inputs=[
                io.Combo.Input(
                    "file",
                    options=embedding_names(),
                    tooltip="A file in ComfyUI/models/embeddings. It is read again when it changes.",
                ),
            ],
            outputs=[
                LearnedTokenSocket.Output(
                    "token", display_name="token", tooltip="For Apply and Encode Prompt with Learned Token."
                )
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def fingerprint_inputs(cls, file: str | None) -> str:
        if file is None:
            # By a wire: ComfyUI asks before it knows what will come, and goes by where that comes from.
            return "by wire"
        found = embedding_path(file)
        if not found:
            return f"{file} is missing"
        return "|".join([str(found), *map(stamp, files_of_token(found))])

    @classmethod
    def execute(cls, file: str) -> io.NodeOutput:
        found = embedding_path(file)
        if not found:
            raise ValueError(
                f"'{file}' is not in the embeddings folder. Press R to refresh the list, and choose another."
            )
        token = load_learned_token(found)
        count = f"{len(token.vectors)} vector{'s' * (len(token.vectors) > 1)}"
        family = f" ({describe_widths(token.widths)})" if token.widths in BASES else ""
        show_text(cls, f"{token.name}: {count} of width {shown_widths(token.widths)}{family}")
        return io.NodeOutput(token)


def kept_folder() -> Path:
    """Where a token is kept if the embeddings folder does not take it, under ComfyUI's output folder."""
    return output_folder() / "crossinit" / "tokens"


def _save(
    token: LearnedToken, wanted: str, if_exists: str, chosen: Format, says: Callable[[LearnedToken], LearnedToken]
) -> tuple[LearnedToken, Path]:
    """The token under the name that it was saved by, and the file, which holds what `says` makes of it.

    That is the wanted name or, with a number, the first by which no prompt finds anybody else. Another program may take a name
    between the look and the write: then the next one is tried.
    """
    number = 1
    while True:
        name = wanted if number == 1 else numbered(wanted, number)
        path = embeddings_folders()[0] / f"{name}{chosen.suffix}"
        there = path.is_file()  # asked before the look: what comes later is somebody else's
        others = _namesakes(name, token) if if_exists != REPLACE else []
        if not others:
            saved = token.renamed(name)
            # A file that is there holds this very token, or is to be replaced. A folder of that name stays.
            replace = (if_exists == REPLACE or there) and not path.is_dir()
            try:
                return saved, _written(says(saved), path, chosen.layout, replace)
            except FileExistsError:
                others = [path]
        if if_exists == STOP:
            raise ValueError(
                f"'{quoted(_shown(others[0]))}' already exists in the embeddings folder and is not this token, although "
                f"embedding:{name} in a prompt may mean it. Choose another name, or set if_exists to '{NUMBER}' or '{REPLACE}'."
            )
        number += 1


def _written(token: LearnedToken, path: Path, layout: str, replace: bool) -> Path:
    elsewhere = [kept_folder(), Path(tempfile.gettempdir())]
    try:
        return save_or_keep(token, path, elsewhere, layout, replace=replace)
    except RuntimeError as error:
        raise RuntimeError(str(error)) from error  # ComfyUI writes the module of any other kind before the message


def _namesakes(name: str, token: LearnedToken) -> list[Path]:
    """Files that `embedding:NAME` may mean, other than this very token.

    ComfyUI looks through all embeddings folders and the folders in them, in no fixed order, and for all these endings.
    """
    found = []
    for folder, files in folders_with_embeddings():
        # Not by the list of files alone: some file systems do not tell upper from lower case.
        paths = (folder / f"{name}{suffix}" for suffix in ("", *SUFFIXES)) if files else ()
        found += [path for path in paths if path.is_file() and not _holds(path, token)]
    return sorted(set(found))


def _holds(path: Path, token: LearnedToken) -> bool:
    """Whether a file is this very token, and prompts read all of it."""
    try:
        there = load_learned_token(path).vectors, vectors_in_prompts(path, token.widths)
    except Exception as error:  # nothing that lies in a folder may stop a save, whatever a reader makes of it
        log.info("%s is somebody else's (%s).", path, type(error).__name__)
        return False
    return all(vectors is not None and torch.equal(vectors, token.vectors) for vectors in there)


def _shown(path: Path) -> str:
    """A file as people name it: from its embeddings folder on."""
    return next(path.relative_to(root).as_posix() for root in embeddings_folders() if path.is_relative_to(root))
