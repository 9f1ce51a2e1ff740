from __future__ import annotations

import heapq
from fractions import Fraction

import numpy as np
import pytest

from hf_mixture.data.permutation import permute
from hf_mixture.data.plan import BLOCK_SIZE, MixturePlan


def slow_counts(weights: list[Fraction], num_examples: int, block_size: int) -> list[list[int]]:
    """Counts at the block ends by one draw at a time, in exact arithmetic.

    Draw j of source i may be taken from position (j - 1) / w_i on and is due at j / w_i; each block takes, of the
    draws that may be taken by its end, those that are due first. The last block takes the largest remainders.
    """
    drawn = [0] * len(weights)
    result = [drawn[:]]
    ends = [*range(block_size, num_examples, block_size), num_examples]
    for end in ends:
        owed = [max(0, int(end * w) - count) for w, count in zip(weights, drawn, strict=True)]
        queue: list[tuple[Fraction, int]] = []
        for i, w in enumerate(weights):
            drawn[i] += owed[i]
            if w > 0 and drawn[i] / w < end:
                heapq.heappush(
                    queue, (Fraction(int(end * w)) - end * w if end == num_examples else (drawn[i] + 1) / w, i)
                )
        for _ in range(end - sum(drawn)):
            drawn[heapq.heappop(queue)[1]] += 1
        result.append(drawn[:])
    return result


def prefix_counts(shares: np.ndarray, length: int, block_size: int) -> np.ndarray:
    """Draws of each source before each block of a plan, and at its end."""
    plan = MixturePlan.build(shares, None, num_examples=length, block_size=block_size)
    plan._ledger.extend_to_end()
    return plan._ledger.prefix[: plan._ledger.num_blocks + 1]


def slow_lengths(shares: list[float], rows: list[list[int]], num_examples: int) -> list[int]:
    """Source at each position when the next draw is always the one whose middle is due first."""
    mass = [0.0] * len(shares)
    draws = [0] * len(shares)
    order = []
    for _ in range(num_examples):
        due = {i: (mass[i] + rows[i][draws[i]] / 2) / share for i, share in enumerate(shares) if share > 0}
        first = min(due, key=lambda i: (due[i], i))
        mass[first] += rows[first][draws[first]]
        draws[first] += 1
        order.append(first)
    return order


def random_shares(rng: np.random.Generator, num: int) -> np.ndarray:
    weights = rng.dirichlet(np.full(num, 10.0 ** rng.uniform(-2, 1))) + 1e-15
    tiny = rng.random(num) < 0.3
    if num > 1 and not tiny.all():
        weights[tiny] = 1e-6 * weights[~tiny].sum()
    return weights / weights.sum()


@pytest.mark.parametrize("num", [1, 2, 20, 300])
@pytest.mark.parametrize("block_size", [1, 7, 256, BLOCK_SIZE])
def test_counts_stay_within_one_of_the_share_at_every_block_end(num: int, block_size: int) -> None:
    rng = np.random.default_rng([num, block_size])
    for _ in range(5):
        shares = random_shares(rng, num)
        length = min(300 * block_size, 100_000) + int(rng.integers(block_size))
        prefix = prefix_counts(shares, length, block_size)
        ends = np.array([0, *range(block_size, length, block_size), length])
        assert (np.diff(prefix, axis=0) >= 0).all()
        assert (prefix.sum(axis=1) == ends).all()
        assert np.abs(prefix - ends[:, None] * shares).max() <= 1


def test_tiny_shares_are_drawn_once_in_a_million_and_never_owed_back() -> None:
    shares = np.array([1 - 299e-6, *[1e-6] * 299])
    prefix = prefix_counts(shares, 2_000_000, BLOCK_SIZE)
    assert (np.diff(prefix, axis=0) >= 0).all()
    assert (prefix[-1][1:] == 2).all()
    halfway = np.abs(prefix.sum(axis=1) - 1_000_000).argmin()
    assert set(prefix[halfway][1:].tolist()) <= {0, 1}


@pytest.mark.parametrize("block_size", [1, 2, 5, 16])
def test_counts_equal_the_slow_twin(block_size: int) -> None:
    rng = np.random.default_rng(block_size)
    for _ in range(40):
        parts = rng.integers(0, 12, int(rng.integers(1, 8)))
        parts[0] += 1
        exact = [Fraction(int(part), int(parts.sum())) for part in parts]
        length = int(rng.integers(1, 150))
        fast = prefix_counts(parts / parts.sum(), length, block_size)
        for row, slow in zip(fast.tolist(), slow_counts(exact, length, block_size), strict=True):
            # Ties may fall either way in floating point; the bound decides.
            end = sum(row)
            assert end == sum(slow)
            assert all(abs(count - end * w) <= 1 for count, w in zip(row, exact, strict=True))
            assert all(abs(count - end * w) <= 1 for count, w in zip(slow, exact, strict=True))


