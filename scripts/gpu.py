"""Everything that needs a GPU, in one command and at most 8 minutes: `make gpu`, or `python scripts/gpu.py`.

Builds with nvcc in place, runs the tests on the device and, at the same time, compute-sanitizer over small shapes, then
times training steps and the ops. Writes the measurements, the outcome of each step and a table of the ops into
benchmarks/results/. Downloads and installs nothing: Python, PyTorch with CUDA, Triton, nvcc and pytest must be there.

Only the most important checks: `python scripts/gpu.py --steps info,build,tests --tests tests/gpu/test_cuda.py`.

A step that fails or times out does not stop the others; the exit status is then 1. `--dry-run` does everything up to
the first CUDA call, on a machine with or without a GPU. This file only uses the standard library.
"""

from __future__ import annotations

import argparse
import glob
import importlib.metadata
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOGS = ROOT / "build" / "gpu"
RESULTS = ROOT / "benchmarks" / "results"
PYTHON = sys.executable
TOTAL = 480.0  # seconds in total
#: Seconds of steps that run at the same time; nothing else runs during measurements. What one leaves, the next may use.
LIMITS = {
    ("info",): 10.0,
    ("build",): 90.0,
    ("tests", "sanitizer"): 155.0,
    ("steps",): 140.0,
    ("benchmarks",): 70.0,
    ("report",): 15.0,
}
STEPS = tuple(step for group in LIMITS for step in group)
#: Folders with tests that are useful on a GPU, the most important first, and their files that are not: these hide the
#: GPU, or only test Python and the references.
FOLDERS = ("gpu", "ops", "nn", "methods")
#: Test files whose shapes all differ, so that Triton compiles for each: they run last, in the remaining time.
LAST = ("test_numerics.py", "test_fuzz.py")
NOT_OF_A_GPU = (
    "test_runs.py", "test_two_processes.py", "test_function_transforms.py", "test_wrong_arguments.py",
    "test_graph_safety.py", "test_compiled_steps.py", "test_exported_modules.py", "test_per_process.py",
    "test_options.py", "test_registry.py", "test_sizes.py",
)  # fmt: skip
#: Tests that a CPU can run as well, some of them slow: compilers, schemas, finite differences, errors, two processes.
ELSEWHERE = ("opcheck", "gradcheck", "torchscript", "meta", "errors", "many_threads", "number_of_threads")
ELSEWHERE += ("processes_go_on",)
#: Test files, or folders of short ones, by the number of processes that share their tests: each takes seconds to start,
#: and compiles kernels one after the other.
PARTS = {"test_cuda.py": 3, "test_cuda_compile.py": 2, "test_cuda_graphs.py": 6}
PARTS |= {"test_autocast.py": 2, "test_fuzz.py": 2, "test_numerics.py": 3, "test_patch_nce.py": 3}
PARTS |= {f"test_memory_{op}.py": 2 for op in ("contrast", "read", "update")}
PARTS |= {"nn": 3, "methods": 4}
NEEDED = ("torch", "triton", "numpy", "pytest", "setuptools")
OPTIONAL = ("safetensors", "hypothesis", "ninja", "pybind11", "pytest-benchmark")
PROBE = """
import torch
if not torch.cuda.is_available():
    raise SystemExit(f"torch {torch.__version__} finds no CUDA device")
print("{}.{}".format(*torch.cuda.get_device_capability()), torch.cuda.get_device_name())
"""


@dataclass
class Ended:
    """The outcome of a step, or of part of one: "ok", "failed", "timed out" or "skipped"."""

    name: str
    status: str
    seconds: float
    detail: str = ""


def environment(**extra: str) -> dict[str, str]:
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH", ""))))
    return {**os.environ, "PYTHONPATH": path, **extra}


