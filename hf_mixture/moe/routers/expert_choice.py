"""Expert choice: each expert takes the tokens that it likes best.

Letters: T tokens, E experts, C tokens that an expert takes, K experts of the token that most took.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hf_mixture.moe.anatomy import RouterOutput
from hf_mixture.moe.routers.base import LinearRouter, RouterShape, full_precision
from hf_mixture.moe.routers.checks import check_number
from hf_mixture.moe.routers.registry import register_router


def route_expert_choice(logits: Tensor, capacity: float, *, mask: Tensor | None = None) -> RouterOutput:
    """Let each expert choose its tokens (https://arxiv.org/abs/2202.09368, section 3.2).

    With S = softmax(z) over the experts, expert i takes the C = ceil(T * capacity / E) tokens with the largest S_i, at
    most all, and weighs them by S_i. A token may get any number of experts, none included.

    Args:
        logits: Raw logits [T, E].
        capacity: Average number of experts of a token, > 0.
        mask: True at tokens that can be chosen [T]; padding is left out of T as well. Default: all.

    Returns:
        The logits; weights and indices [T, K], the experts of a token in ascending order, free places filled up with
        index E and weight 0. K is at least 1.
    """
    num_tokens, num_experts = logits.shape
    scores = full_precision(logits).softmax(dim=-1)
    ranked = scores if mask is None else scores.masked_fill(~mask.unsqueeze(-1), -1.0)
    num_valid = num_tokens if mask is None else int(mask.sum())
    num_taken = min(num_valid, math.ceil(num_valid * capacity / num_experts))
    # A stable sort, so that of equal tokens the first is taken.
    taken = ranked.argsort(dim=0, descending=True, stable=True)[:num_taken]
    chosen = torch.zeros_like(scores, dtype=torch.bool).scatter(0, taken, True)
    experts = torch.arange(num_experts, device=logits.device)
    indices = torch.where(chosen, experts, num_experts).sort(dim=-1).values
    if not torch.compiler.is_compiling():
        indices = indices[:, : max(1, int(chosen.sum(dim=-1).max()))]
    free = indices == num_experts
    weights = scores.gather(-1, indices.masked_fill(free, 0)).masked_fill(free, 0.0)
    return RouterOutput(logits, weights, indices)


@register_router(
    "expert_choice",
    causal=False,
    context=("attention_mask",),
    paper="https://arxiv.org/abs/2202.09368",
    summary="Each expert takes its best tokens of the batch, so that all get the same number.",
)
class ExpertChoiceRouter(LinearRouter):
    """Expert choice over the tokens of the batch, padding left out.

    Args:
        shape: Numbers of experts, of hidden features and of choices.
        capacity: Average number of experts of a token, > 0. Default: K of the model.
    """

    def __init__(self, shape: RouterShape, *, capacity: float | None = None) -> None:
        super().__init__(shape)
        self.capacity = shape.top_k if capacity is None else check_number("capacity", capacity, above=0.0)

    @property
    def pads(self) -> bool:
        """Tokens get different numbers of experts."""
        return True

    def route(self, hidden: Tensor) -> RouterOutput:
        """Let the experts choose among the tokens that are no padding."""
        logits = self.logits(hidden)
        mask = None if self.context is None else self.context.token_mask(len(logits))
        return route_expert_choice(logits, self.capacity, mask=mask)
