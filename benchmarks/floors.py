"""The minimum bytes and FLOPs of each op. The floor is max(bytes / copy rate, FLOPs / matmul rate).

Bytes: each input is read once and each output written once, in both passes; a backward reads the upstream gradient and
writes the gradients. What an implementation could keep in cache between the passes is not subtracted, and what it could
recompute is not added. FLOPs: only matrix products, 2 per multiply-add; exp, sums and normalisation are left out
because they overlap with products or traffic. So nothing can be much faster than a floor, but it may not be reachable.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

FLOAT = 4
INT64 = 8


@dataclass(frozen=True)
class Work:
    """Bytes that move, FLOPs, and the bytes of the largest tensor, whose size the copy rate is measured with.

    `rate` names the machine's rate for the bytes: ops that only write are compared with a fill.
    """

    bytes: int
    flops: int = 0
    largest: int = 0
    rate: str = "copy_bytes_per_second"


def adain(shape: tuple[int, int, int, int], direction: str, *, residual: bool = False, pad: int = 0) -> Work:
    """Forward: read x (and the residual), write y, padded. Backward: read x and y's gradient, write x's gradient.

    Without padding, the residual's gradient is the upstream gradient itself; scale, shift and statistics are a few KB.
    """
    B, C, H, W = shape
    padded = B * C * (H + 2 * pad) * (W + 2 * pad)
    backward = "backward" in direction
    maps = (2 if residual else 1) + (2 if backward else 0)
    return Work((maps * prod(shape) + (1 + backward) * padded) * FLOAT, largest=padded * FLOAT)


def gather_patches(shape: tuple[int, int, int, int], ids: int, direction: str) -> Work:
    """Forward: read and write P rows of C channels, read the ids. Backward: write the gradient of the whole map, once.

    `ids` counts those of the whole batch.
    """
    rows = ids * shape[1] * FLOAT
    both = (2 * rows + ids * INT64) + (prod(shape) * FLOAT + rows + ids * INT64 if "backward" in direction else 0)
    return Work(both, largest=prod(shape) * FLOAT if "backward" in direction else rows)


def blur(source: tuple[int, int, int, int], result: tuple[int, int, int, int], direction: str) -> Work:
    """Forward: read the source, write the result. Backward: read and write their gradients."""
    passes = 2 if "backward" in direction else 1
    sizes = prod(source), prod(result)
    return Work(passes * sum(sizes) * FLOAT, largest=max(sizes) * FLOAT)


def sample_patch_ids(num_patches: int, batch: int = 1) -> Work:
    """Write the ids. The floor says little: the time is that of the call and the generator."""
    return Work(num_patches * batch * INT64, largest=num_patches * batch * INT64)


def patch_nce(shape: tuple[int, int, int], direction: str, *, key_gradient: bool = False) -> Work:
    """Products of P x P x C per image: logits; dQ in the backward; also dK if the keys take a gradient.

    Assumes that the backward has the logits; not storing them takes one more product.
    """
    B, P, C = shape
    backward = "backward" in direction
    products = 1 + (1 + key_gradient if backward else 0)
    tensors = 2 + (1 + key_gradient if backward else 0)
    return Work(tensors * B * P * C * FLOAT, products * 2 * B * P * P * C, B * P * C * FLOAT)


def dag_select(score: tuple[int, int], num_patches: int, oversample: int, batch: int = 1) -> Work:
    """Read the score map and the candidates' ids, write the chosen ids."""
    candidates = oversample * num_patches * INT64
    return Work(batch * (score[0] * score[1] * FLOAT + candidates + num_patches * INT64), largest=batch * candidates)


def memory_read(content: tuple[int, int, int, int], items: int, width: int, direction: str) -> Work:
    """Cosine of each pixel with each item, and the weighted sum of the values; the backward needs both products, twice.

    Forward: read the content (C channels), write Cv channels. Backward: read content and gradient, write the content's
    gradient. Keys and values are a few KB.
    """
    B, C, H, W = content
    pixels = B * H * W
    backward = "backward" in direction
    floats = pixels * (C + width) + (pixels * (2 * C + width) if backward else 0)
    flops = 2 * pixels * items * (C + width) * (3 if backward else 1)
    return Work(floats * FLOAT, flops, pixels * max(C, width) * FLOAT)


def memory_update(content: tuple[int, int, int, int], items: int, width: int, domains: int) -> Work:
    """Read contents and styles of each domain once; cosine with the keys, then weighted sums over the pixels of
    both."""
    B, C, H, W = content
    pixels = domains * B * H * W
    return Work(pixels * (C + width) * FLOAT, 2 * pixels * items * (2 * C + width), B * H * W * max(C, width) * FLOAT)


def memory_contrast(features: tuple[int, int, int, int], items: int, direction: str) -> Work:
    """Forward: read the features, a product with the items. Backward: read, write the gradient, two products."""
    B, C, H, W = features
    pixels = B * H * W
    backward = "backward" in direction
    passes = 3 if backward else 1
    return Work(pixels * C * FLOAT * passes, 2 * pixels * items * C * passes, pixels * C * FLOAT)
