"""Runs every op natively and as the reference; prints the CPU variant and the relative errors as JSON.

A separate program, because the variant and the library are chosen once per process: see test_native.py.
"""

from __future__ import annotations

import json
from collections.abc import Callable

import torch
from torch import Tensor

import cgcl_fast
from cgcl_fast import ops

Case = Callable[[torch.dtype], list[Tensor]]


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def unit(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.nn.functional.normalize(random(*shape, seed=seed), dim=-1).to(dtype)


def with_gradients(function: Callable[..., Tensor], *inputs: Tensor) -> list[Tensor]:
    inputs = tuple(tensor.detach().requires_grad_() for tensor in inputs)
    result = function(*inputs)
    return [result, *torch.autograd.grad(result, inputs, random(*result.shape, seed=9, dtype=result.dtype))]


def adain(dtype: torch.dtype) -> list[Tensor]:
    x, scale, shift = random(2, 37, 9, 7, dtype=dtype), random(2, 37, seed=1), random(2, 37, seed=2)
    wide = x.to(memory_format=torch.channels_last)
    plane = with_gradients(lambda *t: ops.adain(*t, activation="leaky_relu"), x, scale, shift)
    rows = with_gradients(lambda *t: ops.adain(*t, activation="relu", residual=x), wide, scale, shift)
    padded = [with_gradients(lambda *t: ops.adain(*t, pad=3), of, scale, shift) for of in (x, wide)]
    return plane + rows + padded[0] + padded[1]


def instance_norm(dtype: torch.dtype) -> list[Tensor]:
    return with_gradients(lambda x: ops.instance_norm(x, activation="relu"), random(1, 5, 13, 11, dtype=dtype))


def layer_norm(dtype: torch.dtype) -> list[Tensor]:
    x = random(2, 21, 13, 11, dtype=dtype).contiguous(memory_format=torch.channels_last)
    weight, bias = random(21, seed=1), random(21, seed=2)
    plain = with_gradients(lambda *t: ops.layer_norm(*t, activation="leaky_relu"), x, weight, bias)
    return plain + with_gradients(lambda *t: ops.layer_norm(*t, activation="relu", pad=2), x, weight, bias)


def sample_patch_ids(dtype: torch.dtype) -> list[Tensor]:
    ids = ops.sample_patch_ids(1000, 64, batch=3, generator=torch.Generator().manual_seed(0))
    assert all(row.unique().numel() == 64 for row in ids) and int(ids.min()) >= 0 and int(ids.max()) < 1000
    return [ids]


def gather_patches(dtype: torch.dtype) -> list[Tensor]:
    ids = torch.stack([torch.randperm(99, generator=torch.Generator().manual_seed(i))[:17] for i in range(2)])
    return with_gradients(lambda x: ops.gather_patches(x, ids), random(2, 21, 9, 11, dtype=dtype))


def blur_down(dtype: torch.dtype) -> list[Tensor]:
    x = random(2, 21, 9, 12, dtype=dtype)
    return with_gradients(ops.blur_down, x) + with_gradients(ops.blur_down, x.to(memory_format=torch.channels_last))


def blur_up(dtype: torch.dtype) -> list[Tensor]:
    x = random(2, 21, 9, 12, dtype=dtype)
    return with_gradients(ops.blur_up, x) + with_gradients(ops.blur_up, x.to(memory_format=torch.channels_last))


def patch_nce(dtype: torch.dtype) -> list[Tensor]:
    query, key = (unit(2, 33, 48, seed=seed, dtype=dtype) for seed in (3, 4))
    plain = with_gradients(lambda q, k: ops.patch_nce(q, k, reduction="none"), query, key)
    extra = unit(19, 48, seed=5, dtype=dtype)
    mixed = with_gradients(
        lambda q, k, m: ops.patch_nce(q, k, negatives="batch", extra_negatives=m, loss="decoupled", normalize=True),
        *(query, key, extra),
    )
    return plain + mixed


def patch_nce_layers(dtype: torch.dtype) -> list[Tensor]:
    queries = [unit(1, 16, 24, seed=seed, dtype=dtype) for seed in (3, 4)]
    keys = [unit(1, 16, 24, seed=seed, dtype=dtype) for seed in (5, 6)]
    return with_gradients(lambda *q: torch.stack(list(ops.patch_nce_layers(list(q), keys))).sum(), *queries)


def dag_select(dtype: torch.dtype) -> list[Tensor]:
    candidates = torch.stack([torch.randperm(1024, generator=torch.Generator().manual_seed(i))[:128] for i in range(2)])
    return [ops.dag_select(random(2, 1, 7, 9), (32, 32), 32, candidates=candidates)]


CLASSES = torch.arange(2 * 63).reshape(2, 7, 9) % 3
ITEM_CLASS = torch.tensor([0, 0, 1, 1, 2])


def memory_read(dtype: torch.dtype) -> list[Tensor]:
    inputs = random(2, 24, 7, 9, dtype=dtype), unit(5, 24, seed=1, dtype=dtype), unit(5, 19, seed=2, dtype=dtype)
    all_items = with_gradients(ops.memory_read, *inputs)
    return all_items + with_gradients(
        lambda *t: ops.memory_read(*t, pixel_class=CLASSES, item_class=ITEM_CLASS, temperature=0.2), *inputs
    )


def memory_update(dtype: torch.dtype) -> list[Tensor]:
    contents = [random(2, 24, 7, 9, seed=seed, dtype=dtype) for seed in (1, 2)]
    styles = [random(2, 19, 7, 9, seed=seed, dtype=dtype) for seed in (3, 4)]
    keys, values = unit(5, 24, seed=5), unit(2, 5, 19, seed=6)
    return list(
        ops.memory_update(keys, values, contents, styles, pixel_classes=[CLASSES, CLASSES], item_class=ITEM_CLASS)
    )


def memory_contrast(dtype: torch.dtype) -> list[Tensor]:
    inputs = random(2, 24, 7, 9, dtype=dtype), unit(5, 24, seed=1, dtype=dtype)
    return with_gradients(lambda f, m: ops.memory_contrast(f, m, temperature=0.1), *inputs)


CASES: dict[str, Case] = {
    case.__name__: case
    for case in (adain, instance_norm, layer_norm, sample_patch_ids, gather_patches, patch_nce, patch_nce_layers)
    + (dag_select, memory_read, memory_update, memory_contrast, blur_down, blur_up)
}


def error(expected: Tensor, actual: Tensor) -> float:
    """Norm of the difference over the norm of what was expected; infinite for another shape or dtype."""
    if expected.shape != actual.shape or expected.dtype != actual.dtype:
        return float("inf")
    expected, actual = expected.detach().double(), actual.detach().double()
    return float((actual - expected).norm() / expected.norm().clamp_min(1e-30))


def main() -> None:
    # Whether the library loaded is told apart from which kernels ran: without it, `auto` must compute the same.
    native = "native" if cgcl_fast._library.problem is None else "auto"
    errors: dict[str, float] = {}
    for name in ops.__all__:
        for dtype in (torch.float32, torch.bfloat16):
            with cgcl_fast.backend("reference"):
                expected = CASES[name](dtype)
            with cgcl_fast.backend(native):
                actual = CASES[name](dtype)
            worst = max(error(*pair) for pair in zip(expected, actual, strict=True))
            errors[f"{name} {str(dtype).removeprefix('torch.')}"] = worst
    try:
        from cgcl_fast import _native

        variant = _native.cpu_variant()
    except ImportError:
        variant = None
    print(json.dumps({"native": native, "variant": variant, "errors": errors}))


if __name__ == "__main__":
    main()
