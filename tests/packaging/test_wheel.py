"""The source distribution and the wheel built from it: their content, and that the installed wheel works."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest
import torch

import cgcl_fast

ROOT = Path(__file__).parents[2]
PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check")

pytestmark = pytest.mark.slow


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    """Run outside the checkout and without its environment variables."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("CGCL_", "PYTHONPATH"))}
    result = subprocess.run(command, cwd=cwd, env={**clean, **environment}, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-4000:]
    return result.stdout


def names(wheel: Path) -> set[str]:
    return set(zipfile.ZipFile(wheel).namelist())


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """The unpacked source distribution."""
    folder = tmp_path_factory.mktemp("sdist")
    run(sys.executable, "-c", f"from setuptools import build_meta; build_meta.build_sdist({str(folder)!r})", cwd=ROOT)
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as file:
        file.extractall(folder)
    return folder / f"cgcl_fast-{cgcl_fast.__version__}"


def wheel_of(source: Path, to: Path, **environment: str) -> Path:
    run(*PIP, "wheel", "--no-build-isolation", "--no-deps", "--wheel-dir", to, source, cwd=to, **environment)
    (wheel,) = to.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def wheel(source, tmp_path_factory) -> Path:
    if not any(shutil.which(compiler) for compiler in ("c++", "g++", "clang++")):
        pytest.skip("needs a C++ compiler")
    return wheel_of(source, tmp_path_factory.mktemp("wheel"), CGCL_FAST_REQUIRE_NATIVE="1", MAX_JOBS="2")


@pytest.fixture
def installed(tmp_path):
    """install(wheel) into a clean environment, which sees the torch of this one, returns its Python."""

    def install(wheel: Path) -> Path:
        venv.create(tmp_path / "venv", with_pip=False)
        python = tmp_path / "venv" / "bin" / "python"
        run(*PIP, "--python", python, "install", "--no-deps", wheel, cwd=tmp_path)
        packages = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=tmp_path).strip()
        Path(packages, "torch.pth").write_text("\n".join({sysconfig.get_path(p) for p in ("purelib", "platlib")}))
        return python

    return install


FOLDERS = ("csrc", "tests", "benchmarks", "docs", "examples", "scripts", ".github")
SUFFIXES = (".cpp", ".cu", ".cuh", ".h", ".json", ".md", ".png", ".py", ".yml")


def test_source_distribution_carries_all_that_builds_tests_and_documents(source):
    def files(root: Path) -> set[str]:
        found = (path for folder in FOLDERS for path in (root / folder).rglob("*") if path.suffix in SUFFIXES)
        return {str(path.relative_to(root)) for path in found}

    assert files(source) == files(ROOT) and len(files(source)) > 300
    at_root = {path.name for path in source.iterdir() if path.is_file()}
    assert {"LICENSE", "README.md", "SECURITY.md", "setup.py", "pyproject.toml", "CMakeLists.txt"} <= at_root
    assert {"Makefile", ".clang-format", ".dockerignore", ".pre-commit-config.yaml", "CITATION.cff"} <= at_root


def test_wheel_carries_the_native_files(wheel):
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    assert {"cgcl_fast/_C.so", f"cgcl_fast/_native{suffix}", "cgcl_fast/py.typed"} <= names(wheel)
    assert {f"cgcl_fast/configs/{name}.yaml" for name in ("cut", "cut-small")} <= names(wheel)
    assert not any(name.startswith(("tests", "benchmarks", "csrc")) for name in names(wheel))
    if shutil.which("nvcc") is not None:
        assert "cgcl_fast/_C_cuda.so" in names(wheel)
    else:
        assert "cgcl_fast/_C_cuda.problem.txt" in names(wheel)


def test_installed_wheel_computes_natively(wheel, installed, tmp_path):
    python = installed(wheel)
    found = json.loads(run(python, "-m", "cgcl_fast.info", "--json", cwd=tmp_path))
    assert found["torch"] == torch.__version__
    assert found["location"].startswith(str(tmp_path)) and found["native"]["loaded"] and found["build"]["loaded"]
    report = json.loads(run(python, ROOT / "tests" / "native_check.py", cwd=tmp_path))
    assert report["native"] == "native" and max(report["errors"].values()) < 1e-2


def test_package_installs_without_a_compiler(source, installed, tmp_path):
    wheel = wheel_of(source, tmp_path, CC="/no/such/compiler", CXX="/no/such/compiler")
    assert not any(name.endswith(".so") for name in names(wheel))
    python = installed(wheel)
    shown = run(python, "-m", "cgcl_fast.info", cwd=tmp_path)
    assert "/no/such/compiler" in shown and "the native library is not in use" in shown
    report = json.loads(run(python, ROOT / "tests" / "native_check.py", cwd=tmp_path))
    assert report["native"] == "auto" and set(report["errors"].values()) == {0.0}
