"""The CUDA C++ library built by nvcc, without a GPU: its dependencies and content, loading it, and working without
it."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from test_native import run

from cgcl_fast import _library, ops
from cgcl_fast.ops import _schemas

ROOT = Path(__file__).parent.parent
OPS = ("adain", "blur_down", "blur_up", "dag_select", "gather_patches", "instance_norm", "memory_read")
KERNELS = ("_adain", "_blur_down", "_blur_up", "_dag_select", "_gather_patches", "_memory_read")
OPERATORS = tuple(
    name for name in (text.split("(")[0] for text in _schemas.SCHEMAS) if name.removesuffix("_backward") in KERNELS
)


@pytest.fixture(scope="module")
def library() -> Path:
    """`_C_cuda.so`: the one beside the package, or else one built here."""
    if _library.CUDA_PATH.exists():
        return _library.CUDA_PATH
    if sys.platform != "linux" or shutil.which("nvcc") is None or shutil.which("c++") is None:
        pytest.skip("_C_cuda is not built, and nvcc or the C++ compiler is not here to build it")
    folder = ROOT / "build" / "cuda-tests"
    run("setup.py", "-q", "build_ext", "--build-lib", str(folder / "lib"), "--build-temp", str(folder / "temp"),
        CGCL_FAST_REQUIRE_CUDA="1")  # fmt: skip
    return folder / "lib" / "cgcl_fast" / "_C_cuda.so"


def cuobjdump(*arguments: str | Path) -> str:
    tool = shutil.which("cuobjdump")
    if tool is None:  # Triton brings one along
        triton = pytest.importorskip("triton")
        tool = str(Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump")
    return subprocess.run([tool, *arguments], capture_output=True, text=True, check=True).stdout


@pytest.mark.skipif(shutil.which("nm") is None, reason="reads an ELF file with nm")
def test_library_uses_only_the_stable_abi(library):
    listing = subprocess.run(["nm", "-D", str(library)], check=True, capture_output=True, text=True).stdout
    symbols = [line.split()[-2:] for line in listing.splitlines()]
    wanted = {name.split("@")[0] for kind, name in symbols if kind == "U"}
    system = [ctypes.CDLL(name) for name in ("libc.so.6", "libm.so.6", "libstdc++.so.6", "libgcc_s.so.1")]
    foreign = {name for name in wanted if not any(hasattr(part, name) for part in system)}
    assert "aoti_torch_get_current_cuda_stream" in foreign
    # The CUDA runtime is inside, and hidden: no other version of it in the process takes its place.
    allowed = r"(aoti_torch|torch)_|__tls_get_addr$"
    assert {name for name in foreign if not re.match(allowed, name)} == set()
    assert not any(kind in "TW" and name.startswith("cuda") for kind, name in symbols)


def test_library_holds_code_for_each_architecture(library):
    listed = set(re.findall(r"\.(sm_\w+)\.cubin", cuobjdump("-lelf", library)))
    as_text = {name.replace("sm_", "compute_") for name in re.findall(r"\.(sm_\w+)\.ptx", cuobjdump("-lptx", library))}
    native = pytest.importorskip("cgcl_fast._native")
    if library == _library.CUDA_PATH:
        assert listed | as_text == set(native.build_info()["cuda_architectures"].split())
    if not os.environ.get("TORCH_CUDA_ARCH_LIST"):
        assert listed == {"sm_80", "sm_90"} and as_text == {"compute_90"}


def test_kernels_fit_their_registers(library):
    usage = re.findall(
        r"Function (\S+):\s+REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)", cuobjdump("-res-usage", library)
    )
    assert len(usage) > 60
    for name, registers, stack, shared, local in usage:
        # A block of 1024 threads has 64 registers a thread; 48 KiB is what a kernel has without asking for more.
        assert int(registers) <= (64 if re.search(r"plane_(for|back)ward", name) else 128), name
        # Registers spilled, or arrays that an index not known to the compiler reaches: one 8-byte value is let through.
        assert int(stack) + int(local) <= 8, f"{name} keeps {stack} + {local} bytes a thread in memory"
        assert int(shared) <= 48 * 1024, name


@pytest.mark.skipif(torch.version.cuda is None, reason="torch is built without CUDA")
def test_library_loads_without_a_gpu_and_registers_its_kernels(library):
    code = f"""
