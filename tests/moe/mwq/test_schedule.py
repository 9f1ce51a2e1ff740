"""The order of loading against a brute-force oracle of its rule, and its makespan against the optimum."""

from __future__ import annotations

from random import Random

import pytest

from hf_mixture.moe.mwq.schedule import (
    ORDERS,
    cumulative_counts,
    expert_id_order,
    hebf_order,
    johnson_order,
    makespan,
    needed_items,
)


TIMES = {"load_time": lambda level: 10.0 if level == 0 else 5.0, "compute_time": lambda level: 0.6 + 0.45 * level}


def draw_counts(generator, *, num_experts, num_tokens, num_levels=3):
    counts: dict[tuple[int, int], int] = {}
    for _ in range(num_tokens):
        item = generator.randrange(num_experts), generator.randrange(num_levels)
        counts[item] = counts.get(item, 0) + 1
    return counts


def slow_hebf(counts, resident=()):
    """Again and again: all planes that may come next, and of these the one that most tokens use."""
    loaded, order = set(resident), []
    needed = [(e, k) for e, k in counts for k in range(k + 1)]
    while left := sorted(set(needed) - loaded):
        heads = [item for item in left if not any(e == item[0] and k < item[1] for e, k in left)]
        use = {item: sum(n for (e, k), n in counts.items() if e == item[0] and k >= item[1]) for item in heads}
        best = max(use.values())
        chosen = min(item for item in heads if use[item] == best)
        order.append(chosen)
        loaded.add(chosen)
    return order


def all_orders(items):
    queues: dict[int, list[tuple[int, int]]] = {}
    for item in items:
        queues.setdefault(item[0], []).append(item)

    def interleave(queues):
        if not any(queues.values()):
            yield []
        for expert, queue in queues.items():
            if queue:
                for rest in interleave({**queues, expert: queue[1:]}):
                    yield [queue[0], *rest]

    yield from interleave(queues)


def test_hebf_is_its_rule():
    """Acceptance check 4."""
    generator = Random(0)  # noqa: S311 - sampling
    for _ in range(300):
        counts = draw_counts(generator, num_experts=6, num_tokens=generator.choice([1, 5, 40]))
        resident = [item for item in needed_items(counts) if generator.random() < 0.3]
        assert hebf_order(counts) == slow_hebf(counts)
        assert hebf_order(counts, resident) == slow_hebf(counts, resident)


def test_planes_below_are_needed_and_counted():
    counts = {(0, 2): 3, (1, 0): 2}
    assert needed_items(counts) == [(0, 0), (0, 1), (0, 2), (1, 0)]
    assert cumulative_counts(counts) == {(0, 0): 3, (0, 1): 3, (0, 2): 3, (1, 0): 2}
    assert hebf_order(counts) == [(0, 0), (0, 1), (0, 2), (1, 0)]
    # Raw counts would load the base of expert 1 first, since nobody uses expert 0 at its base alone.
    assert expert_id_order(counts, resident=[(0, 0)]) == [(0, 1), (0, 2), (1, 0)]


def test_makespan_is_the_two_queues():
    counts = {(0, 0): 1, (1, 0): 4}
    # Loads end at 10 and 20; the second waits for its planes and takes 4 x 0.6.
    assert makespan([(0, 0), (1, 0)], counts, **TIMES) == pytest.approx(22.4)
    assert makespan([(1, 0), (0, 0)], counts, **TIMES) == pytest.approx(20.6)
    # What is in memory computes while the first load runs.
    assert makespan([(0, 0)], counts, **TIMES) == pytest.approx(10.6)


def test_hebf_is_near_the_optimum():
    """Acceptance check 4: at most 1.10 x the best of all orders, with up to 7 items."""
    generator = Random(1)  # noqa: S311 - sampling
    worst, number = 0.0, 0
    while number < 60:
        counts = draw_counts(generator, num_experts=3, num_tokens=generator.choice([4, 8, 32]))
        items = needed_items(counts)
        if len(items) > 7:
            continue
        best = min(makespan(order, counts, **TIMES) for order in all_orders(items))
        for rule in ORDERS.values():
            assert makespan(rule(counts, ()), counts, **TIMES) >= best - 1e-9
        worst = max(worst, makespan(hebf_order(counts), counts, **TIMES) / best)
        number += 1
    assert worst <= 1.10


def test_hebf_is_seldom_later_than_the_order_of_ids():
    """Acceptance check 4: on at least 90 % of random counts."""
    generator = Random(2)  # noqa: S311 - sampling
    wins = 0
    for _ in range(500):
        counts = draw_counts(generator, num_experts=8, num_tokens=32)
        ours, theirs = (makespan(rule(counts), counts, **TIMES) for rule in (hebf_order, expert_id_order))
        wins += ours <= theirs + 1e-9
    assert wins >= 450


def test_johnson_is_the_best_order_of_whole_experts():
    from itertools import permutations

    generator = Random(3)  # noqa: S311 - sampling
    for _ in range(100):
        counts = draw_counts(generator, num_experts=4, num_tokens=12)
        items = needed_items(counts)
        experts = sorted({expert for expert, _ in items})

        def whole(order, counts=counts, items=items):
            """Computing an expert only after all of its planes are there."""
            loaded = computed = 0.0
            for expert in order:
                loaded += sum(TIMES["load_time"](level) for e, level in items if e == expert)
                work = sum(n * TIMES["compute_time"](level) for (e, level), n in counts.items() if e == expert)
                computed = max(loaded, computed) + work
            return computed

        rule = johnson_order(counts, load_time=TIMES["load_time"], compute_time=TIMES["compute_time"])
        ours = list(dict.fromkeys(expert for expert, _ in rule))
        assert whole(ours) == pytest.approx(min(whole(order) for order in permutations(experts)))
