"""People who come from the published scripts: docs/moving.md, and what the command line says to their flags."""

from __future__ import annotations

import re
import shlex
from collections import Counter
from pathlib import Path

import pytest

from crossinit_core import cli
from crossinit_core.commands import options
from crossinit_core.commands.arguments import Parser
from crossinit_core.commands.published_flags import HERE, LEFT_OUT, refuse_published_flags, translated

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGE = (DOCS / "moving.md").read_text(encoding="utf-8")

# `parse_args` of both scripts (github.com/lyuPang/CrossInitialization).
_TRAIN = """
save_steps only_save_embeds pretrained_model_name_or_path revision tokenizer_name train_data_dir placeholder_token
initialize_tokens celeb_path n_persudo_tokens reg_weight learnable_property repeats output_dir seed resolution center_crop
train_batch_size num_train_epochs max_train_steps gradient_accumulation_steps gradient_checkpointing learning_rate scale_lr
lr_scheduler lr_warmup_steps dataloader_num_workers adam_beta1 adam_beta2 adam_weight_decay adam_epsilon push_to_hub hub_token
hub_model_id logging_dir mixed_precision allow_tf32 report_to validation_prompt validation_prompt_file num_validation_images
validation_steps validation_epochs local_rank checkpointing_steps checkpoints_total_limit resume_from_checkpoint
enable_xformers_memory_efficient_attention
"""
_TEST = """
pretrained_model_name_or_path prompt_file seed num_inference_steps num_images_per_prompt save_dir device
learned_embedding_path prompt n_iter
"""
PUBLISHED = [*_TRAIN.split(), *_TEST.split()]
SAME = {"--seed", "--resolution", "--device", "--prompt"}
_OURS = re.compile(r"--(?!nproc)[a-z]+(?:-[a-z0-9]+)*(?![\w-])")
"""`--nproc-per-node` is torchrun's."""


def _rows() -> list[tuple[str, str]]:
    return re.findall(r"^\| `(--\w+)` \| (.*) \|$", PAGE, flags=re.MULTILINE)


def _ours() -> set[str]:
    """All options of `train` and `generate`."""
    parser = Parser()
    for add in (options.of_train, options.of_generate):
        command = Parser()
        add(command)
        parser._actions += command._actions
    return {name for action in parser._actions for name in action.option_strings}


def test_the_page_has_each_published_flag() -> None:
    assert len(PUBLISHED) == 58
    assert Counter(flag for flag, _ in _rows()) == Counter(f"--{name}" for name in PUBLISHED)


def test_the_page_names_no_option_that_is_not_there() -> None:
    tables = {name for _, here in _rows() for name in _OURS.findall(here)}
    assert tables - _ours() == set()
    assert {"--learning-rate", "--sample-every", "--no-resume", "--layout"} <= tables


@pytest.mark.parametrize("flag", sorted({f"--{name}" for name in PUBLISHED}))
def test_the_hint_agrees_with_the_page(flag: str) -> None:
    if flag in SAME:
        refuse_published_flags([flag, "1"])
        assert flag in _ours()
        return
    with pytest.raises(ValueError, match="published") as error:
        refuse_published_flags([f"{flag}=1"])
    hint = str(error.value).partition("published script.")[2]
    assert len(str(error.value)) <= 600
    for here in (here for known, here in _rows() if known == flag):
        named = set(_OURS.findall(hint)) - {flag}
        assert named <= set(_OURS.findall(here)), here
        assert ("leave it out" in here) == ("Leave it out:" in hint), here
        assert named or flag in LEFT_OUT or "without a flag" in here


def test_every_hint_names_options_that_exist() -> None:
    named = {name for hint in (*HERE.values(), *LEFT_OUT.values()) for name in _OURS.findall(hint)}
    assert named - _ours() == set()


README = """
--save_steps 100 --only_save_embeds --placeholder_token "<28017>" --train_batch_size 8 --scale_lr --n_persudo_tokens 2
--reg_weight "1e-5" --learning_rate 0.000625 --max_train_step 320 --train_data_dir "./examples/input_images/28017"
--celeb_path "./examples/wiki_names_v2.txt" --pretrained_model_name_or_path "stabilityai/stable-diffusion-2-1-base"
--output_dir "./logs/28017/learned_embeddings"
"""