def run(
    name: str, command: Sequence[str], limit: float, env: Mapping[str, str] | None = None, folder: Path = ROOT
) -> Ended:
    """Run a command with its output in LOGS; at the time limit it is killed with its children."""
    LOGS.mkdir(parents=True, exist_ok=True)
    log = LOGS / f"{name.replace('/', '-').replace(' ', '-')}.log"
    start = time.monotonic()
    if limit < 5:
        return Ended(name, "skipped", 0.0, "no time is left")
    try:
        with log.open("w") as file:
            process = subprocess.Popen(
                command,
                cwd=folder,
                env=env or environment(),
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                code = process.wait(limit)
            except BaseException as error:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                if isinstance(error, subprocess.TimeoutExpired):
                    return Ended(
                        name,
                        "timed out",
                        time.monotonic() - start,
                        f"after {limit:.0f} s; see {os.path.relpath(log, ROOT)}",
                    )
                raise
    except OSError as error:
        return Ended(name, "failed", time.monotonic() - start, f"{command[0]}: {error.strerror}")
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    last = lines[-1].strip("= ") if lines else ""
    seconds = time.monotonic() - start
    if code == 0:
        return Ended(name, "ok", seconds, last)
    missing = re.search(r"ModuleNotFoundError: No module named '([\w.]+)'", "\n".join(lines))
    if missing and missing[1].split(".")[0] not in ("cgcl_fast", "benchmarks", *NEEDED) and "/" in name:
        return Ended(name, "skipped", seconds, f"needs {missing[1]}, which is not installed")
    return Ended(name, "failed", seconds, f"exit status {code}: {last}; see {os.path.relpath(log, ROOT)}")


def say(text: str) -> None:
    print(text, flush=True)


def show(ended: Ended) -> None:
    say(f"  {ended.status:9} {ended.seconds:6.1f} s  {ended.name}: {ended.detail}")


def version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


class Suite:
    """The steps, in order.

    Args:
        dry: stop before the first CUDA call.
        capability: of the GPU, for example "9.0"; "" in a dry run.
        device: its name, for example "NVIDIA H100 80GB HBM3".
        files: test files, instead of all that are useful on a GPU.
        published: a checkout of CUT's published code, whose steps are timed too.
    """

    def __init__(
        self, dry: bool, capability: str, files: Sequence[str] = (), device: str = "", published: Path | None = None
    ) -> None:
        self.dry = dry
        self.capability = capability
        self.device = device
        self.files = list(files) or test_files()
        self.all_files = not files
        self.published = published
        self.chosen: Sequence[str] = STEPS
        self.patience = 4 if dry else 1  # a machine without a GPU may be slow
        self.end = time.monotonic() + self.patience * TOTAL
        self.ended: list[Ended] = []
        self.output: Path | None = None

    def left(self, step: str) -> float:
        """Seconds that a step may take from now on, without what those after it need."""
        groups = list(LIMITS)
        here = next(n for n, group in enumerate(groups) if step in group)
        later = sum(LIMITS[group] for group in groups[here + 1 :] if set(group) & set(self.chosen))
        return self.end - time.monotonic() - self.patience * later

    def add(self, *ended: Ended) -> None:
        for one in ended:
            self.ended.append(one)
            show(one)

    def execute(self, steps: Sequence[str]) -> None:
        self.chosen = steps
        for group in LIMITS:
            chosen = [step for step in group if step in steps]
            for step in chosen:
                say(f"{step} (at most {self.left(step):.0f} s)")
            with ThreadPoolExecutor(len(group)) as pool:
                list(pool.map(self.guarded, chosen))

    def guarded(self, step: str) -> None:
        try:
            getattr(self, step)()
        except Exception as error:  # a bug in this file must not stop the other steps
            self.add(Ended(step, "failed", 0.0, f"{type(error).__name__}: {error}"))

    def info(self) -> None:
        say("  " + ", ".join(f"{name} {version(name) or 'missing'}" for name in (*NEEDED, *OPTIONAL)))
        missing = [name for name in NEEDED if not version(name)]
        if missing:
            self.add(Ended("needed packages", "failed", 0.0, f"not installed: {', '.join(missing)}"))
        if not version("hypothesis"):
            say("  without hypothesis its tests draw a few examples at random")
        if tool := find_nvcc():
            self.add(run("nvcc", [tool, "--version"], self.left("info")))
        else:
            self.add(Ended("nvcc", "skipped", 0.0, "not found: the ops take their Triton kernels"))
        if not self.dry:
            query = "--query-gpu=name,driver_version,memory.total,clocks.max.sm,power.limit"
            self.add(run("nvidia-smi", ["nvidia-smi", query, "--format=csv,noheader"], self.left("info")))

    def build(self) -> None:
        settings = {"MAX_JOBS": os.environ.get("MAX_JOBS", str(os.cpu_count() or 1))}
        if self.capability and "TORCH_CUDA_ARCH_LIST" not in os.environ:
            settings["TORCH_CUDA_ARCH_LIST"] = self.capability  # only code for this GPU
        if tool := find_nvcc():
            settings["CGCL_FAST_REQUIRE_CUDA"] = "1"
            if shutil.which("nvcc") is None:
                settings["CUDA_HOME"] = str(Path(tool).parent.parent)
        env = environment(CGCL_FAST_REQUIRE_NATIVE="1", **settings)
        command = [PYTHON, "setup.py", "-q", "build_ext", "--inplace"]
        self.add(run("build", command, self.left("build"), env, build_folder()))
        self.add(run("cgcl_fast.info", [PYTHON, "-m", "cgcl_fast.info"], max(self.left("build"), 15)))
        say((LOGS / "cgcl_fast.info.log").read_text(errors="replace"))

    def tests(self) -> None:
        """Files in separate processes, in parallel: a fault on the device ends only one of them."""
        options = ["-q", "-p", "no:cacheprovider", "--tb=short", "--maxfail=20", "-W", "ignore"]
        if self.dry:
            command = [PYTHON, "-m", "pytest", *options, "--collect-only"]
            for device, files in self.by_device().items():
                say(f"  would run, on {device or 'the device that each asks for'}: {' '.join(files)}")
                env = environment(CGCL_FAST_TEST_DEVICE="meta" if device else "")
                self.add(run(f"collection/{device or 'own'}", [*command, *files], self.left("tests"), env))
            return
        end = time.monotonic() + self.left("tests")

        def one(job: tuple[str, int]) -> Ended:
            name, part = job
            files = jobs[name]
            device = next(device for device, those in self.by_device().items() if files[0] in those)
            command = [PYTHON, "-m", "pytest", *options, *(selection() if device else []), *files]
            env = environment(
                CGCL_FAST_TEST_DEVICE=device,
                CGCL_FAST_TEST_PART=f"{part}/{parts_of(name)}",
                OMP_NUM_THREADS="1",  # each process would take all processors
            )
            name = name if parts_of(name) == 1 else f"{name} {part} of {parts_of(name)}"
            return run(name, command, end - time.monotonic(), env)

        jobs = self.jobs()
        parts = [(name, part) for name in jobs for part in range(1, parts_of(name) + 1)]
        with ThreadPoolExecutor(min(14, max(2, (os.cpu_count() or 2) - 2))) as pool:
            for ended in pool.map(one, parts):
                self.add(ended)

    def jobs(self) -> dict[str, list[str]]:
        """Test files that run together, by their folder or their name, in the order in which they begin."""
        jobs: dict[str, list[str]] = {}
        for file in self.files:
            folder = Path(file).parent
            jobs.setdefault(str(folder) if folder.name in PARTS and self.all_files else file, []).append(file)
        return jobs

    def by_device(self) -> dict[str, list[str]]:
        """Test files by the default device they run with: files that request cuda themselves have none."""
        own = [file for file in self.files if file.startswith(("tests/gpu", "tests/kernels"))]
        groups = {"": own, "cuda": [file for file in self.files if file not in own]}
        return {device: files for device, files in groups.items() if files}

    def sanitizer(self) -> None:
        """Without PyTorch's caching allocator, so that the memory behind a tensor is unallocated."""
        cases = [PYTHON, "tests/gpu/run_cases.py"]
        tool = shutil.which("compute-sanitizer") or next(iter(glob.glob("/usr/local/cuda*/bin/compute-sanitizer")), "")
        commands = {
            name: [tool or "compute-sanitizer", "--tool", name, "--error-exitcode", "9", *cases, "cuda"]
            for name in ("memcheck", "racecheck")
        }
        if self.dry:
            for command in commands.values():
                say(f"  would run: {' '.join(command)}{'' if tool else '  (compute-sanitizer is not found here)'}")
            self.add(run("cases on the CPU", [*cases, "cpu"], self.left("sanitizer")))
            return
        if not tool:
            self.add(Ended("compute-sanitizer", "skipped", 0.0, "not found on PATH or in /usr/local/cuda*/bin"))
            return
        limit, env = self.left("sanitizer"), environment(PYTORCH_NO_CUDA_MEMORY_CACHING="1")
        with ThreadPoolExecutor(2) as pool:
            futures = [pool.submit(run, name, command, limit, env) for name, command in commands.items()]
            for future in futures:
                self.add(future.result())

    def steps(self) -> None:
        """Training steps of every method."""
        limit = self.left("steps")
        command = [PYTHON, "-m", "benchmarks.gpu_step"]
        if self.published:
            command += ["--published", str(self.published)]
        if self.dry:
            output = LOGS / "step-rehearsal.json"
            command += ["--rehearse"]
        else:
            output = self.results("step")
        output.unlink(missing_ok=True)
        minutes = max(limit - 15, 10) / 60  # the last row may take a while to compile
        self.add(run("steps", [*command, "--minutes", f"{minutes:.2f}", "--output", str(output)], limit))
        if output.exists():
            say(f"  steps: {output}")

    def benchmarks(self) -> None:
        limit = self.left("benchmarks")
        command = [PYTHON, "-m", "benchmarks.cuda"]
        if self.dry:
            self.add(run("benchmark list", [*command, "--list"], self.left("report")))
            say((LOGS / "benchmark-list.log").read_text(errors="replace"))
            self.output = LOGS / "rehearsal.json"
            command += ["--rehearse", "--no-compile"]
        else:
            self.output = self.results("cuda")
        self.output.unlink(missing_ok=True)
        minutes = max(limit - 12, 10) / 60  # for the last case
        command += ["--minutes", f"{minutes:.2f}", "--output", str(self.output)]
        self.add(run("benchmarks", command, limit))
        if self.ended[-1].status != "skipped":
            log = (LOGS / "benchmarks.log").read_text(errors="replace")
            for line in re.findall(r"^FAILED .*", log, re.MULTILINE):
                say(f"    {line}")

    def results(self, kind: str) -> Path:
        return RESULTS / f"{kind}-{slug(self.device)}-{time.strftime('%Y-%m-%d', time.gmtime())}.json"

    def report(self) -> None:
        if self.output is None or not self.output.exists():
            self.add(Ended("report", "skipped", 0.0, "no results of benchmarks"))
            return
        data = json.loads(self.output.read_text())
        data["steps"] = [vars(ended) for ended in self.ended]
        self.output.write_text(json.dumps(data, indent=1) + "\n")
        table = self.output.with_suffix(".md")
        command = [PYTHON, "-m", "benchmarks.report", str(self.output), "--markdown", str(table)]
        self.add(run("report", command, max(self.left("report"), 10)))
        if table.exists():
            say(table.read_text())
            say(f"results: {self.output}, {table}")

    def summary(self) -> int:
        bad = [ended for ended in self.ended if ended.status in ("failed", "timed out")]
        skipped = [ended for ended in self.ended if ended.status == "skipped"]
        say("summary")
        for ended in (*bad, *skipped):
            show(ended)
        good = len(self.ended) - len(bad) - len(skipped)
        kind = "dry run, up to the first CUDA call: " if self.dry else ""
        say(f"{kind}{good} ok, {len(bad)} failed or timed out, {len(skipped)} skipped; logs: {LOGS}")
        return 1 if bad else 0


def build_folder() -> Path:
    """The folder in which setup.py runs: setuptools before 77 cannot read pyproject.toml, so it builds without that."""
    if int(version("setuptools").split(".")[0] or 0) >= 77:
        return ROOT
    folder = LOGS / "without-pyproject"
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("setup.py", "csrc", "cgcl_fast"):
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(ROOT / name)
    return folder


def find_nvcc() -> str:
    """The CUDA compiler of CUDA_HOME, PATH or the usual place; "" if there is none."""
    places = [Path(os.environ[name], "bin", "nvcc") for name in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(name)]
    places += [Path(shutil.which("nvcc") or "/usr/local/cuda/bin/nvcc")]
    return next((str(place) for place in places if place.exists()), "")


def test_files() -> list[str]:
    """The test files that are useful on a GPU, in the order in which they run."""
    files = [path for part in FOLDERS for path in sorted((ROOT / "tests" / part).glob("test_*.py"))]
    files.sort(key=lambda path: path.name in LAST)
    return [str(path.relative_to(ROOT)) for path in files if path.name not in NOT_OF_A_GPU]


def parts_of(name: str) -> int:
    """The number of processes for a test file or a folder of them."""
    return PARTS.get(Path(name).name, 1)


def selection() -> list[str]:
    """pytest's options that select the tests which are useful on a GPU."""
    return ["-m", "not compile", "-k", " and ".join(f"not {name}" for name in ELSEWHERE)]


def slug(device: str) -> str:
    """The part of a GPU's name for file names: "h100" of "NVIDIA H100 80GB HBM3"."""
    words = re.findall(r"[\w-]+", device.lower().replace("nvidia", ""))
    return "-".join(words[:1]) or "gpu"


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/gpu.py", description="Build, test and measure on a GPU.")
    parser.add_argument("--dry-run", action="store_true", help="everything up to the first CUDA call; needs no GPU")
    parser.add_argument("--steps", default=",".join(STEPS), help=f"some of {','.join(STEPS)}, separated by commas")
    parser.add_argument("--tests", nargs="*", default=[], help="only these test files")
    parser.add_argument("--published", type=Path, help="time the steps of this checkout of CUT's published code too")
    arguments = parser.parse_args()
    steps = arguments.steps.split(",")
    if unknown := set(steps) - set(STEPS):
        parser.error(f"--steps: expected some of {', '.join(STEPS)}, got {', '.join(sorted(unknown))}")
    probe = subprocess.run([PYTHON, "-c", PROBE], capture_output=True, text=True, check=False)
    capability, _, device = probe.stdout.strip().partition(" ")
    problem = "" if probe.returncode == 0 else (probe.stderr.strip().splitlines() or ["torch does not load"])[-1]
    if problem and not arguments.dry_run:
        say(f"make gpu: {problem}; `make gpu DRY_RUN=1` does everything up to the first CUDA call")
        return 2
    what = f"dry run ({problem or device}): no CUDA call is made" if arguments.dry_run else f"{device}, sm_{capability}"
    processors = f"Python {sys.version.split()[0]}, {os.cpu_count()} processors"
    say(f"make gpu: {what}; {processors}" + ("" if arguments.dry_run else f", at most {TOTAL / 60:.0f} minutes"))
    published = arguments.published and arguments.published.resolve()
    suite = Suite(arguments.dry_run, "" if arguments.dry_run else capability, arguments.tests, device, published)
    suite.execute(steps)
    return suite.summary()


if __name__ == "__main__":
    raise SystemExit(main())
