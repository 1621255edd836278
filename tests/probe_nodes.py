"""Nodes that only the tests have: they bring into a live server what no picture shows. See `live` in conftest.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import folder_paths
import torch
from safetensors.torch import save_file


class ProbeConditioning:
    """Writes the tensors of a CONDITIONING to a file."""

    RETURN_TYPES = ()
    OUTPUT_NODE = True
    FUNCTION = "write"
    CATEGORY = "probe"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802
        return {"required": {"conditioning": ("CONDITIONING",), "name": ("STRING", {})}}

    def write(self, conditioning: list[Any], name: str) -> dict[str, Any]:
        tensors = {}
        for index, (context, extra) in enumerate(conditioning):
            tensors[f"{index}.context"] = context.clone()
            if extra.get("pooled_output") is not None:
                tensors[f"{index}.pooled"] = extra["pooled_output"].clone()
        save_file(tensors, Path(folder_paths.get_output_directory()) / f"{name}.safetensors")
        return {"ui": {"file": [f"{name}.safetensors"]}}


class ProbePhotos:
    """A list of grey photos of these sizes, as batches of their own; no sizes give an empty batch."""

    RETURN_TYPES = ("IMAGE",)
    OUTPUT_IS_LIST = (True,)
    FUNCTION = "make"
    CATEGORY = "probe"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802
        return {"required": {"sizes": ("STRING", {})}}

    def make(self, sizes: str) -> tuple[list[torch.Tensor]]:
        photos = [torch.full((1, *map(int, size.split("x")), 3), 0.5) for size in sizes.split()]
        return (photos or [torch.zeros(0, 64, 64, 3)],)


class ProbeSeeds:
    """A list of whole numbers."""

    RETURN_TYPES = ("INT",)
    OUTPUT_IS_LIST = (True,)
    FUNCTION = "make"
    CATEGORY = "probe"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802
        return {"required": {"seeds": ("STRING", {})}}

    def make(self, seeds: str) -> tuple[list[int]]:
        return ([int(seed) for seed in seeds.split()],)


NODE_CLASS_MAPPINGS = {
    "ProbeConditioning": ProbeConditioning,
    "ProbePhotos": ProbePhotos,
    "ProbeSeeds": ProbeSeeds,
}
