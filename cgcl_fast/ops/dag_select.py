r"""Discriminative attention-guided choice of patches (EnCo, Cai et al. 2022, Algorithm 1).

Of k·P distinct random candidate positions, keep the β·P with the lowest scores, which the discriminator finds most
fake, and the (1-β)·P with the highest. The score map is interpolated (bilinear, align_corners=False) only at the
candidates.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .._backend import choose
from . import _check, _registry
from .sample_patch_ids import sample_patch_ids


def _taps(position: Tensor, extent: int, length: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """The two neighbours, out of `extent` pixels, of position `position` of `length`, and the weight of the second."""
    source = ((position.to(dtype) + 0.5) * (extent / length) - 0.5).clamp(min=0)
    low = source.long().clamp(max=extent - 1)
    return low, (low + 1).clamp(max=extent - 1), source - low


def bilinear_at(score: Tensor, size: tuple[int, int], ids: Tensor) -> Tensor:
    """F.interpolate(score, size, mode="bilinear") at flattened positions `ids` (B, K) only, in float32 or wider."""
    image = score[:, 0].to(torch.promote_types(score.dtype, torch.float32))
    top, bottom, down = _taps(ids // size[1], image.shape[1], size[0], image.dtype)
    left, right, across = _taps(ids % size[1], image.shape[2], size[1], image.dtype)
    b = torch.arange(len(image), device=ids.device)[:, None]
    above = (1 - across) * image[b, top, left] + across * image[b, top, right]
    below = (1 - across) * image[b, bottom, left] + across * image[b, bottom, right]
    return (1 - down) * above + down * below


def dag_select_reference(
    score: Tensor, candidates: Tensor, height: int, width: int, num_patches: int, first: int
) -> Tensor:
    """The `first` candidates with the lowest scores and the num_patches - first with the highest, in plain PyTorch."""
    candidates = candidates.expand(score.shape[0], -1)
    order = bilinear_at(score, (height, width), candidates).argsort(dim=1, stable=True)
    rest = candidates.shape[1] - (num_patches - first)
    return candidates.gather(1, torch.cat([order[:, :first], order[:, rest:]], dim=1))


def _rounded(share: float) -> int:
    """The nearest integer, of two the even one; of a symbolic number by operations that `torch.export` can save."""
    if not isinstance(share, torch.SymFloat):
        return round(share)
    nearest = torch.sym_int(share + 0.5)
    return torch.sym_ite(share + 0.5 == nearest, nearest - nearest % 2, nearest)


def dag_select(
    score: Tensor,
    size: Sequence[int],
    num_patches: int,
    *,
    oversample: float = 4,
    importance: float = 0.5,
    candidates: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Choose positions of a feature map by the discriminator's score.

    Args:
        score: (B, 1, h, w), for example D(G(x)); low means fake. It gets no gradient: the ids are integers.
        size: (H, W) of the feature map, to which the score is interpolated.
        num_patches: P, how many positions per image; all H·W of them if P is larger.
        oversample: k >= 1; ⌊k·P⌋ candidates are drawn for each image, at most H·W.
        importance: β in [0, 1]; round(β·P) ids (half to even) have the lowest scores, the others the highest.
        candidates: int64 (K,) or (B, K) with K >= P, distinct within a row: replaces the random draw.
        generator: as in `sample_patch_ids`.

    Returns:
        int64 (B, P): the round(β·P) candidates with the lowest scores, then those with the highest, all in ascending
        order of score. Ties keep the order of the candidates; NaN sorts above every number.

    Raises:
        ValueError: a shape, device or option is not as above; on the CPU, a candidate is not in [0, H·W). Other devices
            cannot raise without a synchronisation: on a GPU such a candidate has score NaN, so that it comes last.
        TypeError: score is not floating-point, candidates are not int64, or a number is not one.

    Source: EnCo, Algorithm 1, with k = 4 and β = 0.5 (its Table 4). At β = 1 the paper's slice returns all candidates;
    here the lowest P, as its text says.

    Example:
        >>> import torch
        >>> from cgcl_fast import ops
        >>> score = torch.tensor([[[[0.1, 0.4], [0.3, 0.2]]]])
        >>> ops.dag_select(score, (2, 2), 2, candidates=torch.arange(4))  # the lowest and the highest
        tensor([[0, 1]])
    """
    op = "dag_select"
    _check.tensor(op, "score", score, 4, "(B, 1, h, w)")
    batch, channels, score_height, score_width = score.shape
    if channels != 1 or score_height < 1 or score_width < 1:
        raise ValueError(f"{op}: expected score of shape (B, 1, h, w) with h, w >= 1, got {tuple(score.shape)}")
    if not isinstance(size, Sequence) or len(size) != 2:
        given = f"{len(size)} values" if isinstance(size, Sequence) else type(size).__name__
        raise TypeError(f"{op}: expected size to be two integers (H, W), got {given}")
    height, width = (_check.count(op, "size", value, 1) for value in size)
    positions = _check.count(op, "the positions of size", height * width)
    num_patches = min(_check.count(op, "num_patches", num_patches), positions)
    oversample = _check.number(op, "oversample", oversample)
    importance = _check.number(op, "importance", importance)
    if not oversample >= 1 or oversample == float("inf"):
        raise ValueError(f"{op}: expected a finite oversample >= 1, got {oversample}")
    if not 0 <= importance <= 1:
        raise ValueError(f"{op}: expected importance in [0, 1], got {importance}")
    _check.generator(op, generator)
    first = _rounded(importance * num_patches)
    score = score.detach()
    if candidates is None:
        drawn = min(int(oversample * num_patches), positions)
        candidates = sample_patch_ids(positions, drawn, batch=batch, generator=generator, device=score.device)
    else:
        _check.position_ids(op, "candidates", candidates, batch, "(K,) or (B, K)")
        _check.same_device(op, "candidates", candidates, "score", score)
        if candidates.shape[-1] < num_patches:
            raise ValueError(
                f"{op}: expected at least num_patches = {num_patches} candidates, got {candidates.shape[-1]}"
            )
    backend = choose(op, score)
    if backend != "native":  # native code checks the candidates itself
        _check.in_range(op, "candidates", candidates, positions)
    if backend == "reference":
        return dag_select_reference(score, candidates, height, width, num_patches, first)
    try:
        return _dag_select(backend, score, candidates, height, width, num_patches, first)
    except RuntimeError:  # the kernel has checked the candidates; raise the more precise type of error
        _check.in_range(op, "candidates", candidates, positions)
        raise


def _fake(score: Tensor, candidates: Tensor, height: int, width: int, num_patches: int, first: int) -> Tensor:
    return candidates.new_empty((score.shape[0], num_patches))


_registry.fake("_dag_select", _fake)
_dag_select = _registry.operator("_dag_select")
_registry.native_on_cpu("dag_select")
_registry.native_on_cuda("dag_select")
_registry.triton(("dag_select",), "dag_select", _dag_select="forward")
_registry.public(
    "dag_select(Tensor score, SymInt[] size, SymInt num_patches, *, float oversample=4, float importance=0.5,"
    " Tensor? candidates=None, Generator? generator=None) -> Tensor",
    dag_select,
)
