r"""Distinct random positions of a map, in time independent of the map's size.

CUT draws its 256 patches as the first entries of a random permutation of all H·W positions (Park et al. 2020, Sec.
3.2). Here PyTorch's generator provides one 63-bit key per row, so that seeds and checkpointed generator states
reproduce the draw. A counter-based hash (splitmix64, Steele et al. 2014) expands the key into a stream of draws. The
positions are

- if H·W >= 2·P, the first P distinct draws modulo H·W: rejection makes them uniform without replacement;
- if H·W < 2·P, the first P of all positions sorted by their draws: the order of independent draws is a uniform
  permutation.

Both are O(P). Deviations from the uniform distribution come only from the modulo (1 part in 2^63 / H·W) and from ties
of 63-bit draws (1 in 2^63 / P²).
"""

from __future__ import annotations

import torch
from torch import Tensor

from .._backend import choose_on
from . import _check, _registry

_KEYS = 2**63 - 1  # keys and draws are 63-bit: torch.randint covers them on every device, and they are never negative


def _signed(constant: int) -> int:
    """The int64 with the same bits as a 64-bit constant; int64 arithmetic wraps around like uint64 arithmetic."""
    return constant - 2**64 if constant >= 2**63 else constant


def _draws(keys: Tensor, count: int) -> Tensor:
    """(B, count) 63-bit draws from keys (B, 1): splitmix64's finaliser on the steps from the key."""

    def fold(z: Tensor, bits: int) -> Tensor:
        return z ^ ((z >> bits) & ((1 << (64 - bits)) - 1))  # the mask makes it a logical shift

    z = keys + torch.arange(1, count + 1, device=keys.device) * _signed(0x9E3779B97F4A7C15)
    z = fold(z, 30) * _signed(0xBF58476D1CE4E5B9)
    z = fold(z, 27) * _signed(0x94D049BB133111EB)
    return fold(z, 31) & _KEYS


def sample_patch_ids_reference(keys: Tensor, num_positions: int, num_patches: int) -> Tensor:
    """The module's algorithm in plain PyTorch, without device reads: keys () or (B,) -> (P,) or (B, P)."""
    rows = keys.reshape(-1, 1)
    if num_positions < 2 * num_patches:
        ids = _draws(rows, num_positions).argsort(dim=1, stable=True)[:, :num_patches]
    else:
        # Fewer than P of 4P + 128 draws are distinct once in 1e30 calls; the 0, 1, 2, ... at the end of the stream then
        # still makes the ids distinct.
        draws = _draws(rows, 4 * num_patches + 128) % max(num_positions, 1)
        last_resort = torch.arange(num_patches, device=keys.device).expand(len(rows), -1)
        stream = torch.cat([draws, last_resort], dim=1)
        ordered, origin = stream.sort(dim=1, stable=True)
        again = torch.zeros_like(stream, dtype=torch.uint8)
        again = again.scatter(1, origin[:, 1:], (ordered[:, 1:] == ordered[:, :-1]).to(torch.uint8))
        ids = stream.gather(1, again.argsort(dim=1, stable=True)[:, :num_patches])
    return ids.reshape(*keys.shape, num_patches)


def sample_patch_ids(
    num_positions: int,
    num_patches: int,
    *,
    batch: int | None = None,
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """Draw distinct positions uniformly, in random order, in O(num_patches).

    Args:
        num_positions: H·W of the map, at least 0.
        num_patches: how many positions to draw; if there are not more, a random permutation of all.
        batch: None for a single row of ids, or B for a separate row per image.
        generator: draws the keys, one per row; by default PyTorch's generator of the device.
        device: of the ids; by default the generator's device, or else PyTorch's default device. A CPU generator gives
            the same ids on every device.

    Returns:
        int64 (P,), or (B, P) with `batch`, in [0, num_positions), where P = min(num_patches, num_positions). The ids of
        a row are distinct.

    Raises:
        ValueError: a count is negative, or 2^63 or more; an unknown device name.
        TypeError: a count is not an integer, or a generator or device is not one.

    Source: the sampling of CUT (Park et al. 2020), which draws torch.randperm(H·W)[:P].

    Example:
        >>> import torch
        >>> from cgcl_fast import ops
        >>> ids = ops.sample_patch_ids(64 * 64, 256)
        >>> ids.shape, len(ids.unique())
        (torch.Size([256]), 256)
    """
    op = "sample_patch_ids"
    num_positions = _check.count(op, "num_positions", num_positions)
    num_patches = min(_check.count(op, "num_patches", num_patches), num_positions)
    shape = () if batch is None else (_check.count(op, "batch", batch),)
    _check.generator(op, generator)
    if device is not None:
        _check.device(op, device)
    if generator is None:
        keys = torch.randint(_KEYS, shape, device=device)
    else:
        keys = torch.randint(_KEYS, shape, device=generator.device, generator=generator)
        keys = keys if device is None else keys.to(device)
    backend = choose_on(op, keys.device)
    if backend == "reference":
        return sample_patch_ids_reference(keys, num_positions, num_patches)
    return _sample_patch_ids(backend, keys, num_positions, num_patches)


_registry.fake("_sample_patch_ids", lambda keys, num_positions, num_patches: keys.new_empty((*keys.shape, num_patches)))
_sample_patch_ids = _registry.operator("_sample_patch_ids")
_registry.native_on_cpu("sample_patch_ids")
_registry.triton(("sample_patch_ids",), "sample_patch_ids", _sample_patch_ids="forward")
_registry.public(
    "sample_patch_ids(SymInt num_positions, SymInt num_patches, *, SymInt? batch=None, Generator? generator=None,"
    " Device? device=None) -> Tensor",
    sample_patch_ids,
)
