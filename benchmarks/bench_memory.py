"""The class-aware memory of MGUIT: read, update and feature contrastive loss."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from cgcl_fast import ops

from . import floors
from .case import BOTH, FORWARD, Case, normal, op_case

INIT = (1, 256, 90, 90)  # content of the paper's 360x360 crops
ITEMS = 20
TEMPERATURE = 0.1
LAYOUTS = (torch.contiguous_format, torch.channels_last)


def rows(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B·H·W, C)."""
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])


def eager_read(content: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    B, _, H, W = content.shape
    alpha = torch.softmax(F.normalize(rows(content), dim=1) @ F.normalize(keys, dim=1).T, dim=1)
    return (alpha @ values).view(B, H, W, -1).permute(0, 3, 1, 2)


def eager_read_by_class(
    content: Tensor, keys: Tensor, values: Tensor, pixel_class: Tensor, item_class: Tensor
) -> Tensor:
    B, _, H, W = content.shape
    d = F.normalize(rows(content), dim=1) @ F.normalize(keys, dim=1).T
    d = d.masked_fill(pixel_class.reshape(-1, 1) != item_class, float("-inf"))
    return (torch.softmax(d, dim=1) @ values).view(B, H, W, -1).permute(0, 3, 1, 2)


def fast_read_by_class(
    content: Tensor, keys: Tensor, values: Tensor, pixel_class: Tensor, item_class: Tensor
) -> Tensor:
    return ops.memory_read(content, keys, values, pixel_class=pixel_class, item_class=item_class)


def eager_update(keys: Tensor, values: Tensor, *maps: Tensor) -> tuple[Tensor, Tensor]:
    contents, styles = maps[: len(maps) // 2], maps[len(maps) // 2 :]
    unit_keys, new_keys, new_values = F.normalize(keys, dim=1), keys, []
    for value, content, style in zip(values, contents, styles, strict=True):
        c = rows(content)
        beta = torch.softmax(F.normalize(c, dim=1) @ unit_keys.T, dim=0)
        new_keys = new_keys + beta.T @ c
        new_values.append(F.normalize(value + beta.T @ rows(style), dim=1))
    return F.normalize(new_keys, dim=1), torch.stack(new_values)


def fast_update(keys: Tensor, values: Tensor, *maps: Tensor) -> tuple[Tensor, Tensor]:
    return ops.memory_update(keys, values, maps[: len(maps) // 2], maps[len(maps) // 2 :])


def eager_contrast(features: Tensor, items: Tensor) -> Tensor:
    logits = rows(features) @ items.T / TEMPERATURE
    return F.cross_entropy(logits, logits.argmax(dim=1))


def fast_contrast(features: Tensor, items: Tensor) -> Tensor:
    return ops.memory_contrast(features, items, temperature=TEMPERATURE)


def unit_items(generator: torch.Generator, *shape: int) -> Tensor:
    return F.normalize(normal(generator, *shape), dim=-1)


def label(prefix: str, layout: torch.memory_format) -> str:
    return f"{prefix}{INIT} {ITEMS} items" + ("" if layout == torch.contiguous_format else " channels_last")


def peak(layout: torch.memory_format, direction: str = BOTH) -> str | None:
    """Peak memory is only measured in one layout, and only with a backward pass."""
    return "extra" if layout == torch.contiguous_format and direction == BOTH else None


def read(direction: str, layout: torch.memory_format) -> Case:
    def inputs(generator: torch.Generator) -> list[Tensor]:
        items = [unit_items(generator, ITEMS, INIT[1]) for _ in range(2)]
        return [normal(generator, *INIT).to(memory_format=layout), *items]

    functions = {"eager": eager_read, "cgcl_fast": ops.memory_read}
    work = floors.memory_read(INIT, ITEMS, INIT[1], direction)
    memory = peak(layout, direction)
    return op_case(
        "memory_read",
        label("", layout),
        direction,
        functions,
        inputs,
        range(3),
        work=work,
        memory=memory,
        slow=not memory,
    )


def read_by_class(direction: str) -> Case:
    """Boxes of cars, persons and signs on a background, with the paper's 5, 3, 2 and 10 items."""

    def inputs(generator: torch.Generator) -> list[Tensor]:
        pixel_class = torch.zeros(INIT[0], INIT[2], INIT[3], dtype=torch.int64)
        pixel_class[:, 40:70, 10:50], pixel_class[:, 30:60, 60:72], pixel_class[:, 5:15, 30:40] = 1, 2, 3
        item_class = torch.repeat_interleave(torch.arange(4), torch.tensor([10, 5, 3, 2]))
        items = [unit_items(generator, ITEMS, INIT[1]) for _ in range(2)]
        return [normal(generator, *INIT), *items, pixel_class, item_class]

    functions = {"eager": eager_read_by_class, "cgcl_fast": fast_read_by_class}
    work = floors.memory_read(INIT, ITEMS, INIT[1], direction)
    return op_case(
        "memory_read", f"{INIT} {ITEMS} items of 4 classes", direction, functions, inputs, range(3), work=work
    )


def update(layout: torch.memory_format) -> Case:
    def inputs(generator: torch.Generator) -> list[Tensor]:
        maps = [normal(generator, *INIT).to(memory_format=layout) for _ in range(4)]
        return [unit_items(generator, ITEMS, INIT[1]), unit_items(generator, 2, ITEMS, INIT[1]), *maps]

    functions = {"eager": eager_update, "cgcl_fast": fast_update}
    work = floors.memory_update(INIT, ITEMS, INIT[1], domains=2)
    return op_case("memory_update", label("2 x ", layout), FORWARD, functions, inputs, work=work, memory=peak(layout))


def contrast(direction: str, layout: torch.memory_format) -> Case:
    def inputs(generator: torch.Generator) -> list[Tensor]:
        features = F.normalize(normal(generator, *INIT), dim=1).to(memory_format=layout)
        return [features, unit_items(generator, ITEMS, INIT[1])]

    functions = {"eager": eager_contrast, "cgcl_fast": fast_contrast}
    work = floors.memory_contrast(INIT, ITEMS, direction)
    memory = peak(layout, direction)
    return op_case(
        "memory_contrast",
        label("", layout),
        direction,
        functions,
        inputs,
        range(2),
        work=work,
        memory=memory,
        slow=not memory,
    )


CASES = [
    *(read(direction, layout) for layout in LAYOUTS for direction in (FORWARD, BOTH)),
    read_by_class(BOTH),
    *map(update, LAYOUTS),
    *(contrast(direction, layout) for layout in LAYOUTS for direction in (FORWARD, BOTH)),
]


def test_memory(case: Case, implementation: str, measure: Callable[[Case, str], None]) -> None:
    measure(case, implementation)
