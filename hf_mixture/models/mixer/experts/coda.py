"""CoDA: a network whose weights are a linear function of the context (https://arxiv.org/abs/2202.01889).

Letters: M experts, N environments, d size of the context, O outputs and I inputs of a layer.
"""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor, nn

from hf_mixture.models.mixer.experts.base import Experts, ExpertSizes, Network, Stacked
from hf_mixture.models.mixer.experts.layers import Layers


class Hypernetwork(Stacked):
    """How the context moves one layer of M experts: a linear function without a constant.

    Args:
        num_experts: M.
        num_inputs: I.
        num_outputs: O.
        context_size: d.
        swish: Whether there is a swish after the layer.
        same_init: Whether all experts begin with the same values.
    """

    def __init__(
        self, num_experts: int, num_inputs: int, num_outputs: int, context_size: int, *, swish: bool, same_init: bool
    ) -> None:
        super().__init__(same_init=same_init)
        self.of_weight = nn.Parameter(torch.empty(num_experts, num_inputs * num_outputs, context_size))
        self.of_bias = nn.Parameter(torch.empty(num_experts, num_outputs, context_size))
        self.of_beta = nn.Parameter(torch.empty(num_experts, 1, context_size)) if swish else None

    def reset_parameters(self) -> None:
        """Draw all matrices from U(-1/sqrt(d), 1/sqrt(d))."""
        for matrix in self.parameters():
            limit = 1 / math.sqrt(matrix.shape[2])
            self.draw(matrix, -limit, limit)


class CodaExperts(Experts):
    """theta = theta0 + H c for all weights, biases and slopes theta of a network, with a hypernetwork H for each.

    Args:
        sizes: Sizes of the networks.
    """

    def __init__(self, sizes: ExpertSizes) -> None:
        super().__init__(sizes)
        num_experts, size, last = sizes.num_experts, sizes.context_size, len(sizes.widths) - 2
        self.network = Network(num_experts, sizes.widths, same_init=sizes.same_init)
        self.hypernetworks = nn.ModuleList(
            Hypernetwork(num_experts, before, after, size, swish=place < last, same_init=sizes.same_init)
            for place, (before, after) in enumerate(itertools.pairwise(sizes.widths))
        )

    def layers(self, contexts: Tensor, experts: Tensor) -> Layers:
        """Let the context move the weights of the expert of each environment."""
        base = self.network.of(experts)
        column = contexts.unsqueeze(-1)

        def moved(values: tuple[Tensor, ...], name: str) -> tuple[Tensor, ...]:
            return tuple(
                value + (getattr(hypernetwork, name)[experts] @ column).view_as(value)
                for value, hypernetwork in zip(values, self.hypernetworks, strict=False)
            )

        return Layers(moved(base.weights, "of_weight"), moved(base.biases, "of_bias"), moved(base.betas, "of_beta"))
