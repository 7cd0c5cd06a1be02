"""The presets: every file loads, the full ones match the papers, and ``--help`` explains every option."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest
import yaml

from cgcl_fast import configs
from cgcl_fast._train_options import RunOptions, make_parser, resolve
from cgcl_fast.methods import METHODS
from cgcl_fast.train import main

IMAGES_256 = {"size": 256, "load_size": None, "batch_size": 1, "preprocess": "resize_and_crop", "flip": True}
CYCLEGAN = {**IMAGES_256, "ngf": 64, "ndf": 64, "n_blocks": 9, "n_down": 2, "d_layers": 3, "gan": "lsgan",
            "beta1": 0.5, "beta2": 0.999}  # fmt: skip
CUT = {
    **CYCLEGAN,
    "antialias": True,
    "nce_layers": (0, 4, 8, 12, 16),
    "nce_dim": 256,
    "num_patches": 256,
    "temperature": 0.07,
    "negatives": "internal",
    "queue_size": 16384,
    "momentum": 0.999,
    "init_gain": 0.02,
    "lr": 2e-4,
    "lambda_gan": 1.0,
    "full_view_in_decay": True,
}
CGL = {**IMAGES_256, "preprocess": "resize", "flip": False, "batch_size": 2, "object_size": 128, "min_object": 16,
       "ngf": 64, "n_down": 2, "n_blocks": 4, "style_dim": 8, "mlp_dim": 256,
       "ndf": 64, "d_layers": 6, "lambda_gan": 1.0, "lambda_cls": 1.0, "lambda_rec": 10.0,
       "lambda_cgc": 10.0, "lambda_gp": 10.0, "gp_every": 50, "gp_upper": 1.05, "gp_lower": 1.001, "lr": 1e-4,
       "beta1": 0.5, "beta2": 0.999, "halve_every": 100_000, "epochs at full rate": 20}  # fmt: skip
PAPERS = {
    "cut": {**CUT, "lambda_x": 1.0, "lambda_y": 1.0, "flip_equivariance": False, "epochs at full rate": 200,
            "decay_epochs": 200},
    "fastcut": {**CUT, "lambda_x": 10.0, "lambda_y": 0.0, "flip_equivariance": True, "epochs at full rate": 150,
                "decay_epochs": 50},
    "enco": {**CYCLEGAN, "antialias": True, "nce_dim": 256, "num_patches": 256, "temperature": 0.07, "sampling": "dag",
             "oversample": 4.0, "importance": 0.5, "fresh_random": False, "loss": "infonce", "lambda_gan": 1.0,
             "lambda_nce": 2.0, "lambda_idt": 10.0, "lr_g": 5e-5, "lr_d": 2e-4, "lr_h": 5e-5,
             "epochs at full rate": 100, "decay_epochs": 100, "full_view_in_decay": True},
    "cyclegan": {**CYCLEGAN, "antialias": False, "lambda_cycle": 10.0, "lambda_idt": 0.5, "pool_size": 50, "lr": 2e-4,
                 "init_gain": 0.02, "epochs at full rate": 100, "decay_epochs": 100},
    "sincut": {"batch_size": 1, "flip": True, "crops": "paper", "num_crops": 16, "zoom": None, "ngf": 10,
               "ndf": 8, "n_blocks": 6, "nce_layers": (0, 2, 4), "num_patches": 1, "temperature": 0.07,
               "gan": "nonsaturating", "lambda_nce": 4.0, "lambda_idt": 1.0, "lambda_r1": 1.0, "lr": 2e-3,
               "beta1": 0.0, "beta2": 0.99, "epochs at full rate": 8, "decay_epochs": 8},
    "mguit": {"size": 360, "preprocess": "scale_shortside_and_crop", "batch_size": 1, "ngf": 64, "init_gain": 0.001,
              "classes": ("1", "2", "3"), "items": (5, 2, 3), "background_items": 10, "memory": "class",
              "memory_temperature": 1.0, "memory_loss": "contrastive", "update": "paper",
              "lambda_self": 10.0, "lambda_cycle": 10.0,
              "lambda_content": 1.0, "lambda_gan": 1.0, "lambda_kl": 0.01, "lambda_latent": 10.0, "lambda_key": 1.0,
              "lambda_value": 0.5, "lr": 1e-4, "lr_content": 4e-5, "beta1": 0.9, "beta2": 0.999,
              "epochs at full rate": 30, "decay_epochs": 30},
    "cgl": {**CGL, "init_type": "kaiming", "cgc_generator": "global", "lambda_code": 1.0},
    "cgcl": {**CGL, "init_type": "kaiming_uniform", "cgc_generator": "object", "lambda_code": 10.0, "lambda_mdc": 1.0,
             "num_patches_g": 256, "num_patches_o": 64, "num_negatives_g": 64, "num_negatives_o": 16,
             "temperature": 0.07, "nce_dim": 256},
}  # fmt: skip
"""What the papers print, and where they are silent the authors' code (of CGL's and CGCL's epochs: neither)."""


