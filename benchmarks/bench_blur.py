"""The blurs that halve and double the maps of CUT's networks.

eager is what published code computes: padding, then a separate convolution per channel. eager_interpolate doubles by
PyTorch's bilinear interpolation, which gives the same map.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cgcl_fast import ops

from . import floors
from .case import BOTH, FORWARD, Case, normal, op_case

Map = tuple[int, int, int, int]
LAST = torch.channels_last
WIDE, INNER, BATCH = (1, 128, 256, 256), (1, 256, 128, 128), (4, 64, 64, 64)


def _filter(taps: tuple[float, ...], x: Tensor) -> Tensor:
    line = torch.tensor(taps, dtype=x.dtype, device=x.device)
    return torch.outer(line, line).expand(x.shape[1], 1, len(taps), len(taps))


def eager_down(x: Tensor) -> Tensor:
    padded = F.pad(x, (1, 1, 1, 1), mode="reflect")
    return F.conv2d(padded, _filter((0.25, 0.5, 0.25), x), stride=2, groups=x.shape[1])


def _replicated(x: Tensor) -> Tensor:
    """Compiled, the gradient of PyTorch's own fails an assertion (2.14): inductor takes it for a contiguous map."""
    if not torch.compiler.is_compiling():
        return F.pad(x, (1, 1, 1, 1), mode="replicate")
    x = torch.cat([x[:, :, :1], x, x[:, :, -1:]], 2)
    return torch.cat([x[..., :1], x, x[..., -1:]], 3)


def eager_up(x: Tensor) -> Tensor:
    padded = _replicated(x)
    doubled = F.conv_transpose2d(padded, _filter((0.25, 0.75, 0.75, 0.25), x), stride=2, padding=2, groups=x.shape[1])
    return doubled[:, :, 1:-1, 1:-1]


def eager_interpolate(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="bilinear")


# The ops are looked up when called: bench_host imports this beside other checkouts, which may lack them.
FUNCTIONS: dict[str, dict[str, Callable[..., Any]]] = {
    "blur_down": {"eager": eager_down, "cgcl_fast": lambda x: ops.blur_down(x)},
    "blur_up": {"eager": eager_up, "eager_interpolate": eager_interpolate, "cgcl_fast": lambda x: ops.blur_up(x)},
}


def result_shape(op: str, shape: Map) -> Map:
    B, C, H, W = shape
    return (B, C, (H + 1) // 2, (W + 1) // 2) if op == "blur_down" else (B, C, 2 * H, 2 * W)


def make(op: str, shape: Map, direction: str, layout: torch.memory_format = torch.contiguous_format) -> Case:
    return op_case(
        op,
        f"{shape}" + (" channels_last" if layout == LAST else ""),
        direction,
        FUNCTIONS[op],
        lambda generator: [normal(generator, *shape).to(memory_format=layout)],
        wrt=(0,),
        work=floors.blur(shape, result_shape(op, shape), direction),
        slow=shape != BATCH,
        memory="extra" if direction == BOTH and shape != BATCH else None,
    )


CASES = [
    *(make("blur_down", shape, BOTH, layout=LAST) for shape in (WIDE, INNER, BATCH)),
    make("blur_down", WIDE, FORWARD, layout=LAST),
    *(make("blur_down", shape, BOTH) for shape in (WIDE, BATCH)),
    *(make("blur_up", shape, BOTH, layout=LAST) for shape in ((1, 256, 64, 64), (1, 128, 128, 128), BATCH)),
    make("blur_up", (1, 128, 128, 128), FORWARD, layout=LAST),
    *(make("blur_up", shape, BOTH) for shape in ((1, 128, 128, 128), BATCH)),
]


def test_blur(case: Case, implementation: str, measure: Callable[[Case, str], None]) -> None:
    measure(case, implementation)
