"""What the density routers share: distances to the centres of the experts, and their parameters.

Letters: T tokens, H hidden, E experts, K chosen.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from hf_mixture.moe.anatomy import RouterOutput, SelectionRule
from hf_mixture.moe.routers.base import RegistryRouter, RouterShape, full_precision
from hf_mixture.moe.routers.topk import route_topk_softmax


def squared_distances(hidden: Tensor, centres: Tensor) -> Tensor:
    """Squared Euclidean distance of each token from each centre.

    Args:
        hidden: Hidden states [T, H].
        centres: Centres [E, H].

    Returns:
        Distances [T, E], at least 0.
    """
    hidden, centres = full_precision(hidden), full_precision(centres)
    squares = hidden.square().sum(-1, keepdim=True) + centres.square().sum(-1)
    return torch.addmm(squares, hidden, centres.T, alpha=-2).clamp(min=0.0)


class DensityRouter(RegistryRouter):
    """A router that weighs experts by the density of the token under each: G_j = β_j D(x | ν_j) / Σ_i β_i D(x | ν_i).

    The survey (https://arxiv.org/abs/2503.07137, section 3.1) calls this the exponential family; the raw logits are
    log β_j + log D(x | ν_j), without what is the same for all experts.

    Args:
        shape: Numbers of experts, of hidden features and of choices.
        normalise: Whether the weights are divided by their sum.
        variance: Initial variance of each feature.
    """

    def __init__(self, shape: RouterShape, *, normalise: bool, variance: float) -> None:
        super().__init__(shape)
        self.normalise = normalise
        self.initial_variance = variance
        self.weight = nn.Parameter(torch.empty(shape.num_experts, shape.hidden_size))
        self.log_variance = nn.Parameter(torch.empty(shape.num_experts))
        self.log_prior = nn.Parameter(torch.empty(shape.num_experts))

    def reset_parameters(self, std: float) -> None:
        """Draw the centres like normalised hidden states, and set variances and priors to be equal.

        The initial variance makes the logits of such states differ by about 1; with a variance of 1 they would differ
        by about the root of H, and each token would see one expert.
        """
        nn.init.normal_(self.weight)
        nn.init.constant_(self.log_variance, math.log(self.initial_variance))
        nn.init.zeros_(self.log_prior)

    def density_logits(self, hidden: Tensor) -> Tensor:
        """Raw logits [T, E] of hidden states [T, H]."""
        raise NotImplementedError

    def route(self, hidden: Tensor) -> RouterOutput:
        """Choose the K most probable experts."""
        return route_topk_softmax(self.density_logits(hidden), self.top_k, normalise=self.normalise)

    def selection_rule(self) -> SelectionRule:
        """Softmax before the choice."""
        return SelectionRule(score="softmax", normalise=self.normalise)
