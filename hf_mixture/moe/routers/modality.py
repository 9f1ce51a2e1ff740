"""Modality-level routing: each modality has experts of its own, and a token chooses among those.

Letters: T tokens, E experts, K chosen.
"""

from __future__ import annotations

from torch import Tensor

from hf_mixture.moe.anatomy import RouterOutput
from hf_mixture.moe.routers.allowed import check_groups, check_ids, membership, route_allowed
from hf_mixture.moe.routers.base import LinearRouter, RouterShape
from hf_mixture.moe.routers.registry import register_router


MODALITY_KEY = "modality_ids"


@register_router(
    "modality",
    causal=True,
    context=(MODALITY_KEY,),
    paper="https://arxiv.org/abs/2407.21770",
    summary="The K best of the experts of the token's modality (MoMa).",
)
class ModalityRouter(LinearRouter):
    """Top-k softmax within the experts of a modality, by `modality_ids` of the batch.

    The softmax is over the experts of the modality; the weights are divided by their sum if K > 1. A modality with
    one expert always uses that one, with weight 1.

    Args:
        shape: Numbers of experts, of hidden features and of choices.
        experts: Experts of each modality, such as `[[0, 1, 2], [3]]`; modalities may share experts.
    """

    def __init__(self, shape: RouterShape, *, experts: list[list[int]]) -> None:
        super().__init__(shape)
        self.experts = check_groups("experts", experts, shape.num_experts)

    @property
    def pads(self) -> bool:
        """A modality may have fewer than K experts."""
        return min(map(len, self.experts)) < self.top_k

    def route(self, hidden: Tensor) -> RouterOutput:
        """Choose among the experts of each token's modality."""
        assert self.context is not None  # noqa: S101 - the entry asks for one
        ids = check_ids(MODALITY_KEY, self.context.per_token(MODALITY_KEY, len(hidden)), len(self.experts))
        allowed = membership(self.experts, self.num_experts, hidden.device)[ids]
        return route_allowed(self.logits(hidden), allowed, self.top_k)
