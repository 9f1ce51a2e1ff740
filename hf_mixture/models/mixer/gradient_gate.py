"""A gate trained by gradients, to compare that of K-means and least squares with.

Letters: N environments, M experts, d size of a context.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from hf_mixture.models.mixer.experts.layers import Layers


class GradientGate(nn.Module):
    """The best expert by [xi, 1] W, where W is a parameter.

    Args:
        context_size: d.
        num_experts: M.
        bias: Whether W has a row for a constant 1.
    """

    def __init__(self, context_size: int, num_experts: int, *, bias: bool = True) -> None:
        super().__init__()
        self.bias = bias
        self.weight = nn.Parameter(torch.empty(context_size + bias, num_experts))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw W from U(-1/sqrt(rows), 1/sqrt(rows))."""
        limit = 1 / math.sqrt(len(self.weight))
        nn.init.uniform_(self.weight, -limit, limit)

    def forward(self, contexts: Tensor) -> tuple[Tensor, Tensor]:
        """Indices of the best experts [N] and scores [N, M] of contexts [N, d]."""
        inputs = torch.cat([contexts, torch.ones_like(contexts[:, :1])], dim=1) if self.bias else contexts
        scores = inputs @ self.weight
        return scores.argmax(dim=-1), scores


def straight_through(layers: Layers, scores: Tensor, indices: Tensor) -> Layers:
    """Let gradients reach the scores of the winning experts; the values stay as they are.

    The last layer, and with it the vector field, is multiplied by p / p, the probability p of the winner by softmax,
    whose denominator is a constant to gradients. Without it a choice of one expert has no gradient.

    Args:
        layers: The networks of the winning experts.
        scores: Scores of the gate [N, M].
        indices: Winning experts [N].

    Returns:
        The networks, with the same values.
    """
    logarithm = scores.log_softmax(dim=-1).gather(1, indices.unsqueeze(1))
    factor = (logarithm - logarithm.detach()).exp()
    weight, bias = layers.weights[-1] * factor.unsqueeze(-1), layers.biases[-1] * factor
    return Layers((*layers.weights[:-1], weight), (*layers.biases[:-1], bias), layers.betas)
