"""Prompt List."""

from __future__ import annotations

import re
from pathlib import Path

from comfy_api.latest import io

from ..crossinit_core.files import is_windows_device
from ..crossinit_core.prompt_labels import LONGEST_LABEL_IN_BYTES, labels_of_prompts
from ..crossinit_core.prompts import has_place, is_skipped, load_prompts, parse_prompts
from ..crossinit_core.text import lines_of, normal_form, quoted
from .errors import tells_errors
from .files import stamp, text_files
from .host.folders import input_folder
from .host.page import show_text
from .sockets import CATEGORY, SEARCH_ALIASES
from .texts import LONGEST_LINE, check_box, check_prompt

NO_FILE = "none"
_LONGEST_FOLDER = 120
"""Characters. Windows allows 260 for a whole path, of which two labels and ComfyUI's own folder take their part."""
EXAMPLE = """a photo of a {} person
a {} person with a sad expression
a {} person wearing a scifi spacesuit in space
cubism painting of a {} person"""


@tells_errors
class CrossInitPromptList(io.ComfyNode):
    """Many prompts, of which ComfyUI runs one after the other."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CrossInitPromptList",
            display_name="Prompt List",
            category=CATEGORY,
            description=(
                "A list of prompts, one a line. ComfyUI runs the nodes after this one once for each of them, and Save Image "
                "can sort the pictures into a folder for each prompt."
            ),
            search_aliases=[*SEARCH_ALIASES, "prompts", "batch prompts", "prompts from file", "multiple prompts"],
            inputs=[
                io.String.Input(
                    "prompts",
                    default=EXAMPLE,
                    multiline=True,
                    dynamic_prompts=False,
                    tooltip="One prompt a line. Blank lines and lines that start with # are skipped. {} is the person.",
                ),
                io.Combo.Input(
                    "file",
                    options=[NO_FILE, *prompt_files()],
                    default=NO_FILE,
                    optional=True,
                    tooltip=(
                        "A .txt file in ComfyUI/input, UTF-8, one prompt a line; its prompts come after those of the box. "
                        "It is read again when it changes."
                    ),
                ),
                io.String.Input(
                    "folder",
                    default="crossinit",
                    optional=True,
                    advanced=True,
                    tooltip="Where filename_prefix puts the prompts' folders, below ComfyUI/output.",
                ),
            ],
            outputs=[
                io.String.Output(
                    "prompt",
                    display_name="prompt",
                    is_output_list=True,
                    tooltip="One after the other, for Encode Prompt with Learned Token.",
                ),
                io.String.Output(
                    "label",
                    display_name="label",
                    is_output_list=True,
                    tooltip="Each prompt as a file name that every system takes; no two are alike.",
                ),
                io.String.Output(
                    "filename_prefix",
                    display_name="filename_prefix",
                    is_output_list=True,
                    tooltip="For Save Image: a folder for each prompt.",
                ),
                io.Int.Output("count", display_name="count", tooltip="How many prompts there are."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, prompts: str | None = None, folder: str | None = None) -> bool:
        """Refuses a folder outside of the output folder, and texts that cannot be sent, when the graph is queued."""
        check_box(prompts, "prompts")
        if folder is not None:
            prefix_of(folder, "prompt")
        return True

    @classmethod
    def fingerprint_inputs(cls, prompts: str | None = None, file: str = NO_FILE, folder: str = "") -> str:
        return f"{prompts}|{file}|{folder}|{stamp(prompt_files().get(file))}"

    @classmethod
    def execute(cls, prompts: str, file: str = NO_FILE, folder: str = "crossinit") -> io.NodeOutput:
        found = _prompts(prompts, file)
        labels = labels_of_prompts(found)
        prefixes = [prefix_of(folder, label) for label in labels]
        text = f"{len(found)} prompts" if len(found) > 1 else "1 prompt"
        if without := sum(not has_place(prompt) and "embedding:" not in prompt for prompt in found):
            text += f", {without} of them without {{}} for a person"
        show_text(cls, text)
        return io.NodeOutput(list(found), list(labels), prefixes, len(found))


def prompt_files() -> dict[str, Path]:
    """The .txt files of ComfyUI's input folder by the name that the node shows."""
    return text_files([input_folder()])


def prefix_of(folder: str, label: str) -> str:
    """`FOLDER/LABEL/LABEL`, which Save Image takes for a folder and the start of a file name.

    Raises ValueError if the folder is not below the output folder, or is not a folder on every system.
    """
    check_box(folder, "folder", LONGEST_LINE)
    parts = [normal_form(part).strip() for part in folder.replace("\\", "/").split("/") if part.strip()]
    problem = None
    if (
        re.search(r'[<>:"|?*%\x00-\x1f\x7f]', folder)
        or folder.strip().startswith(("/", "\\"))
        or any(part.strip(".") == "" for part in parts)
    ):
        problem = ""
    elif devices := [part for part in parts if is_windows_device(part)]:
        problem = f" '{quoted(devices[0])}' is the name of a device on Windows."
    elif any(part.endswith(".") for part in parts):
        problem = " Windows drops a dot at the end."
    elif any(len(part.encode()) > LONGEST_LABEL_IN_BYTES for part in parts) or len("/".join(parts)) > _LONGEST_FOLDER:
        problem = (
            f" It is too long: {LONGEST_LABEL_IN_BYTES} bytes are for a name, {_LONGEST_FOLDER} characters for all."
        )
    if problem is not None:
        raise ValueError(
            f"The folder '{quoted(folder)}' must be a name below ComfyUI's output folder, such as crossinit/anna.{problem}"
        )
    return "/".join([*parts, label, label])


def _prompts(text: str, file: str) -> tuple[str, ...]:
    check_box(text, "prompts")
    from_file: tuple[str, ...] = ()
    if file != NO_FILE:
        path = prompt_files().get(file)
        if path is None:
            raise ValueError(
                f"The prompt file '{quoted(file)}' is gone from ComfyUI's input folder. Choose another, or '{NO_FILE}'."
            )
        from_file = load_prompts(path)
    blank = all(is_skipped(line) for line in lines_of(text))
    found = from_file if from_file and blank else (*parse_prompts(text, "prompts"), *from_file)
    for number, prompt in enumerate(found, start=1):
        check_prompt(prompt, f"Prompt {number}")
    return found
