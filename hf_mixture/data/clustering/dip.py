"""Hartigan's dip (Hartigan and Hartigan 1985): how far a distribution on a line is from any with a single mode.

Letters: n distinct values.
"""

from __future__ import annotations

import numpy as np

from hf_mixture.data.clustering.rows import FloatArray, IntArray


# 95 % quantiles of sqrt(n) * dip of n uniform draws, simulated by `benchmarks/dip_quantiles.py`.
NUM_DRAWS = (10, 20, 50, 100, 200, 500, 1000, 5000)
QUANTILES_95 = (0.4418, 0.4685, 0.4972, 0.5112, 0.5200, 0.5289, 0.5324, 0.5367)


def critical_dip(num_rows: float) -> float:
    """The dip that 5 % of uniform samples of this size exceed.

    Args:
        num_rows: Number of observations, >= 1.
    """
    # The quantiles of sqrt(n) * dip settle as n grows; in between they are near to linear in 1 / sqrt(n).
    steps = 1 / np.sqrt(NUM_DRAWS)
    scaled = np.interp(1 / np.sqrt(num_rows), steps[::-1], QUANTILES_95[::-1])
    return float(scaled / np.sqrt(num_rows))


def dip(values: FloatArray, weights: FloatArray) -> float:
    """Dip of a weighted sample.

    The greatest convex minorant of the distribution function below a mode and its least concave majorant above are
    narrowed to the modal interval; the dip is half of the largest distance met.

    Args:
        values: Values of shape (n,), in any order.
        weights: Their weights, of shape (n,).

    Returns:
        A number in [0, 0.25].
    """
    points, group = np.unique(values, return_inverse=True)
    if len(points) < 2:
        return 0.0
    counts = np.bincount(group, weights=weights)
    mass = counts / counts.sum()
    upper: FloatArray = np.cumsum(mass)
    lower = np.concatenate([[0.0], upper[:-1]])
    low, high = 0, len(points) - 1
    found = 0.0
    while True:
        minorant = low + _hull(points[low : high + 1], lower[low : high + 1])
        majorant = low + _hull(points[low : high + 1], -upper[low : high + 1])
        below = np.interp(points[low : high + 1], points[minorant], lower[minorant])
        above = np.interp(points[low : high + 1], points[majorant], upper[majorant])
        gap = above - below
        at_minorant = minorant[gap[minorant - low].argmax()]
        at_majorant = majorant[gap[majorant - low].argmax()]
        if gap[at_minorant - low] >= gap[at_majorant - low]:
            distance = gap[at_minorant - low]
            new_low = at_minorant
            new_high = majorant[np.searchsorted(majorant, at_minorant)]
        else:
            distance = gap[at_majorant - low]
            new_high = at_majorant
            new_low = minorant[np.searchsorted(minorant, at_majorant, side="right") - 1]
        if distance <= found:
            return found / 2
        left = slice(low, new_low + 1)
        right = slice(new_high, high + 1)
        found = max(
            found,
            float((upper[left] - below[: new_low - low + 1]).max()),
            float((above[new_high - low :] - lower[right]).max()),
        )
        if (new_low, new_high) == (low, high):
            return found / 2
        low, high = int(new_low), int(new_high)


def _hull(x: FloatArray, y: FloatArray) -> IntArray:
    """Numbers of the points of the greatest convex minorant of (x, y), x increasing."""
    hull: list[int] = []
    xs, ys = x.tolist(), y.tolist()
    for index, (right, height) in enumerate(zip(xs, ys, strict=True)):
        while len(hull) > 1:
            first, second = hull[-2], hull[-1]
            if (ys[second] - ys[first]) * (right - xs[second]) < (height - ys[second]) * (xs[second] - xs[first]):
                break
            hull.pop()
        hull.append(index)
    return np.asarray(hull)
