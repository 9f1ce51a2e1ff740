"""Who sends which copies to whom, on many ranks at once, without processes."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest

from hf_mixture.moe.parallel.exchange import exchange_plan, experts_of
from hf_mixture.moe.parallel.placement import contiguous_owners


@pytest.mark.parametrize("seed", range(40))
def test_all_copies_arrive_once(seed):
    """Replayed on all ranks: what is sent is there, what arrives is wanted, and each copy arrives once."""
    generator = np.random.default_rng(seed)
    num_ranks, per_node = 16, int(generator.choice([1, 2, 4, 8, 16]))
    num_experts = num_ranks * int(generator.integers(1, 4))
    owners = contiguous_owners(num_experts, num_ranks)
    slots = np.arange(num_experts)
    if seed % 2:
        # Ranks with any number of experts, in any order.
        owners, slots = generator.integers(0, num_ranks, num_experts), generator.permutation(num_experts)
    wanted = generator.random((num_experts, num_ranks)) < generator.random()
    plans = [exchange_plan(wanted, owners, rank, slots=slots, ranks_per_node=per_node) for rank in range(num_ranks)]
    [num_rounds] = {len(plan.rounds) for plan in plans}
    most = math.ceil(math.log2(num_ranks // per_node)) + math.ceil(math.log2(per_node))
    assert num_rounds <= most
    held = [experts_of(rank, owners, slots) for rank in range(num_ranks)]
    between: Counter[int] = Counter()
    for number in range(num_rounds):
        arriving: list[list[int]] = [[] for _ in range(num_ranks)]
        for target in range(num_ranks):
            for source in range(num_ranks):
                sent = [held[source][place] for place in plans[source].rounds[number].send[target]]
                assert sent == plans[target].rounds[number].receive[source]
                arriving[target] += sent
                between.update(expert for expert in sent if source // per_node != target // per_node)
        for rank, experts in enumerate(arriving):
            held[rank] = held[rank] + experts
    for rank, plan in enumerate(plans):
        copies = [expert for expert in range(num_experts) if wanted[expert, rank] and owners[expert] != rank]
        assert sorted(plan.received) == copies
        assert plan.num_received == len(copies)
    assert sum(plan.num_sent for plan in plans) == sum(plan.num_received for plan in plans)
    # An expert enters each node once.
    for expert in range(num_experts):
        nodes = {rank // per_node for rank in wanted[expert].nonzero()[0]} - {owners[expert] // per_node}
        assert between[expert] == len(nodes)


def test_an_owner_does_not_send_all_copies_itself():
    wanted = np.ones((16, 16), dtype=bool)
    plans = [exchange_plan(wanted, contiguous_owners(16, 16), rank) for rank in range(16)]
    for plan in plans:
        assert len(plan.rounds) == 4
        # Own experts to one rank in each round; and others are passed on.
        assert sum(0 in places for step in plan.rounds for places in step.send) == 4
        assert max(sum(map(len, step.send)) for step in plan.rounds) <= 16


def test_nothing_to_send():
    plan = exchange_plan(np.zeros((4, 2), dtype=bool), contiguous_owners(4, 2), 0)
    assert plan.rounds == []
    assert (plan.num_sent, plan.num_received) == (0, 0)
