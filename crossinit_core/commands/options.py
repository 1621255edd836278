"""What each command takes: its arguments and options, with their help.

Nothing here imports PyTorch but the options of the commands that list formats.
"""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path

from ..choices import PRECISIONS, START_STATES
from ..learning.settings import (
    DIRECTION_PRIOR,
    DIRECTION_RATE,
    MEMORY_MODES,
    METHODS,
    PRESETS,
    REGULARIZERS,
    SCHEDULES,
    SDXL_PRESETS,
)
from .arguments import format_name, formats_help, local_path
from .sampling_settings import LAYOUTS, SIZES, Sampling

PROMPT = "a photo of a {} person"
RESUME_FOLDER = "crossinit-resume"


def of_train(command: ArgumentParser) -> None:
    _add_model(command)
    command.add_argument(
        "--resolution",
        type=int,
        metavar="PX",
        help="a multiple of 64 from 64 to 1024; default: the model's own, and 768 on SDXL, as published",
    )
    command.add_argument(
        "photos", type=local_path, nargs="+", metavar="PHOTO", help="picture files, or folders of them"
    )
    command.add_argument(
        "--face",
        action="store_true",
        help="frame each photo around its largest face, and learn from the head alone, as Prepare Face Photo does",
    )
    command.add_argument(
        "--face-number", type=int, metavar="N", help="--face with the N-th largest face of each photo; 1 is the largest"
    )
    start = command.add_mutually_exclusive_group()
    start.add_argument(
        "--names", type=local_path, metavar="FILE", help="names to start from, one a line; default: bundled"
    )
    start.add_argument("--words", metavar="TEXT", help='words to start from, such as "human face"')
    command.add_argument("--vectors", type=int, metavar="K", help="default: 2, or as many as the words have tokens")
    command.add_argument(
        "--states",
        choices=START_STATES,
        default="last",
        help="the output of SDXL's text encoders to start at: of the last layer, as published, or the context, which the UNet "
        "sees; default: %(default)s",
    )
    command.add_argument("--preset", choices=tuple(PRESETS), default="full", help=_presets_help())
    for name in ("steps", "seed", "batch-size", "micro-batch-size"):
        command.add_argument(f"--{name}", type=int, metavar="N", help="in place of the preset's")
    for name in ("learning-rate", "flip-probability"):
        command.add_argument(f"--{name}", type=float, metavar="X", help="in place of the preset's")
    command.add_argument(
        "--schedule",
        choices=SCHEDULES,
        help="of the learning rate: constant, as published, or linear, down to nothing; default: the preset's",
    )
    command.add_argument(
        "--regularization", type=float, metavar="X", help="lambda, the weight of the regularizer; default: 1e-5"
    )
    command.add_argument(
        "--regularizer",
        choices=REGULARIZERS,
        help="what holds the vectors at their start: their distance from it, as published for SD, or its square, as for SDXL; "
        "default: the preset's",
    )
    command.add_argument("--weight-decay", type=float, metavar="X", help="of AdamW; default: 0.01")
    command.add_argument(
        "--timesteps",
        type=int,
        nargs=2,
        metavar=("LOW", "HIGH"),
        help="levels of noise to learn from, LOW <= t < HIGH; default: 0 1000",
    )
    command.add_argument(
        "--method",
        choices=METHODS,
        help="published, or the direction alone (Kim et al., ICLR 2026), whose rate is then "
        f"{DIRECTION_RATE:g} unless --learning-rate is given; default: published",
    )
    command.add_argument(
        "--prior", type=float, metavar="X", help=f"kappa of --method direction; default: {DIRECTION_PRIOR:g}"
    )
    command.add_argument(
        "--memory",
        choices=MEMORY_MODES,
        help="low: the least memory, more time; auto: only if the GPU has too little; default: auto",
    )
    command.add_argument("--gradient-checkpointing", action="store_true", help="less memory, more time, same result")
    command.add_argument("--name", help="of the token; default: that of the output file, or of the first photo")
    command.add_argument("--out", type=local_path, metavar="FILE", help="default: NAME.safetensors")
    command.add_argument(
        "--save-every", type=int, metavar="N", help="keep the token of every N-th step too, as NAME-STEP.safetensors"
    )
    command.add_argument(
        "--sample-every",
        type=int,
        metavar="N",
        help="make pictures of every N-th step: NAME-samples/PROMPT/STEP.png. The vectors come out the same",
    )
    _add_prompts(command, "of --sample-every: ")
    command.add_argument(
        "--losses", type=local_path, metavar="FILE", help="losses and distances of all steps, as JSON lines"
    )
    command.add_argument(
        "--tensorboard",
        type=local_path,
        metavar="FOLDER",
        help="the same for TensorBoard, with the pictures of --sample-every, in FOLDER/NAME; it needs the extra tensorboard",
    )
    command.add_argument(
        "--resume-folder", type=local_path, metavar="FOLDER", help=f"default: {RESUME_FOLDER} next to FILE"
    )
    command.add_argument("--no-resume", action="store_true", help="start anew, even if an earlier run was stopped")


