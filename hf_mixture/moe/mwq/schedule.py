"""The order in which planes of experts are loaded: hottest bit first (HEBF), and what it is compared with.

An item (e, k) is level k of expert e: its base (k = 0) or one further bit. It is loaded once, after the levels below
it; then the tokens that use expert e at exactly this width are computed. One queue loads and one computes.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal


Item = tuple[int, int]
Order = Literal["hebf", "expert_id", "johnson"]


def needed_items(counts: Mapping[Item, int]) -> list[Item]:
    """All items that must be there: those with tokens, and the levels below them.

    Args:
        counts: Tokens by expert and level.

    Returns:
        Items by expert and level.
    """
    highest: dict[int, int] = {}
    for (expert, level), count in counts.items():
        if count:
            highest[expert] = max(level, highest.get(expert, 0))
    return [(expert, level) for expert in sorted(highest) for level in range(highest[expert] + 1)]


def cumulative_counts(counts: Mapping[Item, int]) -> dict[Item, int]:
    r"""Tokens that use a plane, \(\sum_{k' \ge k} B_{e k'}\): a token at a width also uses the planes below.

    Args:
        counts: B, tokens by expert and level.

    Returns:
        Counts of all needed items.
    """
    total: dict[Item, int] = {}
    for expert, level in reversed(needed_items(counts)):
        total[expert, level] = counts.get((expert, level), 0) + total.get((expert, level + 1), 0)
    return total


def hebf_order(counts: Mapping[Item, int], resident: Iterable[Item] = ()) -> list[Item]:
    """Hottest expert bit first (D2MoE, arXiv 2504.15299, section 5): of the next plane of each expert, the most used.

    Args:
        counts: Tokens by expert and level.
        resident: Items that are in memory, which are not loaded.

    Returns:
        The items to load, in order. Among equals the lower expert comes first.
    """
    use = cumulative_counts(counts)
    present = set(resident)
    queues: dict[int, list[Item]] = {}
    for item in needed_items(counts):
        if item not in present:
            queues.setdefault(item[0], []).append(item)
    heads = [(-use[queue[0]], expert, 0) for expert, queue in queues.items()]
    heapq.heapify(heads)
    order = []
    while heads:
        _, expert, place = heapq.heappop(heads)
        queue = queues[expert]
        order.append(queue[place])
        if place + 1 < len(queue):
            heapq.heappush(heads, (-use[queue[place + 1]], expert, place + 1))
    return order


def expert_id_order(counts: Mapping[Item, int], resident: Iterable[Item] = ()) -> list[Item]:
    """Expert by expert, each with all of its levels."""
    present = set(resident)
    return [item for item in needed_items(counts) if item not in present]


def johnson_order(
    counts: Mapping[Item, int],
    resident: Iterable[Item] = (),
    *,
    load_time: Callable[[int], float] = lambda level: 2.0 if level == 0 else 1.0,
    compute_time: Callable[[int], float] = lambda _: 0.1,
) -> list[Item]:
    """Johnson's rule for two machines, with an expert as one job: the yardstick.

    It is the best order where a job is computed only after all of it is loaded.

    Args:
        counts: Tokens by expert and level.
        resident: Items in memory.
        load_time: Time to load a plane of a level.
        compute_time: Time to compute a token at a level.

    Returns:
        The items to load, in order.
    """
    order = expert_id_order(counts, resident)
    load: dict[int, float] = {}
    for expert, level in order:
        load[expert] = load.get(expert, 0.0) + load_time(level)
    compute = dict.fromkeys(load, 0.0)
    for (expert, level), count in counts.items():
        if expert in compute:
            compute[expert] += count * compute_time(level)
    first = sorted((e for e in load if load[e] <= compute[e]), key=lambda e: (load[e], e))
    last = sorted((e for e in load if load[e] > compute[e]), key=lambda e: (-compute[e], e))
    rank = {expert: place for place, expert in enumerate([*first, *last])}
    return sorted(order, key=lambda item: (rank[item[0]], item[1]))


ORDERS: Mapping[str, Callable[[Mapping[Item, int], Iterable[Item]], list[Item]]] = {
    "hebf": hebf_order,
    "expert_id": expert_id_order,
    "johnson": johnson_order,
}


def makespan(
    order: Sequence[Item],
    counts: Mapping[Item, int],
    *,
    load_time: Callable[[int], float],
    compute_time: Callable[[int], float],
) -> float:
    """Time until everything is computed: loads in order, and each item computed once it and the ones before are.

    Args:
        order: Items to load; each after the levels below it.
        counts: Tokens by expert and level. Tokens whose items are not in the order are computed first.
        load_time: Time to load a plane of a level.
        compute_time: Time to compute a token at a level.

    Returns:
        The time, in the unit of the two.
    """
    loading = set(order)
    computed = sum(count * compute_time(item[1]) for item, count in counts.items() if item not in loading)
    loaded = 0.0
    for expert, level in order:
        loaded += load_time(level)
        computed = max(computed, loaded) + counts.get((expert, level), 0) * compute_time(level)
    return computed
