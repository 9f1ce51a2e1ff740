"""Routing with an explicit rule, and with experts taken out, put in or biased: pure functions.

Letters: T tokens, C classes that the selection ranks, K chosen, G groups.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from hf_mixture.moe.anatomy.rule import GroupRule, SelectionRule, scores_of


# Finite, and small enough for float16: the score of a group with a forced and a removed expert must not become NaN.
_FORCED = 1e4


class RouterOutput(NamedTuple):
    """What a router says about T tokens.

    Args:
        logits: Raw logits [T, C].
        weights: Weights of the chosen experts [T, K].
        indices: Chosen experts [T, K], in any order; an index that is not an expert stands for "no expert".
    """

    logits: Tensor
    weights: Tensor
    indices: Tensor


def select(
    rule: SelectionRule,
    logits: Tensor,
    top_k: int,
    bias: Tensor | None = None,
    *,
    expert_scale: Tensor | None = None,
    off: Tensor | None = None,
    on: Tensor | None = None,
    delta: Tensor | None = None,
) -> RouterOutput:
    """Choose K experts for each token by a rule, and weigh them by the family's own formula.

    The masks act on the choice, after the bias and both before and after the groups; scores and logits stay as they
    are, so the weights are those of the unedited model for the experts that are chosen now.

    Args:
        rule: The selection formula.
        logits: Raw logits as the router returns them [T, C].
        top_k: K, number of experts a token is sent to.
        bias: Selection bias [C], for a rule with a bias on the scores.
        expert_scale: Factor of the weight of each expert [C].
        off: Experts that cannot be chosen, bool [C].
        on: Experts that are chosen whatever their score, bool [C], at most K of them.
        delta: Added to the choice of each expert [C].

    Returns:
        The unchanged logits, the weights and the indices.
    """
    scores = scores_of(rule, logits)
    choice = scores if rule.bias_on != "scores" or bias is None else scores + bias.reshape(-1)
    if delta is not None:
        choice = choice + delta.to(choice.dtype)
    if rule.group is not None:
        dropped = _outside_best_groups(rule.group, choice, off, on)
        choice = choice.masked_fill(dropped, rule.group.fill)
        if rule.gate == "choice":
            scores = scores.masked_fill(dropped, rule.group.fill)
    if on is not None:
        choice = choice.masked_fill(on, float("inf"))
    if off is not None:
        choice = choice.masked_fill(off, float("-inf"))
    indices = torch.topk(choice, top_k, dim=-1).indices
    if rule.gate == "softmax_selected":
        weights = logits.gather(-1, indices).softmax(dim=-1)
    elif rule.gate == "sigmoid_selected":
        weights = logits.gather(-1, indices).sigmoid()
    else:
        weights = scores.gather(-1, indices)
    return RouterOutput(logits, weigh(rule, weights, indices, expert_scale), indices)


def weigh(rule: SelectionRule, gates: Tensor, indices: Tensor, expert_scale: Tensor | None = None) -> Tensor:
    """Turn the gate values of the chosen experts into weights: normalise and scale.

    Args:
        rule: The selection formula.
        gates: Gate values [T, K].
        indices: Chosen experts [T, K].
        expert_scale: Factor of the weight of each expert [C].

    Returns:
        Weights [T, K].
    """
    if rule.normalise:
        total = gates.sum(dim=-1, keepdim=True)
        gates = gates / (total.clamp(min=rule.min_sum) if rule.min_sum > 0.0 else total + rule.eps)
    if rule.scale != 1.0:
        gates = gates * rule.scale
    return gates if expert_scale is None else gates * expert_scale[indices]


def _outside_best_groups(group: GroupRule, choice: Tensor, off: Tensor | None, on: Tensor | None) -> Tensor:
    """Mark the classes of all groups but the best, bool [T, C]."""
    ranked = choice
    if off is not None:
        ranked = ranked.masked_fill(off, -_FORCED)
    if on is not None:
        ranked = ranked.masked_fill(on, 4 * _FORCED)
    ranked = ranked.unflatten(-1, (group.num_groups, -1))
    scores = ranked.amax(-1) if group.score == "max" else ranked.topk(2, dim=-1).values.sum(-1)
    kept = torch.topk(scores, group.num_kept, dim=-1).indices
    dropped = torch.ones_like(scores, dtype=torch.bool).scatter(-1, kept, False)
    return dropped.unsqueeze(-1).expand_as(ranked).flatten(-2)
