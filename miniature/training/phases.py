"""The phases of a training run: what is learned in each, and the end."""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from . import pack, report
from .data import HELD_OUT_SHARDS
from .judge import Judge, judge_step
from .model import (
    BOS,
    EOS,
    LATENT_SCALE,
    Parts,
    alphas_cumprod,
    bring_to_scale,
    encode_text,
    min_snr_weights,
    table,
    to_pixels,
)
from .pool import ROW_NORM

if TYPE_CHECKING:
    from .train import Losses, Training


UNTIL = {"features": 0.035, "vae": 0.38, "judges": 0.48, "diffusion": 0.96}
"""The part of the minutes at which each phase ends; the rest is for writing and judging."""


def wait_for_pictures(training: Training) -> None:
    enough = min(4096, training.pool.capacity)
    wanted = HELD_OUT_SHARDS * training.mixture.shard_size
    deadline = time.time() + 300
    while training.pool.count < enough or len(training.pool.held_out.get("tokens", ())) < wanted:
        if ready := training.painters.next(timeout=1.0):
            training.pool.add(*ready)
        if time.time() > deadline:
            raise TimeoutError(f"The workers painted {training.pool.count} of {enough} pictures in five minutes.")
    training.log(ready=training.pool.count)


def train_judges(training: Training, judges: list[Judge]) -> None:
    """Mostly people without names: the judges must measure faces, not recognize the names' 792."""
    columns, batch = training.pool.columns, training.settings.judge_batch

    def loss_of() -> Losses:
        losses: Losses = {}
        for i, judge in enumerate(judges):
            chosen = training.pool.indices(batch, strangers=0.7)
            data = [columns[name][chosen] for name in ("pictures", "vectors", "labels")]
            losses[f"judge {i}"] = judge_step(judge, *data)
        losses["loss"] = torch.stack(list(losses.values())).sum()
        return losses

    training.run(loss_of, [{"params": [p for j in judges for p in j.parameters()], "lr": 2e-3, "weight_decay": 0.02}])


def train_vae(training: Training) -> None:
    """L1 of pixels and of their gradients, of the first judge's features (as LPIPS, Zhang et al., 2018, compares
    features), and a small KL term (Rombach et al., 2022)."""
    vae, eye = training.parts.vae, training.judges[0].eval().requires_grad_(False)

    def loss_of() -> Losses:
        pixels = to_pixels(training.pool.columns["pictures"][training.pool.indices(training.settings.vae_batch)])
        posterior = vae.encode(pixels).latent_dist
        mean, logvar = posterior.mean.float(), posterior.logvar.float()
        latents = mean + torch.exp(0.5 * logvar) * torch.randn_like(mean)
        back = vae.decode(latents).sample.float()
        off = back - pixels
        steps = (off[..., 1:, :] - off[..., :-1, :]).abs().mean() + (off[..., 1:] - off[..., :-1]).abs().mean()
        with torch.no_grad():
            wanted = eye.features(pixels)
        seen = torch.stack(
            [
                (F.normalize(a.float(), dim=1) - F.normalize(b.float(), dim=1)).square().sum(1).mean()
                for a, b in zip(eye.features(back), wanted, strict=True)
            ]
        ).mean()
        kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
        l1 = off.abs().mean()
        return {"l1": l1, "edges": steps, "seen": seen, "kl": kl, "loss": l1 + 0.5 * steps + 0.3 * seen + 3e-4 * kl}

    training.run(loss_of, [{"params": list(vae.parameters()), "lr": 1e-3, "weight_decay": 1e-4}], ["vae"])
    eye.requires_grad_(True)
    trained: Any = training.averages["vae"].module
    moments = []
    with torch.no_grad():
        for _ in range(8):
            pixels = to_pixels(training.pool.columns["pictures"][training.pool.indices(min(128, training.pool.count))])
            moments.append(trained.encode(pixels).latent_dist.mean.float())
    means = torch.cat(moments)
    bring_to_scale(trained, means.mean((0, 2, 3)), means.std((0, 2, 3)))
    training.parts.vae.load_state_dict(trained.state_dict())
    pictures = training.pool.held_out["pictures"][:16].cpu().numpy()
    painting = averaged_painting(training)
    attempt(training, lambda: report.save_reconstructions(painting, pictures, training.out / "grid-vae.png"))


def attempt(training: Training, draw: Callable[[], None]) -> None:
    """Draw something to look at; a failure is told, but it ends no training."""
    try:
        draw()
    except Exception:
        training.log(failed=traceback.format_exc())


def averaged_painting(training: Training) -> report.Painting:
    return painting_of(training, training.averaged())


def painting_of(training: Training, parts: Parts) -> report.Painting:
    return report.Painting(parts, training.encoder, training.device, steps=3 if training.settings.toy else 20)


@torch.no_grad()
def encode_pool(training: Training, encode: Callable[[Tensor], Tensor], most: int, chunk: int = 512) -> None:
    """Latents of up to `most` more chunks of the pool. `encode`: pictures to means and log variances, (B, 8, h, w)."""
    for _ in range(most):
        start, end = training.pool.encoded, min(training.pool.encoded + chunk, training.pool.count)
        if start >= end:
            return
        pixels = to_pixels(training.pool.columns["pictures"][start:end])
        with torch.autocast(training.device.type, torch.bfloat16, enabled=training.device.type == "cuda"):
            mean, logvar = encode(pixels).float().chunk(2, dim=1)
        moments = torch.cat([mean, logvar.mul(0.5).exp()], 1) * LATENT_SCALE
        training.pool.moments[start:end] = moments.half()
        training.pool.encoded = end


