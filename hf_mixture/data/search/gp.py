"""An exact Gaussian process on the simplex, for one or several fidelities; `kernels` defines its kernel.

Letters: n runs, q queries, K domains.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from hf_mixture.data.search.kernels import PRIORS, Hyper, Levels, kernel, noise_variance
from hf_mixture.data.search.ranks import FloatArray


Tensor = torch.Tensor

JITTER = 1e-8


@dataclass(frozen=True, eq=False)
class GaussianProcess:
    """A Gaussian process conditioned on runs.

    Args:
        x: Mixtures of shape (n, K).
        fidelity: Shape (n,).
        y: Standardised values less the offset of their level, shape (n,).
        hyper: Hyperparameters.
        levels: Fidelity levels.
        centre: Subtracted from values.
        unit: Values are divided by it.
        factor: Cholesky factor of the kernel with noise, shape (n, n).
        alpha: Kernel inverse times y, shape (n,).
    """

    x: Tensor
    fidelity: Tensor
    y: Tensor
    hyper: Hyper
    levels: Levels
    centre: float
    unit: float
    factor: Tensor
    alpha: Tensor

    def posterior(self, x: Tensor, fidelity: Tensor) -> tuple[Tensor, Tensor]:
        """Mean of shape (q,) and covariance of shape (q, q) of noiseless values, in the units of the values."""
        cross = kernel(self.x, self.fidelity, x, fidelity, self.hyper, levels=self.levels)
        solved = torch.linalg.solve_triangular(self.factor, cross, upper=False)
        mean = cross.T @ self.alpha + self.levels.offset[self.levels.index(fidelity)]
        covariance = kernel(x, fidelity, x, fidelity, self.hyper, levels=self.levels) - solved.T @ solved
        return self.centre + self.unit * mean, self.unit**2 * covariance

    def pairs(self, x: Tensor, fidelity: Tensor, target: float = 1.0) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Posterior of a run and of the target value at the same mixture, for each query.

        Args:
            x: Mixtures of shape (q, K).
            fidelity: Shape (q,).
            target: The target fidelity.

        Returns:
            Mean and variance of the noisy value at `fidelity`, mean and variance of the noiseless value at the
            target, and their covariance; each of shape (q,), in the units of the values.
        """
        top = torch.full_like(fidelity, target)
        cross_m = kernel(self.x, self.fidelity, x, fidelity, self.hyper, levels=self.levels)
        cross_t = kernel(self.x, self.fidelity, x, top, self.hyper, levels=self.levels)
        solved_m = torch.linalg.solve_triangular(self.factor, cross_m, upper=False)
        solved_t = torch.linalg.solve_triangular(self.factor, cross_t, upper=False)
        offset = self.levels.offset
        mean_m = cross_m.T @ self.alpha + offset[self.levels.index(fidelity)]
        mean_t = cross_t.T @ self.alpha + offset[self.levels.index(top)]
        noise = noise_variance(fidelity, self.hyper, self.levels)
        var_m = self._prior(fidelity, fidelity) - (solved_m**2).sum(0) + noise
        var_t = self._prior(top, top) - (solved_t**2).sum(0)
        covariance = self._prior(fidelity, top) - (solved_m * solved_t).sum(0)
        unit = self.unit
        return (
            self.centre + unit * mean_m,
            unit**2 * var_m.clamp_min(1e-12),
            self.centre + unit * mean_t,
            unit**2 * var_t.clamp_min(1e-12),
            unit**2 * covariance,
        )

    def condition(self, x: Tensor, fidelity: Tensor, values: Tensor) -> GaussianProcess:
        """The process with more runs, under the same hyperparameters.

        Args:
            x: Mixtures of shape (q, K).
            fidelity: Shape (q,).
            values: Shape (q,), in the units of the values.
        """
        y = (values - self.centre) / self.unit - self.levels.offset[self.levels.index(fidelity)]
        return _solve(
            replace(
                self, x=torch.cat([self.x, x]), fidelity=torch.cat([self.fidelity, fidelity]), y=torch.cat([self.y, y])
            )
        )

    def _prior(self, left: Tensor, right: Tensor) -> Tensor:
        """Kernel of a mixture with itself at two fidelities, shape (q,)."""
        scale = torch.exp(self.hyper.scale) * torch.ones_like(left)
        if len(self.levels.values) == 1:
            return scale
        i, j = self.levels.index(left), self.levels.index(right)
        factor = (1 - left) * (1 - right) * (1 + left * right) ** torch.exp(self.hyper.power)
        scale = scale * torch.exp(self.hyper.amplitude[i] + self.hyper.amplitude[j])
        return scale * (1 + torch.exp(self.hyper.bias) * factor) + self.levels.spread**2 * (i == j)


