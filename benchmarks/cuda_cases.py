"""The cases of `python -m benchmarks.cuda`: the ops at the shapes of CUT, EnCo, CGCL and MGUIT, batch 1 to 64, 256x256
to 1024x1024 images, in float32 and bfloat16. Cases with a target come first.

With `small=True` the same cases have tiny shapes, to check on a CPU that each of them works.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cgcl_fast import ops
from cgcl_fast._backend import choose

from . import bench_adain, bench_blur, bench_layer_norm, bench_memory, bench_patch_nce, bench_sampling, floors
from .case import BOTH, FORWARD, Case, normal, op_case, unit
from .floors import Work

BACKWARD = "backward"
PATCHES = 256
LAST = torch.channels_last
CONTIGUOUS = torch.contiguous_format
Map = tuple[int, int, int, int]


def as_bfloat16(make: Callable[..., Case], *arguments: Any, **options: Any) -> Case:
    return make(*arguments, **options, dtype=torch.bfloat16)


def label(text: str, dtype: torch.dtype, layout: torch.memory_format = CONTIGUOUS) -> str:
    return text + (" channels_last" if layout == LAST else "") + (" bf16" if dtype == torch.bfloat16 else "")


def work_in(dtype: torch.dtype, work: Work) -> Work:
    """`floors` counts float32."""
    scale = dtype.itemsize / floors.FLOAT
    return Work(int(work.bytes * scale), work.flops, int(work.largest * scale))


def cast(inputs: Callable[[torch.Generator], Sequence[Any]], dtype: torch.dtype) -> Callable[..., list[Any]]:
    def build(generator: torch.Generator) -> list[Any]:
        values = inputs(generator)
        return [v.to(dtype) if isinstance(v, Tensor) and v.is_floating_point() else v for v in values]

    return build


def adain(
    shape: Map,
    direction: str,
    residual: bool = False,
    layout: torch.memory_format = CONTIGUOUS,
    dtype: torch.dtype = torch.float32,
) -> Case:
    return op_case(
        "adain",
        label(f"{shape} relu" + (" residual" if residual else ""), dtype, layout),
        direction,
        {"eager": bench_adain.eager_adain, "cgcl_fast": bench_adain.fast_adain},
        cast(partial(bench_adain.inputs, shape, True, residual, layout), dtype),
        wrt=range(3 + residual),
        work=work_in(dtype, floors.adain(shape, direction, residual=residual)),
    )


def instance_norm(shape: Map, direction: str, dtype: torch.dtype = torch.float32) -> Case:
    return op_case(
        "instance_norm",
        label(f"{shape} relu", dtype),
        direction,
        {"eager": bench_adain.eager_instance_norm, "cgcl_fast": bench_adain.fast_instance_norm},
        cast(partial(bench_adain.inputs, shape, False, False, CONTIGUOUS), dtype),
        wrt=(0,),
        work=work_in(dtype, floors.adain(shape, direction)),
    )


def layer_norm(shape: Map, direction: str, pad: int, dtype: torch.dtype = torch.float32) -> Case:
    return op_case(
        "layer_norm",
        label(f"{shape} relu pad {pad}", dtype, LAST),
        direction,
        {
            "eager": partial(bench_layer_norm.eager_layer_norm, pad=pad),
            "cgcl_fast": partial(bench_layer_norm.fast_layer_norm, pad=pad),
        },
        cast(partial(bench_layer_norm.inputs, shape), dtype),
        wrt=(0, 1, 2),
        work=work_in(dtype, floors.adain(shape, direction, pad=pad)),
    )


def ids(shape: Map, count: int, generator: torch.Generator) -> Tensor:
    return torch.randperm(shape[2] * shape[3], generator=generator, device=generator.device)[:count]


def blur(
    op: str,
    shape: Map,
    direction: str,
    layout: torch.memory_format = CONTIGUOUS,
    dtype: torch.dtype = torch.float32,
) -> Case:
    return op_case(
        op,
        label(f"{shape}", dtype, layout),
        direction,
        bench_blur.FUNCTIONS[op],
        cast(lambda generator: [normal(generator, *shape).to(memory_format=layout)], dtype),
        wrt=(0,),
        work=work_in(dtype, floors.blur(shape, bench_blur.result_shape(op, shape), direction)),
    )


def gather(
    shape: Map, direction: str, layout: torch.memory_format = CONTIGUOUS, dtype: torch.dtype = torch.float32
) -> Case:
    count = min(PATCHES, shape[2] * shape[3])

    def inputs(generator: torch.Generator) -> list[Tensor]:
        return [normal(generator, *shape).to(memory_format=layout), ids(shape, count, generator)]

    return op_case(
        "gather_patches",
        label(f"{shape} {count} ids", dtype, layout),
        direction,
        {"eager": bench_sampling.eager_gather, "cgcl_fast": ops.gather_patches},
        cast(inputs, dtype),
        wrt=(0,),
        work=work_in(dtype, floors.gather_patches(shape, shape[0] * count, direction)),
    )


def gather_backward(shape: Map, layout: torch.memory_format = CONTIGUOUS, dtype: torch.dtype = torch.float32) -> Case:
    """Only the zero fill with the gradients stored in it: its floor is that of a fill."""
    B, C, H, W = shape
    count = min(PATCHES, H * W)

    def eager(grad: Tensor, chosen: Tensor) -> Tensor:
        rows = torch.zeros(B, H * W, C, dtype=grad.dtype, device=grad.device)
        rows[:, chosen] = grad
        return rows.view(B, H, W, C).permute(0, 3, 1, 2).contiguous(memory_format=layout)

    def fast(grad: Tensor, chosen: Tensor) -> Tensor:
        if choose("gather_patches", grad) == "reference":
            return eager(grad, chosen)
        return torch.ops.cgcl_fast._gather_patches_backward(grad, chosen, C, H, W, layout == LAST)

    def build(implementation: str, compile_backend: str, device: str) -> Callable[[], list[Tensor]]:
        case = op_case("", "", FORWARD, {"eager": eager, "cgcl_fast": fast}, cast(inputs, dtype))
        return case.build(implementation, compile_backend, device)

    def inputs(generator: torch.Generator) -> list[Tensor]:
        return [normal(generator, B, count, C), ids(shape, count, generator)]

    size = prod(shape) * dtype.itemsize
    return Case(
        "gather_patches",
        label(f"{shape} {count} ids", dtype, layout),
        BACKWARD,
        ("eager", "compile", "cgcl_fast"),
        build,
        work=Work(size, largest=size, rate="fill_bytes_per_second"),
    )


def sample(positions: int, batch: int | None = None) -> Case:
    """The tensor argument only gives the device."""

    def eager(where: Tensor) -> Tensor:
        rows = [torch.randperm(positions, device=where.device)[:PATCHES] for _ in range(batch or 1)]
        return rows[0] if batch is None else torch.stack(rows)

    def fast(where: Tensor) -> Tensor:
        return ops.sample_patch_ids(positions, PATCHES, batch=batch, device=where.device)

    return op_case(
        "sample_patch_ids",
        f"{positions}, {PATCHES}" + ("" if batch is None else f", batch {batch}"),
        FORWARD,
        {"eager": eager, "cgcl_fast": fast},
        lambda generator: [torch.empty(0, device=generator.device)],
        work=floors.sample_patch_ids(PATCHES, batch or 1),
        agree=False,
    )


def patch_nce(
    shape: tuple[int, int, int], direction: str, key_gradient: bool = False, dtype: torch.dtype = torch.float32
) -> Case:
    gradients = "" if direction == FORWARD else " dQ dK" if key_gradient else " dQ"
    work = work_in(dtype, floors.patch_nce(shape, direction, key_gradient=key_gradient))
    return op_case(
        "patch_nce",
        label(f"{shape}{gradients}", dtype),
        direction,
        {
            "eager": bench_patch_nce.eager_published,
            "eager_cross_entropy": bench_patch_nce.eager_cross_entropy,
            "cgcl_fast": bench_patch_nce.fast,
        },
        cast(partial(bench_patch_nce.inputs, shape), dtype),
        wrt=(0, 1) if key_gradient else (0,),
        work=work,
    )


def five_layers(shape: tuple[int, int, int], dtype: torch.dtype = torch.float32) -> Case:
    """The loss of a CUT step: five layers with the same number of patches, from rows that are not normalised yet."""

    def normalized(rows: Tensor) -> Tensor:
        return rows / (rows.norm(dim=-1, keepdim=True) + 1e-7)

    def eager(*rows: Tensor) -> Tensor:
        pairs = zip(rows[:5], rows[5:], strict=True)
        return torch.stack([bench_patch_nce.eager_published(normalized(q), normalized(k)) for q, k in pairs]).mean()

    def fast(*rows: Tensor) -> Tensor:
        return torch.stack(ops.patch_nce_layers(rows[:5], rows[5:], normalize=True)).mean()

    def inputs(generator: torch.Generator) -> list[Tensor]:
        keys = [unit(generator, *shape) for _ in range(5)]
        return [*(3 * (key + unit(generator, *shape)) for key in keys), *(2 * key for key in keys)]

    one = work_in(dtype, floors.patch_nce(shape, BOTH))
    return op_case(
        "patch_nce_layers",
        label(f"5 x {shape} dQ", dtype),
        BOTH,
        {"eager": eager, "cgcl_fast": fast},
        cast(inputs, dtype),
        wrt=range(5),
        work=Work(5 * one.bytes, 5 * one.flops, one.largest),
    )


def offsets(shape: tuple[int, int, int], count: int) -> Case:
    """CGCL: a query's negatives are at `count` random offsets, the same for all queries of the batch."""
    B, P, C = shape

    def eager(query: Tensor, key: Tensor, shifts: Tensor) -> Tensor:
        others = key[:, (torch.arange(P, device=key.device)[:, None] + shifts) % P]
        positive = (query * key).sum(-1, keepdim=True)
        logits = torch.cat([positive, (others @ query[..., None]).squeeze(-1)], dim=2) / bench_patch_nce.TEMPERATURE
        return F.cross_entropy(logits.flatten(0, 1), logits.new_zeros(B * P, dtype=torch.long))

    def fast(query: Tensor, key: Tensor, shifts: Tensor) -> Tensor:
        return ops.patch_nce(query, key, temperature=bench_patch_nce.TEMPERATURE, offsets=shifts)

    def inputs(generator: torch.Generator) -> list[Tensor]:
        drawn = torch.randperm(P - 1, generator=generator, device=generator.device)[:count] + 1
        return [*bench_patch_nce.inputs(shape, generator), drawn]

    return op_case(
        "patch_nce", f"{shape} {count} offsets dQ", BOTH, {"eager": eager, "cgcl_fast": fast}, inputs, wrt=(0,)
    )


