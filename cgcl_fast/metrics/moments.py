"""Mean and covariance of many rows of features, in float64, with few rows in memory at once."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from cgcl_fast.metrics.weights import MeasureError


class Moments:
    """Running mean and covariance (divided by N - 1) of rows, in float64.

    Merges the moments of each part with those of earlier parts (Chan et al., 1979), so a large mean costs no precision.

    Attributes:
        count: rows so far.
        mean: (D,).
    """

    def __init__(self, width: int) -> None:
        self.count = 0
        self.mean = np.zeros(width)
        self._squares = np.zeros((width, width))  # about the mean

    def add(self, rows: np.ndarray) -> None:
        """Rows (n, D), n at least 1."""
        rows = rows.astype(np.float64, copy=False)
        mean = rows.mean(0)
        centred = rows - mean
        both = self.count + len(rows)
        off = mean - self.mean
        self._squares += centred.T @ centred
        self._squares += np.outer(off, off * (self.count * len(rows) / both))
        self.mean = self.mean + off * (len(rows) / both)
        self.count = both

    @property
    def covariance(self) -> np.ndarray:
        """(D, D).

        Raises:
            MeasureError: fewer than two rows.
        """
        if self.count < 2:
            raise MeasureError(f"needs at least 2 images in each set, got {self.count}; a figure to trust needs 1000s")
        return self._squares / (self.count - 1)


def moments(features: np.ndarray) -> Moments:
    """The moments of all rows (N, D)."""
    total = Moments(features.shape[1])
    for part in chunks(features):
        total.add(part)
    return total


def chunks(features: np.ndarray, rows: int = 4096) -> Iterator[np.ndarray]:
    """Features (N, D) in parts of ``rows`` rows, as float64."""
    for start in range(0, len(features), rows):
        yield features[start : start + rows].astype(np.float64)
