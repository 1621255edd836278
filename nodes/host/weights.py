"""The weights of the graph's models, wherever ComfyUI keeps them at the moment."""

from __future__ import annotations

import logging
from collections.abc import Callable, ItemsView, Iterator
from typing import Any

import comfy.lora
import torch
from torch import Tensor

from ...crossinit_core.gpu.upload import upload

log = logging.getLogger(__name__)

Wanted = Callable[[str], torch.dtype]
"""The type that the weight of a name is to have."""

COMPARED = 8
"""Values of a weight that are compared before the copy in video memory is taken for the one in the file."""


class Weights:
    """The weights below `prefix` as the graph means them: LoRA patches merged, whatever is loaded where."""

    def __init__(self, patcher: Any, prefix: str) -> None:
        self._patcher, self._prefix = patcher, prefix
        self._weights = dict(_patched_weights(patcher, prefix))

    def __getitem__(self, name: str) -> Tensor:
        """The host's own tensor: copy it before use."""
        return self._weights[name]

    def items(self) -> ItemsView[str, Tensor]:
        """Names and the host's own tensors."""
        return self._weights.items()

    def copies(self, device: torch.device, wanted: Wanted) -> dict[str, Tensor]:
        """Ordinary tensors on a device, independent of the host's from then on.

        With dynamic video memory the weights are the file's, and bringing them to the GPU takes as long as many steps; but
        what the GPU has used lately is there already.
        """
        try:
            found = dict(self._residents(wanted))
            residents = found if self._are_right(found) else {}
        except Exception as error:  # another version of ComfyUI keeps them in another way
            log.debug("Weights in dynamic video memory cannot be read: %s", error)
            residents = {}
        return residents | plain_copies(
            {name: weight for name, weight in self._weights.items() if name not in residents}, device, wanted
        )

    def _residents(self, wanted: Wanted) -> Iterator[tuple[str, Tensor]]:
        """Copies of those that dynamic video memory holds, of a type that nothing is lost by, without LoRA."""
        patcher, model = self._patcher, self._patcher.model
        unpatched = not patcher.patches and not getattr(patcher, "weight_wrapper_patches", None)
        if not (patcher.is_dynamic() and unpatched and model.current_weight_patches_uuid == patcher.patches_uuid):
            return
        from comfy_aimdo import model_vbar

        for path, module in model.named_modules():
            if getattr(module, "_v_signature", None) is None or not f"{path}.".startswith(self._prefix):
                continue
            signature = model_vbar.vbar_fault(module._v)
            if signature is None:
                continue
            try:
                if not model_vbar.vbar_signature_compare(signature, module._v_signature):
                    continue
                for part, resident in (("weight", module._v_weight), ("bias", module._v_bias)):
                    name = f"{path}.{part}".removeprefix(self._prefix)
                    weight = self._weights.get(name)
                    if resident is None or weight is None or weight.device.type != "cpu":
                        continue
                    if resident.shape == weight.shape and resident.dtype in (weight.dtype, wanted(name)):
                        yield name, resident.to(wanted(name), copy=True)
            finally:
                model_vbar.vbar_unpin(module._v)

    def _are_right(self, residents: dict[str, Tensor]) -> bool:
        """Whether some values of them are what the file's weights are in the same type."""

        def values(tensor: Tensor, like: Tensor) -> Tensor:
            flat = tensor.reshape(-1)
            return flat[:: max(1, flat.numel() // COMPARED)][:COMPARED].to(like.dtype).float()

        if not residents:
            return True
        files = torch.cat([values(self._weights[name], mine) for name, mine in residents.items()])
        return torch.equal(files, torch.cat([values(mine, mine) for mine in residents.values()]).cpu())


def plain_copies(weights: dict[str, Tensor], device: torch.device, wanted: Wanted) -> dict[str, Tensor]:
    """Copies of weights on a device in the types that are wanted."""
    copies = upload(weights, device)
    # One at a time, so that the two types of all weights are never there together.
    return {name: copies.pop(name).to(wanted(name)) for name in weights}


def _patched_weights(patcher: Any, prefix: str) -> Iterator[tuple[str, Tensor]]:
    for key, (base, *patches) in patcher.get_key_patches(prefix).items():
        weight, convert = base
        if weight.is_meta:  # absent from the file; the host makes these zeros as well
            weight = torch.zeros(weight.shape, dtype=weight.dtype)
        wrappers = getattr(patcher, "weight_wrapper_patches", {}).get(key, [])
        if patches or wrappers:
            weight = convert(weight.to(patcher.load_device, torch.float32, copy=True), inplace=True)
            if patches:
                weight = comfy.lora.calculate_weight(patches, weight, key)
            for wrapper in wrappers:
                weight = wrapper(weight)
        yield key.removeprefix(prefix), weight
