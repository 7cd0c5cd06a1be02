"""Benchmarks: every op and the training step beside eager PyTorch and `torch.compile`, in the same run.

python -m benchmarks.run                    runs the whole suite and writes benchmarks/results/
python -m benchmarks.report FILE.json       tables and a plot of its results
python -m benchmarks.cuda                   times the ops on a GPU
python -m benchmarks.gpu_step               times training steps on a GPU: wall clock, host, device, kernels, memory
python -m benchmarks.bench_data            times the loader and translate beside a GPU
python -m benchmarks.step METHOD            profiles a training step on a CPU by kind of work
pytest benchmarks --benchmark-disable       runs each case once and checks that its implementations agree
"""

import sys
from importlib.machinery import ModuleSpec
from importlib.util import module_from_spec
from pathlib import Path

# This project's tests, which are not a package: otherwise torch-fidelity's package of that name would be found.
_tests = ModuleSpec("tests", None, is_package=True)
_tests.submodule_search_locations = [str(Path(__file__).resolve().parent.parent / "tests")]
sys.modules.setdefault("tests", module_from_spec(_tests))
