"""Neural context flow: state and context are encoded, joined and read by one network (arXiv 2405.02154).

Letters: M experts, N environments, d size of the context, H intermediate size.
"""

from __future__ import annotations

import math

from torch import Tensor

from hf_mixture.models.mixer.experts.base import Experts, ExpertSizes, Network
from hf_mixture.models.mixer.experts.layers import Layers, run_layers


def geometric_widths(first: int, last: int, num_hidden: int) -> list[int]:
    """Widths that grow or shrink by a constant factor; hidden ones are rounded down, and then up to even numbers.

    Args:
        first: Width of the inputs.
        last: Width of the outputs.
        num_hidden: Hidden layers between them.

    Returns:
        All widths, `num_hidden` + 2 of them.
    """
    ratio = math.log(last / first)
    hidden = [int(first * math.exp(ratio * place / (num_hidden + 1))) for place in range(1, num_hidden + 1)]
    return [first, *(2 * math.ceil(width / 2) for width in hidden), last]


class NcfExperts(Experts):
    """f = main([data(y), context(c)]), three networks with swish.

    Args:
        sizes: Sizes of the networks.
    """

    def __init__(self, sizes: ExpertSizes) -> None:
        super().__init__(sizes)
        middle = sizes.intermediate_size

        def network(widths: list[int]) -> Network:
            return Network(sizes.num_experts, widths, same_init=sizes.same_init)

        self.of_context = network(geometric_widths(sizes.context_size, middle, sizes.num_encoder_layers))
        self.of_data = network(geometric_widths(sizes.state_size, middle, sizes.num_encoder_layers))
        self.main = network([2 * middle, *sizes.widths[1:]])

    def layers(self, contexts: Tensor, experts: Tensor) -> Layers:
        """Encode the contexts, once for all times, and join the encoder of the state with the main network.

        No activation lies between the last layer of the encoder and the first of the main network, so that the two are
        one layer, and what the context contributes there is part of its bias.
        """
        encoded = run_layers(self.of_context.of(experts), contexts.unsqueeze(1))
        data, main = self.of_data.of(experts), self.main.of(experts)
        of_data, of_context = main.weights[0].split(self.sizes.intermediate_size, dim=1)
        weight = data.weights[-1] @ of_data
        bias = main.biases[0].unsqueeze(1) + encoded @ of_context + data.biases[-1].unsqueeze(1) @ of_data
        return Layers(
            (*data.weights[:-1], weight, *main.weights[1:]),
            (*data.biases[:-1], bias.squeeze(1), *main.biases[1:]),
            (*data.betas, *main.betas),
        )