def test_counts_equal_the_slow_twin_exactly_without_ties() -> None:
    rng = np.random.default_rng(5)
    for _ in range(40):
        # Large coprime-like parts: no two due dates coincide, so nothing is left to rounding.
        parts = rng.integers(10**5, 10**6, int(rng.integers(2, 9)))
        exact = [Fraction(int(part), int(parts.sum())) for part in parts]
        fast = prefix_counts(parts / parts.sum(), 997, 31)
        assert fast.tolist() == slow_counts(exact, 997, 31)


def test_one_block_is_the_largest_remainder_split() -> None:
    rng = np.random.default_rng(3)
    for _ in range(100):
        shares = random_shares(rng, int(rng.integers(1, 30)))
        length = int(rng.integers(1, BLOCK_SIZE))
        target = length * shares
        expected = np.floor(target).astype(int)
        for i in np.argsort(expected - target, kind="stable")[: length - expected.sum()]:
            expected[i] += 1
        assert prefix_counts(shares, length, BLOCK_SIZE)[-1].tolist() == expected.tolist()


def test_any_position_alone_equals_the_whole_stream() -> None:
    rng = np.random.default_rng(0)
    lengths = [rng.integers(1, 50, size) for size in (900, 40, 3, 1)]
    for arrays in (None, lengths):
        plan = MixturePlan.build([0.6, 0.3, 0.05, 0.05], [900, 40, 3, 1], num_examples=10_000, lengths=arrays, seed=7)
        sources, rows = plan.materialise()
        assert len(plan) == len(sources) == 10_000
        where = rng.permutation(10_000)[:500]
        found_sources, found_rows = plan.locate(where)
        assert (found_sources == sources[where]).all()
        assert (found_rows == rows[where]).all()
        assert all(
            (part == whole).all() for part, whole in zip(plan.locate(range(10_000)), (sources, rows), strict=True)
        )
        assert (np.bincount(sources, minlength=4) == plan.counts).all()
        for i, size in enumerate(plan.sizes):
            drawn = rows[sources == i]
            for epoch in range(0, len(drawn) - size + 1, size):
                assert (np.sort(drawn[epoch : epoch + size]) == np.arange(size)).all()
        empty = plan.locate([])
        assert len(empty[0]) == len(empty[1]) == 0
        with pytest.raises(IndexError, match="outside"):
            plan.locate([10_000])
        with pytest.raises(IndexError, match="outside"):
            plan.locate([-1])


