"""The conditions of a measurement, needed for comparing it: versions, device, preprocessing."""

from __future__ import annotations

import importlib.metadata
import platform
from typing import Any

import torch
from accelerate import Accelerator

from cgcl_fast.data import Preprocess

PACKAGES = ("cgcl_fast", "torch", "torchvision", "numpy", "pillow", "torch-fidelity", "lpips")
"""Packages whose versions may change a metric."""


def versions() -> dict[str, str | None]:
    """Versions of Python and ``PACKAGES``; None if not installed."""
    versions: dict[str, str | None] = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    versions["torch"] = torch.__version__  # includes the CUDA or CPU build
    return versions


def machine(accelerator: Accelerator) -> dict[str, Any]:
    """Where it was computed."""
    device = accelerator.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    return {
        "device": f"{device.type} ({name})",
        "processes": accelerator.num_processes,
        "threads": torch.get_num_threads(),
    }


def of_preprocess(preprocess: Preprocess) -> dict[str, Any]:
    """How images were preprocessed."""
    return {
        "preprocess": preprocess.mode,
        "size": preprocess.size if preprocess.mode != "none" else None,
        "load_size": preprocess.load_size if preprocess.mode in ("resize", "scale_width") else None,
        "interpolation": "bicubic with antialiasing (Pillow's)" if preprocess.mode != "none" else None,
    }
