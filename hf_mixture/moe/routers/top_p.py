"""Top-P: as many experts as it takes to cover a share of the probability.

Letters: T tokens, E experts, M at most chosen.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hf_mixture.moe.anatomy import RouterOutput
from hf_mixture.moe.routers.base import LinearRouter, RouterShape, full_precision
from hf_mixture.moe.routers.checks import check_integer, check_number
from hf_mixture.moe.routers.registry import register_router


def route_top_p(
    logits: Tensor, threshold: float, *, max_experts: int | None = None, normalise: bool = False
) -> RouterOutput:
    """Choose the smallest set of experts whose probabilities sum to P (https://arxiv.org/abs/2403.07652, eq. 5-7).

    Args:
        logits: Raw logits [T, E].
        threshold: P, in (0, 1].
        max_experts: M, a limit of the number of experts; None for E.
        normalise: Whether the weights are divided by their sum.

    Returns:
        The logits, weights [T, M] and indices [T, M], largest first; the index E and the weight 0 in places that
        are not needed.
    """
    num_experts = logits.shape[-1]
    probabilities = full_precision(logits).softmax(dim=-1)
    weights, indices = torch.topk(probabilities, max_experts or num_experts, dim=-1)
    covered = weights.cumsum(dim=-1)
    # A place is needed if those before it do not reach P; the first always is.
    needed = torch.ones_like(indices, dtype=torch.bool)
    needed[:, 1:] = covered[:, :-1] < threshold
    weights, indices = weights.masked_fill(~needed, 0.0), indices.masked_fill(~needed, num_experts)
    if normalise:
        weights = weights / weights.sum(dim=-1, keepdim=True)
    return RouterOutput(logits, weights, indices)


@register_router(
    "top_p",
    causal=True,
    paper="https://arxiv.org/abs/2403.07652",
    summary="The smallest set of experts whose probabilities sum to P; more experts for harder tokens.",
)
class TopPRouter(LinearRouter):
    """Top-P router with a linear gate; the top k of the model does not matter.

    Args:
        shape: Numbers of experts, of hidden features and of choices.
        threshold: P, in (0, 1].
        max_experts: Largest number of experts for a token; None for all. Fewer save memory.
        normalise: Whether the weights are divided by their sum.
        bias: Whether the logits have a bias.
    """

    def __init__(
        self,
        shape: RouterShape,
        *,
        threshold: float = 0.4,
        max_experts: int | None = None,
        normalise: bool = False,
        bias: bool = False,
    ) -> None:
        super().__init__(shape, bias=bias)
        self.threshold = check_number("threshold", threshold, above=0.0, at_most=1.0)
        limit = shape.num_experts if max_experts is None else max_experts
        self.top_k = check_integer("max_experts", limit, at_least=1, at_most=shape.num_experts)
        self.normalise = normalise

    @property
    def pads(self) -> bool:
        """Tokens get different numbers of experts."""
        return True

    def route(self, hidden: Tensor) -> RouterOutput:
        """Choose experts until their probabilities reach P."""
        return route_top_p(self.logits(hidden), self.threshold, max_experts=self.top_k, normalise=self.normalise)
