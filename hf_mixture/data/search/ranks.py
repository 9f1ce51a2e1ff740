"""Rank correlation, the measure by which predictors of mixtures are judged."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


FloatArray = npt.NDArray[np.float64]


def average_ranks(values: FloatArray) -> FloatArray:
    """Ranks from 1, with the mean rank for ties.

    Args:
        values: Numbers of shape (n,).

    Returns:
        Ranks of shape (n,).
    """
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts - 1) / 2)[inverse], dtype=np.float64)


def spearman(a: npt.ArrayLike, b: npt.ArrayLike) -> float:
    """Spearman's rank correlation; NaN when either side is constant or shorter than 2.

    Args:
        a: Numbers of shape (n,).
        b: Numbers of shape (n,).

    Returns:
        A number in [-1, 1], or NaN.

    Example:
        ```python
        >>> from hf_mixture.data.search.ranks import spearman
        >>> spearman([1.0, 2.0, 3.0], [10.0, 100.0, 1000.0])
        1.0

        ```
    """
    x, y = (average_ranks(np.asarray(side, dtype=np.float64)) for side in (a, b))
    x, y = x - x.mean(), y - y.mean()
    scale = float(np.sqrt((x @ x) * (y @ y)))
    if len(x) < 2 or scale == 0:
        return float("nan")
    return float(np.clip((x @ y) / scale, -1.0, 1.0))
