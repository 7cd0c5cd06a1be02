from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from benchmarks import machine, peak_memory
from benchmarks.case import Case


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("cgcl_fast benchmarks")
    group.addoption("--peak-memory", action="store_true", help="measure peak memory too, in a process each")
    group.addoption("--bench-device", default="cpu", help="device of the tensors (default: cpu)")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Parametrises benchmarks with `case` and `implementation`: all implementations of all of the module's CASES."""
    if {"case", "implementation"} <= set(metafunc.fixturenames):
        disabled = metafunc.config.getoption("benchmark_disable")
        pairs = [
            pytest.param(case, implementation, id=f"{case.name} {implementation}")
            for case in metafunc.module.CASES
            if not (disabled and case.slow)
            for implementation in case.implementations
        ]
        metafunc.parametrize("case, implementation", pairs)


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict[str, Any]) -> None:
    machine_info.clear()  # the plugin's own names the host and lists all flags of the processor
    machine_info.update(machine.describe(config.getoption("bench_device")))


@pytest.fixture
def measure(benchmark: Any, request: pytest.FixtureRequest) -> Callable[[Case, str], None]:
    """Time an implementation of a case; with --benchmark-disable, run it once and compare its results with eager's."""
    device = request.config.getoption("bench_device")

    def measure(case: Case, implementation: str) -> None:
        torch.manual_seed(0)
        benchmark.group = case.name
        benchmark.extra_info.update(case.info(implementation))
        if benchmark.disabled:
            results = benchmark(case.build(implementation, "aot_eager", device))
            check(case, implementation, results, device)
            return
        work = case.build(implementation, "inductor", device)

        def run() -> list[torch.Tensor]:
            results = work()
            machine.synchronize(device)
            return results

        run()  # compiles, and touches the memory for the first time
        if case.rounds is None:
            machine.best_seconds(run, 0.2)  # warms up
            benchmark(run)
        else:
            benchmark.pedantic(run, rounds=case.rounds)
        if case.work is not None and case.work.largest:
            benchmark.extra_info["copy_bytes_per_second"] = machine.copy_rate_of(case.work.largest, device)
        if request.config.getoption("peak_memory") and case.memory and device == "cpu" and peak_memory.available():
            name = request.module.__name__
            benchmark.extra_info.update(peak_memory.measure(name, case.name, implementation))

    return measure


def check(case: Case, implementation: str, results: list[torch.Tensor], device: str) -> None:
    """Benchmarks of implementations that compute different things would be meaningless."""
    assert all(torch.isfinite(value).all() for value in results if value.is_floating_point())
    if implementation == "eager" or not case.agree:
        return
    expected = case.build("eager", "", device)()
    assert [value.shape for value in results] == [value.shape for value in expected]
    for value, truth in zip(results, expected, strict=True):
        # By the norm: single gradients differ if a value lies at the kink of the ReLU.
        assert (value.double() - truth.double()).norm() <= 1e-3 * truth.double().norm()
