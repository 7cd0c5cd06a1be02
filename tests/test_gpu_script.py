"""`make gpu` without a GPU: what it rejects, what a dry run does, and that a failing step does not stop others."""

from __future__ import annotations

import fcntl
import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture
def gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The script as a module, with its files in a folder of the test."""
    spec = importlib.util.spec_from_file_location("gpu_script", ROOT / "scripts" / "gpu.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "gpu_script", module)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "LOGS", tmp_path / "logs")
    monkeypatch.setattr(module, "RESULTS", tmp_path)
    return module


def script(*options: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "scripts/gpu.py", *options]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def test_without_a_gpu_one_line_says_so() -> None:
    result = script()
    assert result.returncode == 2
    (line,) = result.stdout.splitlines()
    assert "finds no CUDA device" in line and "DRY_RUN=1" in line


def test_dry_run_collects_and_rehearses() -> None:
    result = script("--dry-run", "--steps", "info,tests,sanitizer", "--tests", "tests/ops/test_adain.py")
    assert result.returncode == 0, result.stdout + result.stderr
    for text in ("no CUDA call is made", "would run, on cuda: tests/ops/test_adain.py", "tests collected", "memcheck"):
        assert text in result.stdout
    assert "every op has run" in result.stdout and "0 failed" in result.stdout.splitlines()[-1]


def test_other_steps_are_refused() -> None:
    result = script("--dry-run", "--steps", "tests,bake")
    assert result.returncode == 2 and "got bake" in result.stderr


def test_a_failing_step_stops_no_other(gpu: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    suite = gpu.Suite(dry=True, capability="", files=["tests/ops/no_such_file.py"])
    monkeypatch.setattr(suite, "info", lambda: 1 / 0)
    suite.execute(["info", "tests", "report"])
    assert [(ended.name, ended.status) for ended in suite.ended] == [
        ("info", "failed"),
        ("collection/cuda", "failed"),
        ("report", "skipped"),
    ]
    assert suite.summary() == 1
    assert "no_such_file" in suite.ended[1].detail and "ZeroDivisionError" in capsys.readouterr().out


def test_a_step_out_of_time_is_killed_with_its_children(gpu: Any, tmp_path: Path) -> None:
    late, lock = tmp_path / "late", tmp_path / "lock"
    child = "import fcntl, sys, time; file = open(sys.argv[1], 'w'); fcntl.flock(file, fcntl.LOCK_EX); time.sleep(60)"
    child += "; open(sys.argv[2], 'w')"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}, *sys.argv[1:]])"
    ended = gpu.run("slow", [sys.executable, "-c", parent, str(lock), str(late)], 5.0)
    assert ended.status == "timed out"
    with lock.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # which the child holds as long as it lives
    assert not late.exists()


@pytest.mark.parametrize(
    ("code", "name", "status", "detail"),
    [
        ("print('3 passed')", "tests/x.py", "ok", "3 passed"),
        ("raise SystemExit(3)", "tests/x.py", "failed", "exit status 3"),
        ("import no_such_package", "tests/x.py", "skipped", "needs no_such_package"),
        ("import cgcl_fast.no_such_module", "tests/x.py", "failed", "exit status 1"),
        ("import no_such_package", "build", "failed", "exit status 1"),
    ],
)
def test_how_a_command_ended(gpu: Any, code: str, name: str, status: str, detail: str) -> None:
    ended = gpu.run(name, [sys.executable, "-c", code], 600.0)
    assert ended.status == status and detail in ended.detail


def test_every_op_runs_on_the_device_and_the_own_tests_of_a_gpu_come_first(gpu: Any) -> None:
    suite = gpu.Suite(dry=True, capability="")
    devices = suite.by_device()
    own = [f"tests/gpu/{path.name}" for path in sorted((ROOT / "tests" / "gpu").glob("test_*.py"))]
    assert devices[""] == own == suite.files[: len(own)]
    assert {f"tests/ops/test_{path.stem}.py" for path in (ROOT / "cgcl_fast" / "ops").glob("[!_]*.py")} <= set(
        devices["cuda"]
    )
    assert not any("kernels" in file for file in suite.files)
    names = {path.name for path in (ROOT / "tests").rglob("test_*.py")} | {"nn", "methods"}
    assert names.issuperset((*gpu.PARTS, *gpu.NOT_OF_A_GPU, *gpu.LAST))


def test_the_steps_end_in_eight_minutes(gpu: Any) -> None:
    assert gpu.TOTAL == 480 and sum(gpu.LIMITS.values()) <= gpu.TOTAL


def test_what_a_step_leaves_the_next_may_use(gpu: Any) -> None:
    suite = gpu.Suite(dry=False, capability="")
    after = sum(limit for group, limit in gpu.LIMITS.items() if not {"info", "build", "tests"} & set(group))
    assert suite.left("tests") == pytest.approx(gpu.TOTAL - after, abs=5) == suite.left("sanitizer")
    suite.end -= 100  # that have gone by
    assert suite.left("tests") == pytest.approx(gpu.TOTAL - after - 100, abs=5)
    suite.chosen = ["info", "tests"]
    assert suite.left("tests") == pytest.approx(gpu.TOTAL - 100, abs=5)


def test_short_files_share_processes_and_none_is_left_out(gpu: Any) -> None:
    jobs = gpu.Suite(dry=True, capability="").jobs()
    assert len(jobs["tests/nn"]) > 5 and jobs["tests/ops/test_adain.py"] == ["tests/ops/test_adain.py"]
    assert sorted(sum(jobs.values(), [])) == sorted(gpu.test_files())
    assert gpu.parts_of("tests/nn") == gpu.PARTS["nn"] and gpu.parts_of("tests/ops/test_adain.py") == 1
    assert list(gpu.Suite(dry=True, capability="", files=["tests/nn/test_pad.py"]).jobs()) == ["tests/nn/test_pad.py"]


def test_results_are_named_after_the_gpu(gpu: Any, tmp_path: Path) -> None:
    path = gpu.Suite(dry=False, capability="9.0", device="NVIDIA H100 80GB HBM3").results("cuda")
    assert path.parent == tmp_path and path.name.startswith("cuda-h100-20") and path.suffix == ".json"


@pytest.mark.parametrize(
    ("device", "name"), [("NVIDIA H100 80GB HBM3", "h100"), ("NVIDIA GeForce RTX 4090", "geforce"), ("", "gpu")]
)
def test_names_of_devices(gpu: Any, device: str, name: str) -> None:
    assert gpu.slug(device) == name


def test_parts_hold_every_test_once(gpu: Any) -> None:
    def collected(part: str) -> list[str]:
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "--collect-only",
            *gpu.selection(),
            "tests/ops/test_adain.py",
        ]
        environment = {**os.environ, "CGCL_FAST_TEST_PART": part, "PYTEST_ADDOPTS": ""}
        shown = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True).stdout
        return [line for line in shown.splitlines() if "::" in line]

    whole, parts = collected("1/1"), [collected(f"{part}/3") for part in (1, 2, 3)]
    assert len(whole) > 50 and all(parts) and sorted(sum(parts, [])) == sorted(whole)
    assert not any("compile" in test or "opcheck" in test for test in whole)
