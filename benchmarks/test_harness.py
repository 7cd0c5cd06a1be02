"""The harness itself: what the report computes, and that memory is measured right."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import bench_step, busy, cuda, cuda_cases, floors, machine, peak_memory, report, run, targets
from benchmarks.case import BOTH, Case, op_case
from cgcl_fast.methods import METHODS

MACHINE = {
    "device": "cpu",
    "cpu": "A CPU",
    "cores": 2,
    "threads": 2,
    "cpu_variant": "avx2",
    "torch": "2.11",
    "python": "3.10",
    "commit": "0123456789abcdef",
    "changed": False,
    "date": "2026-01-02T00:00:00+00:00",
    "copy_bytes_per_second": 10e9,
    "matmul_flops_per_second": 100e9,
}
ADAIN = {"op": "adain", "shape": "(4, 256, 64, 64) relu", "pass": BOTH}


def raw(**medians: float) -> dict[str, Any]:
    """A run as pytest-benchmark writes it."""
    work = floors.adain((4, 256, 64, 64), BOTH)
    entries = [
        {
            "fullname": f"bench::{name}",
            "extra_info": {**ADAIN, "impl": name, "bytes": work.bytes, "flops": work.flops},
            "stats": {"median": median, "min": median / 2, "rounds": 5, "data": [median] * 5},
        }
        for name, median in medians.items()
    ]
    return {"machine_info": dict(MACHINE), "benchmarks": entries}


def results_file(folder: Path, *runs: dict[str, Any]) -> Path:
    path = folder / "results.json"
    path.write_text(json.dumps(run.merge(list(runs))))
    return path


def test_results_of_other_suites_are_left_out(tmp_path: Path) -> None:
    """`make bench` runs every file of benchmarks."""
    one = raw(eager=8.0, cgcl_fast=2.0)
    host = {"fullname": "bench_host::x", "extra_info": {}, "stats": {"median": 1.0, "min": 1.0, "rounds": 1}}
    one["benchmarks"].insert(0, host)
    _, (result,) = report.read(results_file(tmp_path, one))
    assert result.speedup("eager") == 4.0


def test_merged_ratio_is_taken_within_a_repeat(tmp_path: Path) -> None:
    # The machine is three times slower in the second run: the ratios 4, 4 and 5 have the median 4.
    runs = [raw(eager=8.0, cgcl_fast=2.0), raw(eager=24.0, cgcl_fast=6.0), raw(eager=10.0, cgcl_fast=2.0)]
    path = results_file(tmp_path, *runs)
    assert "data" not in path.read_text()
    _, (result,) = report.read(path)
    assert result.speedup("eager") == 4.0
    assert result.seconds("cgcl_fast") == 2.0
    assert result.minima["cgcl_fast"] == 1.0
    assert result.speedup("compile") is None


def test_report_reads_the_json_of_pytest_benchmark(tmp_path: Path) -> None:
    path = tmp_path / "raw.json"
    path.write_text(json.dumps(raw(eager=6.0, cgcl_fast=2.0)))
    _, (result,) = report.read(path)
    assert result.speedup("eager") == 3.0


def test_floor_and_share(tmp_path: Path) -> None:
    _, (result,) = report.read(results_file(tmp_path, raw(eager=0.1, cgcl_fast=0.02)))
    # Five maps of 16 MiB at 10 GB/s.
    assert result.floor(MACHINE) == pytest.approx(5 * 4 * 256 * 64 * 64 * 4 / 10e9)
    assert result.share(MACHINE) == pytest.approx(result.floor(MACHINE) / 0.02)


def test_step_memory_is_compared_whole_and_beyond_the_start(tmp_path: Path) -> None:
    data = raw(eager=10.0, cgcl_fast=5.0)
    for entry, peak in zip(data["benchmarks"], (300, 200), strict=True):
        entry["extra_info"].update(peak_rss_bytes=peak, start_rss_bytes=100)
    machine, (result,) = report.read(results_file(tmp_path, data))
    assert result.value(targets.STEP_MEMORY, machine) == pytest.approx(2 / 3)
    assert result.value(targets.STEP_OWN_MEMORY, machine) == pytest.approx(1 / 2)
    assert result.value(targets.STEP_TIME, machine) == pytest.approx(1 / 2)
    assert len(report.memory_table([result]).splitlines()) == 4
    assert result.value(targets.MEMORY, machine) is None


def test_images_are_counted_by_the_second(tmp_path: Path) -> None:
    data = raw(eager=8.0, cgcl_fast=2.0)
    for entry in data["benchmarks"]:
        entry["extra_info"]["images"] = 16
    machine, results = report.read(results_file(tmp_path, data))
    assert report.images_table(results).splitlines()[2].endswith("| 2.0 | 8.0 | 4.00× |")
    assert "## Images from files" in report.report(machine, results)
    assert report.images_table(report.read(results_file(tmp_path, raw(cgcl_fast=2.0)))[1]) == ""


@pytest.mark.parametrize(("eager", "word"), [(7.0, "met"), (5.0, "**missed**")])
def test_targets_are_judged_both_ways(tmp_path: Path, eager: float, word: str) -> None:
    machine, results = report.read(results_file(tmp_path, raw(eager=eager, compile=9.0, cgcl_fast=2.0)))
    lines = report.target_table(machine, results).splitlines()
    (line,) = [line for line in lines if targets.SPEEDUP in line and "`adain` (4, 256, 64, 64)" in line]
    assert line.endswith(f"| {word} |")


def test_at_most_and_at_least() -> None:
    assert targets.Target("cut step", "", BOTH, targets.STEP_TIME, 0.8).met(0.7)
    assert not targets.Target("cut step", "", BOTH, targets.STEP_TIME, 0.8).met(0.9)
    assert not targets.Target("adain", "", BOTH, targets.FLOOR, 0.6).met(0.5)


def test_readme_section_is_rewritten_and_nothing_else(tmp_path: Path) -> None:
    machine, results = report.read(results_file(tmp_path, raw(eager=8.0, compile=9.0, cgcl_fast=2.0)))
    section = report.readme_section(machine, results, [], "results.json", None)
    assert "4.00×" in section and report.NOT_MEASURED in section
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n")
    for _ in range(2):
        report.rewrite(readme, section)
    assert readme.read_text() == f"before\n{report.BEGIN}\n\n{section}\n\n{report.END}\nafter\n"
    readme.write_text("no marks\n")
    with pytest.raises(SystemExit, match="needs the line"):
        report.rewrite(readme, section)


def test_the_page_on_speed_is_what_the_committed_results_give(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    root = Path(__file__).parent.parent
    page = tmp_path / "speed.md"
    committed = (root / "docs" / "speed.md").read_text()
    page.write_text(re.sub(r"(: begin -->\n).*?(\n<!--)", r"\1\2", committed, flags=re.DOTALL))
    assert len(page.read_text()) < len(committed) / 2
    monkeypatch.chdir(root)
    results = Path("benchmarks/results")
    for arguments in (
        [results / "cpu-amd-epyc-2-cores-2026-11-28.json", "--cuda", results / "cuda-h200-2026-11-26.json"],
        [results / "step-cuda-h100-2026-11-27.json"],
    ):
        monkeypatch.setattr("sys.argv", ["report", *map(str, arguments), "--readme", str(page)])
        report.main()
    capsys.readouterr()
    picture = "![Speed-up of each op over eager PyTorch and over torch.compile](images/speed.png)\n\n"
    assert page.read_text() == committed.replace(picture, "")


def test_cuda_cell_is_filled_from_its_own_file(tmp_path: Path) -> None:
    machine, results = report.read(results_file(tmp_path, raw(eager=8.0, cgcl_fast=2.0)))
    _, cuda = report.read(results_file(tmp_path, raw(eager=3.0, cgcl_fast=0.5)))
    section = report.readme_section(machine, results, cuda, "results.json", None, "CUDA: a GPU.")
    assert "\n\nCUDA: a GPU.\n\n" in section
    (row,) = [line for line in section.splitlines() if line.startswith("| `adain`")]
    assert "4.00×" in row and row.endswith("| 6.00× |  |")


def test_times_of_a_gpu_stand_beside_those_of_its_host(tmp_path: Path) -> None:
    data = raw(eager=8e-3, cgcl_fast=2e-3)
    data["machine_info"] |= {"suite": "cuda", "driver": "1", "cuda": "13", "triton": "3"}
    data["machine_info"] |= {f"{name}_per_second": 1e12 for name in ("fill_bytes", "float32_flops", "bf16_flops")}
    for entry, host in zip(data["benchmarks"], (3e-3, 6e-3), strict=True):
        entry["extra_info"].update(host=host, in_a_row=host + 5e-3, counted="device")
    machine, (result,) = report.read(results_file(tmp_path, data))
    assert result.speedup("eager") == 4.0  # of the device
    assert result.speedup_of("host", "eager") == 0.5 and result.speedup_of("in_a_row", "eager") == pytest.approx(8 / 11)
    header, _, row = report.time_table(machine, [result]).splitlines()
    assert header.endswith("| host ms, eager | host ms, cgcl_fast | in a row ms, eager | in a row ms, cgcl_fast |")
    assert row.endswith("| 3 | 6 | 8 | 11 |")


@pytest.mark.parametrize("waits", [False, True])
def test_a_device_begins_no_call_before_it_is_issued(monkeypatch: pytest.MonkeyPatch, waits: bool) -> None:
    """A device of one queue with its own clock: it sleeps longer until the host, a second a call, is ahead."""
    now, done, slept = 0.0, 0.0, []

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            self.at = 0.0

        def record(self) -> None:
            self.at = max(now, done)

        def query(self) -> bool:
            return self.at <= now

        def synchronize(self) -> None:
            nonlocal now
            now = max(now, self.at)

        def elapsed_time(self, end: Event) -> float:
            return 1e3 * (end.at - self.at)

    def sleep(cycles: int) -> None:
        nonlocal done
        slept.append(cycles)
        done = max(now, done) + cycles / clock.cycles

    def function() -> None:
        nonlocal now, done
        if waits:
            now = max(now, done)
        now += 0.01
        done = max(now, done) + 0.002

    clock = cuda.Clock("cpu")
    clock.cuda, clock.cycles, clock.other = True, 1e9, torch.zeros(1)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "_sleep", sleep)
    times, ahead = clock.on_device(function, host=0.001, calls=4)
    assert len(times) == 4 and ahead is not waits
    assert times == pytest.approx([0.012 if waits else 0.002] * 4)
    assert max(slept) / 1e9 == pytest.approx(0.0168 if not waits else max(slept) / 1e9) and slept == sorted(slept)


def test_plot_is_drawn(tmp_path: Path) -> None:
    machine, results = report.read(results_file(tmp_path, raw(eager=8.0, compile=9.0, cgcl_fast=2.0)))
    report.draw(tmp_path / "plot.png", machine, results)
    assert (tmp_path / "plot.png").stat().st_size > 5000


def test_targets_name_cases_that_exist() -> None:
    modules = [f"benchmarks.{path.stem}" for path in sorted(Path(__file__).parent.glob("bench_*.py"))]
    cases = {(case.op, case.shape, case.direction) for module in modules for case in peak_memory.cases_of(module)}
    assert {(target.op, target.shape, target.direction) for target in targets.TARGETS} <= cases


def test_gradients_come_with_the_outputs() -> None:
    case = op_case(
        "square",
        "(3,)",
        BOTH,
        {"eager": lambda x: x**2, "cgcl_fast": torch.square},
        lambda generator: [torch.arange(3.0)],
        wrt=(0,),
    )
    assert case.implementations == ("eager", "compile", "cgcl_fast")
    output, gradient = case.build("cgcl_fast", "", "cpu")()
    expected, expected_gradient = case.build("compile", "aot_eager", "cpu")()
    torch.testing.assert_close(output, torch.tensor([0.0, 1.0, 4.0]))
    torch.testing.assert_close((output, gradient), (expected, expected_gradient))


MEASURE = """
import torch
from benchmarks.peak_memory import extra_bytes
x = torch.ones(8 << 20)                                     # 32 MiB
print(extra_bytes(lambda: [x + 1]))                         # nothing beyond its output
print(extra_bytes(lambda: [(x + 1).mul(2).sum()]))          # two maps for a moment
"""


@pytest.mark.skipif(not peak_memory.available(), reason="needs /proc/self/clear_refs")
def test_peak_memory_counts_what_is_neither_input_nor_output() -> None:
    nothing, two_maps = peak_memory.in_own_process(["-c", MEASURE]).split()
    assert int(nothing) < 2 << 20
    assert abs(int(two_maps) - (64 << 20)) < 4 << 20


SMALL_CASES = cuda_cases.cases(small=True)


@pytest.mark.parametrize("case", SMALL_CASES, ids=[f"{i} {case.op}" for i, case in enumerate(SMALL_CASES)])
def test_cases_of_the_gpu_compute_the_same(case: Case) -> None:
    expected = case.build("eager", "", "cpu")()
    assert expected and all(value.isfinite().all() for value in expected)
    for implementation in case.implementations:
        if implementation not in ("eager", "compile"):
            assert not cuda.disagreement(case, case.build(implementation, "", "cpu")(), expected)


def test_disagreement_is_found() -> None:
    case = SMALL_CASES[0]
    expected = case.build("eager", "", "cpu")()
    assert "of its norm away" in cuda.disagreement(case, [value * 1.01 for value in expected], expected)
    assert "shapes" in cuda.disagreement(case, [value[..., 1:] for value in expected], expected)
    assert "of its norm away" in cuda.disagreement(case, [value * float("nan") for value in expected], expected)


def test_cases_of_the_gpu_are_distinct_and_include_its_targets() -> None:
    keys = [(case.op, case.shape, case.direction) for case in cuda_cases.cases()]
    assert len(set(keys)) == len(keys)
    aimed = {(target.op, target.shape, target.direction) for target in targets.CUDA_TARGETS}
    assert aimed <= set(keys)
    planned = cuda.plan("", compiled=True, small=False)
    first_compiled = [(case.op, case.shape, case.direction) for case, name in planned if name == "compile"]
    assert set(first_compiled[: len(aimed)]) == aimed


def test_rehearsal_writes_what_the_report_reads(tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    path = tmp_path / "results.json"
    options = ["cuda", "--rehearse", "--no-compile", "--select", "dag_select 30x30", "--output", str(path)]
    monkeypatch.setattr("sys.argv", options)
    assert cuda.main() == 0
    machine, results = report.read(path)
    assert results and all(result.speedup("eager") for result in results)
    text = report.report(machine, results)
    assert report.CUDA_NOTES in text and "## Memory" not in text
    lines = report.target_table(machine, results).splitlines()
    assert len(lines) == 2 + len(targets.CUDA_TARGETS)
    assert all(report.NOT_MEASURED in line for line in lines if "`adain`" in line)


def test_share_of_a_fill() -> None:
    case = cuda_cases.gather_backward((16, 128, 256, 256))
    result = report.Result(case.op, case.shape, case.direction, {"cgcl_fast": [1e-3]}, {}, {"cgcl_fast": case.info("")})
    machine = {**MACHINE, "fill_bytes_per_second": 1e12}
    assert result.share(machine) == pytest.approx(16 * 128 * 256 * 256 * 4 / 1e12 / 1e-3)


def test_memory_of_an_earlier_result_is_taken_and_times_are_not():
    old = {"fullname": "a", "extra_info": {"peak_extra_bytes": 7, "copy_bytes_per_second": 1.0}}
    result = {"benchmarks": [{"fullname": "a", "extra_info": {"op": "x"}}, {"fullname": "b", "extra_info": {}}]}
    run.take_memory(result, {"benchmarks": [old]})
    assert [entry["extra_info"] for entry in result["benchmarks"]] == [{"op": "x", "peak_extra_bytes": 7}, {}]


def step_results(folder: Path) -> tuple[dict[str, Any], list[report.Result]]:
    """Two repeats of three methods; the machine is twice slower in the second."""
    cases = {
        ("cut step", "(1, 3, 256, 256)"): 8.0,
        ("fastcut step", "(1, 3, 256, 256) two steps, one flipped"): 10.0,
        ("enco step", "(1, 3, 256, 256) first half"): 5.0,
        ("enco step", "(1, 3, 256, 256) second half"): 4.4,
        ("enco step", "(1, 3, 128, 128)"): 1.0,
    }
    runs = []
    for slow in (1, 2):
        entries = [
            {
                "fullname": f"{op}{shape}",
                "extra_info": {"op": op, "shape": shape, "pass": BOTH, "impl": "cgcl_fast", **MEMORY},
                "stats": {"median": slow * seconds, "min": slow * seconds, "rounds": 2},
            }
            for (op, shape), seconds in cases.items()
        ]
        runs.append({"machine_info": dict(MACHINE), "benchmarks": entries})
    return report.read(results_file(folder, *runs))


MEMORY = {"peak_rss_bytes": 3 << 30, "start_rss_bytes": 1 << 30}


def test_cost_table_is_by_step_and_relative_to_cut(tmp_path: Path) -> None:
    machine, results = step_results(tmp_path)
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in report.cost_table(results).splitlines()[2:]]
    assert [row[0] for row in rows] == ["`cut`", "`fastcut`", "`enco`, first half", "`enco`, second half"]
    assert [row[1] for row in rows] == ["14.703", "14.703", "14.456", "14.456"]
    assert [row[2] for row in rows] == ["12.00", "7.50", "7.50", "6.60"]  # medians of the two repeats
    assert [row[3] for row in rows] == ["1.00×", "0.62×", "0.62×", "0.55×"]
    assert all(row[4:6] == ["3072.0", "2048.0"] for row in rows)
    assert "## Cost of the methods" in report.report(machine, results)


def test_enco_is_judged_by_the_step_of_cut(tmp_path: Path) -> None:
    machine, results = step_results(tmp_path)
    lines = [line for line in report.target_table(machine, results).splitlines() if "enco step" in line]
    assert ["| met |" in line for line in lines] == [True, False]
    assert "at most 75%" in lines[0] and "62%" in lines[0] and "at most 50%" in lines[1] and "55%" in lines[1]
    assert not any(result.op == "enco step" for result in report.headline(results))


@pytest.mark.parametrize("method", METHODS)
def test_batch_of_a_step_has_what_the_method_asks_for(method: str) -> None:
    batch = bench_step.batch_of(method, 256, "cpu")
    needs = METHODS[method].needs(METHODS[method].Config())
    count, side = (needs.crops.count, needs.crops.size) if needs.crops else (1, 256)
    assert batch["A"].shape == batch["B"].shape == (count, 3, side, side)
    assert ("A_classes" in batch) == (needs.classes is not None)
    if needs.random_pairs:
        assert batch["A_domain"] != batch["B_domain"]
    if needs.object_size:
        assert bool(batch["A_has_object"]) and bool(batch["B_has_object"])


def test_every_method_has_a_step_in_the_cost_table() -> None:
    steps = {case.op for case in bench_step.CASES if case.shape.startswith("(1, 3, 256, 256)")}
    assert steps == {f"{method} step" for method in METHODS}


def test_table_of_a_busy_machine() -> None:
    rows = [
        {"setting": "before", "load": "quiet", "images_per_second": [4.0, 6.0]},
        {"setting": "before", "load": "2 join", "images_per_second": [0.25]},
        {"setting": "cgcl_fast", "load": "quiet", "images_per_second": [5.5]},
    ]
    assert busy.table(rows).splitlines()[2:] == ["| before | 5.00 | 0.25 |", "| cgcl_fast | 5.50 | not measured |"]


def test_a_training_that_ends_is_no_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(busy.SETTINGS, "wrong", ({}, ["--workers", "none"]))
    with pytest.raises(RuntimeError, match="ended with status 2.*--workers none"):
        busy.images_per_second("wrong", "quiet", 0.1)


def test_the_commit_is_the_projects_or_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a repository around the project nothing is said."""

    def git(*arguments: str) -> str:
        who = ("-c", "user.name=A", "-c", "user.email=a@b", "-c", "commit.gpgsign=false")
        command = ["git", "-C", str(tmp_path), *who, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    project = tmp_path / "project"
    project.mkdir()
    file = project / "file"
    file.write_text("one")
    monkeypatch.setattr(machine, "ROOT", tmp_path.resolve())
    monkeypatch.delenv("CGCL_FAST_COMMIT", raising=False)
    assert machine.commit() == ("", None)
    git("init", "-q")
    git("add", ".")
    git("commit", "-q", "-m", "one")
    assert machine.commit() == (git("rev-parse", "HEAD"), False)
    file.write_text("two")
    assert machine.commit() == (git("rev-parse", "HEAD"), True)
    monkeypatch.setattr(machine, "ROOT", project.resolve())
    assert machine.commit() == ("", None)
    monkeypatch.setenv("CGCL_FAST_COMMIT", "49a2a73")
    assert machine.commit() == ("49a2a73", None)


def test_memory_formats_are_timed_in_both() -> None:
    from benchmarks import memory_formats

    found = memory_formats.measure(3, 4, 8, 3, budget=0.0)
    assert set(found["contiguous"]) == set(found["channels_last"]) == {"forward", "input_gradient", "weight_gradient"}
    assert min(found["channels_last"].values()) > 0
