"""What a CUDA GPU alone can prove: kernels, recorded steps, and learning through both backbones.

    python3 run.py test tests/gpu                       all of it: the modes of ComfyUI take about a quarter of an hour
    python3 run.py test tests/gpu --deselect tests/gpu/test_modes.py

Needs the repository, torch with CUDA, and pytest; `COMFYUI_PATH` for ComfyUI's modes, and diffusers for its backbone. What
is missing is skipped with the reason.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

HERE = Path(__file__).resolve().parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip this folder's tests without a GPU, before any fixture is made."""
    if torch.cuda.is_available():
        return
    skip = pytest.mark.skip(reason="needs a CUDA GPU: torch.cuda.is_available() is False")
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(skip)


@pytest.fixture(scope="session")
def device() -> torch.device:
    return torch.device("cuda", torch.cuda.current_device())
