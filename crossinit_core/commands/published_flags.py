"""Flags of the programs that people come from, and what they are here.

Those of train_cross_init.py and test_cross_init.py (github.com/lyuPang/CrossInitialization), of diffusers'
textual_inversion.py and textual_inversion_sdxl.py, which the former is made of, of its pipelines, and of Cross Initialization's
published SDXL form (github.com/kunheek/dti, src/dti/argument_parser.py).
"""

from __future__ import annotations

from collections.abc import Sequence

_HERE = {
    "--pretrained_model_name_or_path": "the model folder comes first, or a checkpoint file, without a flag",
    "--train_data_dir": "the photos come after the model, without a flag",
    "--learned_embedding_path": "the token files come after the model, without a flag",
    "--output_dir": "--out FILE",
    "--save_dir": "--out FOLDER",
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
    "--mixed_precision": "--precision fp16 or bf16",
    "--resume_from_checkpoint": "--resume-folder FOLDER; the same command continues a run by itself",
    "--prompt_file": "--prompts FILE",
    "--num_inference_steps": "--steps N",
    "--num_images_per_prompt": "--count N",
    "--n_iter": "--count N",
    "--guidance_scale": "--guidance X",
    "--gradient_accumulation_steps": "--batch-size N, and --micro-batch-size N for less memory",
}
_ALONE = {
    "adam_beta1",
    "adam_beta2",
    "adam_epsilon",
    "adam_weight_decay",
    "allow_tf32",
    "beta",
    "center_crop",
    "checkpointing_steps",
    "checkpoints_total_limit",
    "dataloader_num_workers",
    "dcoloss_beta",
    "decompose_scale",
    "enable_xformers_memory_efficient_attention",
    "hub_model_id",
    "hub_token",
    "instance",
    "kappa",
    "learnable_property",
    "local_rank",
    "log_freq",
    "logging_dir",
    "lr_num_cycles",
    "lr_scheduler",
    "lr_warmup_steps",
    "no_safe_serialization",
    "num_train_epochs",
    "num_validation_images",
    "oft_r",
    "only_save_embeds",
    "optimizer",
    "peft_learning_rate",
    "peft_modules",
    "peft_rank",
    "peft_start_step",
    "pretrained_vae_model_name_or_path",
    "push_to_hub",
    "reg_lambda",
    "reg_weight",
    "repeats",
    "report_to",
    "revision",
    "run_name",
    "save_as_full_pipeline",
    "save_steps",
    "scale_lr",
    "snr_gamma",
    "token_scale",
    "tokenizer_name",
    "train_magnitude",
    "use_8bit_adam",
    "use_oft",
    "validation_epochs",
    "validation_prompt",
    "validation_prompt_file",
    "validation_steps",
    "variant",
    "weight_decay",
    "zero_pad",
}


def refuse_published_flags(arguments: Sequence[str]) -> None:
    """Raises ValueError for the first flag of those programs: what it is here, or that it is to be left out."""
    for argument in arguments:
        flag = argument.partition("=")[0]
        if flag in _HERE:
            raise ValueError(f"{flag} is a flag of the published script. Here it is: {_HERE[flag]}.")
        if flag.startswith("--") and flag[2:] in _ALONE:
            raise ValueError(
                f"{flag} is a flag of the published script, and there is none like it here: the published values are used, "
                "or it is not needed. Leave it out."
            )
