"""The native library as a whole: its symbols, schemas and CPU variants, and the package without it."""

from __future__ import annotations

import ctypes
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import cgcl_fast
from cgcl_fast import _backend, _library, ops
from cgcl_fast.ops import _schemas

ROOT = Path(__file__).parent.parent
VARIANTS = ("baseline", "avx2", "avx512")

needs_library = pytest.mark.skipif(_library.problem is not None, reason=f"native library: {_library.problem}")


def run(*arguments: str, expect: int = 0, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run Python on this checkout, or the package in `cwd`, with more environment variables."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    result = subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": path, **environment},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert result.returncode == expect, result.stderr
    return result


def check(**environment: str) -> dict:
    return json.loads(run(str(ROOT / "tests" / "native_check.py"), **environment).stdout)


def assert_close(errors: dict[str, float]) -> None:
    assert {name.split()[0] for name in errors} == set(ops.__all__)
    for name, error in errors.items():
        # A float32 sum in another order against one rounding of the result to bfloat16.
        assert error < (1e-2 if name.endswith("bfloat16") else 1e-5), name


@needs_library
@pytest.mark.skipif(sys.platform != "linux" or shutil.which("nm") is None, reason="reads an ELF file with nm")
def test_library_uses_only_the_stable_abi():
    listing = subprocess.run(
        ["nm", "-D", "--undefined-only", str(_library.PATH)], check=True, capture_output=True, text=True
    ).stdout
    wanted = {line.split()[1].split("@")[0] for line in listing.splitlines() if line.split()[0] == "U"}
    system = [ctypes.CDLL(name) for name in ("libc.so.6", "libm.so.6", "libstdc++.so.6", "libgcc_s.so.1")]
    foreign = {name for name in wanted if not any(hasattr(library, name) for library in system)}
    assert "torch_parallel_for" in foreign
    assert {name for name in foreign if not re.match(r"(aoti_torch|torch)_", name)} == set()


def test_schemas_in_cpp_and_python_are_the_same():
    source = (ROOT / "csrc" / "ops.cpp").read_text()
    in_cpp = tuple(
        "".join(re.findall(r'"([^"]*)"', definition)) for definition in re.findall(r"m\.def\((.*?)\);", source, re.S)
    )
    assert in_cpp == _schemas.SCHEMAS


@pytest.mark.parametrize("text", _schemas.SCHEMAS, ids=lambda text: text.split("(")[0])
def test_registered_schema_is_the_text(text):
    operator = getattr(torch.ops.cgcl_fast, text.split("(")[0]).default
    assert str(operator._schema) == str(torch._C.parse_schema(f"cgcl_fast::{text}"))


@needs_library
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_cpu_variant_computes_what_the_reference_does(variant):
    report = check(CGCL_FAST_CPU_VARIANT=variant)
    assert report["native"] == "native"
    native = pytest.importorskip("cgcl_fast._native")
    best = json.loads(
        run("-c", "import json; from cgcl_fast import _native; print(json.dumps(_native.cpu_variant()))").stdout
    )
    assert set(native.build_info()["cpu_variants"]) <= set(VARIANTS)
    if not os.environ.get("CGCL_FAST_CPU_VARIANT"):
        assert report["variant"] == min(variant, best, key=VARIANTS.index)
    assert_close(report["errors"])


def test_package_works_without_the_library(tmp_path):
    report = check(CGCL_FAST_LIBRARY=str(tmp_path / "absent.so"))
    assert report["native"] == "auto"
    assert set(report["errors"].values()) == {0.0}
    assert {name.split()[0] for name in report["errors"]} == set(ops.__all__)


def test_damaged_library_is_explained(tmp_path):
    damaged = tmp_path / "_C.so"
    damaged.write_bytes(b"not a library")
    shown = run("-m", "cgcl_fast.info", CGCL_FAST_LIBRARY=str(damaged)).stdout
    assert "does not load" in shown and str(damaged) in shown


def test_asking_for_native_without_the_library_says_why(tmp_path):
    code = "import torch, cgcl_fast.ops as o; o.instance_norm(torch.zeros(1, 1, 2, 2))"
    absent = str(tmp_path / "absent.so")
    failed = run("-c", code, expect=1, CGCL_FAST_BACKEND="native", CGCL_FAST_LIBRARY=absent)
    assert "not built" in failed.stderr and absent in failed.stderr


def test_environment_variable_chooses_the_backend():
    code = "import cgcl_fast; print(cgcl_fast.current_backend())"
    assert run("-c", code, CGCL_FAST_BACKEND="reference").stdout.strip() == "reference"
    assert "expected one of auto, native" in run("-c", code, expect=1, CGCL_FAST_BACKEND="quick").stderr


def test_context_manager_chooses_and_restores_the_backend():
    before = cgcl_fast.current_backend()
    with pytest.raises(KeyError), cgcl_fast.backend("reference"):
        assert cgcl_fast.current_backend() == "reference"
        assert _backend.choose("adain", torch.zeros(1)) == "reference"
        with cgcl_fast.backend("auto"):
            assert cgcl_fast.current_backend() == "auto"
        assert cgcl_fast.current_backend() == "reference"
        raise KeyError
    assert cgcl_fast.current_backend() == before


def test_context_manager_refuses_other_names():
    with pytest.raises(ValueError, match="backend: expected one of auto, native, triton, reference, got 'fast'"):
        cgcl_fast.backend("fast")


@pytest.mark.skipif(torch.cuda.is_available(), reason="triton may have kernels here")
def test_backend_without_kernels_raises():
    with cgcl_fast.backend("triton"), pytest.raises(RuntimeError, match="'triton' was asked for"):
        ops.instance_norm(torch.zeros(1, 1, 2, 2))


@needs_library
def test_library_of_other_sources_is_not_used(tmp_path):
    package = tmp_path / "cgcl_fast"
    shutil.copytree(Path(cgcl_fast.__file__).parent, package, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    schemas = package / "ops" / "_schemas.py"
    schemas.write_text(schemas.read_text() + 'SCHEMAS = (*SCHEMAS, "_newer(Tensor x) -> Tensor")\n')
    shown = run(
        "-c",
        "import torch, cgcl_fast, cgcl_fast.info as i; print(torch.ops.cgcl_fast._newer.default._schema); i.main([])",
        cwd=tmp_path,
        CGCL_FAST_LIBRARY=str(_library.PATH),
    ).stdout
    assert "cgcl_fast::_newer(Tensor x) -> Tensor" in shown and str(package) in shown
    assert "has other or no _newer; build it again" in shown
