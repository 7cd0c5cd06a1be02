"""What a training on a CPU does with freed memory, and whose it is to say."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys

import pytest

from cgcl_fast import _heap

gnu_only = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of GNU's C library")

#: Makes and frees maps of 40 MiB; prints the fewest page faults for one of them. The first maps get new pages anyway,
#: as what else is allocated comes to lie between them.
MAPS = """
import resource, torch
torch.set_num_threads(1)

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(10 << 20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

print(min(faults() for _ in range(40)))
"""
KEEPING = f"from cgcl_fast._heap import keep_freed_memory; assert keep_freed_memory(){MAPS}"


def without_choice(**more: str) -> dict[str, str]:
    own = {name: value for name, value in os.environ.items() if name not in (*_heap.VARIABLES, "GLIBC_TUNABLES")}
    return {**own, **more}


def output(*command: str, **environment: str) -> str:
    done = subprocess.run([sys.executable, *command], env=without_choice(**environment), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@gnu_only
def test_what_is_kept_needs_no_new_pages():
    returned, kept = int(output("-c", MAPS)), int(output("-c", KEEPING))
    assert returned >= 10  # huge pages, where the system gives them, are 20
    assert kept < returned / 4


@pytest.mark.parametrize("name", _heap.VARIABLES)
def test_the_users_choice_stays(name):
    assert _heap.decide({name: "1000"}) == (False, f"as the environment says: {name}=1000")


def test_the_users_tunables_stay():
    assert not _heap.decide({"GLIBC_TUNABLES": "glibc.malloc.trim_threshold=1000"}).kept


@gnu_only
def test_other_tunables_say_nothing_of_memory():
    assert _heap.decide({"GLIBC_TUNABLES": "glibc.rtld.nns=5"}).kept


def test_another_c_library_keeps_its_way(monkeypatch):
    monkeypatch.setattr(_heap, "_mallopt", lambda: None)
    assert not _heap.decide({}).kept and not _heap.keep_freed_memory()


@gnu_only
def test_info_says_what_is_done():
    assert json.loads(output("-m", "cgcl_fast.info", "--json"))["heap"]["kept"]
    shown = json.loads(output("-m", "cgcl_fast.info", "--json", MALLOC_TRIM_THRESHOLD_="7"))["heap"]
    assert shown == {"kept": False, "reason": "as the environment says: MALLOC_TRIM_THRESHOLD_=7"}


@gnu_only
def test_only_a_training_that_is_a_command_keeps_it():
    code = "import sys; from cgcl_fast import _start, train; train.keep_freed_memory = lambda: print('kept')\n"
    code += "import torch; _start.started = {}; train.set_up_device(torch.device('{}'), 1, False)"
    assert output("-c", code.format(True, "cpu")) == "kept\n"
    assert output("-c", code.format(False, "cpu")) == ""
