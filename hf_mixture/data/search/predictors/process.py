"""The Gaussian process as a predictor of runs at one fidelity."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from hf_mixture.data.search.ranks import FloatArray


if TYPE_CHECKING:
    from hf_mixture.data.search.gp import GaussianProcess


@dataclass(frozen=True, eq=False)
class ProcessModel:
    """A fitted Gaussian process; its deviation includes the noise of a run."""

    process: GaussianProcess

    def predict(self, weights: FloatArray) -> FloatArray:
        """Predicted values of shape (m,) at mixtures of shape (m, K)."""
        return self._moments(weights)[0]

    def deviation(self, weights: FloatArray) -> FloatArray:
        """Standard deviations of shape (m,) of a new run."""
        return self._moments(weights)[1]

    def _moments(self, weights: FloatArray) -> tuple[FloatArray, FloatArray]:
        import torch

        means, deviations = [np.zeros(0)], [np.zeros(0)]
        for start in range(0, len(weights), 4096):
            chunk = torch.as_tensor(weights[start : start + 4096], dtype=torch.float64)
            mean, variance, _, _, _ = self.process.pairs(chunk, torch.ones(len(chunk), dtype=torch.float64))
            means.append(mean.numpy())
            deviations.append(variance.sqrt().numpy())
        return np.concatenate(means), np.concatenate(deviations)


def fit_gp(weights: FloatArray, values: FloatArray) -> ProcessModel:
    """Fit a Gaussian process with a Matern-5/2 kernel, a length scale for each domain, and white noise.

    Args:
        weights: Mixtures of shape (n, K).
        values: Values of shape (n,).
    """
    from hf_mixture.data.search.gp import fit_process

    return ProcessModel(fit_process(weights, np.ones(len(values)), values))
