"""What is installed and which backend runs where: `python -m cgcl_fast.info`, to include in every bug report."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from . import __version__, _backend, _heap, _library, _start, ops

COMPILERS = ("c++", "g++", "clang++")


def build_info() -> dict[str, Any]:
    """Facts from `_native` about the build: "loaded", "problem" (a reason, or None) and, if loaded, how it was
    built."""
    try:
        from . import _native  # type: ignore[attr-defined]

        facts = dict(_native.build_info(), cpu_variant=_native.cpu_variant())
    except Exception as error:  # modules of another Python or C++ library fail in any way; a report must not
        others = sorted(path.name for path in Path(__file__).parent.glob("_native*.so"))
        tag = sys.implementation.cache_tag
        problem = f"built for another Python than {tag}: {', '.join(others)}" if others else "not built"
        return {"loaded": False, "problem": f"{problem} ({error})"}
    return {"loaded": True, "problem": None, **facts}


def nvcc() -> str | None:
    """The nvcc that a build here would use, as in setup.py."""
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    return (shutil.which("nvcc", path=os.path.join(home, "bin")) if home else None) or shutil.which("nvcc")


def missing_tools() -> list[str]:
    """What is missing on this machine for building the native library, each with what to install."""
    missing = []
    if not any(shutil.which(compiler) for compiler in COMPILERS):
        missing.append(
            "no C++ compiler (c++, g++, clang++) on PATH: install g++ (Debian, Ubuntu), gcc-c++ (Fedora) or Xcode's "
            "command line tools (macOS)"
        )
    return missing


def devices() -> dict[str, list[str]]:
    """Device types of this machine, each with the names of its devices: {"cpu": [...], "cuda": [...]}."""
    lines = {"cpu": [f"{platform.machine()}, {torch.get_num_threads()} threads"]}
    if torch.cuda.is_available():
        lines["cuda"] = [
            f"{torch.cuda.get_device_name(i)}, sm_{''.join(map(str, torch.cuda.get_device_capability(i)))}"
            for i in range(torch.cuda.device_count())
        ]
    elif torch.accelerator.is_available():
        kind = torch.accelerator.current_accelerator()
        if kind is not None:
            lines[kind.type] = [f"device {i}" for i in range(torch.accelerator.device_count())]
    return lines


def chosen(op: str, device: str) -> tuple[str, str]:
    """The backend that `op` uses for float32 on `device`, which need not exist here, and why."""
    try:
        name = _backend.choose_on(op, device, torch.float32)
    except RuntimeError as error:
        return "none", str(error)
    asked = _backend.current_backend()
    if name != "reference":
        dtypes = ", ".join(str(dtype).removeprefix("torch.") for dtype in _backend.DTYPES[name, device])
        reason = f"{dtypes}; other dtypes take the reference"
        if (name, device) != ("native", "cuda"):
            return name, reason
        without_triton = _backend.problems.get(("triton", "cuda"), "no Triton kernel")
        return name, f"CUDA C++: {'the backend asked for' if asked == name else without_triton}; {reason}"
    if asked == "reference":
        return name, "the backend asked for"
    if device == "cpu" and _library.problem is not None:
        return name, "the native library is not in use"
    problems = [_backend.problems[key] for key in (("triton", device), ("native", device)) if key in _backend.problems]
    return name, "; ".join([f"no kernel for {device}", *problems])


def collect() -> dict[str, Any]:
    """Everything that `python -m cgcl_fast.info` prints, as JSON types."""
    try:
        triton: str | None = importlib.metadata.version("triton")
    except importlib.metadata.PackageNotFoundError:
        triton = None
    here = devices()
    shown = [*here, *(["cuda"] if torch.version.cuda is not None and "cuda" not in here else [])]
    return {
        "cgcl_fast": __version__,
        "location": str(Path(__file__).parent),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "torch": torch.__version__,
        "torch_cuda": torch.version.cuda,
        "triton": triton,
        "native": {
            "loaded": _library.problem is None,
            "path": str(_library.PATH),
            "problem": _library.problem,
            "missing": missing_tools() if _library.problem is not None else [],
        },
        "native_cuda": {
            "loaded": _library.cuda_problem is None,
            "path": str(_library.CUDA_PATH),
            "problem": _library.cuda_problem,
            "nvcc": nvcc(),
        },
        "build": build_info(),
        "devices": here,
        "tf32": {
            "convolutions": torch.backends.cudnn.conv.fp32_precision == "tf32",  # type: ignore[attr-defined]
            "products": torch.backends.cuda.matmul.fp32_precision == "tf32",
        },
        "openmp": {"waiting": _start.waiting.setting, "reason": _start.waiting.reason},
        "heap": _heap.decide(os.environ)._asdict(),
        "backend": _backend.current_backend(),
        "ops": {
            op: {device: dict(zip(("backend", "reason"), chosen(op, device), strict=True)) for device in shown}
            for op in ops.__all__
        },
    }


def method_parameters() -> dict[str, dict[str, int]]:
    """Numbers of parameters of every method with its default config: {method: {network: number, "total": number}}."""
    from .methods.registry import METHODS

    table = {}
    for name, method in METHODS.items():
        with torch.device("meta"):
            networks = method(method.Config()).named_children()
        counts = {part: sum(p.numel() for p in network.parameters()) for part, network in networks}
        table[name] = {part: count for part, count in counts.items() if count}
        table[name]["total"] = sum(counts.values())
    return table


def _rows(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _native_lines(info: dict[str, Any]) -> list[tuple[str, str]]:
    native, cuda, build = info["native"], info["native_cuda"], info["build"]
    lines = [("native library _C", native["path"] if native["loaded"] else f"not in use: {native['problem']}")]
    if not native["loaded"]:
        lines += [("  missing", what) for what in native["missing"]]
        lines.append(
            ("  to build it", "pip install --force-reinstall --no-deps PATH_OF_CGCL_FAST, with -v to see the build")
        )
    lines.append(("native library _C_cuda", cuda["path"] if cuda["loaded"] else f"not in use: {cuda['problem']}"))
    if not cuda["loaded"] and info["torch_cuda"] is not None:  # not a problem if there is Triton
        lines.append(
            ("  nvcc", cuda["nvcc"] or "not found in CUDA_HOME or on PATH; needed to build it, not to use CUDA")
        )
    if not build["loaded"]:
        return [*lines, ("build report _native", f"not in use: {build['problem']}")]
    return [
        *lines,
        ("build report _native", "loaded"),
        ("  compiler", build["compiler"]),
        ("  flags", build["flags"]),
        ("  built with", f"torch {build['torch']}, ABI of torch {build['abi_target']} and later"),
        ("  CPU variants", f"{', '.join(build['cpu_variants'])}; in use: {build['cpu_variant']}"),
        ("  CUDA architectures", build["cuda_architectures"] or "none built"),
    ]


def _tf32_text(tf32: dict[str, bool]) -> str:
    parts = ", ".join(f"{what} in {'TF32' if on else 'float32'}" for what, on in tf32.items())
    return f"{parts}, as PyTorch is set here; train sets both by --tf32"


def describe(info: dict[str, Any]) -> str:
    """`collect()` as text."""
    lines = [
        ("cgcl_fast", f"{info['cgcl_fast']} in {info['location']}"),
        ("python", f"{info['python']} on {info['platform']}"),
        ("torch", f"{info['torch']}, " + (f"CUDA {info['torch_cuda']}" if info["torch_cuda"] else "CPU build")),
        ("triton", info["triton"] or "not installed"),
        *_native_lines(info),
        *((f"device {kind}", "; ".join(names)) for kind, names in info["devices"].items()),
        *([("float32 on CUDA", _tf32_text(info["tf32"]))] if info["torch_cuda"] else []),
        ("OpenMP's waiting", f"{info['openmp']['waiting']}: {info['openmp']['reason']}"),
        ("freed memory", f"{'kept' if info['heap']['kept'] else 'not kept'}: {info['heap']['reason']}"),
        ("backend", f"{info['backend']} (CGCL_FAST_BACKEND or cgcl_fast.backend)"),
    ]
    table = [
        (op, device, row["backend"], row["reason"])
        for op, by_device in info["ops"].items()
        for device, row in by_device.items()
    ]
    return "\n".join([*_rows(lines), "", *_rows([("op", "device", "backend", "why"), *table])])


def megabytes(counts: dict[str, int]) -> float:
    """Size in 10⁶ bytes of a method's float32 parameters without its discriminators (networks whose names begin with
    D), as printed for CGL and CGCL."""
    return sum(4 * count for part, count in counts.items() if part != "total" and not part.startswith("D")) / 1e6


def describe_methods(table: dict[str, dict[str, int]]) -> str:
    """`method_parameters()` as text: totals in millions, as the papers of the CUT family print them, and megabytes."""
    rows = [("method", "parameters", "float32 without D", "networks")]
    for name, counts in table.items():
        parts = ", ".join(f"{part} {count:,}" for part, count in counts.items() if part != "total")
        rows.append((name, f"{counts['total'] / 1e6:.3f} M", f"{megabytes(counts):.1f} MB", parts))
    return "\n".join(_rows(rows))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m cgcl_fast.info", description=__doc__)
    parser.add_argument("--methods", action="store_true", help="parameters of each method with its default config")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(arguments)
    result = method_parameters() if options.methods else collect()
    if options.json:
        print(json.dumps(result, indent=2))
    else:
        print(describe_methods(result) if options.methods else describe(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
