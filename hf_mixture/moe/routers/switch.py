"""Switch: one expert for each token, with an optional capacity.

Letters: T tokens, E experts.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from hf_mixture.moe.anatomy import RouterOutput
from hf_mixture.moe.routers.base import LinearRouter, RouterShape, full_precision
from hf_mixture.moe.routers.checks import check_number
from hf_mixture.moe.routers.registry import register_router


def route_switch(logits: Tensor, *, capacity: int | None = None) -> RouterOutput:
    """Send each token to its best expert, with its probability as the weight (https://arxiv.org/abs/2101.03961).

    i = argmax p and w = p_i with p = softmax(z) (eq. 1 and 2 for one expert). With a capacity C, the first C tokens
    that choose an expert, in the order of the tokens, get it; the others get none.

    Args:
        logits: Raw logits z [T, E].
        capacity: C.

    Returns:
        The logits, weights [T, 1] and indices [T, 1]; the index E and the weight 0 for a token that gets none.
    """
    num_experts = logits.shape[-1]
    weights, indices = full_precision(logits).softmax(dim=-1).max(dim=-1, keepdim=True)
    if capacity is not None:
        chosen = F.one_hot(indices.squeeze(-1), num_experts)
        places = chosen.cumsum(dim=0).gather(-1, indices)
        dropped = places > capacity
        weights, indices = weights.masked_fill(dropped, 0.0), indices.masked_fill(dropped, num_experts)
    return RouterOutput(logits, weights, indices)


@register_router(
    "switch",
    causal=True,
    paper="https://arxiv.org/abs/2101.03961",
    summary="One expert for each token, weighed by its probability; jitter and capacity if wanted.",
)
class SwitchRouter(LinearRouter):
    """The Switch router: one expert whatever the top k of the model.

    Args:
        shape: Numbers of experts, of hidden features and of choices.
        jitter: In training the hidden states are multiplied by uniform draws from [1 - jitter, 1 + jitter].
        capacity_factor: In training an expert takes at most ceil(capacity_factor T / E) of the T tokens of a forward;
            None for no limit. Evaluation has none: what a token gets would depend on the rest of its batch, and
            generation with a cache would differ from generation without.
        bias: Whether the logits have a bias.
    """

    def __init__(
        self, shape: RouterShape, *, jitter: float = 0.0, capacity_factor: float | None = None, bias: bool = False
    ) -> None:
        super().__init__(shape, bias=bias)
        self.top_k = 1
        self.jitter = check_number("jitter", jitter, at_least=0.0, at_most=1.0)
        if capacity_factor is not None:
            check_number("capacity_factor", capacity_factor, above=0.0)
        self.capacity_factor = capacity_factor

    @property
    def pads(self) -> bool:
        """Whether tokens beyond the capacity get no expert."""
        return self.capacity_factor is not None

    def route(self, hidden: Tensor) -> RouterOutput:
        """Choose the best expert."""
        if self.training and self.jitter:
            hidden = hidden * torch.empty_like(hidden).uniform_(1 - self.jitter, 1 + self.jitter)
        capacity = None
        if self.training and self.capacity_factor is not None:
            capacity = math.ceil(self.capacity_factor * hidden.shape[0] / self.num_experts)
        return route_switch(self.logits(hidden), capacity=capacity)
