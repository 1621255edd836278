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
    """`check_pt` of AUTOMATIC1111/stable-diffusion-webui, modules/safe.py, with what a token may need of its list. Forge
    keeps that file empty."""
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            if not _MEMBERS.match(name):
                raise ValueError(f"bad file inside {path}: {name}")
        (inside,) = (name for name in archive.namelist() if name.endswith("/data.pkl"))
        with archive.open(inside) as file:
            _Restricted(file).load()


def _load(path: Path) -> Any:
    return load_file(path) if path.suffix == ".safetensors" else torch.load(path, weights_only=True)


def _rows(vectors: Any) -> Tensor:
    if type(vectors) is not Tensor:
        raise ValueError(f"holds a {type(vectors).__name__}, not a tensor")
    return vectors.unsqueeze(0) if vectors.ndim == 1 else vectors


def forge(path: Path) -> Tensor:
    """`load_from_file` and `create_embedding_from_data` of lllyasviel/stable-diffusion-webui-forge,
    backend/text_processing/textual_inversion.py; AUTOMATIC1111/stable-diffusion-webui has the same rule in
    modules/textual_inversion/textual_inversion.py."""
    if path.suffix not in (".safetensors", ".bin", ".pt"):
        raise ValueError("files of other endings are passed over")
    data = _load(path)
    if "string_to_param" in data:
        parameters = getattr(data["string_to_param"], "_parameters", data["string_to_param"])
        assert len(parameters) == 1, "embedding file has multiple terms in it"
        return next(iter(parameters.values()))
    if type(data) is not dict:
        raise ValueError("neither a textual inversion embedding nor a diffuser concept")
    vectors = _rows(next(iter(data.values())))
    assert len(data) == 1, "embedding file has multiple terms in it"
    return vectors


def automatic1111(path: Path) -> Tensor:
    """Its rule is Forge's, after `check_pt` for pickles: modules/safe.py puts that in the place of torch.load."""
    if path.suffix != ".safetensors":
        automatic1111_check(path)
    return forge(path)


def automatic1111_sdxl(path: Path) -> tuple[Tensor, Tensor]:
    """`check_pt`, then Forge's rule."""
    if path.suffix != ".safetensors":
        automatic1111_check(path)
    return forge_sdxl(path)


def forge_sdxl(path: Path) -> tuple[Tensor, Tensor]:
    """The second branch of `create_embedding_from_data`, which takes every value of the file for a tensor; each text
    encoder then takes the one under its `textual_inversion_key`. The same in AUTOMATIC1111, modules/sd_hijack.py."""
    data = _load(path)
    assert type(data) is dict and "string_to_param" not in data and "clip_g" in data and "clip_l" in data
    vectors = {key: value.detach().float() for key, value in data.items()}
    return vectors["clip_l"], vectors["clip_g"]


def kohya_sdxl(path: Path) -> tuple[Tensor, Tensor]:
    """`load_weights` of kohya-ss/sd-scripts, sdxl_train_textual_inversion.py."""
    data = _load(path)
    return data["clip_l"], data["clip_g"]


def invokeai_sdxl(path: Path) -> tuple[Tensor, Tensor]:
    """`_get_base_or_raise`, then the branch "v5" of `from_checkpoint`: see `invokeai`. It looks at CLIP-G's width alone, and
    keeps CLIP-G's part as `embedding`."""
    data = _load(path)
    if "string_to_token" in data or "emb_params" in data or data["clip_g"].shape[-1] != 1280:
        raise ValueError("unrecognized")
    return data["clip_l"], data["clip_g"]


def onetrainer_sdxl(path: Path) -> tuple[Tensor, Tensor]:
    """`EmbeddingLoaderMixin`, then `_setup_embeddings` of modules/modelSetup/BaseStableDiffusionXLSetup.py."""
    try:
        data = torch.load(path, weights_only=True)
    except Exception:
        data = load_file(path)
    return data.get("clip_l_out", data["clip_l"]), data.get("clip_g_out", data["clip_g"])


def kohya(path: Path) -> Tensor:
    """`load_weights` of kohya-ss/sd-scripts, train_textual_inversion.py, with `--num_vectors_per_token K`."""
    data = _load(path)
    if path.suffix != ".safetensors":
        if type(data) is not dict:
            raise ValueError("weight file is not dict")
        parameters = data.get("string_to_param", data)
        data = getattr(parameters, "_parameters", parameters)
    return _rows(next(iter(data.values())))


def invokeai(path: Path) -> Tensor:
    """`_file_looks_like_embedding` and `_get_base_or_raise` of invoke-ai/InvokeAI,
    backend/model_manager/configs/textual_inversion.py, then `from_checkpoint` of backend/textual_inversion.py."""
    data = _load(path)
    data = data.get("state_dict", data)
    known = {"string_to_param", "emb_params", "clip_g"} & set(data)
    if not known and not (len(data) < 10 and all(isinstance(value, Tensor) for value in data.values())):
        raise ValueError("does not look like a textual inversion embedding file")
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
    return data["emb_params"] if "emb_params" in data else _rows(next(iter(data.values())))


def onetrainer(path: Path) -> Tensor:
    """`EmbeddingLoaderMixin` of Nerogar/OneTrainer, modules/modelLoader/mixin, then `_setup_embeddings` of
    modules/modelSetup/BaseStableDiffusionSetup.py. Both are tried on every file, whatever its ending."""
    try:
        data = torch.load(path, weights_only=True)
    except Exception:
        data = load_file(path)
    vectors = data.get("emp_params_out", data.get("emp_params"))
    if vectors is None:
        raise KeyError("emp_params")
    return vectors


def published_script(path: Path) -> Tensor:
    """`infer` of lyuPang/CrossInitialization, test_cross_init.py: each key is one token, and its value one row of the text
    encoder's embedding, with all that torch takes for a row."""
    data = torch.load(path, weights_only=True)
    table = torch.zeros(len(data), next(iter(data.values())).shape[-1])
    for row, key in enumerate(data):
        table[row] = data[key]
    return table