def test_every_method_has_its_files_and_every_file_its_method() -> None:
    folder = Path(configs.__file__).parent
    expected = {configs.path_of(method, preset).name for method in METHODS for preset in configs.PRESETS}
    assert {path.name for path in folder.glob("*.yaml")} == expected
    with pytest.raises(ValueError, match="preset: expected one of paper, small, got 'large'"):
        configs.path_of("cut", "large")


@pytest.mark.parametrize("preset", configs.PRESETS)
@pytest.mark.parametrize("method", METHODS)
def test_files_load_and_mean_what_they_say(method: str, preset: str) -> None:
    path = configs.path_of(method, preset)
    written = yaml.safe_load(path.read_text())
    known = {field.name for kind in (RunOptions, METHODS[method].Config) for field in fields(kind)} | {"method"}
    assert written["method"] == method and written.keys() <= known
    by_file = resolve(["--config", str(path), "--data", "somewhere", "--output", "x"])
    by_name = resolve([method, "--preset", preset, "--data", "somewhere", "--output", "x"])
    for name, value in written.items():
        found = by_file[name]
        assert (list(found) if isinstance(found, tuple) else found) == value
        if name != "method":
            assert by_name[name] == found
    METHODS[method].Config(**{f.name: by_file[f.name] for f in fields(METHODS[method].Config) if f.name != "epochs"})


@pytest.mark.parametrize("method", METHODS)
def test_full_settings_are_the_papers(method: str) -> None:
    options = resolve([method, "--data", "somewhere"])  # paper is the preset of photographs
    full_rate = PAPERS[method]["epochs at full rate"]
    assert METHODS[method].Config().epochs == full_rate and options.epochs is None and options.steps is None
    numbers = {name: value for name, value in PAPERS[method].items() if name != "epochs at full rate"}
    assert {name: options[name] for name in numbers} == numbers


@pytest.mark.parametrize("method", METHODS)
def test_full_settings_and_defaults_are_one(method: str) -> None:
    """A library user, who builds a config without the file, gets the same."""
    default, written = METHODS[method].Config(), configs.read(method, "paper")
    for name in written.keys() & {field.name for field in fields(default)}:
        value = getattr(default, name)
        assert (list(value) if isinstance(value, tuple) else value) == written[name], name


@pytest.mark.parametrize("method", METHODS)
def test_small_settings_are_small_and_short(method: str) -> None:
    options = resolve([method])
    assert options.preset == "small" and options.steps <= 5000
    assert min(options.size, options.as_dict().get("crop_size") or options.size) <= 128
    assert resolve([method, "--epochs", "2"]).steps is None
    assert resolve([method, "--preset", "paper"]).steps is None


@pytest.mark.parametrize("method", METHODS)
def test_help_explains_every_option(method: str) -> None:
    explained = {action.dest: action.help for action in make_parser(method)._actions}
    for field in (*fields(RunOptions), *fields(METHODS[method].Config)):
        assert len((explained[field.name] or "").split()) >= 2, field.name


def test_wrong_presets_are_told(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["cut", "--preset", "large"]) == 2
    assert "preset" in capsys.readouterr().err
    (tmp_path / "config.yaml").write_text("method: cut\n")
    assert main(["--resume", "--preset", "small", "--output", str(tmp_path)]) == 2
    assert "goes on with its own options" in capsys.readouterr().err
