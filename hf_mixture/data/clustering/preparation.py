"""From the user's columns to the space in which clusters are looked for: constant columns out, scaled, few axes.

Letters: n rows, d_in columns given, d axes kept.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hf_mixture.data.clustering.rows import FloatArray


_BLOCK = 4096


@dataclass(frozen=True, eq=False)
class Preparation:
    """An affine map of rows.

    Args:
        centre: Subtracted first; shape (d_in,).
        projection: Then multiplied; shape (d_in, d). Constant columns have rows of zeros.
    """

    centre: FloatArray
    projection: FloatArray

    def __call__(self, points: FloatArray) -> FloatArray:
        """Map rows of shape (n, d_in) to (n, d)."""
        found = np.empty((len(points), self.projection.shape[1]))
        for start in range(0, len(points), _BLOCK):
            block = slice(start, start + _BLOCK)
            np.matmul(points[block] - self.centre, self.projection, out=found[block])
        return found

    def plane(self, midpoint: FloatArray, normal: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Move a hyperplane back into the user's columns.

        Args:
            midpoint: A point of the plane, of shape (d,).
            normal: Its normal, of shape (d,).

        Returns:
            Offset and normal of shape (d_in,), to use as `(x - offset) . normal > 0`.
        """
        back = self.projection @ normal
        square = back @ back
        # The point of the plane that is nearest to the centre.
        return self.centre + back * ((midpoint @ normal) / square), back


def prepare(points: FloatArray, weights: FloatArray, *, scale: str, num_components: int) -> Preparation:
    """Fit a preparation.

    Args:
        points: Distinct rows of shape (n, d_in).
        weights: Their weights, of shape (n,).
        scale: `"none"`, or `"standard"` for columns of variance 1.
        num_components: Rows with more columns that vary are projected on so many principal axes.

    Returns:
        The map; it has no column if all rows are equal.
    """
    total = weights.sum()
    centre = weights @ points / total
    varies = (points != points[0]).any(axis=0)
    inverse = np.where(varies, 1.0, 0.0)
    if scale == "standard":
        variance = np.zeros(points.shape[1])
        for start in range(0, len(points), _BLOCK):
            block = slice(start, start + _BLOCK)
            variance += weights[block] @ (points[block] - centre) ** 2
        deviation = np.sqrt(variance / total)
        inverse[varies] = 1 / deviation[varies]
    scaling = np.diag(inverse)[:, varies]
    if varies.sum() <= num_components:
        return Preparation(centre, scaling)
    axes, _ = principal_axes(Preparation(centre, scaling)(points), weights)
    return Preparation(centre, scaling @ axes[:, :num_components])


def principal_axes(points: FloatArray, weights: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Principal axes of centred points, exactly.

    Args:
        points: Array of shape (n, d) with weighted mean 0.
        weights: Array of shape (n,).

    Returns:
        Axes as columns, the first the longest, and the variance along each; in each axis the entry of largest absolute
        value is positive.
    """
    if len(points) < points.shape[1]:
        scaled = points * np.sqrt(weights / weights.sum())[:, None]
        _, values, rows = np.linalg.svd(scaled, full_matrices=False)
        return signed(rows.T), values**2
    covariance = np.zeros((points.shape[1],) * 2)
    for start in range(0, len(points), _BLOCK):
        block = points[start : start + _BLOCK]
        covariance += (block * weights[start : start + _BLOCK, None]).T @ block
    return axes_of(covariance / weights.sum())


def axes_of(covariance: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Eigenvectors of a covariance as columns, the largest eigenvalue first, signed as in `principal_axes`."""
    values, vectors = np.linalg.eigh(covariance)
    return signed(vectors[:, ::-1]), np.maximum(values[::-1], 0)


def signed(axes: FloatArray) -> FloatArray:
    """Axes whose entry of largest absolute value, the first on ties, is positive."""
    if not axes.size:
        return axes
    largest = np.abs(axes).argmax(axis=0)
    return axes * np.where(axes[largest, np.arange(axes.shape[1])] < 0, -1.0, 1.0)
