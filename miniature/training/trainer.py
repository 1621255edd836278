"""A training run: all that it holds, its clock and log, its checkpoints, and the loop of one phase."""

from __future__ import annotations

import argparse
import copy
import json
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from crossinit_core.models.compact_folder import load_tokenizer

from . import pack
from .contrast import Contrast
from .data import Encoder, Mixture, Painters
from .judge import Judge, build_judges
from .model import REAL, TOY, Parts, build, configurations, table
from .pool import ExtraRows, Pool
from .population import load_world
from .recipes import RECIPES

ROOM = 10.0
"""Seconds before its time is over at which a command stops training, to write the checkpoint."""

Losses = dict[str, Tensor]


class Average:
    """An exponential moving average of a module's weights, in a copy of it."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self._source, self._decay = module, decay
        self.module = copy.deepcopy(module).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, step: int) -> None:
        weight = 1.0 - min(self._decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self.module.parameters()), list(self._source.parameters()), weight)


class OutOfTimeError(Exception):
    """The time of this command came to its end; what was learned is in the checkpoint."""


class Trainer:
    """Everything that a run holds. `phase` names what is being trained; `painters` are there while it is trained.

    `world` are the bundled names, which every miniature is judged by; `everybody` are all who are painted under a name.
    """

    painters: Painters

    def __init__(self, settings: argparse.Namespace) -> None:
        self.settings, self.out = settings, Path(settings.out)
        self.out.mkdir(parents=True, exist_ok=True)
        self.device = torch.device(settings.device)
        self.started, self.used = settings.started, 0.0
        self.recipe = RECIPES[settings.world].with_minutes(dict(settings.budget))
        self.sizes = TOY if settings.toy else REAL
        self.configs = configurations(self.sizes)
        self.world = load_world()
        recipe = self.recipe
        virtual = recipe.virtual if settings.virtual is None else settings.virtual
        made_up = recipe.made_up if settings.made_up is None else settings.made_up
        self.mixture = Mixture(settings.seed, virtual, settings.shard_size, recipe.unnamed, made_up)
        self.everybody = self.mixture.world() if made_up else self.world
        self.encoder = Encoder(load_tokenizer())
        self.judges: list[Judge] = [judge.to(self.device) for judge in build_judges(self.sizes.judges)]
        self.parts = build(self.configs)
        for module in self.parts.modules().values():
            module.to(self.device)
        self.shorten_rows()
        mean = torch.from_numpy(self.world.vectors.mean(0)) if virtual else None
        self.extra = ExtraRows(self.sizes.width, mean, self.recipe.longest_row).to(self.device)
        self.contrast: Contrast | None = None
        if self.recipe.contrast:
            self.contrast = Contrast(self.sizes.image, self.sizes.width, self.sizes.space).to(self.device)
        if self.device.type == "cuda" and not settings.nchw:
            convolutional: list[Any] = [*self.judges, self.parts.vae, self.parts.unet]
            for module in convolutional if self.contrast is None else [*convolutional, self.contrast.image]:
                module.to(memory_format=torch.channels_last)
        self.averages = {name: Average(part, 0.999) for name, part in self._learned().items()}
        self.pool = Pool(settings.pool, self.device)
        self.phase, self.phase_began, self.step = "features", 0.0, 0
        self.known_pictures = 0
        self.seen = torch.zeros(len(table(self.parts.text_encoder)), dtype=torch.bool)
        self._optimizer_state: dict[str, Any] | None = None

    @property
    def keeps_pictures(self) -> bool:
        """Whether painted pictures stay on the disk, for the next command of a run in pieces."""
        return self.settings.time_limit is not None

    def _learned(self) -> dict[str, nn.Module]:
        found: dict[str, nn.Module] = {**self.parts.modules(), "extra": self.extra}
        return found if self.contrast is None else {**found, "contrast": self.contrast}

    def shorten_rows(self) -> None:
        """Keep token rows as short as the recipe says."""
        if self.recipe.longest_row is not None:
            with torch.no_grad():
                table(self.parts.text_encoder).renorm_(2, 0, self.recipe.longest_row)

    def averaged(self) -> Parts:
        return Parts(*(self.averages[name].module for name in ("text_encoder", "unet", "vae")))

    # ---- time

    def elapsed(self) -> float:
        """Minutes of this run, earlier pieces of it included."""
        return self.used + (time.time() - self.started) / 60

    def begin_now(self) -> None:
        """Getting ready took its time from the whole run, not from the phase that was about to begin or to go on."""
        self.phase_began += (time.time() - self.started) / 60

    def progress(self) -> float:
        """0..1 through the current phase, by the clock or by --max-steps, whichever is further."""
        end = self.recipe.ends(self.phase, self.phase_began, self.settings.minutes)
        by_clock = (self.elapsed() - self.phase_began) / max(end - self.phase_began, 1e-6)
        by_steps = self.step / self.settings.max_steps if self.settings.max_steps else 0.0
        return min(max(by_clock, by_steps), 1.0)

    def check_time(self, room: float, optimizer: torch.optim.Optimizer | None = None) -> None:
        """Raises OutOfTimeError after writing the checkpoint if less than `room` seconds are left to this command."""
        limit = self.settings.time_limit
        if limit is not None and time.time() - self.started > limit - room:
            self.save(optimizer)
            self.log(out_of_time=limit)
            raise OutOfTimeError

    # ---- checkpoints and the log

    def log(self, **values: Any) -> None:
        line = {"minutes": round(self.elapsed(), 3), "phase": self.phase, "step": self.step, **values}
        with (self.out / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        print(" ".join(f"{k}={v:.5g}" if isinstance(v, float) else f"{k}={v}" for k, v in line.items()), flush=True)

    def save(self, optimizer: torch.optim.Optimizer | None = None) -> None:
        state = {
            "world": self.settings.world,
            "phase": self.phase,
            "began": self.phase_began,
            "step": self.step,
            "elapsed": self.elapsed(),
            "sizes": asdict(self.sizes),
            "seen": self.seen | self.pool.seen,
            "pictures": max(self.pool.count, self.known_pictures),
            "judges": [judge.state_dict() for judge in self.judges],
            "learned": {name: part.state_dict() for name, part in self._learned().items()},
            "averages": {name: average.module.state_dict() for name, average in self.averages.items()},
            "optimizer": optimizer.state_dict() if optimizer else None,
        }
        torch.save(state, self.out / "checkpoint.tmp")
        (self.out / "checkpoint.tmp").replace(self.out / "checkpoint.pt")

    def resume(self) -> None:
        """Continue where the checkpoint of this folder stopped."""
        path = self.out / "checkpoint.pt"
        if not path.is_file():
            raise FileNotFoundError(f"There is nothing to resume: '{path}' does not exist. Leave --resume out.")
        state = torch.load(path, map_location=self.device, weights_only=True)
        if state["sizes"] != asdict(self.sizes):
            raise ValueError(f"'{path}' was trained at other sizes: {state['sizes']}, not {asdict(self.sizes)}.")
        if state["world"] != self.settings.world:
            raise ValueError(f"'{path}' is of the world '{state['world']}', not of '{self.settings.world}'.")
        for judge, own in zip(self.judges, state["judges"], strict=True):
            judge.load_state_dict(own)
        for name, part in self._learned().items():
            part.load_state_dict(state["learned"][name])
            self.averages[name].module.load_state_dict(state["averages"][name])
        self.phase, self.phase_began, self.step = state["phase"], state["began"], state["step"]
        self.known_pictures = state["pictures"] if self.keeps_pictures else 0
        self.seen, self.used, self._optimizer_state = state["seen"].cpu(), state["elapsed"], state["optimizer"]
        # Not the random numbers of the beginning once more.
        torch.manual_seed(self.settings.seed + int(1000 * self.used) + 1)
        self.log(resumed=True)

    def start_from(self, folder: Path) -> None:
        """Begin behind the judges, from shipped weights (a few MB instead of the hundreds of a checkpoint).

        A world with a contrast takes over the VAE and the judges alone.
        """
        shipped = pack.load(folder)
        for name in ("vae",) if self.recipe.contrast else self.parts.modules():
            for module in (self.parts.modules()[name], self.averages[name].module):
                module.load_state_dict(shipped.modules()[name].state_dict())
        for judge, own in zip(self.judges, pack.load_judges(folder), strict=True):
            judge.load_state_dict(own.state_dict())
        self.phase = "contrast" if self.recipe.contrast else "diffusion"

    # ---- one phase

    def run(
        self,
        loss_of: Callable[[], Losses],
        groups: list[dict[str, Any]],
        averaged: Iterable[str] = (),
        after: Callable[[], None] = lambda: None,
        every: Callable[[float], None] = lambda progress: None,
    ) -> None:
        """Train until the phase's time is over: AdamW, warm-up of 2 % of the phase, then a cosine to zero."""
        optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.99), fused=True)
        peaks = [group["lr"] for group in optimizer.param_groups]
        if self._optimizer_state:
            optimizer.load_state_dict(self._optimizer_state)
            self._optimizer_state = None
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        logged = saved = filled = time.time()
        first_step = last_step = self.step
        while (progress := self.progress()) < 1.0:
            factor = min(progress / 0.02, 1.0, (self.step + 1) / 100) * 0.5 * (1 + math.cos(math.pi * progress))
            for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                group["lr"] = peak * factor
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
                losses = loss_of()
            losses["loss"].backward()
            norm = nn.utils.clip_grad_norm_(parameters, 1.0)
            # A step with broken gradients is left out, without waiting for the GPU to say so.
            optimizer.found_inf = (~torch.isfinite(norm)).float()  # type: ignore[attr-defined]
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            after()
            for name in averaged:
                self.averages[name].update(self.step)
            self.step += 1
            now = time.time()
            if now - filled > 0.2:
                self.pool.fill(self.painters, 2)
                filled = now
            if self.step % 10 == 0:
                every(progress)
            if self.step == first_step + 1 or now - logged > self.settings.log_seconds:
                values = {name: round(float(loss.detach()), 6) for name, loss in losses.items()}
                pace = round((self.step - last_step) / max(now - logged, 1e-3), 2)
                rate = round(peaks[0] * factor, 7)
                self.log(**values, norm=round(float(norm), 4), lr=rate, steps_per_second=pace, pool=self.pool.count)
                logged, last_step = now, self.step
            self.check_time(ROOM, optimizer)
            if now - saved > 60 * self.settings.checkpoint_minutes:
                self.save(optimizer)
                saved = now

    def go_on_to(self, phase: str) -> None:
        """The current phase is over."""
        self.log(finished=self.phase)
        self.phase, self.phase_began, self.step = phase, self.elapsed(), 0
        self.save()
