"""Router losses as functions of sums over tokens.

Every loss here depends on the tokens only through sums over them, S: how often each expert was chosen, its
probabilities, its gate weights, its load, logsumexp^2, and the number of tokens. The sums of an optimizer step are
those of its micro-batches and processes added up, and the gradient of a loss L of the whole step is

    dL/dparameters = sum over micro-batches m of  dL/dS (at the sums of the step) . dS_m/dparameters,

so that a micro-batch that knows the sums of the whole step contributes exactly its part.

Letters: T tokens, E experts, P parts of the tokens (1, or one for each sequence), n numbers of all layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from hf_mixture.moe.anatomy import MoeRouter
from hf_mixture.moe.anatomy.rule import scores_of
from hf_mixture.moe.routers.losses import (
    Per,
    balance_of_sums,
    choices_by_part,
    probability_sums,
    squared_cov,
)
from hf_mixture.moe.routers.tap import Decision, Decisions


Pooling = Literal["sum", "pooled"]


class TokenSums(NamedTuple):
    """Sums over the tokens of each part, for one layer.

    Args:
        counts: Choices of each expert [P, E].
        probabilities: Sums of the probabilities [P, E].
        gates: Sums of the gate weights [P, E].
        loads: Sums of the probabilities of being chosen [P, E]; zeros where the router does not tell them.
        squares: Sums of logsumexp^2 [P].
        tokens: Tokens [P].
    """

    counts: Tensor
    probabilities: Tensor
    gates: Tensor
    loads: Tensor
    squares: Tensor
    tokens: Tensor


def router_probabilities(router: MoeRouter, logits: Tensor) -> Tensor:
    """Turn raw logits into probabilities of the experts: the scores of the router, divided by their sum.

    Args:
        router: The router.
        logits: Raw logits [T, C].

    Returns:
        Probabilities [T, E] in the type of the logits, float32 at least.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    rule = router.rule
    if rule is not None and rule.probabilities:
        scores = logits
    elif rule is None or rule.score in ("softmax", "identity"):
        return logits.softmax(dim=-1)[:, : router.num_experts]
    else:
        scores = logits.sigmoid() if rule.score == "sigmoid" else scores_of(rule, logits)
    return (scores / scores.sum(dim=-1, keepdim=True).clamp(min=1e-20))[:, : router.num_experts]


def token_sums(router: MoeRouter, decision: Decision, mask: Tensor | None, num_parts: int) -> TokenSums:
    """Sum what one router says about the tokens that are not padding.

    Args:
        router: The router.
        decision: What it says about T tokens.
        mask: 1 where a token counts, T values; None where all count.
        num_parts: P.

    Returns:
        The sums, in float64 where the device has it.
    """
    (logits, weights, indices), load = decision
    if mask is not None:
        mask = mask.reshape(-1).bool()
        # Whatever stands at padding, infinite values included, gets no gradient.
        logits = torch.where(mask.unsqueeze(-1), logits, 0)
    num_experts, dtype = router.num_experts, exact_type(logits.device)
    probabilities = router_probabilities(router, logits)
    squares = logits.to(probabilities.dtype).logsumexp(dim=-1, keepdim=True).square()
    sums, tokens = probability_sums(probabilities, mask=mask, num_parts=num_parts, dtype=dtype)
    return TokenSums(
        choices_by_part(indices, num_experts, mask=mask, num_parts=num_parts).to(dtype),
        sums,
        choices_by_part(indices, num_experts, values=weights.to(dtype), mask=mask, num_parts=num_parts),
        torch.zeros_like(sums)
        if load is None
        else probability_sums(load, mask=mask, num_parts=num_parts, dtype=dtype)[0],
        probability_sums(squares, mask=mask, num_parts=num_parts, dtype=dtype)[0][:, 0],
        tokens.to(dtype),
    )


