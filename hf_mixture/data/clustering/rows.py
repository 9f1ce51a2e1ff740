"""Rows with weights, in an order that depends on their content alone.

Letters: n distinct rows, d columns.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Rows:
    """Weighted points.

    Args:
        points: Array of shape (n, d).
        weights: How many observations each point stands for, > 0; shape (n,).
        blur: Covariance of the observations around their point, of shape (d, d), where points stand for cells of a
            fine partition. Default: None, for points that are the observations.
    """

    points: FloatArray
    weights: FloatArray
    blur: FloatArray | None = None

    def __len__(self) -> int:
        return len(self.points)

    def take(self, index: IntArray | BoolArray) -> Rows:
        """The rows of an index or a mask."""
        return Rows(self.points[index], self.weights[index], self.blur)

    @property
    def total(self) -> float:
        """Number of observations."""
        return float(self.weights.sum())


def distinct_rows(points: FloatArray, weights: FloatArray) -> tuple[FloatArray, FloatArray, IntArray]:
    """Sort rows lexicographically and join equal ones.

    Every later sum runs over the result, so that no result depends on the order in which rows are given.

    Args:
        points: Array of shape (n, d); -0.0 and 0.0 are equal.
        weights: Weights of shape (n,).

    Returns:
        Distinct rows, the sum of their weights, and for each row given the index of its distinct row.
    """
    points = np.ascontiguousarray(points + 0.0)
    order = _lexicographic_order(points)
    ordered = points[order]
    number = _runs(ordered)
    inverse = np.empty(len(points), np.int64)
    inverse[order] = number
    # Weights of equal rows are added in increasing order: their sum must not depend on the order of the rows either.
    ranked = np.lexsort((weights[order], number))
    first = np.searchsorted(number, np.arange(number[-1] + 1))
    return ordered[first], np.add.reduceat(weights[order][ranked], first), inverse


def _lexicographic_order(points: FloatArray) -> IntArray:
    """As `np.lexsort(points.T[::-1])`; columns after the first are looked at only where rows tie."""
    order = np.argsort(points[:, 0], kind="stable")
    place = np.arange(len(points))
    group = _runs(points[order, :1])
    for column in range(1, points.shape[1]):
        tied = np.bincount(group)[group] > 1
        place, group = place[tied], group[tied]
        if not len(place):
            break
        order[place] = order[place][np.lexsort((points[order[place], column], group))]
        group = _runs(np.column_stack([group, points[order[place], column]]))
    return order


def _runs(keys: FloatArray) -> IntArray:
    """Number the runs of equal rows of sorted keys."""
    starts = (keys[1:] != keys[:-1]).any(axis=1)
    return np.concatenate([[0], np.cumsum(starts)])
