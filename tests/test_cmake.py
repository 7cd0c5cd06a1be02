"""The C++ library, its tests and its example, built by CMake and run by ctest."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cgcl_fast import compat, networks
from cgcl_fast.exporting import export_generator

ROOT = Path(__file__).parent.parent
BUILD = ROOT / "build" / "cmake-tests"
# The virtual environment's own programs count even where it is not activated.
SEARCH = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
CMAKE = shutil.which("cmake", path=SEARCH)


def run(*command: str) -> str:
    environment = {**os.environ, "PATH": SEARCH, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "2"}
    result = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert result.returncode == 0, result.stdout[-8000:]
    return result.stdout


@pytest.fixture(scope="module")
def build() -> Path:
    if CMAKE is None or not any(shutil.which(compiler) for compiler in ("c++", "g++", "clang++")):
        pytest.skip("needs cmake and a C++ compiler")
    generator = ["-G", "Ninja"] if shutil.which("ninja", path=SEARCH) else []
    torch_folder = Path(torch.__file__).parent
    options = [f"-DPython3_EXECUTABLE={sys.executable}", f"-DCGCL_TORCH={torch_folder}", "-DCMAKE_BUILD_TYPE=Release"]
    run(CMAKE, "-S", str(ROOT), "-B", str(BUILD), *generator, *options)
    run(CMAKE, "--build", str(BUILD), "--parallel", "2")
    return BUILD


@pytest.fixture(scope="module")
def exported(build: Path) -> Path:
    """Generators and an image, which ctest exported, or else this."""
    folder = build / "exported"
    if not (folder / "plain.pt").exists():
        run(sys.executable, str(ROOT / "tests" / "cpp" / "exported_generator.py"), "export", str(folder))
    return folder


@pytest.mark.slow
def test_ctest_passes(build):
    shown = run(str(Path(CMAKE).with_name("ctest")), "--test-dir", str(build), "--output-on-failure")
    assert "100% tests passed" in shown
    assert "test_kernels_baseline" in shown and "test_ops_baseline" in shown and "compare_translation" in shown


@pytest.mark.slow
@pytest.mark.parametrize(
    ("content", "complaint"),
    [(b"P5\n1 1\n255\n0", "not a binary PPM"), (b"P6\n4 4\n255\n012", "truncated"), (b"P6\n4 4\n65535\n", "8 bits")],
)
def test_example_refuses_a_bad_image(build, exported, tmp_path, content, complaint):
    (tmp_path / "bad.ppm").write_bytes(content)
    result = subprocess.run(
        [build / "translate", exported / "plain.pt", tmp_path / "bad.ppm", tmp_path / "out.ppm"],
        capture_output=True,
        text=True,
    )
    assert result.returncode == 1 and complaint in result.stderr
    assert not (tmp_path / "out.ppm").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("generator", "domain", "complaint"),
    [
        ("styled", "3", "expected less than 3, got 3"),
        ("styled", "night", "expected the index of a domain, got night"),
        ("styled", "-1", "expected the index of a domain, got -1"),
        ("plain", "1", "takes none"),
    ],
)
def test_example_refuses_a_domain_that_is_not_there(build, exported, tmp_path, generator, domain, complaint):
    result = subprocess.run(
        [build / "translate", exported / f"{generator}.pt", exported / "source.ppm", tmp_path / "out.ppm", domain],
        capture_output=True,
        text=True,
    )
    assert result.returncode == 1 and result.stderr.startswith("translate: DOMAIN: ") and complaint in result.stderr
    assert not (tmp_path / "out.ppm").exists()


@pytest.mark.slow
def test_example_refuses_translations_that_are_not_of_three_channels(build, tmp_path):
    export_generator(networks.ResnetGenerator(3, 1, ngf=4, n_blocks=1), "torchscript", tmp_path / "gray.pt")
    (tmp_path / "source.ppm").write_bytes(b"P6\n8 8\n255\n" + bytes(192))
    result = subprocess.run(
        [build / "translate", tmp_path / "gray.pt", tmp_path / "source.ppm", tmp_path / "out.ppm"],
        capture_output=True,
        text=True,
    )
    assert result.returncode == 1 and "3 channels, the translation 1" in result.stderr
    assert not (tmp_path / "out.ppm").exists()


@pytest.mark.slow
def test_the_example_of_inference_translates_as_python_does(build, tmp_path):
    weights = tmp_path / "latest_net_G.pth"
    torch.save(compat.published_state_dict(networks.ResnetGenerator(ngf=4, n_blocks=1)), weights)
    shown = run(sys.executable, str(ROOT / "examples" / "cpp_inference.py"), str(tmp_path), str(weights), str(build))
    difference = float(re.search(r"at most (\d\.\d+)", shown)[1])
    assert difference <= 1.5 / 127.5  # half a step is the rounding to 8 bits
    translated = np.asarray(Image.open(tmp_path / "translated.ppm"))
    assert translated.shape == (128, 128, 3) and translated.std() > 1
