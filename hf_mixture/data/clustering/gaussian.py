"""Mixtures of two Gaussians that start, and mostly stay, at a given partition.

Letters: n rows, d columns, k components (1 or 2).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from hf_mixture.data.clustering.preparation import axes_of
from hf_mixture.data.clustering.rows import FloatArray, Rows


FAMILIES = ("full", "tied", "diag", "tied_diag", "spherical", "pdiag")
LOG_2PI = float(np.log(2 * np.pi))
MAX_EM_STEPS = 500
# EM "to convergence" ends when the log-likelihood per row grows by less than this.
EM_TOLERANCE = 1e-6
_BLOCK = 8192


@dataclass(frozen=True, eq=False)
class Moments:
    """Weight, mean and covariance (blur included) of rows.

    Args:
        weight: Number of observations.
        mean: Array of shape (d,).
        covariance: Array of shape (d, d).
    """

    weight: float
    mean: FloatArray
    covariance: FloatArray


class Evidence(NamedTuple):
    """What a mixture of two Gaussians says of a partition.

    `gain` is (BIC of one Gaussian - BIC of two) / rows, and `agreement` the share of rows that the mixture puts on the
    side where the partition has them.
    """

    gain: float
    agreement: float


def moments_of(rows: Rows, weights: FloatArray | None = None) -> Moments:
    """Moments of rows, with other weights than their own if given."""
    weights = rows.weights if weights is None else weights
    total = float(weights.sum())
    mean = weights @ rows.points / total
    scatter = np.zeros((rows.points.shape[1],) * 2)
    for start in range(0, len(rows), _BLOCK):
        centred = rows.points[start : start + _BLOCK] - mean
        scatter += (centred * weights[start : start + _BLOCK, None]).T @ centred
    covariance = scatter / total
    return Moments(total, mean, covariance if rows.blur is None else covariance + rows.blur)


def pooled(parts: Sequence[Moments]) -> Moments:
    """Moments of the union of disjoint rows."""
    total = sum(part.weight for part in parts)
    mean = sum(part.weight / total * part.mean for part in parts)
    covariance = sum(
        part.weight / total * (part.covariance + np.outer(part.mean - mean, part.mean - mean)) for part in parts
    )
    return Moments(total, np.asarray(mean), np.asarray(covariance))


def num_parameters(family: str, k: int, d: int) -> int:
    """Free parameters of a mixture of k Gaussians in d columns."""
    covariance = {
        "full": k * d * (d + 1) // 2,
        "tied": d * (d + 1) // 2,
        "diag": k * d,
        "pdiag": k * d,
        "tied_diag": d,
        "spherical": k,
    }[family]
    return covariance + k * d + k - 1


def constrained(family: str, parts: Sequence[Moments], axes: FloatArray, ridge: float) -> list[FloatArray]:
    """Covariances of a family from those of the components.

    Args:
        family: One of `FAMILIES`; `"pdiag"` is diagonal in the principal axes of the whole.
        parts: Moments of each component.
        axes: Principal axes of the whole, as columns; shape (d, d).
        ridge: Added to the diagonal.
    """
    found = [part.covariance for part in parts]
    if family in ("tied", "tied_diag"):
        total = sum(part.weight for part in parts)
        shared = sum((part.weight / total * part.covariance for part in parts), start=np.zeros_like(axes))
        found = [shared] * len(parts)
    if family in ("diag", "tied_diag"):
        found = [np.diag(np.diag(covariance)) for covariance in found]
    elif family == "pdiag":
        found = [(axes * np.einsum("dk,de,ek->k", axes, c, axes)) @ axes.T for c in found]
    elif family == "spherical":
        found = [np.eye(len(axes)) * (np.trace(covariance) / len(axes)) for covariance in found]
    return [covariance + ridge * np.eye(len(axes)) for covariance in found]


def log_density(rows: Rows, mean: FloatArray, covariance: FloatArray) -> FloatArray:
    """Log-density of a Gaussian at each row (its expectation over the blur, where rows have one); shape (n,)."""
    lower = np.linalg.cholesky(covariance)
    whiten = np.linalg.inv(lower).T
    constant = len(mean) * LOG_2PI + 2 * np.log(np.diag(lower)).sum()
    if rows.blur is not None:
        constant += np.trace(whiten.T @ rows.blur @ whiten)
    found = np.empty(len(rows))
    for start in range(0, len(rows), _BLOCK):
        white = (rows.points[start : start + _BLOCK] - mean) @ whiten
        found[start : start + _BLOCK] = np.einsum("nd,nd->n", white, white)
    return -0.5 * (constant + found)


def log_joint(
    rows: Rows, weights: Sequence[float], means: Sequence[FloatArray], covariances: Sequence[FloatArray]
) -> FloatArray:
    """Log of weight times density for each row and component; shape (n, k)."""
    columns = [
        np.log(weight) + log_density(rows, mean, covariance)
        for weight, mean, covariance in zip(weights, means, covariances, strict=True)
    ]
    return np.stack(columns, axis=1)


def log_likelihood_of_one(family: str, whole: Moments, axes: FloatArray, ridge: float) -> float:
    """Log-likelihood per row of one Gaussian of the family at its own moments."""
    covariance = constrained(family, [whole], axes, ridge)[0]
    _, log_det = np.linalg.slogdet(covariance)
    trace = np.trace(np.linalg.solve(covariance, whole.covariance))
    return float(-0.5 * (len(axes) * LOG_2PI + log_det + trace))


class TwoGaussians:
    """A mixture of two Gaussians of one family, from a partition by EM.

    The first M step takes the partition as it is: with `em_steps=1` the mixture validates it and does not replace it.

    Args:
        rows: The rows.
        sides: Moments of the two sides of the partition.
        family: One of `FAMILIES`.
        axes: Principal axes of the whole, as columns.
        ridge: Added to the diagonals of the covariances.
        em_steps: Number of M steps; None is to convergence.

    Attributes:
        joint: Log of weight times density for each row and component, at the last E step; shape (n, 2).
        log_likelihood: Log-likelihood per row at the last E step.
        vanished: Whether a component lost all its rows on the way.
    """

    def __init__(
        self,
        rows: Rows,
        sides: Sequence[Moments],
        *,
        family: str,
        axes: FloatArray,
        ridge: float,
        em_steps: int | None,
    ) -> None:
        self.family, self.axes, self.ridge = family, axes, ridge
        self.vanished = False
        self._validate(rows, sides)
        for _ in range(1, MAX_EM_STEPS if em_steps is None else em_steps):
            total = np.logaddexp(self.joint[:, 0], self.joint[:, 1])
            shares = np.exp(self.joint - total[:, None]) * rows.weights[:, None]
            if (shares.sum(axis=0) <= 1e-6 * rows.total).any():
                self.vanished = True
                break
            last = self.log_likelihood
            self._validate(rows, [moments_of(rows, column) for column in shares.T])
            if em_steps is None and self.log_likelihood - last < EM_TOLERANCE:
                break

    def _validate(self, rows: Rows, sides: Sequence[Moments]) -> None:
        """One E step at the moments of an M step."""
        self.sides = list(sides)
        self.joint = self.log_joint(rows)
        total = np.logaddexp(self.joint[:, 0], self.joint[:, 1])
        self.log_likelihood = float(rows.weights @ total / rows.total)

    def log_joint(self, rows: Rows) -> FloatArray:
        """Log of weight times density, of shape (n, 2), at other rows."""
        total = sum(side.weight for side in self.sides)
        covariances = constrained(self.family, self.sides, self.axes, self.ridge)
        return log_joint(
            rows, [side.weight / total for side in self.sides], [side.mean for side in self.sides], covariances
        )


def evidence(
    rows: Rows,
    second: np.ndarray,
    whole: Moments,
    sides: Sequence[Moments],
    *,
    family: str,
    ridge: float,
    em_steps: int | None,
) -> Evidence:
    """Compare two Gaussians, started at a partition, with one.

    Args:
        rows: The rows, of total weight N.
        second: Whether each row is on the second side; shape (n,).
        whole: Moments of all rows.
        sides: Moments of the two sides.
        family: One of `FAMILIES`.
        ridge: Added to the diagonals of the covariances.
        em_steps: Number of M steps; None is to convergence.

    Returns:
        BIC gain per row, with BIC = -2 log-likelihood + p log N, and agreement.
    """
    d = rows.points.shape[1]
    axes, _ = axes_of(whole.covariance)
    mixture = TwoGaussians(rows, sides, family=family, axes=axes, ridge=ridge, em_steps=em_steps)
    if mixture.vanished:
        # One component is left: not two clusters, and no row is where the partition has it on one side.
        return Evidence(-1.0, 0.0)
    one = log_likelihood_of_one(family, whole, axes, ridge)
    extra = num_parameters(family, 2, d) - num_parameters(family, 1, d)
    gain = 2 * (mixture.log_likelihood - one) - extra * np.log(whole.weight) / whole.weight
    agrees = (mixture.joint[:, 1] > mixture.joint[:, 0]) == second
    return Evidence(float(gain), float(rows.weights @ agrees / rows.total))