def sums_of_decisions(
    routers: Sequence[MoeRouter], decisions: Decisions, mask: Tensor | None, num_parts: int, device: torch.device
) -> list[TokenSums]:
    """Sum what all routers say in one forward.

    Args:
        routers: The routers.
        decisions: What each of them decided, call by call.
        mask: 1 where a token counts; None where all count.
        num_parts: P.
        device: Where the sums are made, if no router was called.

    Returns:
        The sums of each layer, on one device.

    Raises:
        ValueError: A router that can be trained was called without gradients in a forward with gradients.
    """
    device = next((call.output.logits.device for calls in decisions for call in calls), device)
    layers = []
    for router, calls in zip(routers, decisions, strict=True):
        sums = zero_sums(router, num_parts, device)
        trainable = torch.is_grad_enabled() and any(p.requires_grad for p in router.module.parameters())
        for call in calls:
            if trainable and not call.output.logits.requires_grad:
                raise ValueError(
                    f"the logits of {router.path} carry no gradient, so that the losses would not train it: its layer "
                    "runs without gradients. Where gradient checkpointing does this, pass "
                    "gradient_checkpointing_kwargs={'use_reentrant': False}"
                )
            more = token_sums(router, call, mask, num_parts)
            sums = TokenSums(*(a + b.to(device) for a, b in zip(sums, more, strict=True)))
        layers.append(sums)
    return layers


def zero_sums(router: MoeRouter, num_parts: int, device: torch.device) -> TokenSums:
    """Return the sums over no tokens."""
    zeros = torch.zeros(num_parts, router.num_experts, device=device, dtype=exact_type(device))
    return TokenSums(zeros, zeros, zeros, zeros, zeros[:, 0], zeros[:, 0])


def exact_type(device: torch.device) -> torch.dtype:
    """Return the widest type of a device, in which counts are exact and sums do not depend on their order."""
    return torch.float32 if device.type == "mps" else torch.float64


def pack(layers: Sequence[TokenSums]) -> Tensor:
    """Put the sums of all layers into one tensor [P, n], which can be added up over processes."""
    return torch.cat([value if value.dim() == 2 else value.unsqueeze(-1) for sums in layers for value in sums], dim=-1)


def unpack(packed: Tensor, num_experts: Sequence[int]) -> list[TokenSums]:
    """Take apart what `pack` put together.

    Args:
        packed: Sums of all layers [P, n].
        num_experts: E of each layer.

    Returns:
        The sums of each layer.
    """
    sizes = [size for count in num_experts for size in (*[count] * 4, 1, 1)]
    parts = packed.split(sizes, dim=-1)
    return [
        TokenSums(*parts[first : first + 4], *(part[..., 0] for part in parts[first + 4 : first + 6]))
        for first in range(0, len(parts), 6)
    ]


def losses_of_sums(layers: Sequence[TokenSums], *, per: Per, pooling: Pooling) -> dict[str, Tensor]:
    """Compute the losses from sums over tokens.

    Args:
        layers: The sums of each layer.
        per: What the shares of the balance loss are shares of; see `hf_mixture.moe.routers.losses`.
        pooling: `"sum"`: the losses of the layers are added up, as in Megatron. `"pooled"`: the tokens of all layers
            are taken together, as in transformers.

    Returns:
        Losses [P] by name: `load_balance`, `importance`, `load`, `z`.
    """
    if pooling == "pooled":
        layers = [TokenSums(*(torch.stack(values).sum(dim=0) for values in zip(*layers, strict=True)))]
    return {
        "load_balance": _total(
            [balance_of_sums(sums.counts, sums.probabilities, sums.tokens, per=per) for sums in layers]
        ),
        "importance": _total([squared_cov(sums.gates) for sums in layers]),
        "load": _total([squared_cov(sums.loads) for sums in layers]),
        "z": _total([sums.squares / sums.tokens.clamp(min=1) for sums in layers]),
    }


def _total(values: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(values)).sum(dim=0)
