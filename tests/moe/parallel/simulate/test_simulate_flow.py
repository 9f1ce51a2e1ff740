"""Tokens and experts on their way, against slow ways in plain Python."""

from __future__ import annotations

import numpy as np
import pytest

from hf_mixture.moe.parallel.placement import Cluster, dispatch, materialise, predicted_loads, share_slots
from hf_mixture.moe.parallel.simulate.flow import (
    broadcast_traffic,
    direct_traffic,
    even_loads,
    flow_by_shares,
    flow_to_holders,
    point_to_point,
)
from hf_mixture.moe.parallel.simulate.slots import copy_busiest, hold_owned


def draw_case(generator):
    """A cluster, tokens of devices for experts, owners, and holders with random copies."""
    per_node = int(generator.choice([1, 2, 4]))
    cluster = Cluster(per_node * int(generator.integers(1, 6)), per_node)
    num_experts = int(generator.integers(1, 20))
    owners = generator.integers(0, cluster.num_devices, num_experts)
    holders = hold_owned(owners, cluster) | (generator.random((num_experts, cluster.num_devices)) < 0.3)
    return cluster, generator.integers(0, 9, (cluster.num_devices, num_experts)), owners, holders


def slow_flow(tokens, holders, cluster):
    """Every token by itself: what each device receives and sends by link, and what stays."""
    received, sent = np.zeros((2, cluster.num_devices)), np.zeros((2, cluster.num_devices))
    local = np.zeros(cluster.num_devices)
    for source, of_source in enumerate(tokens.tolist()):
        for expert, number in enumerate(of_source):
            able = holders[expert].nonzero()[0].tolist()
            near = [device for device in able if cluster.node_of(device) == cluster.node_of(source)]
            targets = [source] if source in able else near or able
            for target in targets:
                if target == source:
                    local[source] += number
                    continue
                link = 0 if cluster.node_of(target) == cluster.node_of(source) else 1
                received[link, target] += number / len(targets)
                sent[link, source] += number / len(targets)
    return received, sent, local


def test_tokens_take_the_nearest_way():
    generator = np.random.default_rng(0)
    for _ in range(60):
        cluster, tokens, _, holders = draw_case(generator)
        flow = flow_to_holders(tokens, holders, cluster)
        received, sent, local = slow_flow(tokens, holders, cluster)
        np.testing.assert_allclose(flow.traffic.received, received, atol=1e-9)
        np.testing.assert_allclose(flow.traffic.sent, sent, atol=1e-9)
        np.testing.assert_allclose(flow.local, local, atol=1e-9)
        np.testing.assert_allclose(flow.loads, dispatch(tokens, holders, cluster).sum(axis=0), atol=1e-9)
        assert flow.loads.sum() == pytest.approx(tokens.sum())


def test_tokens_by_shares():
    generator = np.random.default_rng(1)
    for _ in range(40):
        cluster, tokens, _, _ = draw_case(generator)
        shares = generator.random((tokens.shape[1], cluster.num_devices))
        shares /= shares.sum(axis=1, keepdims=True)
        received, sent = np.zeros((2, cluster.num_devices)), np.zeros((2, cluster.num_devices))
        local = np.zeros(cluster.num_devices)
        for source in range(cluster.num_devices):
            for target in range(cluster.num_devices):
                number = (tokens[source] * shares[:, target]).sum()
                if source == target:
                    local[source] += number
                    continue
                link = int(cluster.node_of(source) != cluster.node_of(target))
                received[link, target] += number
                sent[link, source] += number
        flow = flow_by_shares(tokens, shares, cluster)
        np.testing.assert_allclose(flow.traffic.received, received, atol=1e-9)
        np.testing.assert_allclose(flow.traffic.sent, sent, atol=1e-9)
        np.testing.assert_allclose(flow.local, local, atol=1e-9)


