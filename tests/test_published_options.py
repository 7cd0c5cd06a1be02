"""Runs with networks of the published code that are not the methods' own: they resume, and their files translate."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from cgcl_fast import compat, train, translate
from cgcl_fast._generator import find_generator

sys.path.insert(0, str(Path(__file__).parent / "engine"))
from engine_checks import assert_same, last_state  # noqa: E402

OPTIONS = """
--size 32 --ngf 2 --ndf 2 --n-blocks 1 --n-down 2 --norm-g batch --norm-d batch --net-d pixel --antialias false
--antialias-up true --gan hinge --init-type orthogonal --init-gain 1 --preprocess resize --eval-images 0 --device cpu
--workers 0 --steps 4 --save-every 2 --log-every 1
"""


def test_a_run_with_batch_norm_resumes_and_all_its_files_translate_alike(tmp_path: Path) -> None:
    assert train.main(["cyclegan", *OPTIONS.split(), "--output", str(tmp_path / "whole")]) == 0
    shutil.copytree(tmp_path / "whole", tmp_path / "half")
    for path in (tmp_path / "half" / "checkpoints").glob("step_00000004*"):
        path.unlink()
    assert train.main(["--resume", "--output", str(tmp_path / "half")]) == 0
    state = last_state(tmp_path / "half")
    assert_same(state, last_state(tmp_path / "whole"))
    batches = state["method"]["G.norms.0.batch.num_batches_tracked"]
    assert batches == 4 * 3 and state["method"]["G.norms.0.batch.running_var"].std() > 0  # x, y and F(y) in each step

    Image.fromarray(np.random.RandomState(0).randint(0, 256, (21, 30, 3), dtype=np.uint8)).save(tmp_path / "x.png")
    generator, file = find_generator(tmp_path / "half")
    assert file.suffix == ".safetensors"
    torch.save(compat.published_state_dict(generator), tmp_path / "latest_net_G.pth")
    found = []
    for index, path in enumerate((file, file.with_suffix(".pt"), tmp_path / "latest_net_G.pth")):
        out = tmp_path / str(index)
        arguments = ["--checkpoint", str(path), "--input", str(tmp_path / "x.png"), "--output", str(out)]
        assert translate.main([*arguments, "--device", "cpu"]) == 0
        found.append((out / "x.png").read_bytes())
    assert found[0] == found[1] == found[2]
