"""The kernel of the Gaussian process: mixtures at one or several fidelities.

Letters: n runs, q queries, K domains, L levels, x a mixture, m a fidelity in (0, 1] (1 = target).

k((x, m), (x', m')) = a_m a_m' s^2 [M(x, x') + b c(m, m') M'(x, x')] + o^2 [m = m'],
c(m, m') = (1 - m)(1 - m')(1 + m m')^p,

with Matern-5/2 kernels M and M' that have a length scale for each domain. For a = b = 1 and o = 0 this is the linear
truncated kernel of BoTorch's `SingleTaskMultiFidelityGP`. Amplitudes a_m let levels differ in spread, and o in offset:
the losses of a small and a large model have neither in common.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch


Tensor = torch.Tensor

# Weak log-normal priors: mean and deviation of the logarithm.
PRIORS = {
    "lengthscale": (0.0, 1.0),
    "bias_lengthscale": (0.0, 1.0),
    "scale": (0.0, 1.5),
    "bias": (-2.0, 1.5),
    "noise": (-5.0, 2.0),
    "amplitude": (0.0, 1.0),
    "power": (0.0, 0.5),
}


@dataclass(frozen=True, eq=False)
class Hyper:
    """Hyperparameters of the kernel, as logarithms of float64.

    Args:
        lengthscale: Of M, shape (K,).
        bias_lengthscale: Of M', shape (K,).
        scale: s^2, a scalar.
        bias: b, a scalar.
        noise: Variance of the noise, a scalar.
        amplitude: a_m by level, shape (L,).
        power: p, a scalar.
    """

    lengthscale: Tensor
    bias_lengthscale: Tensor
    scale: Tensor
    bias: Tensor
    noise: Tensor
    amplitude: Tensor
    power: Tensor

    @classmethod
    def initial(cls, num_domains: int, num_levels: int) -> Hyper:
        """The prior means, with noise of 1 % of the variance."""
        zeros = torch.zeros(num_domains, dtype=torch.float64)
        scalar = torch.zeros((), dtype=torch.float64)
        amplitude = torch.zeros(num_levels, dtype=torch.float64)
        return cls(zeros, zeros, scalar, scalar - 2.0, scalar - 4.6, amplitude, scalar)

    def fields(self) -> dict[str, Tensor]:
        """The tensors, by name."""
        return {name: getattr(self, name) for name in PRIORS}

    def log_prior(self) -> Tensor:
        """Log density of the priors, up to a constant."""
        terms = [
            -0.5 * (((value - PRIORS[name][0]) / PRIORS[name][1]) ** 2).sum() for name, value in self.fields().items()
        ]
        return torch.stack(terms).sum()


def matern(x: Tensor, z: Tensor, log_lengthscale: Tensor) -> Tensor:
    """Matern-5/2 kernel with a length scale for each column.

    Args:
        x: Points of shape (n, K).
        z: Points of shape (q, K).
        log_lengthscale: Logarithms of shape (K,).

    Returns:
        Kernel of shape (n, q).
    """
    rates = torch.exp(-log_lengthscale)
    a, b = x * rates, z * rates
    squared = (a**2).sum(1)[:, None] + (b**2).sum(1)[None, :] - 2 * a @ b.T
    # The gradient of the root at 0 is infinite, so the distance keeps a floor.
    distance = math.sqrt(5) * torch.sqrt(torch.clamp(squared, min=1e-18))
    return (1 + distance + distance**2 / 3) * torch.exp(-distance)


@dataclass(frozen=True, eq=False)
class Levels:
    """Fidelities that occur, with the offset of the values of each.

    Args:
        values: Fidelities of shape (L,), rising.
        offset: Mean of the standardised values by level, shape (L,).
        spread: Prior deviation o of the offsets.
    """

    values: Tensor
    offset: Tensor
    spread: float

    def index(self, fidelity: Tensor) -> Tensor:
        """Level of each fidelity, shape as given."""
        return torch.argmin(torch.abs(fidelity[:, None] - self.values[None, :]), dim=1)


def kernel(x: Tensor, fx: Tensor, z: Tensor, fz: Tensor, hyper: Hyper, *, levels: Levels) -> Tensor:
    """The kernel of the module docstring.

    Args:
        x: Mixtures of shape (n, K).
        fx: Their fidelities, shape (n,).
        z: Mixtures of shape (q, K).
        fz: Their fidelities, shape (q,).
        hyper: Hyperparameters.
        levels: Fidelity levels.

    Returns:
        Kernel of shape (n, q).
    """
    base = matern(x, z, hyper.lengthscale)
    if len(levels.values) == 1:
        return torch.exp(hyper.scale) * base
    left, right = fx[:, None], fz[None, :]
    factor = (1 - left) * (1 - right) * (1 + left * right) ** torch.exp(hyper.power)
    base = base + torch.exp(hyper.bias) * factor * matern(x, z, hyper.bias_lengthscale)
    i, j = levels.index(fx), levels.index(fz)
    amplitude = torch.exp(hyper.scale + hyper.amplitude[i][:, None] + hyper.amplitude[j][None, :])
    return amplitude * base + levels.spread**2 * (i[:, None] == j[None, :])


def noise_variance(fidelity: Tensor, hyper: Hyper, levels: Levels) -> Tensor:
    """Variance of the noise of runs, which shares the amplitude of their level; shape as given."""
    noise = torch.exp(hyper.noise)
    if len(levels.values) == 1:
        return noise.expand(fidelity.shape)
    return noise * torch.exp(2 * hyper.amplitude[levels.index(fidelity)])
