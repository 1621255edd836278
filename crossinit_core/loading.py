"""A model of the command line: what is wrong with it is said before anything is loaded, then it is loaded quietly."""

from __future__ import annotations

from pathlib import Path

import torch

from .diffusers_backbone import DiffusersBackbone, widths_of
from .families import base_of_widths
from .installing import install_extra
from .models.checkpoint_file import is_checkpoint
from .models.compact_folder import is_compact
from .models.diffusers_folder import check_folder
from .precision import DTYPES, Precision, resolve_precision
from .text import quoted


def check_model(model: Path) -> None:
    """Raises FileNotFoundError or ValueError if there is no model at that path, as loading it would; a checkpoint file is not
    opened."""
    if not is_checkpoint(model) and not is_compact(model):
        check_folder(model)


def load_backbone(
    model: Path, device: torch.device, dtype: torch.dtype = torch.float32, unet_dtype: torch.dtype | None = None
) -> DiffusersBackbone:
    """`DiffusersBackbone.from_pretrained` without the lines that its libraries print. Raises ImportError if they are missing."""
    try:
        import diffusers
        import transformers
    except ImportError as error:
        raise ImportError(
            f"This command needs the packages of the extra 'cli' ({quoted(error, 120)}). Install them: {install_extra('cli')}"
        ) from error
    for library in (diffusers, transformers):
        library.utils.logging.set_verbosity_error()
        library.utils.logging.disable_progress_bar()
    return DiffusersBackbone.from_pretrained(model, device=device, dtype=dtype, unet_dtype=unet_dtype)


def load_to_learn(model: Path, device: torch.device, precision: Precision) -> DiffusersBackbone:
    """`load_backbone` for a run in `precision`.

    On a GPU a run learns on copies in its own precision: SDXL's UNet in float32 beside them would be 5 GB more.
    """
    half = device.type == "cuda" and base_of_widths(widths_of(model)) == "sdxl"
    return load_backbone(model, device, unet_dtype=DTYPES[resolve_precision(precision, device)] if half else None)