import torch
torch.ops.load_library({str(_library.PATH)!r})
before = [torch._C._dispatch_has_kernel_for_dispatch_key("cgcl_fast::" + name, "CUDA") for name in {OPERATORS}]
torch.ops.load_library({str(library)!r})
after = [torch._C._dispatch_has_kernel_for_dispatch_key("cgcl_fast::" + name, "CUDA") for name in {OPERATORS}]
print(any(before), all(after))
"""
    assert run("-c", code).stdout.split() == ["False", "True"]


CHOICES = "from cgcl_fast import _backend, ops; print([_backend.choose_on(op, 'cuda') for op in ops.__all__])"
HIDE_TRITON = """
import importlib.util, sys
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "triton" else find(name, *rest)
"""


def chosen(code: str, **environment: str) -> dict[str, str]:
    names = re.findall(r"'(\w+)'", run("-c", code, **environment).stdout)
    return dict(zip(ops.__all__, names, strict=True))


@pytest.mark.skipif(torch.version.cuda is None, reason="torch is built without CUDA")
def test_every_op_takes_triton_where_no_compiler_is(tmp_path):
    pytest.importorskip("triton")
    # Nothing was built, and nothing could be: PATH has neither nvcc nor a C++ compiler.
    hidden = {"CGCL_FAST_LIBRARY": str(tmp_path / "absent.so"), "PATH": str(tmp_path), "CUDA_HOME": str(tmp_path)}
    assert chosen(CHOICES, **hidden) == dict.fromkeys(ops.__all__, "triton")


@pytest.mark.skipif(_library.cuda_problem is not None, reason=f"_C_cuda: {_library.cuda_problem}")
def test_ops_with_cuda_kernels_take_them_where_triton_is_absent():
    expected = {op: "native" if op in OPS else "reference" for op in ops.__all__}
    assert chosen(HIDE_TRITON + CHOICES) == expected


@pytest.mark.skipif(_library.cuda_problem is not None, reason=f"_C_cuda: {_library.cuda_problem}")
def test_cuda_kernels_can_be_asked_for_beside_triton():
    code = f"import cgcl_fast; cgcl_fast.backend('native').__enter__(); {CHOICES.replace('ops.__all__', repr(OPS))}"
    assert run("-c", code).stdout.count("native") == len(OPS)


def test_reason_of_a_failed_cuda_build_is_known(tmp_path):
    folder = tmp_path / "cgcl_fast"
    folder.mkdir()
    problem = tmp_path / "problem.txt"
    assert "no nvcc" in (_library._load(folder / "_C_cuda.so", problem, "no nvcc") or "")
    problem.write_text("nvcc said so\n")
    assert _library._load(folder / "_C_cuda.so", problem, "no nvcc") == "not built: nvcc said so"
    (folder / "_C_cuda.so").write_bytes(b"not a library")
    assert "does not load" in (_library._load(folder / "_C_cuda.so", problem, "no nvcc") or "")


def test_failure_of_nvcc_is_remembered_or_raised_as_asked(tmp_path):
    """An nvcc that fails: the rest is built all the same, unless CGCL_FAST_REQUIRE_CUDA=1."""
    if sys.platform != "linux" or shutil.which("c++") is None:
        pytest.skip("needs a C++ compiler")
    nvcc = tmp_path / "cuda" / "bin" / "nvcc"
    nvcc.parent.mkdir(parents=True)
    nvcc.write_text("#!/bin/sh\necho this nvcc is broken\nexit 3\n")
    nvcc.chmod(0o755)
    output = ["--build-lib", str(tmp_path / "lib"), "--build-temp", str(tmp_path / "temp")]
    script = f"""
import sys, setuptools
sys.argv = ["setup.py", "-q", "build_ext", *{output}]
setup = setuptools.setup
setuptools.setup = lambda ext_modules, **more: setup(ext_modules=[e for e in ext_modules if "_cuda" in e.name], **more)
file = {str(ROOT / "setup.py")!r}
exec(compile(open(file).read(), file, "exec"), dict(__file__=file, __name__="__main__"))
"""
    problem = tmp_path / "lib" / "cgcl_fast" / "_C_cuda.problem.txt"
    environment = {"CUDA_HOME": str(tmp_path / "cuda"), "CGCL_FAST_NO_CUDA": "0", "TORCH_CUDA_ARCH_LIST": ""}
    run("-c", script, CGCL_FAST_REQUIRE_CUDA="0", **environment)
    assert "this nvcc is broken" in problem.read_text()
    environment["CGCL_FAST_NO_CUDA"] = "1"
    run("-c", script, CGCL_FAST_REQUIRE_CUDA="0", **environment)
    assert problem.read_text() == "CGCL_FAST_NO_CUDA=1\n"
    environment.update(CGCL_FAST_NO_CUDA="0", CGCL_FAST_REQUIRE_NATIVE="1")
    assert "this nvcc is broken" in run("-c", script, CGCL_FAST_REQUIRE_CUDA="1", expect=1, **environment).stderr
