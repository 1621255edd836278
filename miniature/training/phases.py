"""The phases of a training run: what is learned in each, and the end."""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from crossinit_core.families import CONTEXT_LENGTH, TIMESTEPS

from . import evaluation, pack
from .contrast import contrastive_loss, names_told_apart
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
from .sampling import Sampler
from .trainer import Losses, Trainer


def wait_for_pictures(trainer: Trainer) -> None:
    """Wait for enough pictures to begin with, and a minute at most for those that an earlier command kept."""
    pool, enough = trainer.pool, min(4096, trainer.pool.capacity)
    wanted = HELD_OUT_SHARDS * trainer.mixture.shard_size
    known = 0 if trainer.phase == "end" else min(trainer.known_pictures, pool.capacity)
    began = time.time()
    while (
        pool.count < enough
        or len(pool.held_out.get("tokens", ())) < wanted
        or (pool.count < known and time.time() - began < 60)
    ):
        if ready := trainer.painters.next(timeout=1.0):
            pool.add(*ready)
        if time.time() - began > 300:
            raise TimeoutError(f"The workers painted {pool.count} of {enough} pictures in five minutes.")
    trainer.begin_now()
    trainer.log(ready=pool.count)


def train_judges(trainer: Trainer, judges: list[Judge]) -> None:
    """Mostly people without names: the judges must measure faces, not recognize the names' 792."""
    columns, batch = trainer.pool.columns, trainer.settings.judge_batch

    def loss_of() -> Losses:
        losses: Losses = {}
        for i, judge in enumerate(judges):
            chosen = trainer.pool.indices(batch, strangers=0.7)
            data = [columns[name][chosen] for name in ("pictures", "vectors", "labels")]
            losses[f"judge {i}"] = judge_step(judge, *data)
        losses["loss"] = torch.stack(list(losses.values())).sum()
        return losses

    trainer.run(loss_of, [{"params": [p for j in judges for p in j.parameters()], "lr": 2e-3, "weight_decay": 0.02}])


def train_vae(trainer: Trainer) -> None:
    """L1 of pixels and of their gradients, of the first judge's features (as LPIPS, Zhang et al., 2018, compares
    features), and a small KL term (Rombach et al., 2022)."""
    vae, eye = trainer.parts.vae, trainer.judges[0].eval().requires_grad_(False)

    def loss_of() -> Losses:
        pixels = to_pixels(trainer.pool.columns["pictures"][trainer.pool.indices(trainer.settings.vae_batch)])
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

    trainer.run(loss_of, [{"params": list(vae.parameters()), "lr": 1e-3, "weight_decay": 1e-4}], ["vae"])
    eye.requires_grad_(True)
    trained: Any = trainer.averages["vae"].module
    moments = []
    with torch.no_grad():
        for _ in range(8):
            pixels = to_pixels(trainer.pool.columns["pictures"][trainer.pool.indices(min(128, trainer.pool.count))])
            moments.append(trained.encode(pixels).latent_dist.mean.float())
    means = torch.cat(moments)
    bring_to_scale(trained, means.mean((0, 2, 3)), means.std((0, 2, 3)))
    trainer.parts.vae.load_state_dict(trained.state_dict())
    pictures = trainer.pool.held_out["pictures"][:16].cpu().numpy()
    sampler = averaged_sampler(trainer)
    attempt(trainer, lambda: evaluation.save_reconstructions(sampler, pictures, trainer.out / "grid-vae.png"))


def attempt(trainer: Trainer, show: Callable[[], None]) -> None:
    """Make something to look at. A failure is logged, but the training goes on."""
    try:
        show()
    except Exception:
        trainer.log(failed=traceback.format_exc())


def averaged_sampler(trainer: Trainer) -> Sampler:
    return sampler_of(trainer, trainer.averaged())


def sampler_of(trainer: Trainer, parts: Parts) -> Sampler:
    return Sampler(parts, trainer.encoder, trainer.device, steps=3 if trainer.settings.toy else 20)


@torch.no_grad()
def encode_pool(trainer: Trainer, encode: Callable[[Tensor], Tensor], most: int, chunk: int = 512) -> None:
    """Latents of up to `most` more chunks of the pool. `encode`: pictures to means and log variances, (B, 8, h, w)."""
    for _ in range(most):
        start, end = trainer.pool.encoded, min(trainer.pool.encoded + chunk, trainer.pool.count)
        if start >= end:
            return
        pixels = to_pixels(trainer.pool.columns["pictures"][start:end])
        with torch.autocast(trainer.device.type, torch.bfloat16, enabled=trainer.device.type == "cuda"):
            mean, logvar = encode(pixels).float().chunk(2, dim=1)
        moments = torch.cat([mean, logvar.mul(0.5).exp()], 1) * LATENT_SCALE
        trainer.pool.moments[start:end] = moments.half()
        trainer.pool.encoded = end


