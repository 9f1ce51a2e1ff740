"""Loads that are drawn or recorded."""

from __future__ import annotations

import itertools

import numpy as np

from hf_mixture.moe.parallel.simulate.loads import draw_tokens, traced_popularity, zipf_popularity
from hf_mixture.moe.trace.trace import RouterTrace, TracedRouter


def zipf(**options):
    return zipf_popularity(32, exponent=1.2, num_layers=3, seed=0, **options)


def test_popularity_is_zipf_at_all_times():
    expected = np.array([1 / rank**1.2 for rank in range(1, 33)])
    expected /= expected.sum()
    shares = list(itertools.islice(zipf(drift=5.0), 30))
    for step in shares:
        np.testing.assert_allclose(-np.sort(-step, axis=1), np.tile(expected, (3, 1)))
    assert not np.array_equal(shares[0][0], shares[0][1])
    assert not np.array_equal(shares[0], shares[-1])


def test_drift_is_slow_or_none():
    still = list(itertools.islice(zipf(drift=float("inf")), 20))
    assert all(np.array_equal(still[0], step) for step in still)

    def change(drift):
        steps = list(itertools.islice(zipf(drift=drift), 101))
        return np.mean([np.abs(a - b).sum() for a, b in itertools.pairwise(steps)])

    assert change(10.0) > 2 * change(1000.0) > 0


def test_every_device_draws_as_many_tokens():
    drawn = list(itertools.islice(draw_tokens(zipf(drift=9.0), num_devices=4, num_choices=100, seed=1), 3))
    assert all(step.shape == (3, 4, 32) and (step.sum(axis=2) == 100).all() for step in drawn)
    again = list(itertools.islice(draw_tokens(zipf(drift=9.0), num_devices=4, num_choices=100, seed=1), 3))
    assert all(np.array_equal(*pair) for pair in zip(drawn, again, strict=True))


def test_shares_of_a_trace():
    routers = tuple(TracedRouter(f"layers.{index}", index, index, 4, 2) for index in range(3))
    rank_counts = tuple(np.array([[[1, 3, 0, 0], [0, 0, 0, 0]]]) * (index + 1) for index in range(3))
    counts = tuple(of_ranks.sum(axis=1) for of_ranks in rank_counts)
    facts = {"routers": routers, "steps": np.array([7]), "tokens": np.ones((1, 3)), "unrouted": np.zeros((1, 3))}
    joint = RouterTrace(counts=counts, **facts)
    [shares] = traced_popularity(joint, num_devices=4, num_layers=2)
    assert shares.tolist() == np.tile([0.25, 0.75, 0, 0], (2, 4, 1)).tolist()
    apart = RouterTrace(counts=counts, rank_counts=(np.array([[[1, 3, 0, 0], [0, 0, 2, 2]]]),) * 3, **facts)
    [shares] = traced_popularity(apart, num_devices=4, num_layers=1)
    assert shares[0].tolist() == [[0.25, 0.75, 0, 0]] * 2 + [[0, 0, 0.5, 0.5]] * 2
    # A process without tokens routes like all.
    [shares] = traced_popularity(
        RouterTrace(counts=counts, rank_counts=rank_counts, **facts), num_devices=2, num_layers=1
    )
    assert shares[0].tolist() == [[0.25, 0.75, 0, 0]] * 2
