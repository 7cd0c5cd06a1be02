"""Choosing positions and gathering their features: the work before PatchNCE's loss, in each layer of each step."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cgcl_fast import ops

from . import floors
from .case import BOTH, FORWARD, Case, normal, op_case

PATCHES = 256
OVERSAMPLE = 4
SCORE = 30  # side of the discriminator's output for a 256x256 image


def eager_ids(positions: int, batch: int | None) -> Tensor:
    if batch is None:
        return torch.randperm(positions)[:PATCHES]
    return torch.stack([torch.randperm(positions)[:PATCHES] for _ in range(batch)])


def eager_numpy_ids(positions: int, batch: int | None) -> Tensor:
    """As published: NumPy's permutation of all positions."""
    if batch is None:
        return torch.from_numpy(np.random.permutation(positions)[:PATCHES])
    return torch.from_numpy(np.stack([np.random.permutation(positions)[:PATCHES] for _ in range(batch)]))


def fast_ids(positions: int, batch: int | None) -> Tensor:
    return ops.sample_patch_ids(positions, PATCHES, batch=batch)


def sample(positions: int, batch: int | None = None) -> Case:
    return op_case(
        "sample_patch_ids",
        f"{positions}, {PATCHES}" + ("" if batch is None else f", batch {batch}"),
        FORWARD,
        {"eager": eager_ids, "eager_numpy": eager_numpy_ids, "cgcl_fast": fast_ids},
        lambda generator: [positions, batch],
        work=floors.sample_patch_ids(PATCHES, batch or 1),
        agree=False,
        memory=None,
    )


def eager_gather(features: Tensor, ids: Tensor) -> Tensor:
    """As published: the map as rows of positions, which are then indexed."""
    rows = features.permute(0, 2, 3, 1).flatten(1, 2)
    if ids.dim() == 1:
        return rows[:, ids, :]
    return rows[torch.arange(len(rows), device=ids.device)[:, None], ids]


def gather(
    shape: tuple[int, int, int, int],
    direction: str,
    each_image: bool = False,
    layout: torch.memory_format = torch.contiguous_format,
) -> Case:
    B, _, H, W = shape

    def inputs(generator: torch.Generator) -> list[Tensor]:
        features = normal(generator, *shape).to(memory_format=layout)
        rows = [
            torch.randperm(H * W, generator=generator, device=generator.device)[:PATCHES]
            for _ in range(B if each_image else 1)
        ]
        return [features, torch.stack(rows) if each_image else rows[0]]

    plain = layout == torch.contiguous_format
    return op_case(
        "gather_patches",
        f"{shape} {PATCHES} ids" + (" an image" if each_image else "") + ("" if plain else " channels_last"),
        direction,
        {"eager": eager_gather, "cgcl_fast": ops.gather_patches},
        inputs,
        wrt=(0,),
        work=floors.gather_patches(shape, B * PATCHES, direction),
        memory="extra" if plain and direction == BOTH else None,
    )


def eager_dag(score: Tensor, side: int, candidates: Tensor | None) -> Tensor:
    """As published: interpolate the whole score map, draw candidates from a permutation, sort by score."""
    scores = F.interpolate(score, (side, side), mode="bilinear").flatten(1)
    chosen = []
    for image in scores:
        drawn = torch.randperm(side * side)[: OVERSAMPLE * PATCHES] if candidates is None else candidates
        order = drawn[image[drawn].sort().indices]
        chosen.append(torch.cat([order[: PATCHES // 2], order[len(order) - PATCHES // 2 :]]))
    return torch.stack(chosen)


def fast_dag(score: Tensor, side: int, candidates: Tensor | None) -> Tensor:
    return ops.dag_select(score, (side, side), PATCHES, oversample=OVERSAMPLE, candidates=candidates)


def dag(side: int, batch: int = 1, fixed: bool = False) -> Case:
    def inputs(generator: torch.Generator, fixed: bool) -> list[object]:
        candidates = (
            torch.randperm(side * side, generator=generator, device=generator.device)[: OVERSAMPLE * PATCHES]
            if fixed
            else None
        )
        return [normal(generator, batch, 1, SCORE, SCORE), side, candidates]

    return op_case(
        "dag_select",
        f"{SCORE}x{SCORE} to {side}x{side}, {PATCHES} ids"
        + (f", batch {batch}" if batch > 1 else "")
        + (", candidates given" if fixed else ""),
        FORWARD,
        {"eager": eager_dag, "cgcl_fast": fast_dag},
        partial(inputs, fixed=fixed),
        work=floors.dag_select((SCORE, SCORE), PATCHES, OVERSAMPLE, batch),
        agree=fixed,
        memory="extra" if not fixed and batch == 1 else None,
    )


LARGE, SMALL = (1, 128, 256, 256), (4, 256, 64, 64)
CASES = [
    sample(65536),
    sample(4096),
    sample(65536, batch=8),
    *(gather(LARGE, direction) for direction in (FORWARD, BOTH)),
    gather(LARGE, BOTH, layout=torch.channels_last),
    gather(SMALL, BOTH),
    gather(SMALL, BOTH, each_image=True),
    dag(64),
    dag(256),
    dag(256, batch=8),
    dag(256, fixed=True),
]


def test_sampling(case: Case, implementation: str, measure: Callable[[Case, str], None]) -> None:
    measure(case, implementation)
