"""The package's operators in standard ONNX operators of opset 18, for ``torch.onnx.export(custom_translation_table=)``.

Each function has the arguments and results of the operator that it stands for. The results that only a backward pass
reads are given all the same; the exporter leaves out what nothing uses.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from onnxscript import ir, opset18

op: Any = opset18  # the exporter makes constants of the numbers and lists that its operators are given

Value = Any
"""A value of the graph that is being built (``onnxscript.ir.Value``)."""

TINY = 1e-12
"""As ``ops._memory.ZERO_NORM``: vectors up to this length count as zero."""


def translation_table() -> dict[Any, Callable[..., Any]]:
    """Operator -> function that builds it."""
    ops = torch.ops.cgcl_fast
    return {
        ops._adain.default: adain,
        ops._blur_down.default: blur_down,
        ops._blur_up.default: blur_up,
        ops._memory_read.default: memory_read,
    }


def adain(
    x: Value,
    scale: Value | None,
    shift: Value | None,
    eps: float,
    activation: str,
    residual: Value | None,
    pad: int = 0,
    replicate: bool = False,
) -> tuple[Value, Value, Value]:
    """See :func:`cgcl_fast.ops.adain`. ONNX's own scale and shift are the same for all images, so those of each image
    follow the norm."""
    channels = _channels(x)
    y = op.InstanceNormalization(x, _constant(np.ones(channels)), _constant(np.zeros(channels)), epsilon=eps)
    if scale is not None:
        y = op.Mul(y, op.Unsqueeze(scale, [2, 3]))
    if shift is not None:
        y = op.Add(y, op.Unsqueeze(shift, [2, 3]))
    if activation == "relu":
        y = op.Relu(y)
    elif activation == "leaky_relu":
        y = op.LeakyRelu(y, alpha=0.2)
    if residual is not None:
        y = op.Add(y, residual)
    if pad > 0:
        y = _padded(y, pad, "edge" if replicate else "reflect")
    mean = op.ReduceMean(x, [2, 3], keepdims=1)
    centred = op.Sub(x, mean)
    variance = op.ReduceMean(op.Mul(centred, centred), [2, 3], keepdims=0)
    return y, op.Squeeze(mean, [2, 3]), op.Reciprocal(op.Sqrt(op.Add(variance, eps)))


def blur_down(x: Value) -> Value:
    """See :func:`cgcl_fast.ops.blur_down`: a convolution of each channel by itself."""
    channels = _channels(x)
    taps = np.array([1, 2, 1]) / 4
    weight = np.tile(np.outer(taps, taps), (channels, 1, 1, 1))
    return op.Conv(_padded(x, 1, "reflect"), _constant(weight), group=channels, strides=[2, 2])


def blur_up(x: Value) -> Value:
    """See :func:`cgcl_fast.ops.blur_up`, which is bilinear interpolation."""
    return op.Resize(x, None, _constant([1, 1, 2, 2]), mode="linear", coordinate_transformation_mode="half_pixel")


def memory_read(
    content: Value,
    keys: Value,
    values: Value,
    pixel_class: Value | None = None,
    item_class: Value | None = None,
    temperature: float = 1.0,
) -> tuple[Value, Value, Value]:
    """See :func:`cgcl_fast.ops.memory_read`."""
    rows = op.Reshape(content, [0, 0, -1])  # (B, C, H W)
    length = _not_zero(op.ReduceL2(rows, [1], keepdims=1))
    unit_keys = op.Div(keys, _not_zero(op.ReduceL2(keys, [1], keepdims=1)))
    cosines = op.MatMul(unit_keys, op.Div(rows, length))  # (B, N, H W)
    logits = op.Div(cosines, temperature)
    if pixel_class is None or item_class is None:
        shares = op.Softmax(logits, axis=1)
    else:
        same = op.Equal(op.Unsqueeze(op.Reshape(pixel_class, [0, -1]), [1]), op.Reshape(item_class, [1, -1, 1]))
        lowest = _constant(np.finfo(np.float32).min)
        shares = op.Where(same, op.Softmax(op.Where(same, logits, lowest), axis=1), _constant(0))
    read = op.MatMul(op.Transpose(values, perm=[1, 0]), shares)  # (B, V, H W)
    size = op.Concat(op.Constant(value_ints=[0, -1]), op.Shape(content, start=2), axis=0)
    return op.Reshape(read, size), cosines, op.Squeeze(op.Reciprocal(length), [1])


def _channels(x: Value) -> int:
    """The number of channels, which is never left open."""
    return int(x.shape[1])


def _constant(value: Any) -> Value:
    return op.Constant(value=ir.tensor(np.asarray(value, np.float32)))


def _padded(x: Value, pad: int, mode: str) -> Value:
    return op.Pad(x, [pad] * 4, None, [2, 3], mode=mode)


def _not_zero(length: Value) -> Value:
    """Lengths to divide by: infinity in the place of those that count as zero."""
    return op.Where(op.LessOrEqual(length, TINY), _constant(np.inf), length)
