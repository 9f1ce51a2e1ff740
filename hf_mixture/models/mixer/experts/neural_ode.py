"""Plain neural ODE: a network that ignores the context (https://arxiv.org/abs/1806.07366)."""

from __future__ import annotations

from torch import Tensor

from hf_mixture.models.mixer.experts.base import Experts, ExpertSizes, Network
from hf_mixture.models.mixer.experts.layers import Layers


class NeuralOdeExperts(Experts):
    """y' = f(y): environments differ only by their expert.

    Args:
        sizes: Sizes of the networks.
    """

    def __init__(self, sizes: ExpertSizes) -> None:
        super().__init__(sizes)
        self.network = Network(sizes.num_experts, sizes.widths, same_init=sizes.same_init)

    def layers(self, contexts: Tensor, experts: Tensor) -> Layers:
        """The network of the expert of each environment."""
        return self.network.of(experts)
