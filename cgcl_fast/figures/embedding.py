"""Embedding of high-dimensional points in the plane, by t-SNE (van der Maaten and Hinton 2008)."""

from __future__ import annotations

import numpy as np

from cgcl_fast._extras import require


def tsne(points: np.ndarray, *, perplexity: float = 30.0, seed: int = 0) -> np.ndarray:
    """Scikit-learn's t-SNE, initialised with the first two principal components.

    Args:
        points: (N, D), at least 4.
        perplexity: effective number of neighbours; reduced to a third of the points if larger.
        seed: of its random numbers.

    Returns:
        (N, 2).

    Raises:
        ValueError: too few points.
        MissingExtraError: scikit-learn is not installed.
    """
    manifold = require("sklearn.manifold", "figures")
    points = np.asarray(points, dtype=np.float64)
    if len(points) < 4:
        raise ValueError(f"points: expected at least 4, got {len(points)}")
    perplexity = min(perplexity, (len(points) - 1) / 3)
    spread = points.std(0).max()
    if spread == 0:  # all points are equal
        return np.zeros((len(points), 2))
    embedding = manifold.TSNE(2, perplexity=perplexity, init="pca", random_state=seed)
    return embedding.fit_transform(points / spread)
