"""AdaIN with activation and residual, and instance norm: the layers between the generators' convolutions."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cgcl_fast import ops

from . import floors
from .case import BOTH, FORWARD, Case, normal, op_case

SMALL, LARGE = (4, 256, 64, 64), (1, 64, 256, 256)
BLOCK = (1, 256, 64, 64)  # of the residual blocks of CUT's generator


def eager_adain(x: Tensor, scale: Tensor, shift: Tensor, residual: Tensor | None = None) -> Tensor:
    """Instance norm without affine parameters, then the style, as in StarGAN v2 (there with 1 + scale)."""
    y = F.relu(scale[:, :, None, None] * F.instance_norm(x) + shift[:, :, None, None])
    return y if residual is None else y + residual


def eager_batch_norm(x: Tensor, scale: Tensor, shift: Tensor, residual: Tensor | None = None) -> Tensor:
    """Batch norm over (1, B*C, H, W) with the style as affine parameters, as in MUNIT."""
    B, C, H, W = x.shape
    y = F.batch_norm(x.reshape(1, B * C, H, W), None, None, scale.flatten(), shift.flatten(), training=True)
    y = F.relu(y.view(B, C, H, W))
    return y if residual is None else y + residual


def fast_adain(x: Tensor, scale: Tensor, shift: Tensor, residual: Tensor | None = None) -> Tensor:
    return ops.adain(x, scale, shift, activation="relu", residual=residual)


def eager_instance_norm(x: Tensor, residual: Tensor | None = None) -> Tensor:
    y = F.instance_norm(x)
    return F.relu(y) if residual is None else y + residual


def fast_instance_norm(x: Tensor, residual: Tensor | None = None) -> Tensor:
    """The two uses in a residual block: norm + ReLU, and norm + skip connection."""
    return ops.instance_norm(x, activation="relu" if residual is None else "none", residual=residual)


def eager_padded(x: Tensor, pad: int) -> Tensor:
    return F.pad(F.relu(F.instance_norm(x)), (pad,) * 4, mode="reflect")


def fast_padded(x: Tensor, pad: int) -> Tensor:
    return ops.instance_norm(x, activation="relu", pad=pad)


def inputs(
    shape: tuple[int, int, int, int],
    style: bool,
    residual: bool,
    layout: torch.memory_format,
    generator: torch.Generator,
) -> list[Tensor]:
    x = (normal(generator, *shape) * 3 + 1).to(memory_format=layout)
    styles = [normal(generator, *shape[:2]) for _ in range(2)] if style else []
    return [x, *styles, *([normal(generator, *shape).to(memory_format=layout)] if residual else [])]


def make(
    op: str,
    shape: tuple[int, int, int, int],
    direction: str,
    residual: bool = False,
    layout: torch.memory_format = torch.contiguous_format,
) -> Case:
    style = op == "adain"
    functions: dict[str, Callable[..., Any]] = (
        {"eager": eager_adain, "eager_batch_norm": eager_batch_norm, "cgcl_fast": fast_adain}
        if style
        else {"eager": eager_instance_norm, "cgcl_fast": fast_instance_norm}
    )
    plain = layout == torch.contiguous_format and not residual
    label = f"{shape}" + (" relu" if style or not residual else "") + (" residual" if residual else "")
    return op_case(
        op,
        label + ("" if layout == torch.contiguous_format else " channels_last"),
        direction,
        functions,
        partial(inputs, shape, style, residual, layout),
        wrt=range((3 if style else 1) + residual),
        work=floors.adain(shape, direction, residual=residual),
        slow=shape == LARGE or (op == "instance_norm" and plain),
        memory="extra" if plain and direction == BOTH else None,
    )


def make_padded(shape: tuple[int, int, int, int], pad: int, direction: str, layout: torch.memory_format) -> Case:
    """Norm, ReLU and the padding of the next convolution of CUT's generator: 1 in its blocks, 3 before its head."""
    return op_case(
        "instance_norm",
        f"{shape} relu pad {pad}" + ("" if layout == torch.contiguous_format else " channels_last"),
        direction,
        {"eager": partial(eager_padded, pad=pad), "cgcl_fast": partial(fast_padded, pad=pad)},
        partial(inputs, shape, False, False, layout),
        wrt=(0,),
        work=floors.adain(shape, direction, pad=pad),
        slow=shape == LARGE,
        memory="extra" if direction == BOTH else None,
    )


CASES = [
    *(make("adain", shape, direction) for shape in (SMALL, LARGE) for direction in (FORWARD, BOTH)),
    *(make("adain", shape, BOTH, residual=True) for shape in (SMALL, LARGE)),
    *(make("adain", SMALL, direction, layout=torch.channels_last) for direction in (FORWARD, BOTH)),
    make("adain", LARGE, BOTH, layout=torch.channels_last),
    *(make("instance_norm", shape, direction) for shape in (SMALL, LARGE) for direction in (FORWARD, BOTH)),
    make("instance_norm", SMALL, BOTH, residual=True),
    *(make("instance_norm", shape, BOTH, layout=torch.channels_last) for shape in (SMALL, LARGE)),
    make("instance_norm", SMALL, BOTH, residual=True, layout=torch.channels_last),
    *(
        make_padded(shape, pad, direction, layout)
        for shape, pad in ((BLOCK, 1), (LARGE, 3))
        for direction in (FORWARD, BOTH)
        for layout in (torch.contiguous_format, torch.channels_last)
    ),
]


def test_adain(case: Case, implementation: str, measure: Callable[[Case, str], None]) -> None:
    measure(case, implementation)
