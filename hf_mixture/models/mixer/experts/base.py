"""What kinds of experts have in common: M experts in one module, their weights stacked.

Letters: M experts, N environments, d size of the context that an expert sees, D state size.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from transformers import initialization as init

from hf_mixture.models.mixer.experts.layers import Layers


@dataclass(frozen=True, kw_only=True)
class ExpertSizes:
    """Sizes of the networks of the experts.

    Args:
        num_experts: M.
        state_size: D.
        context_size: d.
        hidden_size: Width of the hidden layers.
        num_layers: Linear layers of the network, at least 2; for NCF, of its main network.
        num_encoder_layers: Hidden layers of the two encoders of NCF.
        intermediate_size: Width of what these encoders give.
        same_init: Whether all experts begin with the same weights.
    """

    num_experts: int
    state_size: int
    context_size: int
    hidden_size: int
    num_layers: int
    num_encoder_layers: int
    intermediate_size: int
    same_init: bool

    @property
    def widths(self) -> list[int]:
        """Widths of a network from state to state."""
        return [self.state_size, *[self.hidden_size] * (self.num_layers - 1), self.state_size]


class Experts(nn.Module):
    """M vector fields of one kind.

    Args:
        sizes: Sizes of the networks.
    """

    def __init__(self, sizes: ExpertSizes) -> None:
        super().__init__()
        self.sizes = sizes

    def layers(self, contexts: Tensor, experts: Tensor) -> Layers:
        """Make the network of each environment.

        Args:
            contexts: Contexts, or the parts of them that the experts see [N, d].
            experts: Expert of each environment [N].

        Returns:
            The networks.

        Raises:
            NotImplementedError: Here; kinds of experts make them.
        """
        raise NotImplementedError


class Stacked(nn.Module):
    """A module that owns parameters of M experts [M, ...], and draws them.

    Args:
        same_init: Whether all experts begin with the same values.
    """

    def __init__(self, *, same_init: bool) -> None:
        super().__init__()
        self.same_init = same_init

    def reset_parameters(self) -> None:
        """Draw the first values.

        Raises:
            NotImplementedError: Here; what owns parameters draws them.
        """
        raise NotImplementedError

    def draw(self, parameter: Tensor, low: float, high: float) -> None:
        """Draw one parameter.

        Args:
            parameter: A tensor [M, ...].
            low: Smallest value.
            high: Largest value.
        """
        shape = (1, *parameter.shape[1:]) if self.same_init else parameter.shape
        drawn = torch.empty(shape, device=parameter.device, dtype=parameter.dtype).uniform_(low, high)
        # This copy leaves tensors alone that have been loaded.
        init.copy_(parameter, drawn.expand_as(parameter))


class StackedLinear(Stacked):
    """One linear layer of each of M experts, and the slope of the swish after it.

    Args:
        num_experts: M.
        num_inputs: I.
        num_outputs: O.
        swish: Whether there is a swish.
        same_init: Whether all experts begin with the same values.
    """

    def __init__(self, num_experts: int, num_inputs: int, num_outputs: int, *, swish: bool, same_init: bool) -> None:
        super().__init__(same_init=same_init)
        self.weight = nn.Parameter(torch.empty(num_experts, num_inputs, num_outputs))
        self.bias = nn.Parameter(torch.empty(num_experts, num_outputs))
        self.beta = nn.Parameter(torch.empty(num_experts, 1)) if swish else None

    def reset_parameters(self) -> None:
        """Draw weight and bias from U(-1/sqrt(I), 1/sqrt(I)), and the slope from U(0.01, 1)."""
        limit = 1 / math.sqrt(self.weight.shape[1])
        self.draw(self.weight, -limit, limit)
        self.draw(self.bias, -limit, limit)
        if self.beta is not None:
            self.draw(self.beta, 0.01, 1.0)


class Network(nn.ModuleList):
    """The layers of M experts, with a swish after all but the last.

    Args:
        num_experts: M.
        widths: Widths from inputs to outputs.
        same_init: Whether all experts begin with the same values.
    """

    def __init__(self, num_experts: int, widths: list[int], *, same_init: bool) -> None:
        last = len(widths) - 2
        super().__init__(
            StackedLinear(num_experts, before, after, swish=place < last, same_init=same_init)
            for place, (before, after) in enumerate(itertools.pairwise(widths))
        )

    def of(self, experts: Tensor) -> Layers:
        """The network of the expert of each environment.

        Args:
            experts: Experts [N].

        Returns:
            The networks.
        """
        layers = cast("list[StackedLinear]", list(self))
        return Layers(
            tuple(layer.weight[experts] for layer in layers),
            tuple(layer.bias[experts] for layer in layers),
            tuple(layer.beta[experts] for layer in layers if layer.beta is not None),
        )
