"""ComfyUI in this process, as its main.py starts it, with a checkpoint of random weights and the pack's own node."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from itertools import pairwise
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PACK = "crossinit_pack"


def start(comfyui: Path, arguments: Sequence[str]) -> ModuleType:
    """Start ComfyUI without its server; returns the pack. Call it before torch is imported.

    The order is main.py's: options, the allocator, dynamic video memory, and only then torch.
    """
    sys.path[:0] = [str(comfyui)]
    sys.argv = ["main.py", *arguments]
    import comfy.options

    comfy.options.enable_args_parsing()
    import cuda_malloc  # noqa: F401

    dynamic = _dynamic_memory()
    _no_server()
    spec = importlib.util.spec_from_file_location(PACK, ROOT / "__init__.py", submodule_search_locations=[str(ROOT)])
    assert spec and spec.loader
    pack = importlib.util.module_from_spec(spec)
    sys.modules[PACK] = pack
    spec.loader.exec_module(pack)
    importlib.import_module(f"{PACK}.nodes")
    pack.dynamic = dynamic  # type: ignore[attr-defined]
    return pack


def _dynamic_memory() -> bool:
    """As main.py turns on dynamic video memory; False if this ComfyUI or this machine has none."""
    try:
        import comfy_aimdo.control as control
        from comfy.cli_args import args, enables_dynamic_vram
    except ImportError:
        return False
    if not enables_dynamic_vram():
        return False
    try:
        control.init(simple_vram_headroom=None, nvml_pressure=True)
    except TypeError:
        control.init()
    import comfy.memory_management
    import comfy.model_management as mm
    import comfy.model_patcher

    if not mm.is_nvidia() or mm.is_wsl():
        return False
    try:
        ready = control.init_devices((d.index, int(args.vram_headroom * 1024**3)) for d in mm.get_all_torch_devices())
    except TypeError:
        ready = control.init_devices(d.index for d in mm.get_all_torch_devices())
    if ready:
        comfy.model_patcher.CoreModelPatcher = comfy.model_patcher.ModelPatcherDynamic
        comfy.memory_management.aimdo_enabled = True
        for name in ("set_log_warning", "set_log_error"):
            getattr(control, name, lambda: None)()
    return bool(ready)


def _no_server() -> None:
    """Nodes send text to the page; here nobody looks."""
    import server

    server.PromptServer.instance = SimpleNamespace(send_sync=lambda *_: None, client_id=None)


class Graph:
    """What a graph with a checkpoint holds, and the node that learns from it."""

    def __init__(self, pack: ModuleType, checkpoint: Path | None, resolution: int) -> None:
        """Without a checkpoint: the embedded miniature and a drawn portrait, at its own 128 px."""
        import comfy.sd
        import torch

        self.pack = pack
        with torch.inference_mode():
            if checkpoint is None:
                self.model, self.clip, self.vae = self.node("CrossInitMiniature").execute().result
                self.photo = self.node("CrossInitDrawnPerson").execute(0).result[0]
            else:
                self.model, self.clip, self.vae, _ = comfy.sd.load_checkpoint_guess_config(str(checkpoint))
                generator = torch.Generator().manual_seed(0)
                coarse = torch.rand(1, 3, 16, 16, generator=generator)
                photo = torch.nn.functional.interpolate(coarse, size=(resolution, resolution), mode="bicubic")
                self.photo = photo.clamp(0, 1).movedim(1, -1)
        self.resolution = self.photo.shape[1]
        with torch.inference_mode():
            start = self.node("CrossInitInitialize").execute(self.clip, self._names(), 2)
        self.start = start.result[0]

    def node(self, name: str) -> Any:
        """A node's class, as ComfyUI prepares it for a run."""
        nodes: Any = sys.modules[f"{PACK}.nodes"]
        found = next(node for node in nodes.NODES if node.__name__ == name)
        return type(name, (found,), {"hidden": SimpleNamespace(unique_id="1", prompt=None, extra_pnginfo=None)})

    def _names(self) -> Any:
        return self.node("CrossInitCelebrityNames").execute("bundled list").result[0]

    def learn(
        self,
        steps: int,
        *,
        on_step: Callable[[Any], None] | None = None,
        settings: Any = (),
        photos: int = 1,
        triton: bool = True,
        **inputs: Any,
    ) -> tuple[Any, dict[str, Any]]:
        """Run Learn Face; returns the token and what was measured from entering the node to the token.

        `settings` overrides fields of InversionSettings that the node does not show; `photos` is how many there are;
        without `triton` it learns as if Triton were not installed.
        """
        import torch

        learn: Any = sys.modules[f"{PACK}.nodes.learn.node"]
        times: list[float] = []
        invert = learn.invert

        def timed(backbone: Any, start: Any, chosen: Any, **kwargs: Any) -> Any:
            shown = kwargs.pop("on_step")

            def stamp(report: Any) -> None:
                times.append(time.perf_counter())
                shown(report)
                if on_step:
                    on_step(report)

            chosen = dataclasses.replace(chosen, **dict(settings))
            measured["result"] = invert(backbone, start, chosen, on_step=stamp, **kwargs)
            return measured["result"]

        values = {
            "preset": "custom",
            "seed": 0,
            "steps": steps,
            "resolution": self.resolution,
            "resume": False,
            "draw_picture": False,  # what is measured is learning
            **inputs,
        }
        image = torch.cat([self.photo.roll(8 * i, dims=2) for i in range(photos)])
        wires = {"model": self.model, "clip": self.clip, "vae": self.vae, "image": image, "cross_init": self.start}
        measured: dict[str, Any] = {}
        cuda = torch.cuda.is_available()
        if cuda:
            torch.cuda.synchronize()
        kept, free = (torch.cuda.memory_allocated(), torch.cuda.mem_get_info()[0]) if cuda else (0, 0)
        began = time.perf_counter()
        learn.invert = timed
        try:
            with torch.inference_mode(), nullcontext() if triton else _without_triton():
                node = self.node("CrossInitLearn")
                token = node.execute(**{name: [value] for name, value in {**wires, **values}.items()}).result[0]
        finally:
            learn.invert = invert
        seconds = time.perf_counter() - began
        gaps = sorted(after - before for before, after in pairwise(times[1:]))
        result = measured["result"]
        return token, {
            "steps": steps,
            "seconds": round(seconds, 3),
            "ms_a_step": round(1e3 * gaps[len(gaps) // 2], 2) if gaps else None,
            "until_first_step": round(times[0] - began, 3),
            "peak_gib": round(result.peak_memory / 2**30, 2),
            "kept_mib": round((torch.cuda.memory_allocated() - kept) / 2**20, 1) if cuda else 0,
            "less_free_mib": round((free - torch.cuda.mem_get_info()[0]) / 2**20, 1) if cuda else 0,
            "precision": token.metadata["crossinit.precision"],
            "losses": [round(loss, 5) for loss in result.losses[:2]],
        }

    def picture(self) -> Any:
        """Three sampling steps, which leaves the models where a user's last picture left them."""
        import comfy.sample
        import torch

        size = self.resolution // 8
        with torch.inference_mode():
            prompt = self.clip.encode_from_tokens_scheduled(self.clip.tokenize("a photo of a person"))
            latents = torch.zeros(1, 4, size, size)
            noise = comfy.sample.prepare_noise(latents, 1)
            out = comfy.sample.sample(
                self.model, noise, 3, 7.5, "dpmpp_2m", "normal", prompt, prompt, latents, seed=1, disable_pbar=True
            )
            return out.cpu().clone()


@contextmanager
def _without_triton() -> Iterator[None]:
    """As on Windows, where few have it."""
    backbone: Any = sys.modules[f"{PACK}.nodes.host.backbone"]
    kernels: Any = sys.modules[f"{PACK}.crossinit_core.gpu.kernels"]
    choose, backbone.choose = backbone.choose, lambda device, dtype: kernels.PLAIN
    try:
        yield
    finally:
        backbone.choose = choose


def checkpoint_file(small: bool, family: str = "sd2") -> Path:
    """Where benchmarks keep a checkpoint of random weights."""
    folder = Path(tempfile.gettempdir()) / "crossinit-benchmark"
    folder.mkdir(exist_ok=True)
    return folder / f"{'sd21' if family == 'sd2' else family}-random{'-small' if small else ''}.safetensors"


def make_checkpoint(path: Path, small: bool, family: str = "sd2") -> None:
    """SD 2.1 or SDXL at full size, or with a narrow UNet, with random weights. SDXL needs ComfyUI started; `sdxl-uneven` is
    that of `sdxl.make_uneven`."""
    if path.exists():
        return
    if family.startswith("sdxl"):
        from .sdxl import make_sdxl_checkpoint

        make_sdxl_checkpoint(path, small, uneven=family == "sdxl-uneven")
        return
    from devtools.standins.files import make_sd2_checkpoint
    from devtools.standins.unets import UNetShape

    shape = UNetShape(context_dim=1024, linear_projection=True, channel_mult=(1, 1, 1, 1) if small else (1, 2, 4, 4))
    make_sd2_checkpoint(path, unet=shape)


def output_folder(folder: Path) -> None:
    """Keep the node's files out of ComfyUI's own output."""
    import folder_paths

    folder.mkdir(parents=True, exist_ok=True)
    folder_paths.set_output_directory(str(folder))
    os.environ.setdefault("TQDM_DISABLE", "1")
