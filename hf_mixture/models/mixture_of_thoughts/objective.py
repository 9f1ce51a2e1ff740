"""The training objective: the primary's language modelling loss, and what keeps the router alive.

Letters: B rows, b of them, T tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from hf_mixture.models.mixture_of_thoughts.router import consistency_loss


# Expert, its rows [b], and its logits on them [b, T, V].
Group = tuple[int, Tensor, Tensor]


def language_modelling_loss(groups: Sequence[Group], expert_inputs: Sequence[Mapping[str, Tensor]]) -> Tensor:
    """Mean cross-entropy of the labels over all rows, each in the tokens of its primary, in nats per token.

    Args:
        groups: Predictions of each primary.
        expert_inputs: Inputs of all experts, with labels.

    Returns:
        The mean; 0 if no token has a label.
    """
    device = groups[0][2].device
    total, count = torch.zeros((), device=device), torch.zeros((), device=device)
    for expert, rows, logits in groups:
        labels = expert_inputs[expert]["labels"][rows][:, 1:].to(logits.device)
        loss = F.cross_entropy(
            logits[:, :-1].float().flatten(0, 1), labels.flatten(), ignore_index=-100, reduction="sum"
        )
        total, count = total + loss.to(device), count + (labels != -100).sum().to(device)
    return total / count.clamp(min=1)


def mean_consistency(
    groups: Sequence[Group], again: Sequence[Group], expert_inputs: Sequence[Mapping[str, Tensor]]
) -> Tensor:
    """Mean divergence of the labelled tokens between two predictions with the same primaries.

    Args:
        groups: First predictions.
        again: Predictions under another routing of the peers.
        expert_inputs: Inputs of all experts, with labels.

    Returns:
        The mean over tokens.
    """
    device = groups[0][2].device
    total, count = torch.zeros((), device=device), torch.zeros((), device=device)
    for (expert, rows, first), (_, _, second) in zip(groups, again, strict=True):
        kept = (expert_inputs[expert]["labels"][rows][:, 1:] != -100).to(first.device)
        if kept.any():
            loss = consistency_loss(first[:, :-1][kept].float(), second[:, :-1][kept].float())
            total, count = total + (loss * kept.sum()).to(device), count + kept.sum().to(device)
    return total / count.clamp(min=1)
