"""Batch prioritised routing: experts of limited capacity serve the most decided tokens first.

Letters: T tokens, E experts, K chosen, B places of an expert.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hf_mixture.moe.anatomy import RouterOutput
from hf_mixture.moe.routers.base import LinearRouter, RouterShape, full_precision
from hf_mixture.moe.routers.checks import check_number
from hf_mixture.moe.routers.registry import register_router


def route_batch_prioritised(
    logits: Tensor, top_k: int, *, capacity_factor: float = 1.0, mask: Tensor | None = None
) -> RouterOutput:
    """Choose the K most probable experts, and drop choices beyond the capacity in the order of priority.

    https://arxiv.org/abs/2106.05974, algorithm 2. With p = softmax(z) and a capacity factor c, an expert has
    B = round(K T c / E) places, at least one. First choices are served before second ones and so on; among those of
    one rank, tokens with the larger maximum of p come first. The weights are p, not divided by their sum.

    Args:
        logits: Raw logits [T, E].
        top_k: K.
        capacity_factor: Places of all experts together, as a multiple of the choices of all tokens, > 0.
        mask: True at tokens that can be served [T]; padding is left out of T as well. Default: all.

    Returns:
        The logits; weights and indices [T, K], largest weight first, dropped choices with index E and weight 0.
    """
    num_tokens, num_experts = logits.shape
    weights, indices = full_precision(logits).softmax(dim=-1).topk(top_k, dim=-1)
    priority = weights[:, 0]
    num_valid = num_tokens
    if mask is not None:
        indices = indices.masked_fill(~mask.unsqueeze(-1), num_experts)
        num_valid = int(mask.sum())
    num_places = max(1, math.floor(top_k * num_valid * capacity_factor / num_experts + 0.5))
    order = priority.argsort(descending=True, stable=True)
    # One queue of all choices: rank by rank, in each the tokens by priority.
    queue = indices[order].T.reshape(-1)
    experts, places = queue.sort(stable=True)
    starts = torch.searchsorted(experts, torch.arange(num_experts + 1, device=logits.device))
    served = torch.arange(len(queue), device=logits.device) - starts[experts] < num_places
    served = torch.empty_like(served).scatter(0, places, served).view(top_k, num_tokens).T
    kept = torch.empty_like(served).scatter(0, order.unsqueeze(-1).expand_as(served), served)
    kept &= indices < num_experts
    return RouterOutput(logits, weights.masked_fill(~kept, 0.0), indices.masked_fill(~kept, num_experts))


@register_router(
    "batch_prioritised",
    causal=False,
    context=("attention_mask",),
    paper="https://arxiv.org/abs/2106.05974",
    summary="The K best experts, whose limited places go to the most decided tokens of the batch (V-MoE).",
)
class BatchPrioritisedRouter(LinearRouter):
    """Batch prioritised routing over the tokens of the batch, padding left out.

    Args:
        shape: Numbers of experts, of hidden features and of choices.
        capacity_factor: Places of all experts together, as a multiple of the choices of all tokens, > 0.
    """

    def __init__(self, shape: RouterShape, *, capacity_factor: float = 1.0) -> None:
        super().__init__(shape)
        self.capacity_factor = check_number("capacity_factor", capacity_factor, above=0.0)

    @property
    def pads(self) -> bool:
        """Choices beyond the capacity are dropped."""
        return True

    def route(self, hidden: Tensor) -> RouterOutput:
        """Serve the tokens that are no padding by priority."""
        logits = self.logits(hidden)
        mask = None if self.context is None else self.context.token_mask(len(logits))
        return route_batch_prioritised(logits, self.top_k, capacity_factor=self.capacity_factor, mask=mask)
