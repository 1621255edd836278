"""The model of a command: what is wrong with it is said before anything is loaded, then it is loaded."""

from __future__ import annotations

from pathlib import Path

import torch

from ..diffusers_backbone import DiffusersBackbone
from ..models.checkpoint_file import is_checkpoint
from ..models.compact_folder import is_compact
from ..models.diffusers_folder import check_folder
from ..text import quoted
from .extras import install_extra


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
