"""How sure a difference between two systems is that were scored on the same documents.

Letters: N documents.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike


def paired_bootstrap(
    first: ArrayLike,
    second: ArrayLike,
    sizes: ArrayLike,
    *,
    num_draws: int = 10_000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, float]:
    """Percentile interval of sum(first - second) / sum(sizes) under resampling of documents.

    Args:
        first: Cost of each document under one system [N], for example in bits.
        second: Cost of each document under the other one [N].
        sizes: Size of each document [N], for example in bytes; 1 for plain means.
        num_draws: Samples with replacement, at least 1. Default: 10,000.
        level: Share of the samples inside the interval, in (0, 1). Default: 0.95.
        seed: Seed of the samples. Default: 0.

    Returns:
        `mean`, the difference on all documents, and the ends `low` and `high` of the interval.

    Raises:
        ValueError: If the arrays do not have one length, or no document.

    Example:
        >>> from hf_mixture.training.bootstrap import paired_bootstrap
        >>> paired_bootstrap([3.0, 4.0, 6.0], [2.0, 3.0, 5.0], [1, 1, 1])
        {'mean': 1.0, 'low': 1.0, 'high': 1.0}
    """
    a, b, size = (np.asarray(values, dtype=np.float64) for values in (first, second, sizes))
    if not a.shape == b.shape == size.shape or a.ndim != 1 or not len(a):
        raise ValueError(f"first {a.shape}, second {b.shape} and sizes {size.shape} must be equally long, not empty")
    draws = np.random.default_rng(seed).multinomial(len(a), np.full(len(a), 1 / len(a)), size=num_draws)
    found = draws @ (a - b) / (draws @ size)
    low, high = np.quantile(found, [(1 - level) / 2, (1 + level) / 2])
    return {"mean": float((a - b).sum() / size.sum()), "low": float(low), "high": float(high)}
