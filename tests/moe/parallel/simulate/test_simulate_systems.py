"""What each system decides, and what must hold for all of them."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from hf_mixture.moe.parallel.placement import Cluster, shard
from hf_mixture.moe.parallel.simulate.hardware import MODELS, machine_of
from hf_mixture.moe.parallel.simulate.loads import draw_tokens, zipf_popularity
from hf_mixture.moe.parallel.simulate.memory import memory_of
from hf_mixture.moe.parallel.simulate.systems.base import STATE_BYTES, SystemSettings, copy_seconds, flow_of
from hf_mixture.moe.parallel.simulate.systems.registry import SYSTEMS
from hf_mixture.moe.parallel.simulate.systems.replicate import divide_evenly
from hf_mixture.moe.parallel.simulate.systems.smartmoe import deal_out


NUM_DEVICES, NUM_EXPERTS, WINDOW = 16, 32, 3
MACHINE = machine_of("a", "gpt-moe-s", num_devices=NUM_DEVICES, num_tokens=2048)


def settings(**changes):
    return SystemSettings(**{"num_busy": 8, "num_slots": 2, "window": WINDOW, "reshard_interval": 4, **changes})


def draw(number, *, exponent=1.2, drift=20.0):
    popularity = zipf_popularity(NUM_EXPERTS, exponent=exponent, drift=drift, num_layers=2, seed=0)
    tokens = draw_tokens(popularity, num_devices=NUM_DEVICES, num_choices=4096, seed=1)
    return list(itertools.islice(tokens, number))


def steps_of(name, tokens, **changes):
    system = SYSTEMS[name].build(MACHINE, settings(**changes))
    return [system.step(step) for step in tokens]


@pytest.mark.parametrize("name", SYSTEMS)
def test_tokens_are_neither_lost_nor_made(name):
    tokens = draw(9)
    for step, plans in zip(tokens, steps_of(name, tokens), strict=True):
        for layer, plan in zip(step, plans, strict=True):
            flow = flow_of(layer, plan, MACHINE)
            assert plan.holders.any(axis=1).all()
            assert flow.loads.sum() == pytest.approx(layer.sum())
            for traffic in (flow.traffic, plan.forward, plan.backward, plan.moves, *plan.critical):
                np.testing.assert_allclose(traffic.received.sum(axis=1), traffic.sent.sum(axis=1), atol=1e-6)
                assert (traffic.received >= -1e-6).all()


@pytest.mark.parametrize("name", [name for name in SYSTEMS if name.startswith("fssdp")] + ["flexmoe"])
def test_copies_stay_within_their_slots(name):
    for plans in steps_of(name, draw(9)):
        held = sum(plan.holders.sum(axis=0) for plan in plans)
        assert held.max() <= 2 * (NUM_EXPERTS // NUM_DEVICES + 2)


def test_without_slots_it_is_expert_parallelism():
    tokens = draw(6)
    pairs = zip(steps_of("ep", tokens), steps_of("fssdp-copy-only", tokens, num_slots=0), strict=True)
    for plain, ours in pairs:
        for one, other in zip(plain, ours, strict=True):
            assert np.array_equal(one.holders, other.holders)
            assert other.forward.received.sum() == other.backward.received.sum() == 0
            assert other.critical == ()


def test_owners_are_those_of_algorithm_2_and_stay_for_an_interval():
    tokens = draw(WINDOW + 6)
    steps = steps_of("fssdp-shard-only", tokens)
    owners = [np.stack([plan.holders.argmax(axis=1) for plan in plans]) for plans in steps]
    assert owners[0].tolist() == [(np.arange(NUM_EXPERTS) // 2).tolist()] * 2
    for first, last in ((WINDOW, WINDOW + 3), (WINDOW + 4, WINDOW + 5)):
        loads = sum(step.sum(axis=1) for step in tokens[first - WINDOW : first])
        expected = shard(loads, MACHINE.devices, num_busy=8)
        assert all(np.array_equal(found, expected) for found in owners[first : last + 1])
    # What an interval moves is spread over it.
    moved = sum(plan.moves.received.sum() for plans in steps[WINDOW : WINDOW + 4] for plan in plans)
    changed = (owners[WINDOW] != owners[0]).sum()
    assert moved == pytest.approx(changed * STATE_BYTES * MACHINE.model.expert_parameters)


def test_rematerialising_fetches_the_same_copies_twice():
    tokens = draw(5)
    for plain, ours in zip(steps_of("fssdp", tokens), steps_of("fssdp-rm", tokens), strict=True):
        for one, other in zip(plain, ours, strict=True):
            assert np.array_equal(one.holders, other.holders)
            np.testing.assert_allclose(other.forward.received, one.forward.received)
            np.testing.assert_allclose(other.backward.received, one.backward.received + one.forward.received)
    assert plain[0].forward.received.sum() > 0


def test_owners_that_send_themselves_are_slower_but_send_as_much():
    tokens = draw(5)
    for plain, ours in zip(steps_of("fssdp", tokens), steps_of("fssdp-direct", tokens), strict=True):
        for one, other in zip(plain, ours, strict=True):
            assert other.forward.received.sum() == pytest.approx(one.forward.received.sum())
    assert copy_seconds(other, MACHINE) > copy_seconds(one, MACHINE)


def test_calibration_pays_by_the_true_loads():
    """With popularity that is new in each iteration, the window is wrong and the loads of the iteration are right."""
    tokens, calibrated = draw(WINDOW + 8, drift=0.1), 0
    # A quarter of 4 slots is kept.
    pairs = zip(steps_of("fssdp", tokens, num_slots=3), steps_of("fssdp-calibrated", tokens, num_slots=4), strict=True)
    for step, (plain, ours) in zip(tokens, pairs, strict=True):
        for layer, before, after in zip(step, plain, ours, strict=True):
            seconds = [
                MACHINE.routed_seconds(flow_of(layer, plan, MACHINE)) + copy_seconds(plan, MACHINE)
                for plan in (before, after)
            ]
            assert (after.holders >= before.holders).all()
            assert bool(after.critical) == (seconds[1] < seconds[0])
            if after.critical:
                calibrated += 1
                new = (after.holders & ~before.holders).sum() * MACHINE.model.expert_bytes
                assert after.critical[0].received.sum() == pytest.approx(new)
    assert calibrated > 0
    # Where nothing changes there is nothing to add that pays for waiting.
    even = draw(WINDOW + 3, exponent=0.0)
    assert all(not plan.critical for plans in steps_of("fssdp-calibrated", even, num_slots=4) for plan in plans)


def test_more_copies_than_go_behind_attention_where_they_pay():
    tokens = draw(6)
    for plain, ours in zip(
        steps_of("fssdp", tokens, num_busy=2), steps_of("fssdp-timed", tokens, num_busy=2), strict=True
    ):
        seconds = [
            sum(MACHINE.routed_seconds(flow_of(*pair, MACHINE)) + copy_seconds(pair[1], MACHINE) for pair in pairs)
            for pairs in (list(zip(tokens[-1], plans, strict=True)) for plans in (plain, ours))
        ]
    assert seconds[1] < seconds[0]


def test_shadows_pay_and_the_next_one_does_not():
    tokens = draw(1)
    owners = np.arange(NUM_EXPERTS) // 2
    for layer, plan in zip(tokens[0], steps_of("fastermoe", tokens)[0], strict=True):
        order = np.argsort(-layer.sum(axis=0), kind="stable")
        times = []
        for number in range(NUM_EXPERTS):
            holders = owners[:, None] == np.arange(NUM_DEVICES)
            holders[order[:number]] = True
            received, sent = np.zeros((2, NUM_DEVICES)), np.zeros((2, NUM_DEVICES))
            probe = SYSTEMS["fastermoe"].build(MACHINE, settings()).quiet_plan(holders)
            routed = MACHINE.routed_seconds(flow_of(layer, probe, MACHINE))
            # A broadcast enters every other node once: its holders share it, and pass the parts on.
            for expert in order[:number].tolist():
                home = owners[expert] // 8
                for device in range(NUM_DEVICES):
                    away = device // 8 != home
                    received[0, device] += 7 / 8 if away else device != owners[expert]
                    received[1, device] += away / 8
                    sent[0, device] += 7 / 8
                    sent[1, device] += (not away) / 8
            inside = max(received[0].max(), sent[0].max()) / (150e9 * 0.6)
            between = max(received[1].reshape(2, 8).sum(axis=1).max(), sent[1].reshape(2, 8).sum(axis=1).max())
            message = MACHINE.model.expert_bytes * max(inside, between / (12.5e9 * 0.8))
            times.append(routed + 3 * message)
        best = next(number for number in range(NUM_EXPERTS) if times[number + 1] >= times[number])
        assert best > 0
        assert plan.holders.all(axis=1).sum() == best
    assert not steps_of("fastermoe", draw(1, exponent=0.0))[0][0].critical


def test_permutations_even_out():
    generator = np.random.default_rng(0)
    for _ in range(30):
        cluster, loads = Cluster(4, 2), generator.integers(0, 100, 12)
        owners = deal_out(loads, cluster)
        assert np.bincount(owners, minlength=4).tolist() == [3] * 4
        slow, room = [0] * 4, [3] * 4
        for expert in sorted(range(12), key=lambda e: (-loads[e], e)):
            able = [device for device in range(4) if room[device]]
            node = {0: slow[0] + slow[1], 1: slow[2] + slow[3]}
            device = min(able, key=lambda d: (slow[d], node[d // 2], d))
            assert owners[expert] == device
            slow[device] += int(loads[expert])
            room[device] -= 1
    steps = steps_of("smartmoe", tokens := draw(WINDOW + 1))
    before, after = (flow_of(tokens[-1][0], steps[index][0], MACHINE).loads.max() for index in (0, -1))
    assert after < before


def test_replicas_even_out_and_hold_the_optimizer():
    tokens = draw(WINDOW + 2, drift=1000.0)
    steps = steps_of("flexmoe", tokens)
    before, after = (flow_of(tokens[-1][0], steps[index][0], MACHINE).loads.max() for index in (0, -1))
    assert after < before / 1.5
    reduced, copied = steps[-1][0].critical
    copies = steps[-1][0].holders.sum() - NUM_EXPERTS
    assert reduced.received.sum() == pytest.approx(copies * MACHINE.model.expert_bytes)
    np.testing.assert_allclose(reduced.received, copied.sent)
    facts = {"num_experts": NUM_EXPERTS, "copies": 2.0, "load": 4096.0}
    ours, theirs = (
        memory_of(MACHINE, SYSTEMS[name].build(MACHINE, settings()), **facts) for name in ("fssdp", "flexmoe")
    )
    parameters = 2 * MACHINE.model.num_layers * MACHINE.model.expert_parameters
    assert theirs["optimizer"] - ours["optimizer"] == 12 * parameters
    assert theirs["parameters"] == ours["parameters"]


def test_equal_tokens_by_the_routing_of_the_iteration():
    generator = np.random.default_rng(0)
    for _ in range(100):
        num_devices = int(generator.integers(1, 9))
        owners = generator.integers(0, num_devices, 12)
        loads = generator.zipf(1.5, 12).clip(max=500) - 1
        parts = divide_evenly(loads, owners, num_devices)
        most = math.ceil(loads.sum() / num_devices)
        assert parts.sum(axis=1).tolist() == loads.tolist()
        assert parts.sum(axis=0).max(initial=0) <= most
        # An owner gives away only what it has no room for.
        for device in range(num_devices):
            if parts[owners == device].sum() > parts[owners == device, device].sum():
                assert parts[:, device].sum() == most
    tokens = draw(1)
    [[plan, _]] = steps_of("replicate", tokens)
    loads = flow_of(tokens[0][0], plan, MACHINE).loads
    assert loads.max() / loads.mean() == pytest.approx(1, abs=1e-3)
    weights, gradients = plan.critical
    assert weights.received.sum() == (plan.holders.sum() - NUM_EXPERTS) * MACHINE.model.expert_bytes
    assert np.array_equal(weights.received, gradients.sent)
    assert not steps_of("replicate", draw(1, exponent=0.0))[0][0].critical


def test_the_models_are_those_of_the_paper():
    """Parameters in billions, with 64 experts: 1.84, 7.36, 3.27 and 6.54, embeddings left out."""
    for name, billions in {"gpt-moe-s": 1.84, "gpt-moe-l": 7.36, "bert-moe": 3.27, "bert-moe-deep": 6.54}.items():
        model = MODELS[name]
        found = model.num_layers * (64 * model.expert_parameters + model.attention_parameters)
        assert found / 1e9 == pytest.approx(billions, rel=0.01)


def test_what_goes_behind_attention():
    """t = floor(time of attention x bandwidth / bytes of an expert), by hand."""
    seconds = 8192 * (8 * 768**2 + 4 * 2048 * 768) / (125e12 * 0.4)
    machine = machine_of("a", "gpt-moe-s", num_devices=32, num_tokens=8192)
    assert machine.attention_seconds == pytest.approx(seconds)
    assert machine.overlap_degree == math.floor(seconds * 12.5e9 * 0.8 / (2 * 768 * 1536 * 2)) == 3
    assert machine_of("a", "gpt-moe-s", num_devices=8, num_tokens=8192).overlap_degree == math.floor(
        seconds * 150e9 * 0.6 / (2 * 768 * 1536 * 2)
    )
