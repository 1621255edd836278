"""Where a step's GPU time goes, and the least that it could take."""

from __future__ import annotations

import re
import sys
import time
from typing import Any

import torch

from .host import PACK, Graph

KINDS = (
    ("attention", r"flash|sdpa|attend|_gradients$|row_products|add_chunks|dot_do_o|convert_dq|fmha|attention"),
    ("group norm and SiLU", r"group_(sums|coefficients|apply|gradient)|RowwiseMoments|GroupNorm|group_norm|silu"),
    ("layer norm", r"layer_norm"),
    ("GEGLU", r"geglu|gelu|Gelu"),
    ("convolutions", r"implicit_gemm|conv|fprop|dgrad|cudnn"),
    ("matrix products", r"nvjet|gemm|cutlass|cublas|splitK"),
    ("copies", r"[Mm]emcpy|[Mm]emset|memcpy|copy|[Cc]at|interleave"),
)
"""Kinds of kernels by their names; the first that fits counts."""
FROM, TO = 4, 14
"""Reports between which kernels are recorded: as many steps as lie between them."""


def profile(graph: Graph, **inputs: Any) -> dict[str, Any]:
    """Milliseconds of GPU time a step by kind of kernel, and the largest kernels."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiler

    recorder = profiler(activities=[ProfilerActivity.CUDA])

    def on_step(report: Any) -> None:
        if report.step == FROM:
            torch.cuda.synchronize()
            recorder.start()
        if report.step == TO:
            torch.cuda.synchronize()
            recorder.stop()

    graph.learn(TO + 2, on_step=on_step, **inputs)
    events = [(event.key, event.self_device_time_total / 1e3, event.count) for event in recorder.key_averages()]
    steps = TO - FROM
    kinds: dict[str, float] = {}
    for name, ms, _ in events:
        kinds[_kind(name)] = kinds.get(_kind(name), 0) + ms / steps
    largest = sorted(events, key=lambda event: -event[1])[:25]
    return {
        "ms_by_kind": {kind: round(ms, 3) for kind, ms in sorted(kinds.items(), key=lambda item: -item[1])},
        "ms": round(sum(kinds.values()), 2),
        "kernels": round(sum(count for _, _, count in events) / steps),
        "largest": [[name[:110], round(ms / steps, 3), round(count / steps)] for name, ms, count in largest],
    }


def _kind(name: str) -> str:
    return next((kind for kind, pattern in KINDS if re.search(pattern, name)), "additions and other pointwise work")


def operations(graph: Graph, batch_size: int) -> dict[str, dict[str, float]]:
    """TFLOP of a step by part (forward, and backward to the vectors) and by kind; counted on the meta device.

    Of ComfyUI's own code: what is done otherwise, with fewer products or with some twice, counts as it is written there.
    """
    import comfy.memory_management
    import comfy.ops
    from torch.utils.flop_counter import FlopCounterMode

    copies = sys.modules[f"{PACK}.nodes.host.copies"]
    config = {**graph.model.model.model_config.unet_config, "dtype": torch.float32}
    config.pop("disable_unet_model_creation", None)
    with torch.inference_mode(False), torch.enable_grad():
        # With dynamic video memory layers have no weights until they are loaded.
        dynamic, comfy.memory_management.aimdo_enabled = comfy.memory_management.aimdo_enabled, False
        try:
            unet = type(graph.model.model.diffusion_model)(
                **config, device="meta", operations=comfy.ops.disable_weight_init
            ).requires_grad_(False)
        finally:
            comfy.memory_management.aimdo_enabled = dynamic
        size = graph.resolution // 8
        noisy = torch.empty(batch_size, 4, size, size, device="meta")
        context = torch.empty(batch_size, 77, config["context_dim"], device="meta", requires_grad=True)
        timesteps = torch.empty(batch_size, device="meta")
        channels = config.get("adm_in_channels")
        y = torch.empty(batch_size, channels, device="meta", requires_grad=True) if channels else None
        with FlopCounterMode(display=False) as forward:
            out = unet(noisy, timesteps, context=context, y=y, transformer_options=copies._options())
        with FlopCounterMode(display=False) as backward:
            out.sum().backward()
    weights = sum(
        weight.numel()
        for name, weight in graph.clip.cond_stage_model.named_parameters()
        if weight.ndim == 2 and "embedding" not in name and "projection" not in name
    )
    # Forward, and backward to the input: twice the multiplications and additions of every weight for each token.
    text = 2 * 2 * weights * batch_size * 77
    counters = {"UNet forward": forward, "UNet backward": backward}
    parts = {name: counted.get_total_flops() / 1e12 for name, counted in counters.items()}
    kinds = {"convolutions": 0.0, "attention": 0.0, "matrix products": text / 1e12}
    for counted in counters.values():
        for operation, flops in counted.get_flop_counts()["Global"].items():
            kinds[_kind_of(str(operation))] += flops / 1e12
    return {"parts": parts | {"text encoder": text / 1e12}, "kinds": kinds}


def _kind_of(operation: str) -> str:
    """Without its fused kernels, which the meta device lacks, attention alone multiplies batches of matrices."""
    if "conv" in operation:
        return "convolutions"
    return "attention" if "bmm" in operation or "attention" in operation else "matrix products"


def rates(device: torch.device) -> dict[str, float]:
    """What the device does at most, on random numbers: TFLOP/s of a matrix product in float16, GB/s of a copy."""
    if device.type != "cuda":
        size, dtype = 1024, torch.float32
    else:
        size, dtype = 8192, torch.float16
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    source = torch.randn(2**28 if device.type == "cuda" else 2**22, device=device)
    target = torch.empty_like(source)
    return {
        "tflops": 2 * size**3 / _seconds(lambda: torch.mm(a, b), device) / 1e12,
        "copy_gb_s": 2 * source.numel() * 4 / _seconds(lambda: target.copy_(source), device) / 1e9,
    }


def _seconds(work: Any, device: torch.device) -> float:
    def sync() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize()

    times = []
    for _ in range(13):
        sync()
        began = time.perf_counter()
        work()
        sync()
        times.append(time.perf_counter() - began)
    return sorted(times[3:])[5]
