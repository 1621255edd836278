"""The learned faces that the shipped workflows load, as files of several tools."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file

from crossinit_core import LearnedToken, save_learned_token

from ..workflows.parts import OTHER_FILES, SECOND_TOKEN_FILE, TOKEN_FILE, TOKEN_FILE_XL


def put_faces(folder: Path, first: LearnedToken, second: LearnedToken, xl: LearnedToken | None = None) -> None:
    """Two faces under every name that a workflow loads, in the formats that other tools write; the first on SDXL is `xl`."""
    save_learned_token((xl or first).renamed(Path(TOKEN_FILE_XL).stem), folder / TOKEN_FILE_XL)
    save_learned_token(first.renamed(Path(TOKEN_FILE).stem), folder / TOKEN_FILE)
    save_learned_token(second.renamed(Path(SECOND_TOKEN_FILE).stem), folder / SECOND_TOKEN_FILE)
    published, a1111, kohya = (folder / file for file, _ in OTHER_FILES)
    torch.save({f"<face>_v{number}": vector.clone() for number, vector in enumerate(first.vectors)}, published)
    save_learned_token(second.renamed(a1111.stem), a1111)
    between = (first.vectors + second.vectors) / 2 if first.vectors.shape == second.vectors.shape else first.vectors
    save_file({"emb_params": between.clone()}, kohya)
