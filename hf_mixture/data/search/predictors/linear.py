"""Linear predictors: least squares, ridge, and least squares on logarithms.

Letters: n runs, K domains.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hf_mixture.data.search.ranks import FloatArray


@dataclass(frozen=True, eq=False)
class Affine:
    """y = b + a . w, or its exponential.

    Args:
        slope: a of shape (K,).
        intercept: b.
        exponential: Whether to return exp(b + a . w).
    """

    slope: FloatArray
    intercept: float
    exponential: bool = False

    def predict(self, weights: FloatArray) -> FloatArray:
        """Predicted values of shape (m,) at mixtures of shape (m, K)."""
        line = weights @ self.slope + self.intercept
        return np.asarray(np.exp(line) if self.exponential else line, dtype=np.float64)

    def deviation(self, weights: FloatArray) -> None:
        """None: the model states no uncertainty."""


def fit_ols(weights: FloatArray, values: FloatArray) -> Affine:
    """Ordinary least squares with an intercept (of the smallest norm, since shares sum to 1).

    Args:
        weights: Mixtures of shape (n, K).
        values: Values of shape (n,).
    """
    return _least_squares(weights, values, 0.0)


def fit_ridge(weights: FloatArray, values: FloatArray) -> Affine:
    """Ridge regression with an intercept; the penalty has the smallest exact leave-one-out error of 13 candidates.

    Args:
        weights: Mixtures of shape (n, K).
        values: Values of shape (n,).
    """
    centred = weights - weights.mean(axis=0)
    left, singular, _ = np.linalg.svd(centred, full_matrices=False)
    target = values - values.mean()
    errors = {}
    for penalty in np.logspace(-6, 2, 13):
        shrink = singular**2 / (singular**2 + penalty)
        residual = target - left @ (shrink * (left.T @ target))
        leverage = 1 / len(values) + (left**2 * shrink).sum(axis=1)
        errors[float(penalty)] = float(np.mean((residual / np.maximum(1 - leverage, 1e-12)) ** 2))
    return _least_squares(weights, values, min(errors, key=lambda penalty: errors[penalty]))


def fit_log_linear(weights: FloatArray, values: FloatArray) -> Affine:
    """Least squares on log y: y = exp(b + a . w).

    Args:
        weights: Mixtures of shape (n, K).
        values: Values of shape (n,), all > 0.

    Raises:
        ValueError: A value is not above 0.
    """
    if not (values > 0).all():
        raise ValueError(
            f"the predictor 'log_linear' needs values above 0, the smallest is {values.min()!r}: choose another"
        )
    line = _least_squares(weights, np.log(values), 0.0)
    return Affine(line.slope, line.intercept, exponential=True)


def _least_squares(weights: FloatArray, values: FloatArray, penalty: float) -> Affine:
    mean, centre = weights.mean(axis=0), float(values.mean())
    left, singular, right = np.linalg.svd(weights - mean, full_matrices=False)
    kept = singular > 1e-10 * max(float(singular[0]), 1e-300)
    factors = singular[kept] / (singular[kept] ** 2 + penalty)
    slope = right[kept].T @ (factors * (left[:, kept].T @ (values - centre)))
    return Affine(slope, centre - float(mean @ slope))
