"""The page for users of the published code names each of that code's options, and only options that exist here."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from cgcl_fast._command import Parser
from cgcl_fast._train_options import make_parser, resolve
from cgcl_fast.methods import METHODS
from cgcl_fast.translate import TranslateOptions

PAGE = (Path(__file__).parent.parent / "docs" / "from-published-code.md").read_text()

CUT = """
dataroot name easy_label gpu_ids checkpoints_dir model input_nc output_nc ngf ndf netD netG n_layers_D normG normD
init_type init_gain no_dropout no_antialias no_antialias_up dataset_mode direction serial_batches num_threads batch_size
load_size crop_size max_dataset_size preprocess no_flip display_winsize random_scale_max epoch verbose suffix
stylegan2_G_num_downsampling
display_freq display_ncols display_id display_server display_env display_port update_html_freq print_freq no_html
save_latest_freq save_epoch_freq evaluation_freq save_by_iter continue_train epoch_count phase pretrained_name n_epochs
n_epochs_decay beta1 beta2 lr gan_mode pool_size lr_policy lr_decay_iters
results_dir eval num_test
CUT_mode lambda_GAN lambda_NCE nce_idt nce_layers nce_includes_all_negatives_from_minibatch netF netF_nc nce_T
num_patches flip_equivariance
lambda_A lambda_B lambda_identity lambda_R1 lambda_regression
"""
"""Of the published CUT code: options/base_options.py, train_options.py, test_options.py, and the models."""

ENCO = """
n_blocks prj_norm warmup_epochs lambda_IDT lr_G lr_D lr_F sampling_strategy oversample_ratio random_ratio
stop_idt_epochs stop_gradient two_F no_predictor decay_idt
"""
"""What both versions of EnCo's code have beyond these."""

PUBLISHED = [*CUT.split(), *ENCO.split()]


def columns() -> list[tuple[set[str], set[str]]]:
    """Of each row the published options and ours."""
    rows = re.findall(r"^\| (`\w+`.*?) \| (.*?) \| .*\|$", PAGE, re.M)
    return [(set(re.findall(r"`(\w+)`", theirs)), set(re.findall(r"`--([\w-]+)`", ours))) for theirs, ours in rows]


def test_every_published_option_has_one_row() -> None:
    named = [name for theirs, _ in columns() for name in theirs]
    assert sorted(named) == sorted(PUBLISHED)


def test_every_option_of_ours_is_one() -> None:
    translate = Parser()
    translate.add_class_arguments(TranslateOptions, None)
    parsers = [translate, *map(make_parser, METHODS)]
    known = {name for parser in parsers for name in re.findall(r"--(\w[\w-]*)", parser.format_help())}
    ours = {name for _, ours in columns() for name in ours}
    assert len(ours) > 50 and ours - known == set()
    anywhere = set(re.findall(r"--(\w[\w-]*)", PAGE))
    assert anywhere - known - set(PUBLISHED) == set()


def test_commands_are_understood() -> None:
    (block,) = re.findall(r"```\n(.*?)```", PAGE, re.S)
    commands = [shlex.split(line, comments=True) for line in block.replace("\\\n", " ").splitlines()]
    assert [command[:4] for command in commands] == [
        ["python", "-m", "cgcl_fast.train", method] for method in ("sincut", "enco", "enco")
    ]
    sincut, decoupled, cosine = (resolve(command[3:]) for command in commands)
    assert (sincut.crops, sincut.networks, sincut.minibatch_stddev) == ("published", "published", False)
    assert (decoupled.loss, decoupled.weights, cosine.loss, cosine.predictor_norm) == (
        "decoupled",
        "published",
        "cosine",
        True,
    )
