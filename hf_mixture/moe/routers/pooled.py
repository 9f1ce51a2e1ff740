"""Context-level routing: a sequence as a whole decides on the experts of its tokens.

Letters: T tokens, B sequences, E experts, K chosen, H hidden.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from hf_mixture.moe.anatomy import RouterOutput
from hf_mixture.moe.routers.allowed import route_allowed
from hf_mixture.moe.routers.base import LinearRouter, RouterShape, full_precision
from hf_mixture.moe.routers.registry import register_router


def pool_sequences(hidden: Tensor, num_sequences: int, *, mask: Tensor | None = None) -> Tensor:
    """Average the hidden states of each sequence, padding left out.

    Args:
        hidden: Hidden states [T, H], sequence by sequence.
        num_sequences: B.
        mask: True at tokens that count [T]. Default: all.

    Returns:
        [B, H]; zeros for a sequence of padding alone.
    """
    hidden = full_precision(hidden)
    if mask is None:
        return hidden.unflatten(0, (num_sequences, -1)).mean(dim=1)
    sums = torch.where(mask.unsqueeze(-1), hidden, 0).unflatten(0, (num_sequences, -1)).sum(dim=1)
    return sums / mask.view(num_sequences, -1).sum(dim=1, keepdim=True).clamp(min=1)


@register_router(
    "context",
    causal=False,
    context=("attention_mask",),
    paper="https://arxiv.org/abs/2503.07137",
    summary="One choice for all tokens of a sequence, by the mean of its hidden states.",
)
class ContextRouter(LinearRouter):
    """Top-k softmax of the mean hidden state of a sequence; all its tokens go to the same experts.

    The weights are a softmax over all experts, divided by their sum if K > 1. Padding does not count in the mean.

    Args:
        shape: Numbers of experts, of hidden features and of choices.
    """

    # The logits are those of the mean, not of the token.
    linear_gate = False

    def __init__(self, shape: RouterShape) -> None:
        super().__init__(shape)

    def route(self, hidden: Tensor) -> RouterOutput:
        """Choose for each sequence."""
        assert self.context is not None  # noqa: S101 - the entry asks for one
        num_sequences = self.context.num_sequences
        pooled = pool_sequences(hidden, num_sequences, mask=self.context.token_mask(len(hidden)))
        logits = F.linear(pooled, self.weight.to(pooled.dtype))
        chosen = route_allowed(logits, torch.ones_like(logits, dtype=torch.bool), self.top_k)
        length = len(hidden) // num_sequences
        return RouterOutput(*(value.repeat_interleave(length, dim=0) for value in chosen))
