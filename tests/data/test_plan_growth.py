"""Weights that change while the stream is being read, and what is restored."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from torch import multiprocessing

from hf_mixture.data.plan import MixturePlan
from hf_mixture.data.schedule import Segment, SourcePolicy


def new_plan(**more: Any) -> MixturePlan:
    arguments = {"num_examples": 4000, "block_size": 64, "seed": 3, **more}
    return MixturePlan.build([0.5, 0.3, 0.2], [700, 800, 50], **arguments)


def read(plan: MixturePlan, requests: Any, answers: Any) -> None:
    """A persistent worker: answers requests for positions until told to stop."""
    while (positions := requests.get()) is not None:
        sources, rows = plan.locate(positions)
        answers.put((sources.tolist(), rows.tolist()))


@pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_a_running_worker_process_sees_later_changes(method: str) -> None:
    plan = new_plan().share_memory()
    context = multiprocessing.get_context(method)
    requests, answers = context.Queue(), context.Queue()
    worker = context.Process(target=read, args=(plan, requests, answers), daemon=True)
    worker.start()
    before = plan.locate(range(4000))[0]
    for at, weights in ((640, [0.0, 0.5, 0.5]), (1280, [0.9, 0.05, 0.05]), (960, [0.2, 0.0, 0.8])):
        requests.put(range(4000))
        sources, rows = answers.get(timeout=60)
        assert sources == plan.locate(range(4000))[0].tolist()
        plan.set_weights(weights, at=at)
        requests.put(range(4000))
        sources, rows = answers.get(timeout=60)
        expected = plan.locate(range(4000))
        assert sources == expected[0].tolist()
        assert rows == expected[1].tolist()
        assert sources[:640] == before[:640].tolist()
        assert sources[at:] != before[at:].tolist()
    # The change at 960 took the place of the one at 1280.
    assert [segment.start for segment in plan.segments] == [0, 640, 960]
    assert 1 not in sources[960:]
    requests.put(None)
    worker.join(60)
    assert worker.exitcode == 0


def test_a_change_lands_exactly_at_its_position_and_both_sides_keep_their_weights() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        num = int(rng.choice([2, 3, 20]))
        old, new = rng.dirichlet(np.ones(num)), rng.dirichlet(np.ones(num))
        plan = MixturePlan.build(old, None, num_examples=64 * 60, block_size=64)
        unchanged = plan.draws(range(len(plan)))[0]
        at = 64 * int(rng.integers(1, 59))
        plan.advance_frontier(at)
        plan.set_weights(new, at=at)
        sources = plan.draws(range(len(plan)))[0]
        assert (sources[:at] == unchanged[:at]).all()
        assert plan.weights_at(at - 1) == pytest.approx(old)
        assert plan.weights_at(at) == pytest.approx(new)
        counts = np.cumsum(np.eye(num, dtype=int)[sources], axis=0)
        for end in range(64, len(plan) + 1, 64):
            target = old * min(end, at) + new * max(0, end - at)
            assert np.abs(counts[end - 1] - target).max() <= 1 + 1e-9


def test_random_changes_keep_the_counts_within_one_of_the_target() -> None:
    for turn in range(30):
        rng = np.random.default_rng(turn)
        num, block_size = int(rng.choice([2, 3, 7, 20, 300])), int(rng.choice([8, 32, 256]))
        weights = rng.dirichlet(np.ones(num))
        plan = MixturePlan.build(weights, None, num_examples=block_size * 50, block_size=block_size)
        targets = np.zeros(num)
        for block in range(50):
            if rng.random() < 0.2:
                weights = weights * np.exp(rng.normal(size=num) * 0.5)
                weights /= weights.sum()
                plan.set_weights(weights, at=block * block_size)
            targets += weights * block_size
            plan.advance_frontier((block + 1) * block_size)
            sources, ranks = plan.draws(range((block + 1) * block_size))
            counts = np.bincount(sources, minlength=num)
            assert np.abs(counts - targets).max() <= 1 + 1e-9
        for source in range(num):
            assert ranks[sources == source].tolist() == list(range(counts[source]))


def test_a_source_of_weight_zero_is_not_drawn_while_it_is_zero() -> None:
    rng = np.random.default_rng(1)
    for _ in range(20):
        plan = MixturePlan.build(rng.dirichlet(np.ones(4)), None, num_examples=3200, block_size=32)
        plan.set_weights([0.0, 0.7, 0.3, 0.0], at=320)
        plan.set_weights([0.4, 0.3, 0.3, 0.0], at=1600)
        sources = plan.draws(range(3200))[0]
        assert not np.isin(sources[320:1600], [0, 3]).any()
        assert not (sources[1600:] == 3).any()
        assert (sources[1600:] == 0).sum() == pytest.approx(640, abs=2)


@pytest.mark.parametrize(
    ("weights", "at", "words"),
    [
        ([0.2, 0.3, 0.5], 100, ["at=100", "multiple of the block size 64", "at=128"]),
        ([0.2, 0.3, 0.5], 576, ["at=576", "frontier 600", "at=640"]),
        ([0.2, 0.3, 0.5], 6400, ["at=6400", "4000"]),
        ([0.2, 0.8], 1280, ["2 weights for 3 sources"]),
        ([0.2, -0.3, 0.5], 1280, ["-0.3", ">= 0"]),
        ([0.0, 0.0, 0.0], 1280, ["one of them > 0"]),
        ([np.nan, 0.0, 1.0], 1280, ["nan", "finite"]),
        ([0.05, 0.75, 0.2], 1280, ["'0'", "0.05", "min_weight=0.1"]),
        ([0.2, 0.2, 0.6], 1280, ["'2'", "epochs", "max_epochs=20", "renormalise"]),
    ],
)
def test_a_change_that_cannot_be_made_leaves_the_plan_as_it_was(
    weights: list[float], at: int, words: list[str]
) -> None:
    plan = new_plan(policies=[SourcePolicy(min_weight=0.1), None, SourcePolicy(max_epochs=20)])
    plan.advance_frontier(600)
    plan.advance_frontier(10)
    before, state = plan.materialise()[0], plan.state_dict()
    with pytest.raises(ValueError) as caught:
        plan.set_weights(weights, at=at)
    assert all(word in str(caught.value) for word in words), caught.value
    assert plan.state_dict() == state
    assert (plan.materialise()[0] == before).all()


def test_many_changes_are_one_decision_for_the_caps() -> None:
    plan = new_plan(policies=[None, None, SourcePolicy(max_epochs=20)])
    with pytest.raises(ValueError, match=r"'2'.*max_epochs=20"):
        plan.set_weights([0.1, 0.1, 0.8], at=640)
    plan.set_schedule([(640, [0.1, 0.1, 0.8]), (1280, [0.5, 0.5, 0.0])])
    assert plan.counts[2] <= 1000


def test_the_state_is_json_and_restores_the_stream() -> None:
    schedule = [Segment(0, (0.5, 0.3, 0.2), "linear"), Segment(900, (0.1, 0.1, 0.8))]
    plan = new_plan(schedule=schedule)
    plan.set_weights([0.1, 0.6, 0.3], at=640)
    state = json.loads(json.dumps(plan.state_dict()))
    resumed = new_plan(schedule=schedule)
    # A plan that has been read, and changed otherwise, takes over the state all the same.
    resumed.materialise()
    resumed.set_weights([0.9, 0.1, 0.0], at=128)
    resumed.load_state_dict(state)
    for ours, theirs in zip(resumed.materialise(), plan.materialise(), strict=True):
        assert (ours == theirs).all()
    assert resumed.segments == plan.segments
    assert resumed.weights_at(320) == pytest.approx(
        [0.5 - 0.4 * 320 / 900, 0.3 - 0.2 * 320 / 900, 0.2 + 0.6 * 320 / 900]
    )
    plan.set_weights([1.0, 0.0, 0.0], at=1280)
    resumed.load_state_dict(plan.state_dict())
    assert (resumed.materialise()[0] == plan.materialise()[0]).all()


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"seed": 4}, ["seed=3", "4"]),
        ({"block_size": 32}, ["block_size=64", "32"]),
        ({"schedule": [Segment(0, (0.2, 0.2, 0.6))]}, ["schedule"]),
    ],
)
def test_a_state_of_another_plan_is_refused(more: dict[str, Any], words: list[str]) -> None:
    other = new_plan(**more)
    with pytest.raises(ValueError) as caught:
        other.load_state_dict(new_plan().state_dict())
    assert all(word in str(caught.value) for word in words), caught.value
    with pytest.raises(ValueError, match="no 'version'"):
        other.load_state_dict({})


def test_a_full_table_is_one_clear_error() -> None:
    plan = MixturePlan.build([0.5, 0.5], None, num_examples=10, block_size=1)
    with pytest.raises(ValueError, match="the most that fit"):
        plan.set_schedule([(5, [0.4, 0.6])] * 1000)
    assert plan.state_dict()["changes"] == []
