"""The rule by which each tool reads a token file, written down from its source, for the tools that cannot be installed here.

Each function gives the (K, d) vectors that the tool puts into a prompt, or raises what the tool raises.
"""

from __future__ import annotations

import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

_MEMBERS = re.compile(r"^([^/]+)/((data/\d+)|version|(data\.pkl))$")
_GLOBALS = {
    ("collections", "OrderedDict"),
    ("torch._utils", "_rebuild_tensor_v2"),
    ("torch._utils", "_rebuild_parameter"),
    *(("torch", f"{kind}Storage") for kind in ("Float", "Half", "Int", "Long", "Double", "Byte", "BFloat16")),
    ("torch.nn.modules.container", "ParameterDict"),
}


class _Restricted(pickle.Unpickler):
    def persistent_load(self, saved_id: Any) -> Any:
        assert saved_id[0] == "storage"
        return torch.storage.TypedStorage(_internal=True)

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _GLOBALS:
            raise ValueError(f"global '{module}/{name}' is forbidden")
        return super().find_class(module, name)


def automatic1111_check(path: Path) -> None:
    """`check_pt` of AUTOMATIC1111/stable-diffusion-webui, modules/safe.py; Forge has the same file."""
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            if not _MEMBERS.match(name):
                raise ValueError(f"bad file inside {path}: {name}")
        (inside,) = (name for name in archive.namelist() if name.endswith("/data.pkl"))
        with archive.open(inside) as file:
            _Restricted(file).load()


def _load(path: Path) -> Any:
    return load_file(path) if path.suffix == ".safetensors" else torch.load(path, weights_only=True)


def _rows(vectors: Tensor) -> Tensor:
    return vectors.unsqueeze(0) if vectors.ndim == 1 else vectors


def automatic1111(path: Path) -> Tensor:
    """`create_embedding_from_data` of AUTOMATIC1111/stable-diffusion-webui, modules/textual_inversion."""
    if path.suffix != ".safetensors":
        automatic1111_check(path)
    data = _load(path)
    if "string_to_param" in data:
        assert len(data["string_to_param"]) == 1, "embedding file has multiple terms in it"
        return next(iter(data["string_to_param"].values()))
    assert len(data) == 1, "embedding file has multiple terms in it"
    return _rows(next(iter(data.values())))


def kohya(path: Path) -> Tensor:
    """`load_weights` of kohya-ss/sd-scripts, train_textual_inversion.py."""
    data = _load(path)
    return _rows(next(iter(data.get("string_to_param", data).values())))


def invokeai(path: Path) -> Tensor:
    """`_get_base_or_raise` of invoke-ai/InvokeAI, model_manager/configs/textual_inversion.py, then `from_checkpoint` of
    backend/textual_inversion.py."""
    data = _load(path)
    if "string_to_token" in data:
        width = next(iter(data["string_to_param"].values())).shape[-1]
    elif "emb_params" in data:
        width = data["emb_params"].shape[-1]
    else:
        width = next(iter(data.values())).shape[0]
    if width not in (768, 1024, 1280):
        raise ValueError(f"unrecognized token dimension {width}")
    if "string_to_param" in data:
        return next(iter(data["string_to_param"].values()))
    return _rows(data["emb_params"] if "emb_params" in data else next(iter(data.values())))


def onetrainer(path: Path) -> Tensor:
    """The keys of Nerogar/OneTrainer, modules/modelSaver/stableDiffusion/StableDiffusionEmbeddingSaver.py, read back by its
    setup."""
    data = _load(path)
    vectors = data.get("emp_params_out", data.get("emp_params"))
    if vectors is None:
        raise KeyError("emp_params")
    return vectors


def published_script(path: Path) -> Tensor:
    """`infer` of lyuPang/CrossInitialization, test_cross_init.py: each key is a token of one vector."""
    data = torch.load(path, weights_only=True)
    if any(vector.ndim != 1 for vector in data.values()):
        raise ValueError("a key holds more than one vector")
    return torch.stack(list(data.values()))