def test_the_order_is_mixed_all_along() -> None:
    plan = MixturePlan.build([0.5, 0.5], [10**6, 10**6], num_examples=8 * BLOCK_SIZE)
    sources, _ = plan.materialise()
    blocks = sources.reshape(8, BLOCK_SIZE)
    assert (blocks.sum(axis=1) == BLOCK_SIZE // 2).all()
    # Blocks differ, and half of each half block is the second source within 5 standard deviations.
    assert len({block.tobytes() for block in blocks}) == 8
    halves = blocks[:, : BLOCK_SIZE // 2].sum(axis=1)
    assert np.abs(halves - BLOCK_SIZE / 4).max() < 5 * np.sqrt(BLOCK_SIZE) / 4


def test_golden_values() -> None:
    """The order is part of the format: the same mixture and seed give it on every machine and in every version."""
    plan = MixturePlan.build([0.5, 0.3, 0.2], [10, 7, 1000], num_examples=20, seed=11)
    sources, rows = plan.materialise()
    assert sources.tolist() == GOLDEN_SOURCES
    assert rows.tolist() == GOLDEN_ROWS


GOLDEN_SOURCES = [0, 2, 0, 0, 1, 1, 2, 1, 0, 2, 1, 1, 0, 1, 0, 0, 2, 0, 0, 0]
GOLDEN_ROWS = [6, 223, 1, 0, 1, 2, 339, 4, 3, 171, 5, 3, 5, 6, 8, 4, 608, 2, 9, 7]


def test_shares_in_tokens_equal_the_slow_twin() -> None:
    rng = np.random.default_rng(2)
    for _ in range(20):
        sizes = rng.integers(1, 30, 3).tolist()
        lengths = [rng.integers(1, 60, size) for size in sizes]
        shares = rng.dirichlet([1, 1, 1])
        plan = MixturePlan.build(shares, sizes, num_examples=200, lengths=lengths, block_size=1, seed=4)
        in_order = [
            lengths[i][permute(np.arange(200 * size), size, seed=4, source=i)].tolist() for i, size in enumerate(sizes)
        ]
        assert plan.materialise()[0].tolist() == slow_lengths(shares.tolist(), in_order, 200)


@pytest.mark.parametrize("stopping_strategy", ["first_exhausted", "all_exhausted", None])
def test_token_shares_are_met_where_row_shares_are_far_off(stopping_strategy: str | None) -> None:
    rng = np.random.default_rng(1)
    sizes = [120_000, 60_000, 60_000]
    # Lengths that differ within and between the sources.
    lengths = [
        np.ceil(rng.lognormal(mean, 1.5, size)).astype(int) for mean, size in zip((4, 5, 6), sizes, strict=True)
    ]
    shares = np.array([0.5, 0.3, 0.2])
    length = {"num_examples": 300_000} if stopping_strategy is None else {"stopping_strategy": stopping_strategy}
    plan = MixturePlan.build(shares, sizes, lengths=lengths, **length)  # type: ignore[arg-type]
    sources, rows = plan.materialise()
    tokens = np.concatenate(lengths)[rows + np.cumsum([0, *sizes[:-1]])[sources]]
    for end in (len(plan) // 2 // BLOCK_SIZE * BLOCK_SIZE, len(plan)):
        got = np.bincount(sources[:end], tokens[:end])
        assert np.abs(got / got.sum() - shares).max() <= 0.001
    by_rows, rows = MixturePlan.build(shares, sizes, num_examples=100_000).materialise()
    got = np.bincount(by_rows, np.concatenate(lengths)[rows + np.cumsum([0, *sizes[:-1]])[by_rows]])
    assert np.abs(got / got.sum() - shares).max() > 0.1


def test_equal_lengths_are_rows() -> None:
    shares, sizes = [0.5, 0.3, 0.2], [5000, 5000, 5000]
    lengths = [np.full(5000, 128)] * 3
    by_length = MixturePlan.build(shares, sizes, lengths=lengths, num_examples=10_000)
    assert by_length.counts.tolist() == [5000, 3000, 2000]


@pytest.mark.parametrize("unit", ["examples", "tokens"])
def test_stopping_strategies(unit: str) -> None:
    rng = np.random.default_rng(6)
    for _ in range(50):
        sizes = rng.integers(1, 400, 3).tolist()
        shares = rng.dirichlet([2, 2, 2])
        lengths = None if unit == "examples" else [rng.integers(1, 9, size) for size in sizes]
        first = MixturePlan.build(shares, sizes, lengths=lengths)
        assert (first.counts <= sizes).all()
        assert (sizes - first.counts).min() <= (1 if unit == "examples" else 0)
        every = MixturePlan.build(shares, sizes, lengths=lengths, stopping_strategy="all_exhausted")
        assert (every.counts >= sizes).all()
        assert (every.counts - sizes).min() <= 1


def test_round_quotients_lose_no_row() -> None:
    # 3 / 0.1 and 0.7 * 10 are not exact in floating point.
    assert MixturePlan.build([0.1, 0.9], [3, 10**6]).counts.tolist() == [3, 27]
    assert MixturePlan.build([0.7, 0.3], [7, 10**6]).counts.tolist() == [7, 3]
    assert MixturePlan.build([0.1, 0.9], [3, 27], stopping_strategy="all_exhausted").counts.tolist() == [3, 27]
    tokens = [np.full(3, 10), np.full(27, 10)]
    assert MixturePlan.build([0.1, 0.9], [3, 27], lengths=tokens).counts.tolist() == [3, 27]


def test_sources_of_weight_zero_are_never_drawn() -> None:
    plan = MixturePlan.build([0.0, 1.0, 0.0], [0, 10, 5], stopping_strategy="all_exhausted")
    assert plan.counts.tolist() == [0, 10, 0]
    plan = MixturePlan.build([0.0, 1.0], [0, 10], lengths=[None, np.ones(10, int)], num_examples=25)
    assert plan.counts.tolist() == [0, 25]


def test_lengths_of_the_stream_that_make_no_sense() -> None:
    with pytest.raises(ValueError, match=r"above 2147483648.*num_examples"):
        MixturePlan.build([1 - 1e-9, 1e-9], [10, 100], stopping_strategy="all_exhausted")
    with pytest.raises(ValueError, match="empty stream"):
        MixturePlan.build([0.5, 0.5], [0, 10])


def test_rows_without_tokens_do_not_stop_a_plan() -> None:
    lengths = [np.array([0, 0, 5, 0]), np.array([3, 0])]
    plan = MixturePlan.build([0.5, 0.5], [4, 2], lengths=lengths, num_examples=50)
    sources, rows = plan.materialise()
    got = [int(lengths[i][rows[sources == i]].sum()) for i in range(2)]
    assert abs(got[0] - got[1]) <= 5