def slow_broadcast(owners, holders, cluster):
    """Expert by expert and node by node."""
    received, sent = np.zeros((2, cluster.num_devices)), np.zeros((2, cluster.num_devices))
    for owner, holds in zip(owners.tolist(), holders, strict=True):
        by_node = {}
        for device in holds.nonzero()[0].tolist():
            by_node.setdefault(cluster.node_of(device), []).append(device)
        if holds.sum() == 1:
            continue
        home = cluster.node_of(owner)
        chain = sorted(by_node, key=lambda node: (node - home) % cluster.num_nodes)
        for place, node in enumerate(chain):
            devices = by_node[node]
            for device in devices:
                if node == home:
                    received[0, device] += device != owner
                else:
                    received[1, device] += 1 / len(devices)
                    received[0, device] += 1 - 1 / len(devices)
                sent[0, device] += (len(devices) - 1) / len(devices)
                sent[1, device] += (place < len(chain) - 1) / len(devices)
    return received, sent


def test_experts_enter_a_node_once():
    generator = np.random.default_rng(2)
    for _ in range(60):
        cluster, _, owners, holders = draw_case(generator)
        traffic = broadcast_traffic(owners, holders, cluster)
        received, sent = slow_broadcast(owners, holders, cluster)
        np.testing.assert_allclose(traffic.received, received, atol=1e-9)
        np.testing.assert_allclose(traffic.sent, sent, atol=1e-9)
        copies = holders.sum(axis=0) - np.bincount(owners, minlength=cluster.num_devices)
        np.testing.assert_allclose(traffic.received.sum(axis=0), copies, atol=1e-9)
        np.testing.assert_allclose(traffic.received.sum(axis=1), traffic.sent.sum(axis=1), atol=1e-9)
        nodes = holders.reshape(len(owners), cluster.num_nodes, -1).any(axis=2).sum(axis=1)
        assert traffic.received[1].sum() == pytest.approx((nodes - 1).sum())
        direct = direct_traffic(owners, holders, cluster)
        np.testing.assert_allclose(direct.received.sum(axis=0), copies)
        assert direct.received[1].sum() >= traffic.received[1].sum() - 1e-9


def test_the_owner_sends_all_copies_where_it_sends_them_itself():
    cluster, owners = Cluster(4, 2), np.array([0])
    holders = np.ones((1, 4), dtype=bool)
    direct, shared = (copy(owners, holders, cluster) for copy in (direct_traffic, broadcast_traffic))
    assert direct.sent.tolist() == [[1, 0, 0, 0], [2, 0, 0, 0]]
    assert shared.sent[1].tolist() == [0.5, 0.5, 0, 0]


def test_messages_to_oneself_take_no_link():
    traffic = point_to_point(np.array([0, 0, 3]), np.array([0, 1, 1]), Cluster(4, 2))
    assert traffic.received.tolist() == [[0, 1, 0, 0], [0, 1, 0, 0]]
    assert traffic.sent.tolist() == [[1, 0, 0, 0], [0, 0, 0, 1]]
    back = traffic.reversed() * 2
    assert back.sent.tolist() == [[0, 2, 0, 0], [0, 2, 0, 0]]


def test_fast_plans_are_those_of_the_algorithm():
    generator = np.random.default_rng(3)
    for _ in range(150):
        per_node = int(generator.choice([1, 2, 4]))
        cluster = Cluster(per_node * int(generator.integers(1, 6)), per_node)
        num_experts = cluster.num_devices * int(generator.integers(1, 4))
        loads, owners = generator.integers(0, 50, num_experts), generator.integers(0, cluster.num_devices, num_experts)
        num_busy, num_slots = (int(value) for value in generator.integers(0, num_experts + 2, 2))
        slow = materialise(loads, owners, cluster, num_busy=num_busy, num_slots=num_slots)
        fast = copy_busiest(loads, owners, cluster, num_busy=num_busy, num_slots=num_slots)
        np.testing.assert_allclose(even_loads(loads, slow, cluster), predicted_loads(loads, slow, cluster))
        assert np.array_equal(fast, slow)
        num_busy = min(num_busy, num_experts)
        if num_slots := min(num_slots, num_busy):
            options = {"num_busy": num_busy, "num_slots": num_slots}
            shared = copy_busiest(loads, owners, cluster, branch="share", **options)
            assert np.array_equal(shared, share_slots(loads, owners, cluster, **options))
            everywhere = copy_busiest(loads, owners, cluster, branch="all", **options)
            assert np.array_equal(everywhere.all(axis=1).sum() >= num_slots, True)