def train_contrast(trainer: Trainer) -> None:
    """The text encoder learns from pictures alone: `contrast`. Its average is what is kept, and frozen from here on."""
    contrast = trainer.contrast
    if contrast is None:
        raise ValueError(f"The world '{trainer.settings.world}' has no contrast.")
    pool, text, batch = trainer.pool, trainer.parts.text_encoder.train(), trainer.settings.contrast_batch
    rows = table(text)

    def loss_of() -> Losses:
        chosen = pool.indices(batch)
        # What stands behind EOS changes nothing at it.
        ids = pool.columns["tokens"][chosen, : pool.longest].long()
        texts = contrast.texts(encode_text(text, trainer.extra.embed(rows, ids, pool.columns["vectors"][chosen])), ids)
        pictures = contrast.pictures(to_pixels(pool.columns["pictures"][chosen]))
        loss = contrastive_loss(texts, pictures, contrast.scale(), ids)
        own = (texts @ pictures.t()).argmax(1) == torch.arange(batch, device=trainer.device)
        return {"accuracy": own.float().mean(), "scale": contrast.scale(), "loss": loss}

    parameters = [*text.parameters(), *trainer.extra.parameters(), *contrast.parameters()]
    rate, decay = trainer.settings.contrast_lr, trainer.settings.contrast_decay
    # As in CLIP, gains and biases do not decay; neither does the scale.
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "lr": rate, "weight_decay": decay},
        {"params": [p for p in parameters if p.ndim <= 1], "lr": rate, "weight_decay": 0.0},
    ]
    trainer.run(loss_of, groups, ["text_encoder", "extra", "contrast"])
    attempt(trainer, lambda: trainer.log(**names_found(trainer, trainer.averaged(), trainer.averages["extra"].module)))


def names_found(trainer: Trainer, parts: Parts, extra: Any) -> dict[str, Any]:
    """How well names find their portraits, bundled and made-up ones apart."""
    contrast: Any = trainer.averages["contrast"].module
    rows = table(parts.text_encoder)

    def embed(ids: Tensor) -> Tensor:
        return extra.embed(rows, ids, torch.empty(0))

    bundled = trainer.world.people
    groups = {
        "bundled names": list(bundled.items()),
        "made-up names": [(name, who) for name, who in trainer.everybody.people.items() if name not in bundled],
    }
    most = 8 if trainer.settings.toy else 512
    return {
        name: names_told_apart(contrast, parts.text_encoder, embed, trainer.encoder, people[:most])
        for name, people in groups.items()
        if people
    }


