"""Flags of the programs that people come from, and what they are here.

Those of train_cross_init.py and test_cross_init.py (github.com/lyuPang/CrossInitialization), of diffusers'
textual_inversion.py and textual_inversion_sdxl.py, which the former is made of, of its pipelines, and of Cross Initialization's
published SDXL form (github.com/kunheek/dti, src/dti/argument_parser.py).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

_HERE = {
    "--pretrained_model_name_or_path": "the model folder comes first, or a checkpoint file, without a flag",
    "--train_data_dir": "the photos come after the model, without a flag",
    "--learned_embedding_path": "the token files come after the model, without a flag",
    "--output_dir": "--out FILE",
    "--save_dir": "--out FOLDER, with --layout published for a folder a prompt",
    "--placeholder_token": "--name NAME",
    "--initialize_tokens": "--words TEXT",
    "--initializer_token": "--words TEXT",
    "--celeb_path": "--names FILE",
    "--init_method": "--names FILE or --words TEXT: both are cross initialization",
    "--n_persudo_tokens": "--vectors K",
    "--num_vectors": "--vectors K",
    "--max_train_steps": "--steps N",
    "--train_batch_size": "--batch-size N",
    "--learning_rate": "--learning-rate X, which is not multiplied by the batch size",
    "--gradient_checkpointing": "--gradient-checkpointing",
    "--mixed_precision": "--precision fp32, fp16 or bf16",
    "--resume_from_checkpoint": "--resume-folder FOLDER; the same command continues a run by itself",
    "--prompt_file": "--prompts FILE",
    "--num_inference_steps": "--steps N",
    "--num_images_per_prompt": "--count N",
    "--n_iter": "--count N",
    "--guidance_scale": "--guidance X",
    "--gradient_accumulation_steps": "--batch-size N, and --micro-batch-size N for less memory",
    "--save_steps": "--save-every N",
    "--logging_dir": "--log FILE",
    "--report_to": "--log FILE, as JSON lines",
    "--log_freq": "--log FILE, which has every step",
    "--adam_weight_decay": "--weight-decay X. Leave it out for the published 0.01",
    "--reg_weight": "--regularization X. Leave it out for the published 1e-5",
    "--reg_lambda": "--regularization X. Leave it out for the published 1e-5",
    "--kappa": "--prior X, with --method direction",
    "--optimizer": "--method published for adamw, --method direction for rsgd",
}
_ALONE = {
    *("adam_beta1", "adam_beta2", "adam_epsilon", "allow_tf32", "beta", "center_crop", "checkpointing_steps"),
    *("checkpoints_total_limit", "dataloader_num_workers", "dcoloss_beta", "decompose_scale"),
    *("enable_xformers_memory_efficient_attention", "hub_model_id", "hub_token", "instance", "learnable_property"),
    *("local_rank", "lr_num_cycles", "lr_scheduler", "lr_warmup_steps", "no_safe_serialization", "num_train_epochs"),
    *("num_validation_images", "oft_r", "only_save_embeds", "peft_learning_rate", "peft_modules", "peft_rank"),
    *("peft_start_step", "pretrained_vae_model_name_or_path", "push_to_hub", "repeats", "revision", "run_name"),
    *("save_as_full_pipeline", "scale_lr", "snr_gamma", "token_scale", "tokenizer_name", "train_magnitude"),
    *("use_8bit_adam", "use_oft", "validation_epochs", "validation_prompt", "validation_prompt_file"),
    *("validation_steps", "variant", "weight_decay", "zero_pad"),
}
_KNOWN = (*_HERE, *sorted(f"--{name}" for name in _ALONE))
_ROOM = 560
_PUBLISHED_BATCH = 8


def refuse_published_flags(arguments: Sequence[str]) -> None:
    """Raises ValueError of one line for flags of those programs: what each is here, or that it is to be left out.

    What argparse takes for a flag there is one here: `--max_train_step`, as in their README, is `--max_train_steps`.
    """
    found = list(dict.fromkeys(flag for argument in arguments if (flag := _flag(argument))))
    if not found:
        return
    hints = {flag: _HERE[flag] for flag in found if flag in _HERE}
    if "--learning_rate" in hints and "--scale_lr" in found:
        hints["--learning_rate"] = _scaled_rate(arguments)
        found.remove("--scale_lr")
    alone = [flag for flag in found if flag not in _HERE]
    if len(found) > 1:
        parts = [f"{flag} is {hint}" for flag, hint in hints.items()]
        parts += [f"leave out {', '.join(alone)}"] if alone else []
        line = f"These are flags of the published scripts. Here {'; '.join(parts)}."
        raise ValueError(line if len(line) <= _ROOM else f"{line[:_ROOM].rpartition(';')[0]}; and more.")
    flag = found[0]
    if flag in hints:
        raise ValueError(f"{flag} is a flag of the published script. Here it is: {hints[flag]}.")
    raise ValueError(
        f"{flag} is a flag of the published script, and there is none like it here: the published values are used, "
        "or it is not needed. Leave it out."
    )


def _flag(argument: str) -> str | None:
    """The flag of those programs that an argument is, or the beginning of; ours have no `_`."""
    given = argument.partition("=")[0]
    if given in _KNOWN:
        return given
    if not given.startswith("--") or "_" not in given:
        return None
    return next((flag for flag in _KNOWN if flag.startswith(given)), None)


def _scaled_rate(arguments: Sequence[str]) -> str:
    """Their rate with --scale_lr, as `train_cross_init.py` makes it on one GPU: times accumulation times batch size."""
    try:
        rate = float(_value(arguments, "--learning_rate", "nan"))
        batch = int(_value(arguments, "--train_batch_size", str(_PUBLISHED_BATCH)))
        pieces = int(_value(arguments, "--gradient_accumulation_steps", "1"))
    except ValueError:
        rate, batch, pieces = math.nan, 1, 1
    scaled = rate * batch * pieces
    shown = f"{scaled:.6g}" if 0 < scaled < math.inf else "X"
    return f"--learning-rate {shown}: --scale_lr multiplies by the batch size there, nothing does here"


def _value(arguments: Sequence[str], flag: str, otherwise: str) -> str:
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=True):
        if _flag(argument) == flag:
            return argument.partition("=")[2] or following
    return otherwise
