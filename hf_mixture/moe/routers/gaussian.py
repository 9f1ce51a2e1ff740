"""Gaussian router: each expert has a centre and a width, and a token goes to the most probable ones.

Letters: T tokens, H hidden, E experts.
"""

from __future__ import annotations

from torch import Tensor

from hf_mixture.moe.routers.base import RouterShape, full_precision
from hf_mixture.moe.routers.density import DensityRouter, squared_distances
from hf_mixture.moe.routers.registry import register_router


def gaussian_logits(hidden: Tensor, centres: Tensor, log_variance: Tensor, log_prior: Tensor) -> Tensor:
    """Log density of each token under each expert, plus the log prior (https://arxiv.org/abs/2503.07137, section 3.1).

    z_j = log β_j - (H log σ_j² + ‖x - μ_j‖² / σ_j²) / 2, which leaves out the constant (H / 2) log 2π.

    Args:
        hidden: Hidden states x [T, H].
        centres: μ [E, H].
        log_variance: log σ² [E].
        log_prior: log β [E].

    Returns:
        Raw logits [T, E].
    """
    log_variance, log_prior = full_precision(log_variance), full_precision(log_prior)
    scaled = squared_distances(hidden, centres) * (-log_variance).exp()
    return log_prior - 0.5 * (hidden.shape[-1] * log_variance + scaled)


@register_router(
    "gaussian",
    causal=True,
    paper="https://papers.nips.cc/paper/1994/hash/c8fbbc86abe8bd6a5eb6a3b4d0411301-Abstract.html",
    summary="Experts weighed by the Gaussian density of the token under each.",
)
class GaussianRouter(DensityRouter):
    """Gaussian router with a spherical covariance for each expert; `weight` [E, H] are the centres.

    Args:
        shape: Numbers of experts, of hidden features and of choices.
        normalise: Whether the weights are divided by their sum.
    """

    def __init__(self, shape: RouterShape, *, normalise: bool = True) -> None:
        super().__init__(shape, normalise=normalise, variance=shape.hidden_size**0.5)

    def density_logits(self, hidden: Tensor) -> Tensor:
        """Log density of hidden states [T, H] under each expert, with its prior [T, E]."""
        return gaussian_logits(hidden, self.weight, self.log_variance, self.log_prior)