def dag(score: int, side: int, batch: int = 1) -> Case:
    """Including the draw of candidates, as in each step of EnCo."""

    def eager(scores: Tensor) -> Tensor:
        full = F.interpolate(scores, (side, side), mode="bilinear").flatten(1)
        chosen, oversampled = [], bench_sampling.OVERSAMPLE * PATCHES
        for image in full:
            drawn = torch.randperm(side * side, device=scores.device)[:oversampled]
            order = drawn[image[drawn].sort().indices]
            chosen.append(torch.cat([order[: PATCHES // 2], order[len(order) - PATCHES // 2 :]]))
        return torch.stack(chosen)

    def fast(scores: Tensor) -> Tensor:
        return ops.dag_select(scores, (side, side), PATCHES, oversample=bench_sampling.OVERSAMPLE)

    return op_case(
        "dag_select",
        f"{score}x{score} to {side}x{side}, {PATCHES} ids" + (f", batch {batch}" if batch > 1 else ""),
        FORWARD,
        {"eager": eager, "cgcl_fast": fast},
        lambda generator: [normal(generator, batch, 1, score, score)],
        work=floors.dag_select((score, score), PATCHES, bench_sampling.OVERSAMPLE, batch),
        agree=False,
    )


def memory_read(
    shape: Map,
    direction: str,
    items: int = 20,
    layout: torch.memory_format = CONTIGUOUS,
    dtype: torch.dtype = torch.float32,
) -> Case:
    def inputs(generator: torch.Generator) -> list[Tensor]:
        content = normal(generator, *shape).to(memory_format=layout)
        return [content, *(bench_memory.unit_items(generator, items, shape[1]) for _ in range(2))]

    return op_case(
        "memory_read",
        label(f"{shape} {items} items", dtype, layout),
        direction,
        {"eager": bench_memory.eager_read, "cgcl_fast": ops.memory_read},
        cast(inputs, dtype),
        wrt=range(3),
        work=work_in(dtype, floors.memory_read(shape, items, shape[1], direction)),
    )


def memory_update(shape: Map, items: int = 20, dtype: torch.dtype = torch.float32) -> Case:
    def inputs(generator: torch.Generator) -> list[Tensor]:
        C = shape[1]
        memory = [bench_memory.unit_items(generator, items, C), bench_memory.unit_items(generator, 2, items, C)]
        return [*memory, *(normal(generator, *shape) for _ in range(4))]

    return op_case(
        "memory_update",
        label(f"2 x {shape} {items} items", dtype),
        FORWARD,
        {"eager": bench_memory.eager_update, "cgcl_fast": bench_memory.fast_update},
        cast(inputs, dtype),
        work=work_in(dtype, floors.memory_update(shape, items, shape[1], domains=2)),
    )


def memory_contrast(shape: Map, direction: str, items: int = 20) -> Case:
    def inputs(generator: torch.Generator) -> list[Tensor]:
        return [F.normalize(normal(generator, *shape), dim=1), bench_memory.unit_items(generator, items, shape[1])]

    return op_case(
        "memory_contrast",
        f"{shape} {items} items",
        direction,
        {"eager": bench_memory.eager_contrast, "cgcl_fast": bench_memory.fast_contrast},
        inputs,
        wrt=range(2),
        work=floors.memory_contrast(shape, items, direction),
    )


def cases(small: bool = False) -> list[Case]:
    """All cases in order of timing: the time may run out before the list ends."""

    def fit(*shape: int) -> Any:
        """`shape`, or a tiny one with the same number of dimensions."""
        return tuple(min(n, least) for n, least in zip(shape, (2, 24, 20, 20), strict=False)) if small else shape

    def rows(*shape: int) -> Any:
        return tuple(min(n, least) for n, least in zip(shape, (2, 40, 16), strict=True)) if small else shape

    side = (lambda n: min(n, 40)) if small else (lambda n: n)
    score = side(30)
    all_cases = [
        # Cases with targets.
        adain(fit(64, 256, 64, 64), FORWARD),
        adain(fit(64, 256, 64, 64), BOTH),
        adain(fit(1, 256, 64, 64), BOTH),
        adain(fit(1, 64, 256, 256), BOTH),
        gather_backward(fit(16, 128, 256, 256)),
        gather_backward(fit(1, 128, 256, 256)),
        five_layers(rows(1, 256, 256)),
        dag(score, side(64)),
        dag(score, side(256)),
        memory_read(fit(1, 256, 90, 90), BOTH),
        memory_update(fit(1, 256, 90, 90)),
        # Other batches, sizes, layouts and dtypes.
        five_layers(rows(16, 256, 256)),
        as_bfloat16(five_layers, rows(1, 256, 256)),
        patch_nce(rows(1, 256, 256), BOTH),
        patch_nce(rows(16, 256, 256), BOTH, key_gradient=True),
        patch_nce(rows(64, 256, 256), BOTH),
        patch_nce(rows(1, 4096, 256), FORWARD),
        patch_nce(rows(1, 4096, 256), BOTH, key_gradient=True),
        as_bfloat16(patch_nce, rows(1, 4096, 256), BOTH, key_gradient=True),
        offsets(rows(4, 256, 256), 7 if small else 63),
        adain(fit(16, 64, 256, 256), BOTH),
        adain(fit(16, 64, 256, 256), FORWARD, layout=LAST),
        adain(fit(16, 64, 256, 256), BOTH, layout=LAST),
        adain(fit(64, 256, 64, 64), BOTH, residual=True),
        as_bfloat16(adain, fit(64, 256, 64, 64), FORWARD),
        as_bfloat16(adain, fit(64, 256, 64, 64), BOTH),
        as_bfloat16(adain, fit(16, 64, 256, 256), BOTH, layout=LAST),
        adain(fit(1, 64, 1024, 1024), BOTH),
        adain(fit(1, 256, 90, 90), BOTH),
        instance_norm(fit(1, 256, 64, 64), BOTH),
        instance_norm(fit(4, 64, 512, 512), BOTH),
        layer_norm(fit(2, 64, 256, 256), FORWARD, 3),
        layer_norm(fit(2, 64, 256, 256), BOTH, 3),
        as_bfloat16(layer_norm, fit(2, 64, 256, 256), BOTH, 3),
        layer_norm(fit(16, 64, 256, 256), BOTH, 3),
        blur("blur_down", fit(1, 128, 256, 256), BOTH),
        blur("blur_down", fit(1, 128, 256, 256), BOTH, layout=LAST),
        blur("blur_down", fit(16, 128, 256, 256), FORWARD, layout=LAST),
        blur("blur_up", fit(1, 128, 128, 128), BOTH),
        blur("blur_up", fit(1, 128, 128, 128), BOTH, layout=LAST),
        blur("blur_up", fit(16, 128, 128, 128), FORWARD, layout=LAST),
        as_bfloat16(blur, "blur_down", fit(1, 128, 256, 256), BOTH, layout=LAST),
        as_bfloat16(blur, "blur_up", fit(1, 128, 128, 128), BOTH, layout=LAST),
        gather(fit(1, 128, 256, 256), BOTH),
        gather(fit(1, 128, 256, 256), BOTH, layout=LAST),
        gather(fit(16, 256, 64, 64), BOTH),
        gather(fit(1, 128, 512, 512), BOTH),
        gather_backward(fit(16, 128, 256, 256), layout=LAST),
        as_bfloat16(gather_backward, fit(16, 128, 256, 256)),
        sample(side(256) ** 2),
        sample(side(1024) ** 2, batch=fit(64)[0]),
        dag(score, side(256), batch=fit(16)[0]),
        dag(side(126), side(1024)),
        memory_read(fit(1, 256, 90, 90), FORWARD),
        memory_read(fit(1, 256, 90, 90), BOTH, layout=LAST),
        as_bfloat16(memory_read, fit(8, 256, 90, 90), BOTH),
        memory_read(fit(1, 256, 256, 256), BOTH),
        memory_update(fit(8, 256, 90, 90)),
        memory_contrast(fit(1, 256, 90, 90), BOTH),
        memory_contrast(fit(8, 256, 90, 90), BOTH),
    ]
    return all_cases
