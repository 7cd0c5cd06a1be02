"""Stand-ins for ops that are not there yet."""

from __future__ import annotations

import torch


def sample_patch_ids(num_positions, num_patches, *, batch=None, generator=None, device=None):
    def one():
        return torch.randperm(num_positions, generator=generator, device=device)[:num_patches]

    return one() if batch is None else torch.stack([one() for _ in range(batch)])


def gather_patches(features, ids):
    rows = features.flatten(2).transpose(1, 2)
    if ids.dim() == 1:
        return rows[:, ids]
    return torch.gather(rows, 1, ids[:, :, None].expand(-1, -1, rows.shape[2]))


def patch_nce(
    query, key, *, temperature=0.07, negatives="image", num_negatives=None, extra_negatives=None, offsets=None,
    normalize=False, loss="infonce", reduction="mean",
):
    if normalize:
        query, key = (v / (v.norm(dim=-1, keepdim=True) + 1e-7) for v in (query, key))
    positive = (query * key).sum(-1, keepdim=True)
    parts = [positive]
    if negatives == "image":
        n = query @ key.transpose(1, 2)
        parts.append(n.masked_fill(torch.eye(n.shape[1], dtype=torch.bool, device=n.device), float("-inf")))
    elif negatives == "batch":
        b, p, c = query.shape
        n = query.reshape(1, b * p, c) @ key.reshape(1, b * p, c).transpose(1, 2)
        n = n.masked_fill(torch.eye(b * p, dtype=torch.bool, device=n.device), float("-inf"))
        parts.append(n.reshape(b, p, b * p))
    if extra_negatives is not None:
        parts.append(query @ extra_negatives.t())
    logits = torch.cat(parts, -1) / temperature
    value = logits.logsumexp(-1) - logits[..., 0]
    return {"none": value, "mean": value.mean(), "sum": value.sum()}[reduction]


def patch_nce_layers(queries, keys, **kwargs):
    extra = kwargs.pop("extra_negatives", None)
    extra = [None] * len(queries) if extra is None else extra
    return [patch_nce(q, k, extra_negatives=e, **kwargs) for q, k, e in zip(queries, keys, extra)]
