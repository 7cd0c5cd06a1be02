"""Device and precision of a process, and Accelerate's view of the process and its peers."""

from __future__ import annotations

import sys
from datetime import timedelta

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs


def device_for(device: str = "auto", precision: str = "fp32") -> torch.device:
    """The device to compute on.

    Args:
        device: "auto" uses an accelerator if there is one; "cpu"; "cuda".
        precision: "fp32", "bf16" or "fp16".

    Raises:
        ValueError: there is no such device here, or it does not support that precision.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise ValueError(f"device must be auto, cpu or cuda, got {device!r}")
    if precision not in ("fp32", "bf16", "fp16"):
        raise ValueError(f"precision must be fp32, bf16 or fp16, got {precision!r}")
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device is cuda, but this PyTorch finds no CUDA device here")
    if precision == "fp16" and (device == "cpu" or not torch.cuda.is_available()):
        raise ValueError("precision fp16 needs a GPU; on a CPU use fp32 or bf16")
    if device == "auto":
        return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    return torch.device(device)


def slow_precision(device: torch.device, precision: str) -> str | None:
    """A line about a precision for which the device has no instructions; None if it has."""
    if device.type != "cpu" or precision != "bf16":
        return None
    supported = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)  # not in builds without oneDNN
    if supported is None or supported():
        return None
    return "--precision bf16: oneDNN has no kernels for it on this CPU: convolutions take many times as long as in fp32"


def make_accelerator(
    *, device: str = "auto", precision: str = "fp32", accumulate: int = 1, timeout: float = 900
) -> Accelerator:
    """Accelerate's view of this process: its device, precision and peers (``torchrun``, ``accelerate launch``).

    Accelerate keeps device, precision and accumulation once per process. So a second training in a process may use
    other ones than the first, but only after it; work with the most recent accelerator.

    Args:
        device, precision: see :func:`device_for`, which decides for a single process.
        accumulate: batches per step.
        timeout: seconds that processes wait for each other.

    Raises:
        ValueError: there is no such device here, or it does not support that precision.
    """
    # Without an accelerator pass cpu=True; otherwise each process trains alone on all data and overwrites the same
    # files.
    on_cpu = device_for(device, precision).type == "cpu"
    AcceleratorState._reset_state(reset_partial_state=True)  # of an earlier training; Accelerate has no public way
    return Accelerator(
        cpu=on_cpu,
        mixed_precision="no" if precision == "fp32" else precision,
        gradient_accumulation_steps=accumulate,
        # A phase may have parameters without gradient in some steps (a loss that is off, a layer that is not sampled).
        kwargs_handlers=[
            DistributedDataParallelKwargs(find_unused_parameters=True),
            # Accelerate drops a value that equals its own default, 600 s, which is not Gloo's.
            InitProcessGroupKwargs(timeout=timedelta(seconds=timeout, microseconds=1)),
        ],
    )


def peak_memory(device: torch.device) -> float | None:
    """Peak memory so far, in 10⁶ bytes: on a GPU that of PyTorch's allocator, otherwise the resident memory of this
    process.
    None: unknown on this system."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    try:
        import resource
    except ImportError:  # not a POSIX system
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
