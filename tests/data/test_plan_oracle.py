"""The fast plan equals the slow one, and keeps its bounds, under everything that a mixture can say."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from slow_plan import SlowPlan

from hf_mixture.data.plan import MixturePlan
from hf_mixture.data.schedule import Segment, SourcePolicy


def random_weights(rng: np.random.Generator, num: int, *, zeros: bool = True) -> tuple[float, ...]:
    weights = rng.dirichlet(np.full(num, 10.0 ** rng.uniform(-1, 1))) + 1e-9
    weights[rng.random(num) < 0.2] = rng.choice([1e-6, 0.0] if zeros else [1e-6])
    weights[rng.integers(num)] += 0.1
    return tuple((weights / weights.sum()).tolist())


def random_schedule(rng: np.random.Generator, num: int, length: int) -> list[Segment]:
    starts = np.unique([0, *rng.integers(1, length, int(rng.integers(0, 5)))]).tolist()
    kinds = rng.choice(["constant", "linear"], len(starts)).tolist()
    return [Segment(start, random_weights(rng, num), kind) for start, kind in zip(starts, kinds, strict=True)]


def weights_of_positions(schedule: list[Segment], length: int) -> np.ndarray:
    """The mean weights over each position."""
    weights = np.zeros((length, len(schedule[0].weights)))
    for number, segment in enumerate(schedule):
        stop = int(schedule[number + 1].start) if number + 1 < len(schedule) else length
        weights[int(segment.start) : stop] = segment.weights
        if segment.interpolation == "linear" and number + 1 < len(schedule):
            middles = (np.arange(stop - segment.start) + 0.5) / (stop - segment.start)
            way = np.array(schedule[number + 1].weights) - segment.weights
            weights[int(segment.start) : stop] += middles[:, None] * way
    return weights


def counts_at_block_ends(plan: MixturePlan) -> np.ndarray:
    plan._ledger.extend_to_end()
    return plan._ledger.prefix[: plan._ledger.num_blocks + 1]


@pytest.mark.parametrize("num", [1, 2, 5, 20])
@pytest.mark.parametrize("what", ["schedule", "growth", "renormalise", "stop", "lengths", "lengths and caps"])
def test_the_fast_plan_equals_the_slow_one(num: int, what: str) -> None:
    rng = np.random.default_rng([num, len(what)])
    for turn in range(4):
        length, block_size = int(rng.integers(30, 300)), int(rng.integers(5, 70))
        sizes = rng.integers(3, 120, num).tolist()
        schedule = random_schedule(rng, num, length) if turn % 2 else [Segment(0, random_weights(rng, num))]
        lengths = [rng.integers(1, 60, size).tolist() for size in sizes] if "lengths" in what else None
        policies: list[SourcePolicy | None] = [None] * num
        caps: list[int | None] = [None] * num
        overflow: Any = "stop" if what == "stop" else "renormalise"
        if what in {"renormalise", "stop", "lengths and caps"}:
            for i in np.flatnonzero(rng.random(num) < 0.5).tolist():
                caps[i] = int(rng.integers(1, 3 * sizes[i]))
                policies[i] = SourcePolicy(max_epochs=caps[i] / sizes[i], overflow=overflow)
        elif what == "schedule":
            policies[0] = SourcePolicy(shuffle=False)
        plan = MixturePlan.build(
            schedule[0].weights,
            sizes,
            num_examples=length,
            lengths=None if lengths is None else [np.array(values) for values in lengths],
            block_size=block_size,
            schedule=schedule,
            policies=policies,
            seed=turn,
        )
        changes = []
        if what == "growth" or turn == 3:
            for at in sorted(rng.integers(0, length // block_size + 1, 3).tolist()):
                changes.append((at * block_size, random_weights(rng, num)))
                plan.set_weights(changes[-1][1], at=changes[-1][0])
        slow = SlowPlan(
            schedule,
            sizes,
            length,
            changes=changes,
            block_size=block_size,
            seed=turn,
            lengths=lengths,
            caps=None if overflow == "stop" else caps,
            stops=caps if overflow == "stop" else None,
            in_order=[0] if what == "schedule" else [],
        )
        assert len(plan) == len(slow.stream)
        expected = np.array(slow.stream).reshape(-1, 3).T
        sources, ranks = plan.draws(range(len(plan)))
        assert sources.tolist() == expected[0].tolist()
        assert ranks.tolist() == expected[1].tolist()
        assert plan.materialise()[1].tolist() == expected[2].tolist()
        assert plan.counts.tolist() == np.bincount(expected[0], minlength=num).tolist()
        # A fresh plan, which has computed nothing, in random order.
        state = plan.state_dict()
        fresh = MixturePlan.build(
            schedule[0].weights,
            sizes,
            num_examples=length,
            lengths=None if lengths is None else [np.array(values) for values in lengths],
            block_size=block_size,
            schedule=schedule,
            policies=policies,
            seed=turn,
        )
        fresh.load_state_dict(state)
        for position in rng.permutation(len(plan))[:10].tolist():
            assert fresh.locate([position])[1][0] == expected[2][position]


@pytest.mark.parametrize("num", [1, 2, 20, 300])
def test_counts_stay_within_one_of_the_target_under_schedules(num: int) -> None:
    rng = np.random.default_rng(num)
    for _ in range(8):
        length, block_size = int(rng.integers(1000, 60_000)), int(rng.choice([16, 100, 1024]))
        starts = np.unique([0, *rng.integers(1, length, int(rng.integers(1, 12)))]).tolist()
        schedule = [
            Segment(start, random_weights(rng, num, zeros=False), str(rng.choice(["constant", "linear"])))  # type: ignore[arg-type]
            for start in starts
        ]
        plan = MixturePlan.build(
            schedule[0].weights, None, num_examples=length, block_size=block_size, schedule=schedule
        )
        counts = counts_at_block_ends(plan)
        ends = np.array([plan._ledger.grid.start(block) for block in range(len(counts) - 1)] + [length])
        assert (counts.sum(axis=1) == ends).all()
        assert (np.diff(counts, axis=0) >= 0).all()
        targets = np.concatenate([np.zeros((1, num)), np.cumsum(weights_of_positions(schedule, length), axis=0)])
        assert np.abs(counts - targets[ends]).max() <= 1 + 1e-6


def test_many_short_segments_do_not_starve_a_tiny_weight() -> None:
    weights = (0.999, 0.001)
    schedule = [Segment(start, weights) for start in range(0, 100_000, 25)]
    plan = MixturePlan.build(weights, None, num_examples=100_000, schedule=schedule)
    assert plan.counts.tolist() == [99_900, 100]
    grown = MixturePlan.build(weights, None, num_examples=10_000, block_size=25)
    for at in range(0, 10_000, 25):
        grown.set_weights(weights, at=at)
    assert grown.counts.tolist() == [9990, 10]