def train_diffusion(training: Training) -> None:
    """Epsilon prediction (Ho et al., 2020) with 10 % empty prompts (Ho and Salimans, 2022)."""
    pool, unet, text, batch = (
        training.pool,
        training.parts.unet.train(),
        training.parts.text_encoder.train(),
        training.settings.batch,
    )
    vae: Any = training.averages["vae"].module
    encoder = torch.compile(vae.encoder, dynamic=False) if training.settings.compile else vae.encoder
    rows = table(text)
    abar = alphas_cumprod(training.device)
    empty = torch.zeros(77, dtype=torch.long, device=training.device)
    empty[:2] = torch.tensor([BOS, EOS])

    def encode(pixels: Tensor) -> Tensor:
        return vae.quant_conv(encoder(pixels))

    # Pictures that came last are at the end of the pool, so a part of it is a fair sample too.
    encode_pool(training, encode, 200)
    training.log(encoded=pool.encoded)

    def loss_of() -> Losses:
        chosen = pool.indices(batch, below=pool.encoded)
        moments = pool.moments[chosen].float()
        latents = moments[:, :4] + moments[:, 4:] * torch.randn_like(moments[:, 4:])
        spread = (torch.arange(batch, device=training.device) + torch.rand(batch, device=training.device)) / batch
        timesteps = (spread * 1000).long().clamp(max=999)
        ids = pool.columns["tokens"][chosen].long()
        ids = torch.where(torch.rand(batch, 1, device=training.device) < 0.1, empty, ids)
        noise, a = torch.randn_like(latents), abar[timesteps][:, None, None, None]
        noisy = a.sqrt() * latents + (1 - a).sqrt() * noise
        context = encode_text(text, training.virtual.embed(rows, ids, pool.columns["vectors"][chosen]))
        predicted = unet(noisy, timesteps, encoder_hidden_states=context).sample.float()
        errors = (predicted - noise).square().mean((1, 2, 3))
        return {"mse": errors.mean(), "loss": (errors * min_snr_weights(timesteps, abar)).mean()}

    def keep_rows_short() -> None:
        with torch.no_grad():
            rows.renorm_(2, 0, ROW_NORM)

    grids = [0.0]

    def every(progress: float) -> None:
        encode_pool(training, encode, 2)
        if progress - grids[0] >= 1 / 6:
            grids[0] = progress
            name = f"grid-{int(training.elapsed()):02d}min.png"
            attempt(training, lambda: save_unseen_grid(training, name))
            attempt(training, lambda: keep_so_far(training))

    others = [parameter for parameter in text.parameters() if parameter is not rows]
    rate = training.settings.lr
    groups = [
        {"params": list(unet.parameters()), "lr": rate, "weight_decay": 0.01},
        {"params": others, "lr": rate, "weight_decay": 0.01},
        {"params": [rows, *training.virtual.parameters()], "lr": rate, "weight_decay": 0.0},
    ]
    training.run(loss_of, groups, ["unet", "text_encoder", "virtual"], keep_rows_short, every)


def keep_so_far(training: Training) -> None:
    """The weights as they are, for `--start`: a few MB, where a checkpoint is hundreds."""
    export(training, training.out / "so-far")


def save_unseen_grid(training: Training, name: str) -> None:
    wishes = report.unseen_wishes(training.world, 4 if training.settings.toy else 24)
    report.save_grid(averaged_painting(training), wishes, training.out / name)


def export(training: Training, folder: Path) -> dict[str, int]:
    """Write the averaged weights as they are; gives the sizes of the files."""
    virtual: Any = training.averages["virtual"].module
    leave_out = ("out", "tokenizer", "started", "start", "resume")
    return pack.export(
        folder,
        training.averaged(),
        training.judges,
        configs=training.configs,
        judge_widths=training.sizes.judges,
        used=training.seen | training.pool.seen,
        other_row=virtual.unknown * (ROW_NORM / virtual.unknown.norm().clamp(min=ROW_NORM)),
        merges=training.merges,
        training={
            **{name: value for name, value in vars(training.settings).items() if name not in leave_out},
            "sizes": asdict(training.sizes),
            "phases": UNTIL,
            "used minutes": round(training.elapsed(), 2),
        },
    )


def write_and_judge(training: Training) -> None:
    """Write the weights, load them back as they will be shipped, and judge those."""
    folder = training.out / "model"
    sizes = export(training, folder)
    training.log(sizes=sizes, total=sum(sizes.values()), rows=int((training.seen | training.pool.seen).sum()))
    virtual: Any = training.averages["virtual"].module
    shipped = pack.load(folder)
    for module in shipped.modules().values():
        module.to(training.device)
    judges = [judge.to(training.device) for judge in pack.load_judges(folder)]
    painting = painting_of(training, shipped)
    wishes = report.unseen_wishes(training.world, 4 if training.settings.toy else 24)
    attempt(training, lambda: report.save_grid(painting, wishes, training.out / "samples.png"))
    people = 2 if training.settings.toy else 128
    rows = table(shipped.text_encoder)

    def embed(ids: Tensor, faces: Tensor) -> Tensor:
        return virtual.embed(rows, ids, faces)

    found = report.evaluate(painting, judges, training.world, training.pool.held_out, embed, people)
    text = json.dumps(found, indent=1, default=float)
    (training.out / "report.json").write_text(text + "\n", encoding="utf-8")
    print(text, flush=True)
    training.log(done=True)
