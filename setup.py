"""Builds the native libraries. Everything else about the package is in pyproject.toml.

`_C` contains the schemas and CPU kernels on LibTorch's stable ABI: one file works with every torch from 2.11 on and
every Python. `_native` is a small pybind11 module that reports how it was built. `_C_cuda` contains the CUDA C++
kernels on the same ABI and is built if nvcc is found, with or without a GPU. All are optional: if they cannot be built
the package installs without them, unless CGCL_FAST_REQUIRE_NATIVE=1 (or CGCL_FAST_REQUIRE_CUDA=1) requires them.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

from setuptools import Extension, setup

try:
    from setuptools.modified import newer_group
except ImportError:  # setuptools before 69
    from distutils.dep_util import newer_group

ROOT = Path(__file__).parent
CSRC = ROOT / "csrc"
ABI_TARGET = "2.11"
TARGET_VERSION = "0x020b000000000000"
PROBLEM_FILE = "_C.problem.txt"  # the reason of a failed build, printed by `python -m cgcl_fast.info`
CUDA_PROBLEM_FILE = "_C_cuda.problem.txt"
CUDA_ARCHITECTURES = "8.0;9.0+PTX"  # unless TORCH_CUDA_ARCH_LIST is set; PTX covers later GPUs
# Separate rounding of products and sums, as on the CPU and in eager PyTorch; kernels request fused multiply-adds
# explicitly.
NVCC_FLAGS = ["-std=c++17", "-O3", "-fmad=false", "-Xfatbin=-compress-all", "-Xcompiler=-fPIC,-fvisibility=hidden"]
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


def find_nvcc() -> str | None:
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    return (shutil.which("nvcc", path=os.path.join(home, "bin")) if home else None) or shutil.which("nvcc")


def cuda_architectures() -> list[tuple[str, str]]:
    """nvcc's (virtual, real) architectures: [("compute_80", "sm_80"), ..., ("compute_90", "compute_90")]."""
    pairs = []
    wanted = os.environ.get("TORCH_CUDA_ARCH_LIST") or CUDA_ARCHITECTURES
    for name in re.split(r"[;, ]+", wanted.strip()):
        match = re.fullmatch(r"(\d+)\.(\d[af]?)(\+PTX)?", name)
        if match is None:
            raise ValueError(f"TORCH_CUDA_ARCH_LIST: expected numbers such as {CUDA_ARCHITECTURES!r}, got {name!r}")
        number = match[1] + match[2]
        pairs.append((f"compute_{number}", f"sm_{number}"))
        if match[3]:
            pairs.append((f"compute_{number}", f"compute_{number}"))
    return pairs


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
            # _C is not a Python module: any Python loads it, so its name has no Python version.
            parts = name.split(".")
            own = parts[-1] in ("_C", "_C_cuda")
            return os.path.join(*parts) + ".so" if own else super().get_ext_filename(name)

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
            if ext.name.endswith("._C_cuda"):
                self.build_cuda_or_say_why_not(ext)
                return
            if ext.name.endswith("._C"):
                ext.extra_objects = self.compile_variants(ext)
            if ext.name.endswith("._native"):
                architectures = " ".join(self.cuda_architectures)
                ext.define_macros.append(("CGCL_CUDA_ARCHITECTURES", f'"{architectures}"'))
                record = Path(self.build_temp, "cuda-architectures.txt")  # rebuild if they have changed
                if not record.exists() or record.read_text() != architectures:
                    record.parent.mkdir(parents=True, exist_ok=True)
                    record.write_text(architectures)
                ext.depends = [*ext.depends, str(record)]
            super().build_extension(ext)

        cuda_architectures: list[str] = []

        def build_cuda_or_say_why_not(self, ext):
            built, problem = self.built(ext.name), Path(self.build_lib, "cgcl_fast", CUDA_PROBLEM_FILE)
            problem.unlink(missing_ok=True)
            try:
                if os.environ.get("CGCL_FAST_NO_CUDA", "0") == "1":
                    raise RuntimeError("CGCL_FAST_NO_CUDA=1")
                nvcc = find_nvcc()
                if nvcc is None:
                    raise FileNotFoundError("nvcc was found neither in CUDA_HOME nor on PATH")
                pairs = cuda_architectures()
                self.build_cuda(nvcc, pairs, built, ext)
                self.cuda_architectures = [real for _, real in pairs]
            except Exception as error:
                if os.environ.get("CGCL_FAST_REQUIRE_CUDA", "0") == "1":
                    raise
                built.unlink(missing_ok=True)
                problem.parent.mkdir(parents=True, exist_ok=True)
                problem.write_text(f"{error}\n", encoding="utf-8")

        def build_cuda(self, nvcc, pairs, built, ext):
            # A separate nvcc rule: torch's own links libraries that a CPU build of torch lacks.
            flags = [*NVCC_FLAGS, *(f"-gencode=arch={virtual},code={real}" for virtual, real in pairs)]
            definitions = ["-DUSE_CUDA", f"-DTORCH_TARGET_VERSION={TARGET_VERSION}"]
            if " " not in os.environ.get("CXX", " "):
                flags.append(f"-ccbin={os.environ['CXX']}")
            includes = [f"-isystem={path}" for path in cpp_extension.include_paths()]
            folder = Path(self.build_temp, "cuda")
            folder.mkdir(parents=True, exist_ok=True)
            command_file = folder / "command.txt"
            command = [nvcc, *flags, *definitions, *includes]
            if not command_file.exists() or command_file.read_text() != "\n".join(command):
                for old in folder.glob("*.o"):
                    old.unlink()
                command_file.write_text("\n".join(command))
            objects, compilations = [], []
            for source in relative((CSRC / "cuda").glob("*.cu")):
                target = folder / f"{Path(source).stem}.o"
                objects.append(str(target))
                if self.force or newer_group([source, *ext.depends], str(target)):
                    compilations.append([*command, "-c", source, "-o", str(target)])
            self.run_nvcc(compilations)
            if not compilations and built.exists():
                return
            built.parent.mkdir(parents=True, exist_ok=True)
            # libtorch pulls in libtorch_cuda if there is one, and is kept although it defines no symbol itself. The
            # CUDA runtime is linked statically: any torch whose CUDA version the driver supports can load the file.
            libraries = [*(f"-L{path}" for path in cpp_extension.library_paths()), "-ltorch", "-ltorch_cpu"]
            keep = ["-Xlinker=--no-as-needed,--exclude-libs,ALL"]
            self.run_nvcc([[nvcc, *flags, "-shared", "-cudart=static", *keep, "-o", str(built), *objects, *libraries]])

        def run_nvcc(self, commands):
            """Run the commands in parallel, as many as MAX_JOBS says; an error shows nvcc's output."""
            most = int(os.environ.get("MAX_JOBS") or os.cpu_count() or 1)
            for start in range(0, len(commands), most):
                running = []
                for command in commands[start : start + most]:
                    print(" ".join(command), flush=True)
                    running.append(
                        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
                    )
                outputs = [process.communicate()[0] for process in running]
                for process, output in zip(running, outputs, strict=True):
                    if process.returncode != 0:
                        raise RuntimeError(f"nvcc failed: {output.strip()[-2000:]}")

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
            # An editable install whose build failed only has the reason to copy.
            for name in (PROBLEM_FILE, CUDA_PROBLEM_FILE):
                problem, in_source = Path(self.build_lib, "cgcl_fast", name), ROOT / "cgcl_fast" / name
                in_source.unlink(missing_ok=True)
                if problem.exists():
                    in_source.write_text(problem.read_text(encoding="utf-8"), encoding="utf-8")
            for ext in list(self.extensions):
                if not self.built(ext.name).exists():
                    (ROOT / self.get_ext_filename(self.get_ext_fullname(ext.name))).unlink(missing_ok=True)
                    self.extensions.remove(ext)
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
        relative([CSRC / "python.cpp", CSRC / "cpu" / "dispatch.cpp"]),
        include_dirs=pybind11_include_dirs(cpp_extension),
        define_macros=[
            ("CGCL_BUILD_FLAGS", f'"{" ".join(CXX_FLAGS + SANITIZE_FLAGS)}"'),
            ("CGCL_BUILD_TORCH", f'"{torch.__version__}"'),
            ("CGCL_ABI_TARGET", f'"{ABI_TARGET}"'),
        ],
        extra_compile_args=[*CXX_FLAGS],
        depends=depends,
    )
    # setuptools does not compile its sources. It comes first, because `_native` reports the outcome.
    cuda = Extension(
        "cgcl_fast._C_cuda", [], depends=relative([*(CSRC / "common").glob("*.h"), *(CSRC / "cuda").glob("*.*h")])
    )
    return [cuda, core, about], {"build_ext": BuildNative}


def pybind11_include_dirs(cpp_extension) -> list[str]:
    try:
        import pybind11
    except ImportError:
        return cpp_extension.include_paths()  # torch ships the headers too
    return [pybind11.get_include()]


extensions, commands = native_extensions()
setup(ext_modules=extensions, cmdclass=commands)
