"""Acquisition functions: how much a run would tell about the best value, or improve on it. Larger is better.

Letters: q queries, S samples of the maximum, f* a maximum, y a noisy value, m the fidelity of a run, M the target;
gamma = (f* - mu_M) / sigma_M, rho the posterior correlation of y_m and f_M, phi and Phi the normal density and
distribution.
"""

from __future__ import annotations

import math

import torch


Tensor = torch.Tensor


def expected_improvement(mean: Tensor, variance: Tensor, best: float) -> Tensor:
    """Expected improvement over the best value found, sigma * (u Phi(u) + phi(u)), u = (mu - best) / sigma.

    Args:
        mean: Posterior means of shape (q,).
        variance: Posterior variances of shape (q,).
        best: Best value so far.

    Returns:
        Expected improvements of shape (q,).
    """
    deviation = variance.clamp_min(1e-18).sqrt()
    u = (mean - best) / deviation
    return deviation * (u * torch.special.ndtr(u) + _density(u))


def max_value_entropy(mean: Tensor, variance: Tensor, maxima: Tensor) -> Tensor:
    """Max-value entropy search (arXiv 1703.01968): mean over f* of gamma r / 2 - log Phi(gamma), r = phi / Phi.

    Args:
        mean: Posterior means of shape (q,).
        variance: Posterior variances of shape (q,), of noiseless values.
        maxima: Samples f* of shape (S,).

    Returns:
        Information in nats about the maximum, shape (q,).
    """
    gamma = (maxima[None, :] - mean[:, None]) / variance.clamp_min(1e-18).sqrt()[:, None]
    log_cdf = torch.special.log_ndtr(gamma)
    return (gamma * torch.exp(_log_density(gamma) - log_cdf) / 2 - log_cdf).mean(dim=1)


def multi_fidelity_entropy(
    variance_m: Tensor, mean_target: Tensor, variance_target: Tensor, covariance: Tensor, maxima: Tensor
) -> Tensor:
    """Information of a run at fidelity m about the maximum at the target (arXiv 1901.08275, eq. 7).

    H(y_m) - mean over f* of H(y_m | f_M <= f*)
    = rho^2 gamma r / 2 - log Phi(gamma) + E[Phi(g(z)) log Phi(g(z))] / Phi(gamma),
    g(z) = (gamma - rho z) / sqrt(1 - rho^2), z standard normal; the expectation is one integral for each pair.

    Args:
        variance_m: Variances of the noisy value of the run, shape (q,).
        mean_target: Means of the noiseless value at the target, shape (q,).
        variance_target: Their variances, shape (q,).
        covariance: Covariances of the two, shape (q,).
        maxima: Samples f* of shape (S,).

    Returns:
        Information in nats, shape (q,).
    """
    rho = (covariance / (variance_m * variance_target).clamp_min(1e-36).sqrt()).clamp(-1 + 1e-9, 1 - 1e-9)[:, None]
    gamma = (maxima[None, :] - mean_target[:, None]) / variance_target.clamp_min(1e-18).sqrt()[:, None]
    log_cdf = torch.special.log_ndtr(gamma)
    ratio = torch.exp(_log_density(gamma) - log_cdf)
    integral = _truncated_integral(gamma, rho.expand_as(gamma), log_cdf, ratio)
    return (rho**2 * gamma * ratio / 2 - log_cdf + integral).mean(dim=1)


def sample_maxima(mean: Tensor, covariance: Tensor, num_samples: int, seed: int) -> Tensor:
    """Draw the maximum over a set of candidates from their joint posterior.

    Args:
        mean: Means of shape (q,).
        covariance: Covariance of shape (q, q).
        num_samples: Number S of samples.
        seed: Seed of the draws.

    Returns:
        Maxima of shape (S,).
    """
    scale = torch.diagonal(covariance).clamp_min(1e-18)
    jitter = 1e-8 * scale.mean()
    factor, failed = torch.linalg.cholesky_ex(covariance + jitter * torch.eye(len(mean), dtype=torch.float64))
    if int(failed) != 0:
        values, vectors = torch.linalg.eigh(covariance)
        factor = vectors * values.clamp_min(0).sqrt()
    generator = torch.Generator().manual_seed(seed)
    draws = torch.randn(len(mean), num_samples, generator=generator, dtype=torch.float64)
    return (mean[:, None] + factor @ draws).amax(dim=0)


def _truncated_integral(gamma: Tensor, rho: Tensor, log_cdf: Tensor, ratio: Tensor, num_points: int = 64) -> Tensor:
    """E[Phi(g(z)) log Phi(g(z))] / Phi(gamma) by the trapezoid rule, which converges exponentially here.

    Where rho is near 1 the integrand is a thin peak in z, so the rule runs over g instead.
    """
    s = torch.sqrt(1 - rho**2)
    grid = torch.linspace(-9.0, 9.0, num_points, dtype=torch.float64)
    step = float(grid[1] - grid[0])
    thin = s < 0.5
    # Centred on the mean of z given f_M <= f*, which moves far out for gamma << 0.
    z = grid[:, None, None] - rho * ratio
    g = (gamma - rho * z) / s
    safe = torch.where(thin, torch.ones_like(rho), rho)
    z_thin = (gamma - s * grid[:, None, None]) / torch.where(thin, rho, safe)
    z = torch.where(thin, z_thin, z)
    g = torch.where(thin, grid[:, None, None].expand_as(g), g)
    weight = step * torch.where(thin, s / rho.abs().clamp_min(1e-9), torch.ones_like(s))
    log_phi = torch.special.log_ndtr(g)
    return (torch.exp(_log_density(z) + log_phi - log_cdf) * log_phi).sum(dim=0) * weight


def _log_density(u: Tensor) -> Tensor:
    return -0.5 * u**2 - 0.5 * math.log(2 * math.pi)


def _density(u: Tensor) -> Tensor:
    return torch.exp(_log_density(u))
