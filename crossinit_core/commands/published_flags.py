"""Flags of the programs that people come from, and what they are here; docs/moving.md says the same with reasons.

Those of train_cross_init.py and test_cross_init.py (github.com/lyuPang/CrossInitialization), of diffusers'
textual_inversion.py and textual_inversion_sdxl.py, which the former is made of, of its pipelines, and of Cross Initialization's
published SDXL form (github.com/kunheek/dti, src/dti/argument_parser.py).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

HERE = {
    "--pretrained_model_name_or_path": "the model folder comes first, or a checkpoint file, without a flag",
    "--train_data_dir": "the photos come after the model, without a flag",
    "--learned_embedding_path": "the token files come after the model, without a flag",
    "--output_dir": "--out FILE",
    "--save_dir": "--out FOLDER, with --layout published for a folder a prompt",
    "--placeholder_token": "--name NAME, without < and >",
    "--initialize_tokens": '--words TEXT, all words in one text: "human face"',
    "--initializer_token": "--words TEXT",
    "--celeb_path": "--names FILE, or nothing for the names that come with it",
    "--init_method": "--names FILE or --words TEXT: both are cross initialization",
    "--n_persudo_tokens": "--vectors K",
    "--num_vectors": "--vectors K",
    "--max_train_steps": "--steps N",
    "--train_batch_size": "--batch-size N",
    "--learning_rate": "--learning-rate X, which is not multiplied by the batch size",
    "--scale_lr": "--learning-rate X with all factors in it: 0.000625 with --scale_lr at batch 8 is 0.005 here",
    "--lr_scheduler": "--schedule constant or linear; constant is the default, as published",
    "--gradient_checkpointing": "--gradient-checkpointing",
    "--gradient_accumulation_steps": "--batch-size N for all of them, and --micro-batch-size N for those at once",
    "--mixed_precision": "--precision fp32, fp16 or bf16",
    "--resume_from_checkpoint": "--resume-folder FOLDER; the same command continues a run by itself",
    "--save_steps": "--save-every N",
    "--validation_prompt": "--prompt TEXT, with --sample-every N",
    "--validation_prompt_file": "--prompts FILE, with --sample-every N",
    "--validation_steps": "--sample-every N",
    "--validation_epochs": "--sample-every N, in steps",
    "--num_validation_images": "--prompt TEXT several times: one picture each",
    "--logging_dir": "--tensorboard FOLDER",
    "--report_to": "--tensorboard FOLDER, or --losses FILE for JSON lines",
    "--log_freq": "--losses FILE, which has every step",
    "--adam_weight_decay": "--weight-decay X. Leave it out for the published 0.01",
    "--weight_decay": "--weight-decay X. Leave it out for the published one",
    "--reg_weight": "--regularization X. Leave it out for the published 1e-5",
    "--reg_lambda": "--regularization X. Leave it out for the published 1e-5",
    "--kappa": "--prior X, with --method direction",
    "--optimizer": "--method published for adamw, --method direction for rsgd",
    "--prompt_file": "--prompts FILE",
    "--num_inference_steps": "--steps N",
    "--num_images_per_prompt": "--count N, all pictures of a prompt; --batch-size N are made at once",
    "--n_iter": "--count N, all pictures of a prompt: theirs times --num_images_per_prompt",
    "--guidance_scale": "--guidance X",
}
"""What a flag is here."""

_LEFT_OUT = {
    "the published value is used": ("adam_beta1", "adam_beta2", "adam_epsilon"),
    "there is no warm-up, and with the published constant rate it does nothing": ("lr_warmup_steps", "lr_num_cycles"),
    "PyTorch chooses the fastest attention by itself": ("enable_xformers_memory_efficient_attention",),
    "--precision decides what is computed in": ("allow_tf32",),
    "nothing is uploaded": ("push_to_hub", "hub_model_id", "hub_token"),
    "nothing is downloaded, so download the version that you want": ("revision", "variant"),
    "the model's own is used": ("tokenizer_name", "pretrained_vae_model_name_or_path"),
    "only the vectors are saved": ("only_save_embeds", "save_as_full_pipeline", "no_safe_serialization"),
    "the published templates are used, which are those for an object": ("learnable_property",),
    "photos are used again until --steps N are done": ("repeats", "num_train_epochs"),
    "the middle square of each photo is used, or with --face the face": ("center_crop",),
    "photos are read once, before the first step": ("dataloader_num_workers",),
    "a run keeps one resume file, which it writes by itself": ("checkpointing_steps", "checkpoints_total_limit"),
    "torchrun starts train on several GPUs without a flag of ours": ("local_rank",),
    "it belongs to another method, or the published value is used": (
        *("beta", "dcoloss_beta", "decompose_scale", "instance", "oft_r", "peft_learning_rate", "peft_modules"),
        *("peft_rank", "peft_start_step", "run_name", "snr_gamma", "token_scale", "train_magnitude", "use_8bit_adam"),
        *("use_oft", "zero_pad"),
    ),
}
LEFT_OUT = {f"--{name}": reason for reason, names in _LEFT_OUT.items() for name in names}
"""Why a flag is not needed."""

_KNOWN = (*HERE, *sorted(LEFT_OUT))
_SAME = ("--seed", "--resolution", "--device", "--prompt")
"""Flags of the published scripts that are the same here."""
_RENAMED = {
    "train": {
        "--placeholder_token": "--name",
        "--celeb_path": "--names",
        "--initialize_tokens": "--words",
        "--n_persudo_tokens": "--vectors",
        "--max_train_steps": "--steps",
        "--train_batch_size": "--batch-size",
        "--learning_rate": "--learning-rate",
        "--reg_weight": "--regularization",
        "--adam_weight_decay": "--weight-decay",
        "--mixed_precision": "--precision",
        "--lr_scheduler": "--schedule",
        "--save_steps": "--save-every",
        "--validation_steps": "--sample-every",
        "--validation_prompt": "--prompt",
        "--validation_prompt_file": "--prompts",
    },
    "generate": {"--prompt_file": "--prompts", "--num_inference_steps": "--steps", "--save_dir": "--out"},
}
_SWITCHES = (
    *("--scale_lr", "--gradient_checkpointing", "--only_save_embeds", "--center_crop", "--push_to_hub", "--allow_tf32"),
    "--enable_xformers_memory_efficient_attention",
)
"""Flags of the published scripts that take no value."""
_ROOM = 560
_PUBLISHED_BATCH = 8
_UNSAID = {
    "--max_train_steps": ["5000"],
    "--learning_rate": ["1e-4"],
    "--train_batch_size": [str(_PUBLISHED_BATCH)],
}
"""What train_cross_init.py does if nothing is said, which is not the published run."""


def refuse_published_flags(arguments: Sequence[str]) -> None:
    """Raises ValueError of one line for flags of those programs: what each is here, or that it is to be left out.

    What argparse takes for a flag there is one here: `--max_train_step`, as in their README, is `--max_train_steps`.
    """
    found = list(dict.fromkeys(flag for argument in arguments if (flag := _flag(argument))))
    if not found:
        return
    hints = {flag: HERE[flag] for flag in found if flag in HERE}
    if "--learning_rate" in hints and "--scale_lr" in hints:
        rate = _scaled_rate(arguments)
        hints["--learning_rate"] = (
            f"--learning-rate {rate}: --scale_lr multiplies by the batch size there, nothing does here"
        )
        found.remove("--scale_lr")
        del hints["--scale_lr"]
    if len(found) == 1:
        (flag,) = found
        said = f"Here it is: {hints[flag]}." if flag in hints else f"Leave it out: {LEFT_OUT[flag]}."
        raise ValueError(f"{flag} is a flag of the published script. {said}")
    if command := translated(arguments):
        line = f"These are flags of the published script. The same command here: crossinit {command}"
        if len(line) <= _ROOM:
            raise ValueError(line)
    alone = [flag for flag in found if flag not in HERE]
    # The rate comes first: it is the only one that does harm if it is overlooked.
    parts = [f"{flag} is {hint}" for flag, hint in sorted(hints.items(), key=lambda part: part[0] != "--learning_rate")]
    parts += [f"leave out {', '.join(alone)}"] if alone else []
    line = f"These are flags of the published scripts. Here {'; '.join(parts)}."
    raise ValueError(
        line if len(line) <= _ROOM else f"{line[:_ROOM].rpartition(';')[0]}; and more: see docs/moving.md."
    )


def translated(arguments: Sequence[str]) -> str:
    """`train` or `generate` with a whole command line of the published script: what it is here. Empty if it is not one."""
    command, *rest = arguments or ("",)
    if command not in _RENAMED:
        return ""
    given: dict[str, list[str]] = {}
    for argument in rest:
        name, equals, value = argument.partition("=")
        flag = name if name in _SAME else _flag(argument)
        if flag:
            given[flag] = [value] if equals else []
        elif argument.startswith("--") or not given or list(given)[-1] in _SWITCHES:
            return ""
        else:
            given[list(given)[-1]].append(argument)
    places = ("--train_data_dir",) if command == "train" else ("--learned_embedding_path",)
    if any(len(given.get(flag, ())) != 1 for flag in ("--pretrained_model_name_or_path", *places)):
        return ""
    if any('"' in value for values in given.values() for value in values):
        return ""
    if any(not values and flag not in (*_SWITCHES, *LEFT_OUT) for flag, values in given.items()):
        return ""
    words = [command, *(_word(given[flag][0]) for flag in ("--pretrained_model_name_or_path", *places))]
    if command == "train":
        given = {**_UNSAID, **given}
        if {"--validation_prompt", "--validation_prompt_file"} & set(given):
            given.setdefault("--validation_steps", ["100"])
    for flag, values in given.items():
        if here := _RENAMED[command].get(flag, flag if flag in _SAME else ""):
            words += [here, _value_here(flag, " ".join(values), arguments)]
    if command == "generate":
        words += ["--layout", "published", "--count", _product(given, "--num_images_per_prompt", "--n_iter")]
    if "--gradient_checkpointing" in given:
        words.append("--gradient-checkpointing")
    if command == "train" and "--output_dir" in given:
        words += ["--out", _word(f"{given['--output_dir'][0].rstrip('/')}/learned_embeds.safetensors")]
    return " ".join(words)


def _value_here(flag: str, value: str, arguments: Sequence[str]) -> str:
    """As it is typed, in quotes if need be."""
    if flag == "--placeholder_token":
        return _word(value.strip("<>"))
    if flag == "--mixed_precision":
        return {"no": "fp32"}.get(value, value)
    if flag == "--train_batch_size" and (pieces := _value(arguments, "--gradient_accumulation_steps", "1")) != "1":
        whole = f"{int(value) * int(pieces)}" if value.isdecimal() and pieces.isdecimal() else "N"
        return f"{whole} --micro-batch-size {value}"
    if flag == "--learning_rate" and any(_flag(argument) == "--scale_lr" for argument in arguments):
        return _scaled_rate(arguments)
    return _word(value)


def _product(given: dict[str, list[str]], *flags: str) -> str:
    """Their numbers of pictures; 16 and 1 if they are not given."""
    try:
        images, repeats = (int(given.get(flag, [usual])[0]) for flag, usual in zip(flags, ("16", "1"), strict=True))
    except ValueError:
        return "N"
    return str(images * repeats)


def _word(text: str) -> str:
    """As bash, cmd and PowerShell take it; what they would change within quotes does not get here in one piece anyway."""
    return f'"{text}"' if not text or any(sign in text for sign in " '()[]{}<>&;|*?#~") else text


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
        rate = float(_value(arguments, "--learning_rate", _UNSAID["--learning_rate"][0]))
        batch = int(_value(arguments, "--train_batch_size", str(_PUBLISHED_BATCH)))
        pieces = int(_value(arguments, "--gradient_accumulation_steps", "1"))
    except ValueError:
        rate, batch, pieces = math.nan, 1, 1
    scaled = rate * batch * pieces
    return f"{scaled:.6g}" if 0 < scaled < math.inf else "X"


def _value(arguments: Sequence[str], flag: str, otherwise: str) -> str:
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=True):
        if _flag(argument) == flag:
            return argument.partition("=")[2] or following
    return otherwise
