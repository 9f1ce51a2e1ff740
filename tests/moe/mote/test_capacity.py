"""The worst case of group-limited routing against every order of groups, and against a model."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from moe_families import build_tiny_moe

from hf_mixture.moe.anatomy import GroupRule, find_routers
from hf_mixture.moe.mote.capacity import fewest_enabled
from hf_mixture.moe.mote.edit import ExpertEdit
from hf_mixture.moe.mote.edits import ExpertEdits
from hf_mixture.moe.mote.patch import tune_experts


def worst_by_search(group: GroupRule, num_experts: int, off: set[int], on: set[int]) -> int:
    """Route with scores that put each set of groups first in turn, and count what stays enabled in those kept."""
    size = num_experts // group.num_groups
    masks = [torch.tensor([expert in chosen for expert in range(num_experts)]) for chosen in (off, on)]
    fewest = num_experts
    for order in itertools.permutations(range(group.num_groups)):
        logits = torch.zeros(1, num_experts)
        for rank, g in enumerate(order):
            logits[0, g * size : (g + 1) * size] = 1.0 - rank / group.num_groups
        kept = kept_groups(group, logits, masks)
        fewest = min(fewest, sum(expert not in off for g in kept for expert in range(g * size, (g + 1) * size)))
    return fewest


def kept_groups(group: GroupRule, logits: torch.Tensor, masks: list[torch.Tensor]) -> list[int]:
    """The groups that rank best, in plain Python."""
    size = logits.shape[1] // group.num_groups
    values = [4e4 if on else -1e4 if off else z for z, off, on in zip(logits[0].tolist(), *masks, strict=True)]
    ranks = []
    for g in range(group.num_groups):
        best = sorted(values[g * size : (g + 1) * size], reverse=True)
        ranks.append((best[0] if group.score == "max" else best[0] + best[1], g))
    return [g for _, g in sorted(ranks, reverse=True)[: group.num_kept]]


@pytest.mark.parametrize("score", ["top2_sum", "max"])
def test_the_bound_is_the_worst_case(score: str) -> None:
    rng = np.random.default_rng(0)
    seen = set()
    for _ in range(300):
        num_groups = int(rng.integers(2, 5))
        size = int(rng.integers(2, 5))
        group = GroupRule(num_groups=num_groups, num_kept=int(rng.integers(1, num_groups + 1)), score=score)
        num_experts = num_groups * size
        experts = rng.permutation(num_experts).tolist()
        num_off = int(rng.integers(0, num_experts))
        off = set(experts[:num_off])
        on = set(experts[num_off : num_off + int(rng.integers(0, 2))])
        bound = fewest_enabled(group, num_experts, off, on)
        worst = worst_by_search(group, num_experts, off, on)
        needed = 1 if score == "max" else 2
        live = [sum(e not in off for e in range(g * size, (g + 1) * size)) for g in range(num_groups)]
        if sum(count >= needed for count in live) >= group.num_kept and not on:
            assert bound == worst
        else:
            # A group that cannot be relied on counts for nothing.
            assert bound <= worst
        seen.add(bound)
    assert len(seen) > 5


def test_deepseek_r1_keeps_enough_with_ten_experts_off() -> None:
    group = GroupRule(num_groups=8, num_kept=4)
    assert fewest_enabled(group, 256, range(10)) == 4 * 32 - 10
    # All ten in one group, which has 22 left.
    assert fewest_enabled(group, 256, [*range(0, 32)]) == 4 * 32


def test_the_leak_that_the_check_prevents_is_real() -> None:
    """With the check out of the way, a token is sent to an expert that is off: the kept group holds K - 1 others."""
    tiny = build_tiny_moe("deepseek_v3", num_experts_per_tok=4, n_group=2, topk_group=1)
    router = find_routers(tiny.model)[0]
    edits = ExpertEdits([ExpertEdit(router.path, expert, "off") for expert in (0, 4)])
    with pytest.raises(ValueError, match="may leave 3 enabled experts in the 1 best of its 2 groups"):
        tune_experts(tiny.model, edits)
    off = torch.zeros(8, dtype=torch.bool)
    off[[0, 4]] = True
    with torch.no_grad():
        logits = router.module(torch.randn(64, 32))[0]
    leaked = router.select(logits, off=off).indices
    assert ((leaked == 0) | (leaked == 4)).any()
