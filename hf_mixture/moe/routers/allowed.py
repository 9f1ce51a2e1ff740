"""Choosing among the experts that a token may use: what the level routers and MaskMoE share.

Letters: T tokens, E experts, K chosen.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hf_mixture.moe.anatomy import RouterOutput
from hf_mixture.moe.routers.base import full_precision


def route_allowed(logits: Tensor, allowed: Tensor, top_k: int, *, normalise: bool = True) -> RouterOutput:
    """Choose the K largest logits of the allowed experts, and weigh them by a softmax over all allowed.

    Args:
        logits: Raw logits [T, E].
        allowed: Whether a token may use an expert, bool [T, E], at least one in each row.
        top_k: K.
        normalise: Whether the weights are divided by their sum, for K > 1; for K = 1 the gate would get no gradient.

    Returns:
        Logits [T, E] with the smallest finite number at experts that are not allowed; weights and indices [T, K],
        largest first. A token with fewer than K allowed experts has index E and weight 0 in the free places.
    """
    logits = logits.masked_fill(~allowed, torch.finfo(logits.dtype).min)
    weights, indices = full_precision(logits).softmax(dim=-1).topk(top_k, dim=-1)
    free = ~allowed.gather(-1, indices)
    weights = weights.masked_fill(free, 0.0)
    if normalise and top_k > 1:
        weights = weights / weights.sum(dim=-1, keepdim=True)
    return RouterOutput(logits, weights, indices.masked_fill(free, logits.shape[-1]))


def check_groups(name: str, groups: Sequence[Sequence[int]], num_experts: int) -> list[list[int]]:
    """Check lists of experts, one for each task or modality.

    Args:
        name: Name of the option.
        groups: The lists.
        num_experts: E.

    Returns:
        The lists.

    Raises:
        ValueError: A list is empty, repeats an expert, or names one that there is not.
    """
    if not groups:
        raise ValueError(f"{name}={groups!r} is empty; give a list of experts for each id")
    for place, group in enumerate(groups):
        known = all(isinstance(expert, int) and 0 <= expert < num_experts for expert in group)
        if not group or not known or len(set(group)) != len(group):
            raise ValueError(
                f"{name}[{place}]={list(group)!r} must name different experts from 0 to {num_experts - 1}, at least "
                "one; correct the list"
            )
    return [list(group) for group in groups]


def membership(groups: Sequence[Sequence[int]], num_experts: int, device: torch.device | None = None) -> Tensor:
    """Lists of experts as a table.

    Args:
        groups: N lists of experts.
        num_experts: E.
        device: Where the table is made.

    Returns:
        bool [N, E].
    """
    table = torch.zeros(len(groups), num_experts, dtype=torch.bool, device=device)
    for row, group in enumerate(groups):
        table[row, list(group)] = True
    return table


def check_ids(key: str, ids: Tensor, num_ids: int) -> Tensor:
    """Check ids of the batch.

    Args:
        key: Their key in the batch.
        ids: The ids [T].
        num_ids: How many there are.

    Returns:
        The ids as int64.

    Raises:
        ValueError: They are no integers, or out of range.
    """
    if ids.dim() != 1 or ids.dtype.is_floating_point or ids.dtype == torch.bool:
        raise ValueError(
            f"{key!r} must be integers [B] or [B, S], not {ids.dtype} {list(ids.shape[1:]) or ''}; give one id "
            "for each sequence or token"
        )
    if not torch.compiler.is_compiling() and len(ids) and not (0 <= int(ids.min()) <= int(ids.max()) < num_ids):
        raise ValueError(
            f"{key!r} has ids from {int(ids.min())} to {int(ids.max())}, and the routers know 0 to {num_ids - 1}; "
            "correct the batch, or replace the routers with more ids"
        )
    return ids.long()
