"""The data mixing law y = c + exp(t0 + t . w) (arXiv 2403.16952).

Letters: n runs, K domains.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hf_mixture.data.search.ranks import FloatArray


@dataclass(frozen=True, eq=False)
class Law:
    """y = sign * (c + exp(t0 + t . w)); t0 is part of t, because shares sum to 1.

    Args:
        floor: c.
        rates: t of shape (K,), with t0 added to each.
        sign: 1 for a law that grows from its floor, -1 for one that falls from its ceiling.
    """

    floor: float
    rates: FloatArray
    sign: float

    def predict(self, weights: FloatArray) -> FloatArray:
        """Predicted values of shape (m,) at mixtures of shape (m, K)."""
        return np.asarray(self.sign * (self.floor + np.exp(weights @ self.rates)), dtype=np.float64)

    def deviation(self, weights: FloatArray) -> None:
        """None: the model states no uncertainty."""


def fit_law(
    weights: FloatArray, values: FloatArray, *, delta: float = 0.01, num_starts: int = 8, max_steps: int = 60
) -> Law:
    """Fit the law by Huber regression from several starts, with either sign, and keep the best fit.

    Args:
        weights: Mixtures of shape (n, K).
        values: Values of shape (n,).
        delta: Where the Huber loss turns linear, in standard deviations of the values. Default: .01.
        num_starts: Number of starting values of c, spread below the smallest value. Default: 8.
        max_steps: Largest number of damped Gauss-Newton steps from each start. Default: 60.
    """
    spread = float(values.std()) or 1.0
    fits: list[tuple[float, Law]] = []
    for sign in (1.0, -1.0):
        scaled = sign * values / spread
        for gap in np.logspace(-2, 2, num_starts):
            floor = float(scaled.min()) - gap
            rates = np.linalg.lstsq(weights, np.log(scaled - floor), rcond=None)[0]
            start = np.concatenate([[floor], rates])
            loss, point = _descend(weights, scaled, start, delta, max_steps)
            fits.append((loss, Law(float(point[0]) * spread, point[1:] + np.log(spread), sign)))
    return min(fits, key=lambda fit: fit[0])[1]


def huber(residuals: FloatArray, delta: float) -> float:
    """Mean Huber loss: r^2 / 2 up to `delta`, then delta * (|r| - delta / 2)."""
    size = np.abs(residuals)
    return float(np.mean(np.where(size <= delta, size**2 / 2, delta * (size - delta / 2))))


def _descend(
    weights: FloatArray, values: FloatArray, point: FloatArray, delta: float, max_steps: int
) -> tuple[float, FloatArray]:
    """Levenberg-Marquardt steps on the Huber loss, each residual weighted by min(1, delta / |r|)."""
    damping, num = 1e-3, len(values)
    rise = np.exp(np.minimum(weights @ point[1:], 50.0))
    residuals = point[0] + rise - values
    loss = huber(residuals, delta)
    for _ in range(max_steps):
        jacobian = np.column_stack([np.ones(num), rise[:, None] * weights])
        scale = np.minimum(1.0, delta / np.maximum(np.abs(residuals), 1e-12))
        normal = jacobian.T @ (scale[:, None] * jacobian)
        step = np.linalg.solve(
            normal + damping * (np.diag(np.diag(normal)) + 1e-9 * np.eye(len(point))), jacobian.T @ (scale * residuals)
        )
        trial = point - step
        trial_rise = np.exp(np.minimum(weights @ trial[1:], 50.0))
        trial_residuals = trial[0] + trial_rise - values
        trial_loss = huber(trial_residuals, delta)
        if trial_loss < loss:
            gain = loss - trial_loss
            point, rise, residuals, loss, damping = trial, trial_rise, trial_residuals, trial_loss, damping / 5
            if gain < 1e-9 * loss:
                break
        else:
            damping *= 5
            if damping > 1e10:
                break
    return loss, point