def train_diffusion(trainer: Trainer) -> None:
    """Epsilon prediction (Ho et al., 2020) with 10 % empty prompts (Ho and Salimans, 2022).

    A text encoder that was trained by contrast stays as it is; another one learns here.
    """
    pool, unet, batch, frozen = (
        trainer.pool,
        trainer.parts.unet.train(),
        trainer.settings.batch,
        trainer.recipe.contrast,
    )
    text: Any = trainer.averages["text_encoder"].module if frozen else trainer.parts.text_encoder.train()
    extra: Any = trainer.averages["extra"].module if frozen else trainer.extra
    vae: Any = trainer.averages["vae"].module
    encoder = torch.compile(vae.encoder, dynamic=False) if trainer.settings.compile else vae.encoder
    rows = table(text)
    abar = alphas_cumprod(trainer.device)
    empty = torch.zeros(CONTEXT_LENGTH, dtype=torch.long, device=trainer.device)
    empty[:2] = torch.tensor([BOS, EOS])

    def encode(pixels: Tensor) -> Tensor:
        return vae.quant_conv(encoder(pixels))

    # Pictures that came last are at the end of the pool, so a part of it is a fair sample too.
    encode_pool(trainer, encode, 200)
    trainer.log(encoded=pool.encoded)

    def loss_of() -> Losses:
        chosen = pool.indices(batch, below=pool.encoded)
        moments = pool.moments[chosen].float()
        latents = moments[:, :4] + moments[:, 4:] * torch.randn_like(moments[:, 4:])
        spread = (torch.arange(batch, device=trainer.device) + torch.rand(batch, device=trainer.device)) / batch
        timesteps = (spread * TIMESTEPS).long().clamp(max=TIMESTEPS - 1)
        ids = pool.columns["tokens"][chosen].long()
        ids = torch.where(torch.rand(batch, 1, device=trainer.device) < 0.1, empty, ids)
        noise, a = torch.randn_like(latents), abar[timesteps][:, None, None, None]
        noisy = a.sqrt() * latents + (1 - a).sqrt() * noise
        with torch.set_grad_enabled(not frozen):
            context = encode_text(text, extra.embed(rows, ids, pool.columns["vectors"][chosen]))
        predicted = unet(noisy, timesteps, encoder_hidden_states=context).sample.float()
        errors = (predicted - noise).square().mean((1, 2, 3))
        return {"mse": errors.mean(), "loss": (errors * min_snr_weights(timesteps, abar)).mean()}

    grids = [0.0]

    def every(progress: float) -> None:
        encode_pool(trainer, encode, 2)
        if progress - grids[0] >= 1 / 6:
            grids[0] = progress
            name = f"grid-{int(trainer.elapsed()):02d}min.png"
            attempt(trainer, lambda: save_unseen_grid(trainer, name))
            attempt(trainer, lambda: keep_so_far(trainer))

    rate = trainer.settings.lr
    groups = [{"params": list(unet.parameters()), "lr": rate, "weight_decay": 0.01}]
    if frozen:
        trainer.run(loss_of, groups, ["unet"], every=every)
        return
    others = [parameter for parameter in text.parameters() if parameter is not rows]
    groups += [
        {"params": others, "lr": rate, "weight_decay": 0.01},
        {"params": [rows, *trainer.extra.parameters()], "lr": rate, "weight_decay": 0.0},
    ]
    trainer.run(loss_of, groups, ["unet", "text_encoder", "extra"], trainer.shorten_rows, every)


def keep_so_far(trainer: Trainer) -> None:
    """The weights as they are, for `--start`: a few MB instead of the hundreds of a checkpoint."""
    export(trainer, trainer.out / "so-far")


def save_unseen_grid(trainer: Trainer, name: str) -> None:
    wishes = evaluation.unseen_wishes(trainer.world, 4 if trainer.settings.toy else 24)
    evaluation.save_grid(averaged_sampler(trainer), wishes, trainer.out / name)


def export(trainer: Trainer, folder: Path) -> dict[str, int]:
    """Write the averaged weights as they are; gives the sizes of the files."""
    extra: Any = trainer.averages["extra"].module
    leave_out = ("out", "started", "start", "resume", "time_limit")
    return pack.export(
        folder,
        trainer.averaged(),
        trainer.judges,
        configs=trainer.configs,
        judge_widths=trainer.sizes.judges,
        used=trainer.seen | trainer.pool.seen,
        other_row=extra.other(),
        training={
            **{name: value for name, value in vars(trainer.settings).items() if name not in leave_out},
            "sizes": asdict(trainer.sizes),
            "phases": dict(trainer.recipe.phases),
            "mixture": asdict(trainer.mixture),
            "used minutes": round(trainer.elapsed(), 2),
        },
    )


def write_and_judge(trainer: Trainer) -> None:
    """Write the weights, load them back as they will be shipped, and judge those."""
    folder = trainer.out / "model"
    sizes = export(trainer, folder)
    trainer.log(sizes=sizes, total=sum(sizes.values()), rows=int((trainer.seen | trainer.pool.seen).sum()))
    extra: Any = trainer.averages["extra"].module
    shipped = pack.load(folder)
    for module in shipped.modules().values():
        module.to(trainer.device)
    judges = [judge.to(trainer.device) for judge in pack.load_judges(folder)]
    sampler = sampler_of(trainer, shipped)
    wishes = evaluation.unseen_wishes(trainer.world, 4 if trainer.settings.toy else 24)
    attempt(trainer, lambda: evaluation.save_grid(sampler, wishes, trainer.out / "samples.png"))
    people = 2 if trainer.settings.toy else 128
    rows = table(shipped.text_encoder)

    def embed(ids: Tensor, faces: Tensor) -> Tensor:
        return extra.embed(rows, ids, faces)

    virtual = embed if trainer.mixture.virtual else None
    found = evaluation.evaluate(sampler, judges, trainer.world, trainer.pool.held_out, virtual, people)
    if trainer.contrast is not None:
        found["names told apart by the image encoder"] = names_found(trainer, shipped, extra)
    text = json.dumps(found, indent=1, default=float)
    (trainer.out / "report.json").write_text(text + "\n", encoding="utf-8")
    print(text, flush=True)
    trainer.log(done=True)
