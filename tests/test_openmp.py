"""How OpenMP's threads wait: what the commands set before PyTorch is loaded, and what they do not touch."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from cgcl_fast import _openmp, _start


def chosen(busy: float | None, cores: int = 2, **environment: str) -> tuple[dict[str, str], _openmp.Waiting]:
    waiting = _openmp.choose(environment, busy, cores)
    return environment, waiting


@pytest.mark.parametrize("busy", [None, 0.0, 0.4])
def test_a_quiet_machine_gets_a_short_spin(busy):
    environment, waiting = chosen(busy)
    assert environment == {"GOMP_SPINCOUNT": _openmp.SPIN}
    assert waiting.setting == f"GOMP_SPINCOUNT={_openmp.SPIN}" and not waiting.busy


@pytest.mark.parametrize("busy", [1.0, 2.0])
def test_threads_sleep_where_others_have_the_cores(busy):
    environment, waiting = chosen(busy)
    assert environment == {"OMP_WAIT_POLICY": "passive"}
    assert waiting.busy and f"{busy:.1f} of 2 cores" in waiting.reason


def test_what_counts_is_the_cores_that_are_left():
    assert not chosen(3.0, cores=8, OMP_NUM_THREADS="4")[1].busy
    assert chosen(5.0, cores=8, OMP_NUM_THREADS="4")[1].busy
    assert chosen(3.0, cores=8)[1].busy
    assert chosen(3.0, cores=8, OMP_NUM_THREADS="many")[1].busy


@pytest.mark.parametrize("given", [{"GOMP_SPINCOUNT": "7"}, {"OMP_WAIT_POLICY": "active"}])
def test_the_users_choice_stays(given):
    environment, waiting = chosen(2.0, **given)
    assert environment == given
    assert waiting.reason == "given by the environment" and not waiting.busy


def test_idle_cores_are_no_more_than_there_are():
    busy = _openmp.busy_cores(0.02)
    assert busy is None or 0 <= busy <= (os.cpu_count() or 1) + 0.5  # the kernel counts in hundredths of seconds


def test_only_a_command_is_one():
    assert _start.is_command(["-m", "--steps", "5"], ["python", "-m", "cgcl_fast.train", "--steps", "5"])
    assert not _start.is_command(["-m"], ["python", "-m", "pytest", "tests"])
    assert not _start.is_command(["script.py", "cgcl_fast.train"], ["python", "script.py", "cgcl_fast.train"])


def quiet_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name not in _openmp.VARIABLES}


def test_info_says_what_is_set():
    command = [sys.executable, "-m", "cgcl_fast.info", "--json"]
    asked = {**quiet_environment(), "GOMP_SPINCOUNT": "123"}
    shown = json.loads(subprocess.run(command, env=asked, capture_output=True, check=True).stdout)["openmp"]
    assert shown == {"waiting": "GOMP_SPINCOUNT=123", "reason": "given by the environment"}
    shown = json.loads(subprocess.run(command, env=quiet_environment(), capture_output=True, check=True).stdout)
    assert shown["openmp"]["waiting"] in (f"GOMP_SPINCOUNT={_openmp.SPIN}", "OMP_WAIT_POLICY=passive")


def test_a_program_that_imports_the_package_keeps_its_environment():
    code = "import os; before = dict(os.environ); import cgcl_fast; assert dict(os.environ) == before"
    done = subprocess.run([sys.executable, "-c", code], env=quiet_environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