def fit_process(
    x: FloatArray | Tensor,
    fidelity: FloatArray | Tensor,
    values: FloatArray | Tensor,
    *,
    all_levels: tuple[float, ...] | None = None,
    max_steps: int = 60,
) -> GaussianProcess:
    """Fit hyperparameters by the largest posterior density (marginal likelihood with weak priors), then condition.

    Args:
        x: Mixtures of shape (n, K).
        fidelity: Shape (n,).
        values: Shape (n,).
        all_levels: Fidelities that queries will use. Default: those of the runs.
        max_steps: Largest number of L-BFGS steps. Default: 60.

    Returns:
        The process; equal inputs give equal processes.
    """
    process = prior_process(x, fidelity, values, all_levels=all_levels)
    names = list(PRIORS)
    leaves = [getattr(process.hyper, name).clone().requires_grad_(True) for name in names]
    optimizer = torch.optim.LBFGS(
        leaves,
        max_iter=max_steps,
        history_size=10,
        line_search_fn="strong_wolfe",
        tolerance_grad=1e-4,
        tolerance_change=1e-7,
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        hyper = Hyper(*leaves)
        # Levels without runs leave their amplitudes to the prior.
        loss = _negative_log_posterior(process, hyper)
        loss.backward()
        return loss.detach()

    optimizer.step(closure)
    found = Hyper(*[leaf.detach() for leaf in leaves])
    if not all(torch.isfinite(value).all() for value in found.fields().values()):
        return process
    return _solve(replace(process, hyper=found))


def prior_process(
    x: FloatArray | Tensor,
    fidelity: FloatArray | Tensor,
    values: FloatArray | Tensor,
    *,
    all_levels: tuple[float, ...] | None = None,
    hyper: Hyper | None = None,
) -> GaussianProcess:
    """Condition on runs under given hyperparameters, or under the means of their priors.

    Args:
        x: Mixtures of shape (n, K).
        fidelity: Shape (n,).
        values: Shape (n,).
        all_levels: Fidelities that queries will use. Default: those of the runs.
        hyper: Hyperparameters. Default: prior means.
    """
    points, fidelities, outcomes = (torch.as_tensor(part, dtype=torch.float64) for part in (x, fidelity, values))
    known = torch.tensor(sorted(all_levels or set(fidelities.tolist())), dtype=torch.float64)
    levels = Levels(known, torch.zeros(len(known), dtype=torch.float64), spread=1.0)
    index = levels.index(fidelities)
    counts = torch.bincount(index, minlength=len(known))
    means = torch.bincount(index, weights=outcomes, minlength=len(known)) / counts.clamp_min(1)
    # A level without runs borrows the mean of the nearest level that has some.
    seen = torch.nonzero(counts).flatten()
    nearest = seen[torch.argmin(torch.abs(known[:, None] - known[seen][None, :]), dim=1)]
    means = torch.where(counts > 0, means, means[nearest])
    residual = outcomes - means[index]
    unit = float(residual.std(unbiased=False)) if len(outcomes) > 2 else 0.0
    unit = unit if unit > 0 else float(outcomes.abs().max()) * 0.1 or 1.0
    offset = means / unit
    levels = replace(levels, offset=offset)
    blank = torch.zeros(0, dtype=torch.float64)
    process = GaussianProcess(
        points,
        fidelities,
        residual / unit,
        hyper or Hyper.initial(points.shape[1], len(known)),
        levels,
        0.0,
        unit,
        blank,
        blank,
    )
    return _solve(process)


def _covariance(process: GaussianProcess, hyper: Hyper) -> Tensor:
    gram = kernel(process.x, process.fidelity, process.x, process.fidelity, hyper, levels=process.levels)
    return gram + torch.diag_embed(noise_variance(process.fidelity, hyper, process.levels) + JITTER)


def _negative_log_posterior(process: GaussianProcess, hyper: Hyper) -> Tensor:
    factor, failed = torch.linalg.cholesky_ex(_covariance(process, hyper))
    if int(failed) != 0:
        return torch.full((), 1e10, dtype=torch.float64) + 0 * hyper.noise
    solved = torch.linalg.solve_triangular(factor, process.y[:, None], upper=False)
    fit = 0.5 * (solved**2).sum() + torch.log(torch.diagonal(factor)).sum()
    return fit - hyper.log_prior()


def _solve(process: GaussianProcess) -> GaussianProcess:
    covariance = _covariance(process, process.hyper)
    factor, failed = torch.linalg.cholesky_ex(covariance)
    if int(failed) != 0:
        factor = torch.linalg.cholesky(covariance + 1e-5 * torch.diag_embed(torch.diagonal(covariance)))
    alpha = torch.cholesky_solve(process.y[:, None], factor).squeeze(1)
    return replace(process, factor=factor, alpha=alpha)
