"""Pictures of learned people: `generate`."""

from __future__ import annotations

import argparse
from dataclasses import replace

from ..diffusers_backbone import widths_of
from ..files import check_can_write
from ..loading import check_model, load_backbone
from ..precision import DTYPES, resolve_precision
from ..prompts import load_prompts
from ..text import quoted
from ..tokens.blending import check_strength, token_at_strength
from ..tokens.lineage import other_lineage
from ..tokens.token_files import load_learned_token
from .arguments import chosen_device
from .celeb_basis import check_celeb_basis, check_no_others, write_lists
from .control import check_control, load_control
from .options import PROMPT
from .pictures import PlacedPrompt, check_everybody_is_placed, plan_pictures
from .sampling import sample
from .sampling_settings import Sampling
from .signals import Screen

_LONGEST_LINE = 580


def generate(options: argparse.Namespace) -> None:
    """Sample pictures of learned people: 50 steps of DPM-Solver++ at guidance 7.5, as published."""
    screen = Screen()
    sampling = Sampling(
        options.steps, options.guidance, options.seed, options.count, options.resolution, options.batch_size
    )
    sampling.check()
    check_control(options.controlnet, options.control_image, options.control_strength)
    device = chosen_device(options.device)
    check_strength(options.strength)
    tokens = [token_at_strength(load_learned_token(path), options.strength) for path in options.tokens]
    names = [token.name for token in tokens]
    prompts = load_prompts(options.prompts) if options.prompts else tuple(options.prompt or [PROMPT])
    placed = [PlacedPrompt.of(prompt, names) for prompt in prompts]
    check_everybody_is_placed(names, placed, screen.say)
    of_celeb_basis = options.layout == "celeb-basis"
    if options.photo and not of_celeb_basis:
        raise ValueError("--photo is for --layout celeb-basis alone. Leave it out.")
    texts = [prompt.of_celeb_basis for prompt in placed]
    compared_with = check_celeb_basis(texts, len(tokens), options.photo) if of_celeb_basis else None
    check_can_write(options.out / "picture.png", what="picture")
    if of_celeb_basis and not options.skip_existing:
        check_no_others(options.out, texts)
    widths = widths_of(options.model)
    for token in tokens if widths else ():
        token.check_fits(widths)
    check_model(options.model)
    if compared_with:
        write_lists(options.out, texts, compared_with)
    pictures = plan_pictures(placed, sampling, options.out, options.layout)
    if options.skip_existing:
        missing = [picture for picture in pictures if not picture.path.exists()]
        if len(missing) < len(pictures):
            screen.say(f"{len(pictures) - len(missing)} of {len(pictures)} pictures are there already.")
        if not missing:
            return
        pictures = missing
    dtype = DTYPES[resolve_precision(options.precision, device)]
    backbone = load_backbone(options.model, device, dtype)
    for token in tokens:
        token.check_fits(backbone.widths)
        if warning := other_lineage(token.metadata, backbone.checkpoint):
            screen.say(quoted(f"'{token.name}': {warning}", _LONGEST_LINE))
    control = None
    if options.controlnet:
        sampling = replace(sampling, resolution=sampling.resolution or backbone.resolution)
        control = load_control(
            options.controlnet,
            options.control_image,
            options.control_strength,
            widths=backbone.widths,
            size=sampling.resolution or backbone.resolution,
            device=device,
            dtype=dtype,
        )
    made = sample(
        *(backbone, tokens, pictures, sampling, dtype), control=control, again=options.skip_existing, say=screen.say
    )
    for path in made:
        print(path, flush=True)