def of_generate(command: ArgumentParser) -> None:
    _add_model(command)
    sizes = f"of the pictures: any multiple of 8 from {SIZES[0]} to {SIZES[1]}; default: the model's own"
    command.add_argument("--resolution", type=int, metavar="PX", help=sizes)
    command.add_argument("tokens", type=local_path, nargs="+", metavar="TOKEN", help="files of learned tokens")
    _add_prompts(command)
    for name in ("steps", "seed", "count"):
        default = getattr(Sampling, name)
        command.add_argument(f"--{name}", type=int, default=default, metavar="N", help="default: %(default)s")
    command.add_argument(
        "--strength",
        type=float,
        default=1.0,
        metavar="X",
        help="the dial between prompt and likeness: less listens more to the prompt, from 0 to 1.5; "
        "default: %(default)s",
    )
    guidance = Sampling.guidance
    command.add_argument("--guidance", type=float, default=guidance, metavar="X", help="default: %(default)s")
    command.add_argument(
        "--out", type=local_path, default=Path("pictures"), metavar="FOLDER", help="default: %(default)s"
    )
    command.add_argument(
        "--layout",
        choices=LAYOUTS,
        default="flat",
        help="flat: FOLDER/001-PROMPT-SEED.png; published: FOLDER/PROMPT/0.png, 1.png .., a folder for each prompt, as the "
        "published script has them; celeb-basis: FOLDER/imgs and lists, as the evaluation of Celeb Basis reads them; default: "
        "%(default)s",
    )
    command.add_argument(
        "--photo", type=local_path, metavar="FILE", help="of the person; --layout celeb-basis compares with it"
    )
    command.add_argument(
        "--batch-size",
        type=int,
        default=Sampling.batch_size,
        metavar="N",
        help="pictures of a prompt that are made at once: faster on a GPU; default: %(default)s",
    )
    command.add_argument(
        "--controlnet",
        type=local_path,
        metavar="FOLDER",
        help="a ControlNet in diffusers' layout, of the model's family",
    )
    command.add_argument(
        "--control-image", type=local_path, metavar="FILE", help="what it follows: edges, a pose .., its middle square"
    )
    command.add_argument(
        "--control-strength", type=float, default=1.0, metavar="X", help="how much it counts; default: %(default)s"
    )
    command.add_argument(
        "--skip-existing",
        action="store_true",
        help="make only the pictures that are not there, to go on after a stop; the files' names decide, not what is in them",
    )


def of_convert(command: ArgumentParser) -> None:
    command.add_argument("token", type=local_path, metavar="IN", help="a token file of any tool")
    _add_out(command)
    command.add_argument("--name", help="default: the one in the file")


def of_blend(command: ArgumentParser) -> None:
    from ..tokens.blending import ARC
    from ..tokens.blending import METHODS as BLENDS

    command.add_argument("first", type=local_path, metavar="FIRST", help="a token file of any tool")
    command.add_argument(
        "second", type=local_path, metavar="SECOND", help="another of the same family, with as many vectors"
    )
    _add_out(command)
    command.add_argument(
        "--weight", type=float, default=0.5, metavar="X", help="0: the first token, 1: the second; default: %(default)s"
    )
    command.add_argument(
        "--method",
        choices=BLENDS,
        default=ARC,
        help="arc: from one direction to the other at a steady angle; line: a plain mixture; default: %(default)s",
    )
    command.add_argument("--name", help="default: that of OUT")


def of_rescale(command: ArgumentParser) -> None:
    command.add_argument("token", type=local_path, metavar="IN", help="a token file that says how long its start was")
    _add_out(command)
    command.add_argument(
        "--amount",
        type=float,
        default=1.0,
        metavar="X",
        help="0: as long as it is, 1: as long as its start; default: %(default)s",
    )
    command.add_argument("--name", help="default: that of OUT")


def of_report(command: ArgumentParser) -> None:
    command.add_argument("tokens", type=local_path, nargs="+", metavar="TOKEN", help="token files of any tool")
    command.add_argument("--out", type=local_path, metavar="FILE", help="charts as a PNG file; they need matplotlib")


def of_inspect(command: ArgumentParser) -> None:
    command.add_argument("tokens", type=local_path, nargs="+", metavar="TOKEN", help="token files of any tool")
    command.add_argument("--json", action="store_true", help="for programs")


def _add_model(command: ArgumentParser) -> None:
    command.add_argument(
        "model",
        type=local_path,
        metavar="MODEL",
        help="SD 1.x, SD 2.x or SDXL: a folder in diffusers' layout, a checkpoint file (.safetensors, .ckpt), or "
        "miniature/weights",
    )
    command.add_argument("--device", help="default: cuda if there is one, else cpu")
    command.add_argument("--precision", choices=PRECISIONS, default="auto", help="default: %(default)s")


def _add_prompts(command: ArgumentParser, of: str = "") -> None:
    text = command.add_mutually_exclusive_group()
    text.add_argument("--prompt", action="append", metavar="TEXT", help=f"{of}{{}} is the person; default: '{PROMPT}'")
    text.add_argument("--prompts", type=local_path, metavar="FILE", help=f"{of}prompts, one a line, UTF-8")


def _add_out(command: ArgumentParser) -> None:
    from ..tokens.token_files import SUFFIXES

    command.add_argument("out", type=local_path, metavar="OUT", help=f"ends in one of {', '.join(SUFFIXES)}")
    choices = "for another tool, one of those below; default: what most tools read of that ending"
    command.add_argument("--format", type=format_name, metavar="NAME", help=choices)
    command.epilog = formats_help()


def _presets_help() -> str:
    steps = ", ".join(
        f"{name}: {preset.steps} steps ({SDXL_PRESETS[name].steps} on SDXL)" for name, preset in PRESETS.items()
    )
    return f"{steps}; default: %(default)s"