def test_their_readmes_command_is_translated(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", *shlex.split(README)]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and len(err) <= 600
    ours = shlex.split(err.partition("here: crossinit ")[2])
    command = Parser()
    options.of_train(command)
    given = command.parse_args(ours[1:])
    assert ours[0] == "train" and given.model == Path("stabilityai/stable-diffusion-2-1-base")
    assert (given.learning_rate, given.steps, given.batch_size, given.vectors) == (0.005, 320, 8, 2)
    assert (given.name, given.save_every, given.regularization) == ("28017", 100, 1e-5)
    assert given.photos == [Path("examples/input_images/28017")] and given.names == Path("examples/wiki_names_v2.txt")


def test_their_test_command_is_translated() -> None:
    theirs = """--pretrained_model_name_or_path base --num_inference_steps 50 --learned_embedding_path "my files/a.bin"
    --prompt "a photo of a {} person" --save_dir images --num_images_per_prompt=8 --n_iter=2"""
    ours = shlex.split(translated(["generate", *shlex.split(theirs)]))
    command = Parser()
    options.of_generate(command)
    given = command.parse_args(ours[1:])
    assert (given.tokens, given.prompt) == ([Path("my files/a.bin")], ["a photo of a {} person"])
    assert (given.steps, given.count, given.layout, given.out) == (50, 16, "published", Path("images"))


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("", "--steps 5000 --learning-rate 1e-4 --batch-size 8"),
        ("--scale_lr", "--steps 5000 --learning-rate 0.0008 --batch-size 8"),
        (
            "--train_batch_size 2 --gradient_accumulation_steps 4 --max_train_steps 320 --learning_rate 0.005",
            "--steps 320 --learning-rate 0.005 --batch-size 8 --micro-batch-size 2",
        ),
        (
            "--max_train_steps 9 --learning_rate 1 --validation_prompt 'a {} person' --mixed_precision no",
            '--steps 9 --learning-rate 1 --batch-size 8 --prompt "a {} person" --precision fp32 --sample-every 100',
        ),
    ],
)
def test_what_their_script_does_unsaid_is_said(theirs: str, ours: str) -> None:
    """It takes other defaults than the published run."""
    both = "train --pretrained_model_name_or_path m --train_data_dir p "
    assert translated(shlex.split(both + theirs)) == f"train m p {ours}"
    command = Parser()
    options.of_train(command)
    command.parse_args([*shlex.split(ours), "m", "p"])


@pytest.mark.parametrize(
    ("theirs", "rate"),
    [
        ("--learning_rate 0.000625 --scale_lr", "0.005"),
        ("--learning_rate=1e-4 --scale_lr --train_batch_size 4 --gradient_accumulation_steps 2", "0.0008"),
        ("--scale_lr --learning_rate much", "X"),
    ],
)
def test_a_scaled_rate_is_multiplied_out(theirs: str, rate: str) -> None:
    with pytest.raises(ValueError, match=f"--learning-rate {re.escape(rate)}:"):
        refuse_published_flags(["train", "model", "photo.jpg", *theirs.split()])


@pytest.mark.parametrize(
    "theirs",
    [
        "train --pretrained_model_name_or_path m --train_data_dir p --learning_rate",
        "train --pretrained_model_name_or_path m --train_data_dir p --unknown 3",
        "train m p --max_train_steps 3",
        "train --scale_lr m --train_data_dir p --pretrained_model_name_or_path m",
        "--max_train_steps 3",
    ],
)
def test_half_of_a_command_is_not_translated(theirs: str) -> None:
    assert translated(theirs.split()) == ""
    with pytest.raises(ValueError, match="published"):
        refuse_published_flags(theirs.split())


@pytest.mark.parametrize("page", ["moving.md", "command-line.md", "python.md"])
def test_every_command_of_a_page_can_be_given(page: str) -> None:
    text = (DOCS / page).read_text(encoding="utf-8")
    lines = re.findall(r"^crossinit (.*)$", text, flags=re.MULTILINE)
    assert len(lines) >= 4
    for line in lines:
        name, *rest = shlex.split(line)
        command = Parser()
        getattr(options, f"of_{name}")(command)
        command.parse_args(rest)


@pytest.mark.parametrize("page", ["moving.md", "command-line.md"])
def test_every_option_that_a_page_names_is_there(page: str) -> None:
    text = (DOCS / page).read_text(encoding="utf-8")
    known = {"--help", "--local-dir"}
    for add in (getattr(options, name) for name in vars(options) if name.startswith("of_")):
        command = Parser()
        add(command)
        known |= {name for action in command._actions for name in action.option_strings}
    named = set(_OURS.findall(text)) - {f"--{name}" for name in PUBLISHED}
    assert len(named) > 15 and named - known == set()
