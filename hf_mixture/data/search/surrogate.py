"""The surrogate of ADMIRE: this package's exact process, or BoTorch's, behind one small interface.

Letters: n runs, q queries, K domains.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import torch

from hf_mixture._extras import require
from hf_mixture.data.search.gp import GaussianProcess, fit_process, prior_process
from hf_mixture.data.search.predictors.base import finite
from hf_mixture.data.search.protocol import Objective
from hf_mixture.data.search.ranks import FloatArray, spearman
from hf_mixture.data.search.table import RunTable


Tensor = torch.Tensor


class Surrogate(Protocol):
    """A posterior over values of mixtures at fidelities."""

    def posterior(self, x: Tensor, fidelity: Tensor) -> tuple[Tensor, Tensor]:
        """Mean of shape (q,) and covariance of shape (q, q) of noiseless values."""

    def pairs(self, x: Tensor, fidelity: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Noisy mean and variance at `fidelity`, noiseless ones at the target, and their covariance, each (q,)."""

    def condition(self, x: Tensor, fidelity: Tensor, values: Tensor) -> Surrogate:
        """The posterior with more runs, under the same hyperparameters."""


def fit_surrogate(
    kind: Literal["exact", "botorch"],
    x: FloatArray,
    fidelity: FloatArray,
    values: FloatArray,
    levels: tuple[float, ...],
) -> Surrogate:
    """Fit a surrogate to runs, to be maximised.

    The exact process refits its hyperparameters only when the runs have grown by a quarter, on the first runs of that
    number: the fit is a function of the runs in their order, and a loop over many runs stays fast.

    Args:
        kind: `"exact"` or `"botorch"`.
        x: Mixtures of shape (n, K).
        fidelity: Shape (n,).
        values: Shape (n,).
        levels: Fidelities that queries will use.

    Raises:
        ValueError: `kind` is neither of the two.
        ImportError: BoTorch is asked for and not installed.
    """
    if kind == "exact":
        size = refit_size(len(values))
        fitted = _fit_cached(
            x[:size].tobytes(), x.shape[1], fidelity[:size].tobytes(), values[:size].tobytes(), levels
        )
        return prior_process(x, fidelity, values, all_levels=levels, hyper=fitted.hyper)
    if kind == "botorch":
        return fit_botorch(x, fidelity, values)
    raise ValueError(f"surrogate={kind!r} is not one of ['exact', 'botorch']; choose one")


def refit_size(num: int) -> int:
    """The largest number of runs up to `num` at which hyperparameters are fitted: 1, 2, ..., 8, 10, 12, 15, ..."""
    size = 1
    while (larger := max(size + 1, math.floor(size * 1.25))) <= num:
        size = larger
    return size


_CACHE: dict[Any, GaussianProcess] = {}


def _fit_cached(x: bytes, width: int, fidelity: bytes, values: bytes, levels: tuple[float, ...]) -> GaussianProcess:
    """Fit, and keep the last fits: consecutive asks share their hyperparameters."""
    key = (x, width, fidelity, values, levels)
    if key not in _CACHE:
        while len(_CACHE) >= 4:
            _CACHE.pop(next(iter(_CACHE)))
        points = np.frombuffer(x).reshape(-1, width).copy()
        _CACHE[key] = fit_process(
            points, np.frombuffer(fidelity).copy(), np.frombuffer(values).copy(), all_levels=levels
        )
    return _CACHE[key]


@dataclass(frozen=True, eq=False)
class BotorchSurrogate:
    """BoTorch's `SingleTaskMultiFidelityGP` (or `SingleTaskGP` when one fidelity occurs)."""

    model: Any
    multi: bool

    def _inputs(self, x: Tensor, fidelity: Tensor) -> Tensor:
        return torch.cat([x, fidelity[..., None]], dim=-1) if self.multi else x

    def posterior(self, x: Tensor, fidelity: Tensor) -> tuple[Tensor, Tensor]:
        """Mean of shape (q,) and covariance of shape (q, q) of noiseless values."""
        with torch.no_grad():
            posterior = self.model.posterior(self._inputs(x, fidelity))
            return posterior.mean.squeeze(-1), posterior.distribution.covariance_matrix

    def pairs(self, x: Tensor, fidelity: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Noisy mean and variance at `fidelity`, noiseless ones at the target, and their covariance, each (q,)."""
        with torch.no_grad():
            both = torch.stack([self._inputs(x, fidelity), self._inputs(x, torch.ones_like(fidelity))], dim=1)
            clean = self.model.posterior(both)
            noisy = self.model.posterior(both, observation_noise=True)
            mean, covariance = clean.mean.squeeze(-1), clean.distribution.covariance_matrix
            variance = noisy.variance[:, 0, 0]
            return mean[:, 0], variance, mean[:, 1], covariance[:, 1, 1].clamp_min(1e-12), covariance[:, 0, 1]

    def condition(self, x: Tensor, fidelity: Tensor, values: Tensor) -> BotorchSurrogate:
        """The posterior with more runs, under the same hyperparameters."""
        inputs = self._inputs(x, fidelity)
        with torch.no_grad():
            self.model.posterior(inputs)
            return BotorchSurrogate(self.model.condition_on_observations(inputs, values[:, None]), self.multi)


def fit_botorch(x: FloatArray, fidelity: FloatArray, values: FloatArray) -> BotorchSurrogate:
    """Fit BoTorch's model by its exact marginal likelihood.

    Args:
        x: Mixtures of shape (n, K).
        fidelity: Shape (n,).
        values: Shape (n,).

    Raises:
        ImportError: BoTorch is not installed.
    """
    require("botorch", used_for='surrogate="botorch"')
    from botorch.fit import fit_gpytorch_mll
    from botorch.models.gp_regression import SingleTaskGP
    from botorch.models.gp_regression_fidelity import SingleTaskMultiFidelityGP
    from gpytorch.mlls import ExactMarginalLogLikelihood

    multi = len(set(fidelity.tolist())) > 1 or float(fidelity[0]) != 1.0
    inputs = torch.as_tensor(np.column_stack([x, fidelity]) if multi else x)
    targets = torch.as_tensor(values)[:, None]
    width = inputs.shape[1]
    model = (
        SingleTaskMultiFidelityGP(inputs, targets, data_fidelities=[width - 1])
        if multi
        else SingleTaskGP(inputs, targets)
    )
    fit_gpytorch_mll(ExactMarginalLogLikelihood(model.likelihood, model))
    return BotorchSurrogate(model.eval(), multi)


def held_out_rho(surrogate: Surrogate, table: RunTable, objective: Objective) -> float | None:
    """Rank correlation of target runs with their leave-one-out predictions; None below 4 target runs.

    Args:
        surrogate: The process of all runs.
        table: The runs, of which those at fidelity 1 are left out one at a time.
        objective: What was optimised.
    """
    top = np.flatnonzero(table.fidelity == 1)
    if len(top) < 4 or not isinstance(surrogate, GaussianProcess):
        return None
    inverse = torch.cholesky_inverse(surrogate.factor)
    error = surrogate.unit * surrogate.alpha / torch.diagonal(inverse)
    targets = torch.nonzero(surrogate.fidelity == 1).flatten()
    offset = surrogate.levels.offset[surrogate.levels.index(surrogate.fidelity)]
    values = surrogate.centre + surrogate.unit * (surrogate.y + offset)
    return finite(spearman((values - error)[targets].numpy(), values[targets].numpy()))
