"""Builds the native libraries. Everything else about the package stands in pyproject.toml.

`_C` holds the schemas and CPU kernels on LibTorch's stable ABI: one file serves every torch from 2.11 on and every
Python. `_native` is a small pybind11 module that reports how it was built. Neither is needed: where they cannot be
built the package installs without them, unless CGCL_FAST_REQUIRE_NATIVE=1 asks for an error instead.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
import warnings
from pathlib import Path

from setuptools import Extension, setup

ROOT = Path(__file__).parent
CSRC = ROOT / "csrc"
ABI_TARGET = "2.11"
TARGET_VERSION = "0x020b000000000000"
PROBLEM_FILE = "_C.problem.txt"  # the reason of a build that failed, which `python -m cgcl_fast.info` prints
CPU_VARIANTS = {
    "baseline": ["-DCGCL_VECTOR_BYTES=16"],
    "avx2": ["-DCGCL_VECTOR_BYTES=32", "-mavx2", "-mfma"],
    "avx512": [
        "-DCGCL_VECTOR_BYTES=64",
        *("-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx2", "-mfma", "-mprefer-vector-width=512"),
    ],
}
IS_X86 = platform.machine().lower() in ("x86_64", "amd64")
CXX_FLAGS = ["-std=c++17", "-O3", "-fno-math-errno", "-fno-trapping-math", "-fvisibility=hidden", "-g0"]
if IS_X86:
    CXX_FLAGS.append("-DCGCL_X86_VARIANTS")
SANITIZE = os.environ.get("CGCL_FAST_SANITIZE", "")  # for example "address,undefined"
SANITIZE_FLAGS = [f"-fsanitize={SANITIZE}", "-fno-omit-frame-pointer", "-O1", "-g"] if SANITIZE else []


def required() -> bool:
    return os.environ.get("CGCL_FAST_REQUIRE_NATIVE", "0") == "1"


def relative(paths) -> list[str]:
    return sorted(str(path.relative_to(ROOT)) for path in paths)


def native_extensions():
    try:
        import torch
        from torch.utils import cpp_extension
    except ImportError as error:
        if required():
            raise
        warnings.warn(
            f"cgcl_fast is installed without its native library: torch is not importable ({error})", stacklevel=1
        )
        return [], {}
    if sys.platform == "win32":
        warnings.warn("cgcl_fast is installed without its native library: not ported to this compiler", stacklevel=1)
        return [], {}

    class BuildNative(cpp_extension.BuildExtension):
        def get_ext_filename(self, name):
            # _C is no Python module: any Python loads it, so its name carries no Python version.
            parts = name.split(".")
            return os.path.join(*parts) + ".so" if parts[-1] == "_C" else super().get_ext_filename(name)

        def build_extensions(self):
            problem = Path(self.build_lib, "cgcl_fast", PROBLEM_FILE)
            problem.unlink(missing_ok=True)
            try:
                compiler = cpp_extension.get_cxx_compiler().split()[0]  # CXX, or c++
                if shutil.which(compiler) is None:
                    raise FileNotFoundError(f"no C++ compiler: {compiler} is not found")
                super().build_extensions()
            except Exception as error:
                if required():
                    raise
                warnings.warn(f"cgcl_fast is installed without its native library: {error}", stacklevel=1)
                for ext in self.extensions:
                    self.built(ext.name).unlink(missing_ok=True)  # of an earlier build, from other sources
                problem.parent.mkdir(parents=True, exist_ok=True)
                problem.write_text(f"{error}\n", encoding="utf-8")

        def build_extension(self, ext):
            if ext.name.endswith("._C"):
                ext.extra_objects = self.compile_variants(ext)
            super().build_extension(ext)

        def compile_variants(self, ext) -> list[str]:
            sources = relative((CSRC / "cpu" / "kernels").glob("*.cpp"))
            objects: list[str] = []
            for variant, flags in CPU_VARIANTS.items() if IS_X86 else [("baseline", CPU_VARIANTS["baseline"])]:
                objects += self.compiler.compile(
                    sources,
                    output_dir=os.path.join(os.path.abspath(self.build_temp), variant),
                    extra_postargs=[
                        *CXX_FLAGS,
                        *SANITIZE_FLAGS,
                        "-ffp-contract=fast",
                        f"-DCGCL_VARIANT={variant}",
                        *flags,
                    ],
                    depends=ext.depends,
                )
            return objects

        def copy_extensions_to_source(self):
            # An editable install of a build that failed has only the reason to copy.
            problem = Path(self.build_lib, "cgcl_fast", PROBLEM_FILE)
            in_source = ROOT / "cgcl_fast" / PROBLEM_FILE
            in_source.unlink(missing_ok=True)
            if problem.exists():
                in_source.write_text(problem.read_text(encoding="utf-8"), encoding="utf-8")
                for ext in self.extensions:
                    (ROOT / self.get_ext_filename(self.get_ext_fullname(ext.name))).unlink(missing_ok=True)
                self.extensions = []
            super().copy_extensions_to_source()

        def built(self, name: str) -> Path:
            return Path(self.build_lib, self.get_ext_filename(self.get_ext_fullname(name)))

    depends = relative([*CSRC.rglob("*.h"), *(CSRC / "cpu" / "kernels").glob("*.cpp")])
    core = Extension(
        "cgcl_fast._C",
        relative([CSRC / "ops.cpp", *(CSRC / "cpu").glob("*.cpp")]),
        include_dirs=cpp_extension.include_paths(),
        library_dirs=cpp_extension.library_paths(),
        libraries=["torch", "torch_cpu"],
        define_macros=[("TORCH_TARGET_VERSION", TARGET_VERSION)],
        extra_compile_args=[*CXX_FLAGS, *SANITIZE_FLAGS],
        extra_link_args=[*SANITIZE_FLAGS],
        depends=depends,
    )
    about = Extension(
        "cgcl_fast._native",
        relative([CSRC / "python.cpp", CSRC / "cpu" / "variant.cpp"]),
        include_dirs=pybind11_include_dirs(cpp_extension),
        define_macros=[
            ("CGCL_BUILD_FLAGS", f'"{" ".join(CXX_FLAGS + SANITIZE_FLAGS)}"'),
            ("CGCL_BUILD_TORCH", f'"{torch.__version__}"'),
            ("CGCL_ABI_TARGET", f'"{ABI_TARGET}"'),
            ("CGCL_CUDA_ARCHITECTURES", '""'),
        ],
        extra_compile_args=[*CXX_FLAGS],
        depends=depends,
    )
    return [core, about], {"build_ext": BuildNative}


def pybind11_include_dirs(cpp_extension) -> list[str]:
    try:
        import pybind11
    except ImportError:
        return cpp_extension.include_paths()  # torch ships the headers too
    return [pybind11.get_include()]


extensions, commands = native_extensions()
setup(ext_modules=extensions, cmdclass=commands)
