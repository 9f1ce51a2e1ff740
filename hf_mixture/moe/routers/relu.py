"""ReLU router: an expert is active where its logit is positive, and routing is continuous (ReMoE).

Letters: T tokens, E experts, M at most chosen.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hf_mixture.moe.anatomy import RouterOutput
from hf_mixture.moe.routers.base import LinearRouter, RouterShape, full_precision
from hf_mixture.moe.routers.checks import check_integer
from hf_mixture.moe.routers.registry import register_router


def route_relu(logits: Tensor, *, max_experts: int | None = None) -> RouterOutput:
    """Weigh every expert by the positive part of its logit (https://arxiv.org/abs/2412.14711, eq. 4).

    Args:
        logits: Raw logits [T, E].
        max_experts: M, a limit of the number of experts; None for E.

    Returns:
        The logits, weights [T, M] and indices [T, M], largest first; the index E and the weight 0 in places that
        are not needed.
    """
    num_experts = logits.shape[-1]
    weights, indices = torch.topk(full_precision(logits).relu(), max_experts or num_experts, dim=-1)
    return RouterOutput(logits, weights, indices.masked_fill(weights <= 0, num_experts))


@register_router(
    "relu",
    causal=True,
    paper="https://arxiv.org/abs/2412.14711",
    summary="Every expert with a positive logit, weighed by it; differentiable, with a variable number (ReMoE).",
)
class ReluRouter(LinearRouter):
    """ReLU router; the top k of the model does not matter.

    About half of the experts are active at first. What makes them fewer in the paper is an L1 loss on the weights.

    Args:
        shape: Numbers of experts, of hidden features and of choices.
        max_experts: Largest number of experts for a token; None for all.
        bias: Whether the logits have a bias.
    """

    def __init__(self, shape: RouterShape, *, max_experts: int | None = None, bias: bool = False) -> None:
        super().__init__(shape, bias=bias)
        limit = shape.num_experts if max_experts is None else max_experts
        self.top_k = check_integer("max_experts", limit, at_least=1, at_most=shape.num_experts)

    @property
    def pads(self) -> bool:
        """Tokens get different numbers of experts."""
        return True

    def route(self, hidden: Tensor) -> RouterOutput:
        """Choose the experts with a positive logit."""
        return route_relu(self.logits(hidden), max_experts=self.top_k)
