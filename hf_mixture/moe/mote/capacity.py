"""Whether group-limited routing still finds K experts that are not off, whatever the token.

Letters: G groups of E / G neighbouring experts, K chosen.
"""

from __future__ import annotations

from collections.abc import Collection

from hf_mixture.moe.anatomy import GroupRule


def fewest_enabled(group: GroupRule, num_experts: int, off: Collection[int], on: Collection[int] = ()) -> int:
    """Count the enabled experts that the kept groups hold in the worst case.

    A group with fewer than two enabled experts (one, where groups rank by their best) cannot be relied on: it is kept
    only if there is no other. A group with a forced expert is always kept.

    Args:
        group: The group rule.
        num_experts: E.
        off: Experts that are off.
        on: Experts that are forced.

    Returns:
        The number, which must be at least K.

    Example:
        >>> from hf_mixture.moe.anatomy import GroupRule
        >>> from hf_mixture.moe.mote.capacity import fewest_enabled
        >>> fewest_enabled(GroupRule(num_groups=8, num_kept=4), 256, off=range(10))
        118
    """
    size = num_experts // group.num_groups
    enabled = [size - sum(e // size == g for e in set(off)) for g in range(group.num_groups)]
    forced = {e // size for e in on}
    needed = 1 if group.score == "max" else 2
    always = sorted(enabled[g] for g in forced)[: group.num_kept]
    others = sorted(enabled[g] for g in range(group.num_groups) if g not in forced and enabled[g] >= needed)
    return sum(always) + sum(others[: group.num_kept - len(always)])
