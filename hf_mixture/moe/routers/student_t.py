"""Student-t router: as the Gaussian one, with heavy tails, so that far tokens are not lost to a single expert.

Letters: T tokens, H hidden, E experts.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hf_mixture.moe.routers.base import RouterShape, full_precision
from hf_mixture.moe.routers.checks import check_number
from hf_mixture.moe.routers.density import DensityRouter, squared_distances
from hf_mixture.moe.routers.registry import register_router


def student_t_logits(
    hidden: Tensor, centres: Tensor, log_variance: Tensor, log_prior: Tensor, *, degrees: float
) -> Tensor:
    """Log density of each token under each expert, plus the log prior (https://arxiv.org/abs/2503.07137, section 3.1).

    z_j = log β_j - (H / 2) log σ_j² - ((ν + H) / 2) log(1 + ‖x - μ_j‖² / (ν σ_j²)), which leaves out the factor of
    ν and H alone.

    Args:
        hidden: Hidden states x [T, H].
        centres: μ [E, H].
        log_variance: log σ² [E].
        log_prior: log β [E].
        degrees: ν, degrees of freedom.

    Returns:
        Raw logits [T, E].
    """
    num_features = hidden.shape[-1]
    log_variance, log_prior = full_precision(log_variance), full_precision(log_prior)
    scaled = squared_distances(hidden, centres) * (-log_variance).exp()
    tail = torch.log1p(scaled / degrees)
    return log_prior - 0.5 * (num_features * log_variance + (degrees + num_features) * tail)


@register_router(
    "student_t",
    causal=True,
    paper="https://arxiv.org/abs/2503.07137",
    summary="Experts weighed by the Student-t density of the token under each.",
)
class StudentTRouter(DensityRouter):
    """Student-t router with one scale for each expert; `weight` [E, H] are the centres.

    Args:
        shape: Numbers of experts, of hidden features and of choices.
        degrees: ν, degrees of freedom, above 0.
        normalise: Whether the weights are divided by their sum.
    """

    def __init__(self, shape: RouterShape, *, degrees: float = 4.0, normalise: bool = True) -> None:
        check_number("degrees", degrees, above=0.0)
        super().__init__(shape, normalise=normalise, variance=shape.hidden_size**1.5 / degrees)
        self.degrees = degrees

    def density_logits(self, hidden: Tensor) -> Tensor:
        """Log density of hidden states [T, H] under each expert, with its prior [T, E]."""
        return student_t_logits(hidden, self.weight, self.log_variance, self.log_prior, degrees=self.degrees)
