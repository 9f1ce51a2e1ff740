"""What each mode of an edit computes: pure functions from logits or weights to weights.

Letters: T tokens, C classes that the selection ranks, K chosen.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from hf_mixture.moe.anatomy import MoeRouter, SelectionRule, weigh
from hf_mixture.moe.anatomy.rule import scores_of
from hf_mixture.moe.mote.masks import RouterMasks


def choose(router: MoeRouter, logits: Tensor, masks: RouterMasks) -> tuple[Tensor, Tensor]:
    """Route again with edits of the selection: `off` under reroute and logit_mask, `on`, `bias`.

    Args:
        router: A router with an explicit rule.
        logits: Its raw logits [T, C].
        masks: The edits.

    Returns:
        Weights [T, K] and indices [T, K].
    """
    off = masks.off if masks.reroutes else None
    if off is not None and masks.mode == "logit_mask":
        logits = logits.masked_fill(off, float("-inf"))
    on = masks.on if masks.has_on else None
    chosen = router.select(logits, off=off, on=on, delta=masks.delta if masks.has_delta else None)
    if on is None or masks.force_weight == "own":
        return chosen.weights, chosen.indices
    return _weigh_forced(router, logits, chosen.indices, masks), chosen.indices


def reweigh(weights: Tensor, indices: Tensor, masks: RouterMasks) -> Tensor:
    """Change the weights of chosen experts: `off` under zero and zero_renorm, `scale`.

    Args:
        weights: Weights [T, K].
        indices: Chosen experts [T, K].
        masks: The edits.

    Returns:
        Weights [T, K]. Under zero_renorm they keep their sum, unless all chosen experts are off.
    """
    if masks.has_off and masks.mode in ("zero", "zero_renorm"):
        kept = weights.masked_fill(masks.off[indices], 0.0)
        if masks.mode == "zero_renorm":
            total, left = weights.sum(-1, keepdim=True), kept.sum(-1, keepdim=True)
            kept = kept * torch.where(left == 0, 0.0, total / left.masked_fill(left == 0, 1.0))
        weights = kept
    return weights * masks.scale[indices].to(weights.dtype) if masks.has_scale else weights


def _weigh_forced(router: MoeRouter, logits: Tensor, indices: Tensor, masks: RouterMasks) -> Tensor:
    """The family's formula with other gates for the forced experts."""
    assert router.rule is not None  # noqa: S101 - checked before the patch
    rule = _with_gates(router.rule)
    scores = scores_of(rule, logits)
    gates = scores.gather(-1, indices)
    forced = scores.amax(-1, keepdim=True) if masks.force_weight == "max" else masks.gate[indices].to(gates.dtype)
    return weigh(rule, torch.where(masks.on[indices], forced, gates), indices, router.expert_scale)


def _with_gates(rule: SelectionRule) -> SelectionRule:
    """An equal rule whose gates are scores: a softmax over the chosen is a renormalised softmax over all."""
    if rule.gate == "softmax_selected":
        return replace(rule, score="softmax", gate="scores", normalise=True)
    if rule.gate == "sigmoid_selected":
        return replace(rule, score="sigmoid", gate="scores")
    return replace(rule, gate="scores")
