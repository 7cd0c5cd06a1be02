from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import cgcl_fast
from cgcl_fast import _backend, _library, info, ops
from cgcl_fast.methods import METHODS


def test_text_names_versions_and_every_op(capsys):
    assert info.main([]) == 0
    shown = capsys.readouterr().out
    assert cgcl_fast.__version__ in shown and torch.__version__ in shown
    rows = [line.split() for line in shown.splitlines()]
    assert {row[0] for row in rows if len(row) > 2 and row[1] == "cpu"} >= set(ops.__all__)


def test_json_is_what_collect_says(capsys):
    assert info.main(["--json"]) == 0
    assert json.loads(capsys.readouterr().out) == info.collect()


@pytest.mark.skipif(_library.problem is not None, reason="needs the native library")
def test_every_op_is_native_on_the_cpu():
    with cgcl_fast.backend("auto"):
        assert {op: row["cpu"]["backend"] for op, row in info.collect()["ops"].items()} == dict.fromkeys(
            ops.__all__, "native"
        )


def test_reference_is_explained():
    with cgcl_fast.backend("reference"):
        assert info.chosen("adain", "cpu") == ("reference", "the backend asked for")
    assert info.chosen("no_such_op", "cpu")[0] == "reference"


@pytest.mark.skipif(torch.version.cuda is None, reason="torch is built without CUDA")
def test_cuda_is_shown_without_a_gpu(capsys):
    info.main([])
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert {row[0] for row in rows if len(row) > 2 and row[1] == "cuda"} >= set(ops.__all__)
    assert any("_C_cuda" in row for row in rows)


def test_choice_on_cuda_is_explained(monkeypatch):
    kernels = {("triton", "cuda"): {"adain"}, ("native", "cuda"): {"adain", "dag_select"}}
    monkeypatch.setattr(_backend, "kernels", kernels)
    monkeypatch.setattr(_backend, "problems", {})
    monkeypatch.setattr(_backend, "_decided", {})
    with cgcl_fast.backend("auto"):
        half = "float32, float16, bfloat16; other dtypes take the reference"
        assert info.chosen("adain", "cuda") == ("triton", half)
        kernels.pop(("triton", "cuda"))
        _backend._decided.clear()
        _backend.problems["triton", "cuda"] = "Triton is not installed"
        assert info.chosen("adain", "cuda") == ("native", f"CUDA C++: Triton is not installed; {half}")
        _backend.problems["native", "cuda"] = "not built: no nvcc"
        reason = "no kernel for cuda; Triton is not installed; not built: no nvcc"
        assert info.chosen("patch_nce", "cuda") == ("reference", reason)
    with cgcl_fast.backend("native"):
        assert info.chosen("adain", "cuda") == ("native", f"CUDA C++: the backend asked for; {half}")


def test_backend_without_kernel_is_explained():
    with cgcl_fast.backend("native"):
        name, reason = info.chosen("no_such_op", "cpu")
    assert name == "none" and "'native' was asked for but has no kernel on cpu" in reason


def installed_without_native_files(folder: Path) -> Path:
    shutil.copytree(
        Path(cgcl_fast.__file__).parent,
        folder / "cgcl_fast",
        ignore=shutil.ignore_patterns("*.so", "__pycache__", "_C.problem.txt"),
    )
    return folder / "cgcl_fast"


# The finder of an editable installation would still find the modules that the copy lacks.
INFO = """
import sys
sys.meta_path[:] = [finder for finder in sys.meta_path if "editable" not in getattr(finder, "__module__", "")]
from cgcl_fast import info
sys.exit(info.main([]))
"""


def shown_from(package: Path, **environment: str) -> str:
    result = subprocess.run(
        [sys.executable, "-c", INFO],
        cwd=package.parent,
        env={**os.environ, "PYTHONPATH": str(package.parent), "CGCL_FAST_LIBRARY": "", **environment},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert result.returncode == 0, result.stderr
    assert str(package) in result.stdout
    return result.stdout


def test_without_native_files_it_says_what_to_install(tmp_path):
    python_only = tmp_path / "bin"
    python_only.mkdir()
    shown = shown_from(installed_without_native_files(tmp_path), PATH=str(python_only))
    assert "not built" in shown and "no C++ compiler" in shown and "install g++" in shown
    assert "the native library is not in use" in shown


def test_reason_of_a_failed_build_is_shown(tmp_path):
    package = installed_without_native_files(tmp_path)
    (package / "_C.problem.txt").write_text("the compiler said so\n")
    assert "not built: the compiler said so" in shown_from(package)


def test_native_module_of_another_python_is_named(tmp_path):
    package = installed_without_native_files(tmp_path)
    (package / "_native.cpython-399-x86_64-linux-gnu.so").write_bytes(b"")
    assert "_native.cpython-399-x86_64-linux-gnu.so" in shown_from(package)


def test_native_module_that_does_not_load_is_named(tmp_path):
    package = installed_without_native_files(tmp_path)
    (package / "_native.so").write_bytes(b"not a module")
    assert "built for another Python" in shown_from(package)


def test_methods_have_the_papers_sizes(capsys):
    assert info.main(["--methods", "--json"]) == 0
    sizes = json.loads(capsys.readouterr().out)
    assert list(sizes) == list(METHODS)
    published = {"G": 11_378_179, "D": 2_764_737, "H": 560_384, "total": 14_703_300}
    assert sizes["cut"] == published and sizes["fastcut"] == published
    assert info.main(["--methods"]) == 0
    shown = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    for method, millions in (("cut", "14.703 M"), ("enco", "14.456 M"), ("cyclegan", "28.286 M")):
        assert millions in shown[method]
    for method, megabytes in (("cgl", 119), ("cgcl", 125)):
        assert abs(info.megabytes(sizes[method]) - megabytes) <= 0.02 * megabytes
        assert f"{info.megabytes(sizes[method]):.1f} MB" in shown[method]
    assert "47.8 MB" in shown["cut"]  # 4 bytes for each parameter of G and H


def test_size_leaves_all_discriminators_out():
    assert info.megabytes({"G_g": 10**6, "H": 5 * 10**5, "D_g": 7 * 10**6, "D_o": 10**6, "total": 95 * 10**5}) == 6.0
