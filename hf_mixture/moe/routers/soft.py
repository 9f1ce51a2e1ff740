"""Soft MoE: experts work on slots, each a weighted average of all tokens of a sequence.

The contract between a router and experts, a few experts for each token, cannot say that. The router therefore returns
the truth about the combination (each token draws on all slots, with these weights), and hooks on the experts module of
its block turn tokens into slots before the experts and slots into tokens after them.

Letters: T tokens, B sequences, S positions (T = B S), E experts, P slots of all experts, H hidden.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from hf_mixture._compat.experts import interface_problem
from hf_mixture.moe.anatomy import MoeRouter, RouterOutput
from hf_mixture.moe.routers.base import RegistryRouter, RouterShape, full_precision
from hf_mixture.moe.routers.checks import check_integer
from hf_mixture.moe.routers.registry import register_router


def soft_logits(hidden: Tensor, slots: Tensor, scale: Tensor) -> Tensor:
    """Logits of tokens and slots: z = scale <x, phi> / (|x| |phi|) (https://arxiv.org/abs/2308.00951, section 2.3).

    Args:
        hidden: Hidden states [..., H].
        slots: Parameters phi of the slots [P, H].
        scale: Learned factor, a scalar.

    Returns:
        [..., P].
    """
    rows = nn.functional.normalize(slots, dim=-1) * scale
    return nn.functional.linear(nn.functional.normalize(hidden, dim=-1), rows)


def soft_weights(logits: Tensor, *, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Weights of dispatch and combination (https://arxiv.org/abs/2308.00951, equations 1 and 2).

    Args:
        logits: [B, S, P].
        mask: True at tokens that take part in slots [B, S]. Default: all.

    Returns:
        Dispatch [B, S, P], a softmax over the tokens of a sequence: what each slot is made of. It is 0 at padding, and
        in a sequence of padding alone. Combination [B, S, P], a softmax over the slots: what each token gets.
    """
    combination = logits.softmax(dim=-1)
    if mask is None:
        return logits.softmax(dim=1), combination
    seen = mask.unsqueeze(-1)
    dispatch = logits.masked_fill(~seen, torch.finfo(logits.dtype).min).softmax(dim=1)
    return dispatch.masked_fill(~seen, 0.0), combination


@register_router(
    "soft",
    causal=False,
    context=("attention_mask",),
    paper="https://arxiv.org/abs/2308.00951",
    summary="Soft MoE: each expert works on slots, weighted averages of all tokens of the sequence.",
)
class SoftRouter(RegistryRouter):
    """Soft MoE over the tokens of each sequence, padding left out of the slots.

    The logits that it returns for an expert are the logsumexp over its slots, so that their softmax is what the token
    draws from the expert; weights [T, P] and indices [T, P] name all slots. Expert edits do not reach the slots.

    Args:
        shape: Numbers of experts, of hidden features and of choices.
        num_slots: Slots of each expert. The paper uses about S / E, one slot for each token in all.
    """

    def __init__(self, shape: RouterShape, *, num_slots: int = 1) -> None:
        super().__init__(shape)
        self.num_slots = check_integer("num_slots", num_slots, at_least=1)
        self.slot_weight = nn.Parameter(torch.empty(shape.num_experts * num_slots, shape.hidden_size))
        self.scale = nn.Parameter(torch.empty(()))
        self._mixing: tuple[Tensor, Tensor] | None = None

    def reset_parameters(self, std: float) -> None:
        """Draw the slots as the paper does, with variance 1 / H; the scale starts as 1."""
        nn.init.normal_(self.slot_weight, std=1.0 / math.sqrt(self.hidden_dim))
        nn.init.ones_(self.scale)

    def route(self, hidden: Tensor) -> RouterOutput:
        """Compute the weights of dispatch and combination; the experts use them next."""
        assert self.context is not None  # noqa: S101 - the entry asks for one
        mask = self.context.token_mask(len(hidden))
        num_sequences = self.context.num_sequences
        logits = soft_logits(full_precision(hidden), full_precision(self.slot_weight), full_precision(self.scale))
        by_sequence = logits.unflatten(0, (num_sequences, -1))
        self._mixing = soft_weights(by_sequence, mask=None if mask is None else mask.view(num_sequences, -1))
        experts = torch.arange(self.num_experts, device=hidden.device).repeat_interleave(self.num_slots)
        by_expert = logits.unflatten(-1, (self.num_experts, self.num_slots)).logsumexp(dim=-1)
        return RouterOutput(by_expert, self._mixing[1].flatten(0, 1), experts.expand(len(hidden), -1))

    def block_problem(self, stock: MoeRouter) -> str | None:
        """Say why the experts of a block cannot work on slots.

        Args:
            stock: The router that is to be replaced.

        Returns:
            The reason, or None if they can.
        """
        return interface_problem(stock.experts)

    def connect(self, stock: MoeRouter) -> list[RemovableHandle]:
        """Let the experts of the block work on slots.

        Args:
            stock: The router that is replaced, which knows them.

        Returns:
            Handles; the `remove` of each takes it back.

        """
        assert stock.experts is not None  # noqa: S101 - `block_problem` has asked
        return [
            stock.experts.register_forward_pre_hook(self._to_slots),
            stock.experts.register_forward_hook(self._to_tokens),
        ]

    def _to_slots(self, experts: nn.Module, args: tuple[Any, ...]) -> tuple[Tensor, Tensor, Tensor] | None:
        if self._mixing is None:
            return None  # another router has taken the place since
        hidden, _, weights = args
        dispatch = self._mixing[0].to(hidden.dtype)
        tokens = hidden.reshape(*dispatch.shape[:2], hidden.shape[-1])
        slots = (dispatch.mT @ tokens).flatten(0, 1)
        experts_of = torch.arange(self.num_experts, device=hidden.device).repeat_interleave(self.num_slots)
        indices = experts_of.repeat(len(dispatch)).unsqueeze(-1)
        return slots, indices, weights.new_ones(indices.shape)

    def _to_tokens(self, experts: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
        if self._mixing is None:
            return None
        combination, self._mixing = self._mixing[1].to(output.dtype), None
        return (combination @ output.unflatten(0, (len(combination), -1))).flatten(0, 1)
