"""What a router computes, as data: from raw logits to the chosen experts and their weights.

Letters: T tokens, C classes that the selection ranks (experts, and identity or skip classes), K chosen, G groups.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor


Gate = Literal["scores", "choice", "softmax_selected", "sigmoid_selected"]


class UnsupportedRouterError(ValueError):
    """A model without routers, or a family whose routers do not follow a known contract."""


@dataclass(frozen=True, kw_only=True)
class GroupRule:
    """Group-limited selection: only the experts of the best groups can be chosen (DeepSeek-V2 and V3).

    Args:
        num_groups: G, number of groups of neighbouring experts.
        num_kept: Number of groups that stay.
        score: What ranks a group: the sum of its two best choices, or its best choice.
        fill: Choice of the experts of the other groups; some families write 0.0 instead of -inf.
    """

    num_groups: int
    num_kept: int
    score: Literal["top2_sum", "max"] = "top2_sum"
    fill: float = float("-inf")


@dataclass(frozen=True, kw_only=True)
class SelectionRule:
    """The selection formula of a router.

    With logits `z`, the scores are `s = score(z)`, the choice is `c = s + bias` limited to the best groups, the chosen
    experts are the K largest of `c`, and their weights are taken from `s` without the bias.

    Args:
        score: Function from logits to scores: `"softmax"`, `"sigmoid"`, `"identity"`, or the name of an activation of
            transformers, such as `"sqrtsoftplus"`.
        gate: What the weights are made of: the scores of the chosen experts, their choice, or the softmax or sigmoid
            of their logits.
        bias_on: Where the selection bias acts: added to the scores for the choice only, already inside the returned
            logits, or absent.
        group: Group-limited selection, if any.
        normalise: Whether the weights are divided by their sum.
        eps: Added to that sum.
        min_sum: Lower bound of that sum.
        scale: Factor of the weights, after the division.
        float32: Whether softmax and sigmoid are taken in float32 whatever the type of the logits.
        probabilities: Whether the router returns probabilities in the place of its raw logits.
    """

    score: str
    gate: Gate = "scores"
    bias_on: Literal["scores", "logits"] | None = None
    group: GroupRule | None = None
    normalise: bool = False
    eps: float = 0.0
    min_sum: float = 0.0
    scale: float = 1.0
    float32: bool = True
    probabilities: bool = False

    def __str__(self) -> str:
        parts = ["softmax" if self.probabilities else self.score]
        if self.bias_on is not None:
            parts.append(f"bias on {self.bias_on}")
        if self.group is not None:
            parts.append(f"best {self.group.num_kept} of {self.group.num_groups} groups")
        if self.gate.endswith("_selected"):
            parts.append(f"{self.gate.removesuffix('_selected')} over the chosen")
        if self.normalise:
            parts.append("renormalised")
        if self.scale != 1.0:
            parts.append(f"times {self.scale:g}")
        return ", ".join(parts)


def scores_of(rule: SelectionRule, logits: Tensor) -> Tensor:
    """Turn raw logits into scores.

    Args:
        rule: The selection formula.
        logits: Raw logits [T, C].

    Returns:
        Scores [T, C].
    """
    if rule.score == "identity":
        return logits
    if rule.score == "softmax":
        return logits.softmax(dim=-1, dtype=torch.float32 if rule.float32 else None)
    logits = logits.to(torch.float32) if rule.float32 else logits
    if rule.score == "sigmoid":
        return logits.sigmoid()
    from transformers.activations import ACT2FN

    scores: Tensor = ACT2FN[rule.score](logits)
    return scores
