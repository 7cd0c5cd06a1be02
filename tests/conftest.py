"""The device of the tests: `CGCL_FAST_TEST_DEVICE=cuda pytest tests/ops tests/nn tests/methods` runs them on a GPU.

It is `op_checks.DEVICE`; tests of nn and methods move their modules and tensors there, and tests of the ops run with it
as the default device (tests/ops/conftest.py). Generators stay on the CPU: tensors drawn from one go through the helpers
of tests/ops/op_checks.py.

Every run draws the same numbers: each test starts with the same seeds, and hypothesis derives its examples from the
test alone. `--hypothesis-profile=fuzz`, used by `make fuzz`, draws others each time, and ten times as many.
"""

from __future__ import annotations

import errno
import importlib.util
import os
import random
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

HERE = Path(__file__).parent

# TorchScript knows operators by the addresses of their functions, also of those that are gone. A list at such an
# address is an operator to it ("builtin cannot be used as a value"), so the functions stay.
_register_builtin, _registered = torch.jit._builtins._register_builtin, []
torch.jit._builtins._register_builtin = lambda fn, op: (_registered.append(fn), _register_builtin(fn, op))[1]
sys.path.insert(0, str(HERE / "ops"))  # op_checks, for the tests beside those of the ops

if importlib.util.find_spec("hypothesis") is None:  # an image with PyTorch and little else
    sys.path.insert(0, str(HERE / "without_hypothesis"))

from hypothesis import settings  # noqa: E402

settings.register_profile("ci", derandomize=True, database=None, deadline=None, print_blob=True)
settings.register_profile("fuzz", max_examples=1000, database=None, deadline=None, print_blob=True)
settings.load_profile("ci")

try:
    from hypothesis.internal.conjecture import providers
except ImportError:  # the stand-in, or another version
    pass
else:
    # It also draws numbers that it reads in the package's modules, of those that happen to be imported: which ones
    # depends on the tests that the process has run before.
    if hasattr(providers, "is_local_module_file"):
        providers.is_local_module_file = lambda path: False


LONG = ("test_interpreter.py", "test_cmake.py", "test_wheel.py", "test_runs.py", "test_two_processes.py")
"""Files of tests that take minutes."""


# A shell starts what is in the background with Ctrl-C ignored, and so would be the commands that tests interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def seed() -> None:
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    seed()  # for the fixtures of a module, which its first test makes


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Each file is one process's, which ends late if it begins late with a long one.

    CGCL_FAST_TEST_PART=2/3 leaves the second of three processes its part of the tests.
    """
    items.sort(key=lambda item: item.path.name not in LONG)
    part, parts = map(int, os.environ.get("CGCL_FAST_TEST_PART", "1/1").split("/"))
    items[:] = items[part - 1 :: parts]


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """pytest-xdist sends what a test has printed and logged as UTF-8, which not every file name is."""
    report.sections = [
        (name, content.encode("utf-8", "backslashreplace").decode("utf-8")) for name, content in report.sections
    ]


@pytest.fixture(scope="session", autouse=True)
def folder_of_processes(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Where the processes that tests start keep what they forget, or cannot remove when they are killed."""
    os.environ["TMPDIR"] = str(tmp_path_factory.mktemp("processes"))


@pytest.fixture(autouse=True)
def seeded() -> None:
    seed()  # and for the test, whether or not it is the first


@pytest.fixture
def tar_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where indexes of tars are kept in the test, with nothing remembered of other tests."""
    from cgcl_fast.data import tars  # not at the top: the tests of the ops run without what the data need

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(tars, "_indexes", {})
    return tmp_path / "cache" / "cgcl_fast" / "tars"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a small generator with one style."""
    from cgcl_fast import networks

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("generator") / "g.safetensors"
    networks.save_generator(path, networks.ResnetGenerator(ngf=4, n_blocks=1))
    return path


@pytest.fixture
def hide(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """Makes a folder one that its permissions do not let be listed, also for root, whom they do not bind."""
    hidden: set[str] = set()
    scandir = os.scandir

    def checked(path: str | os.PathLike[str] = ".") -> object:
        if os.path.realpath(path) in hidden:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), os.fspath(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", checked)
    return lambda folder: hidden.add(os.path.realpath(folder))
