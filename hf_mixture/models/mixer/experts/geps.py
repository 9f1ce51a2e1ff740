"""GEPS: a network whose weights move in a subspace of low rank, along the context (https://arxiv.org/abs/2410.23889).

Letters: M experts, N environments, d size of the context and rank, I inputs and O outputs of a layer.
"""

from __future__ import annotations

import itertools
import math
from typing import cast

import torch
from torch import Tensor, nn

from hf_mixture.models.mixer.experts.base import Experts, ExpertSizes, Network, Stacked
from hf_mixture.models.mixer.experts.layers import Layers


class Subspace(Stacked):
    """How the context moves one layer of M experts.

    Args:
        num_experts: M.
        num_inputs: I.
        num_outputs: O.
        rank: d.
        swish: Whether there is a swish after the layer.
        same_init: Whether all experts begin with the same values.
    """

    def __init__(
        self, num_experts: int, num_inputs: int, num_outputs: int, rank: int, *, swish: bool, same_init: bool
    ) -> None:
        super().__init__(same_init=same_init)
        self.of_inputs = nn.Parameter(torch.empty(num_experts, num_inputs, rank))
        self.of_outputs = nn.Parameter(torch.empty(num_experts, rank, num_outputs))
        self.of_bias = nn.Parameter(torch.empty(num_experts, num_outputs, rank))
        self.of_beta = nn.Parameter(torch.empty(num_experts, 1, rank)) if swish else None

    def reset_parameters(self) -> None:
        """Draw all matrices by Xavier's uniform rule."""
        for matrix in self.parameters():
            limit = math.sqrt(6 / (matrix.shape[1] + matrix.shape[2]))
            self.draw(matrix, -limit, limit)


class GepsExperts(Experts):
    """W = W0 + B diag(c) A for every weight [I, O], and b = b0 + A_b c for every bias and every slope of a swish.

    Args:
        sizes: Sizes of the networks.
    """

    def __init__(self, sizes: ExpertSizes) -> None:
        super().__init__(sizes)
        num_experts, size, last = sizes.num_experts, sizes.context_size, len(sizes.widths) - 2
        self.network = Network(num_experts, sizes.widths, same_init=sizes.same_init)
        self.subspaces = nn.ModuleList(
            Subspace(num_experts, before, after, size, swish=place < last, same_init=sizes.same_init)
            for place, (before, after) in enumerate(itertools.pairwise(sizes.widths))
        )

    def layers(self, contexts: Tensor, experts: Tensor) -> Layers:
        """Move the weights of the expert of each environment along its context."""
        base = self.network.of(experts)
        subspaces = cast("list[Subspace]", list(self.subspaces))
        column = contexts.unsqueeze(-1)

        def moved(vectors: tuple[Tensor, ...], name: str) -> tuple[Tensor, ...]:
            return tuple(
                torch.baddbmm(vector.unsqueeze(-1), getattr(subspace, name)[experts], column).squeeze(-1)
                for vector, subspace in zip(vectors, subspaces, strict=False)
            )

        weights = tuple(
            torch.baddbmm(weight, subspace.of_inputs[experts] * contexts.unsqueeze(1), subspace.of_outputs[experts])
            for weight, subspace in zip(base.weights, subspaces, strict=True)
        )
        return Layers(weights, moved(base.biases, "of_bias"), moved(base.betas, "of_beta"))
