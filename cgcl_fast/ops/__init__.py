"""The ops: functions on tensors with the equation and a reference in PyTorch beside each, and kernels behind."""

from .adain import adain, instance_norm

__all__ = ["adain", "instance_norm"]
