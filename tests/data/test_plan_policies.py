"""Caps, floors, order, streams of unknown size, and the dry run."""

from __future__ import annotations

import math

import numpy as np
import pytest

from hf_mixture.data.plan import MixturePlan
from hf_mixture.data.plan_report import plan_report
from hf_mixture.data.schedule import Segment, SourcePolicy


def lognormal(seed: int, sizes: list[int]) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [np.ceil(rng.lognormal(4, 1.5, size)).astype(np.int64) for size in sizes]


@pytest.mark.parametrize("unit", ["examples", "tokens"])
def test_a_cap_that_renormalises_is_reached_exactly_and_the_others_take_over(unit: str) -> None:
    sizes = [100, 3000, 3000]
    lengths = None if unit == "examples" else lognormal(0, sizes)
    policies = [SourcePolicy(max_epochs=2.5, overflow="renormalise"), None, None]
    plan = MixturePlan.build(
        [0.5, 0.3, 0.2], sizes, num_examples=3000, block_size=64, lengths=lengths, policies=policies
    )
    sources, rows = plan.materialise()
    assert len(plan) == len(sources) == 3000
    assert plan.counts[0] == (sources == 0).sum() == 250
    assert np.bincount(rows[sources == 0], minlength=100).max() == 3
    after = int(np.flatnonzero(sources == 0)[-1]) + 1
    after += -after % 64
    mass = np.ones(3000) if lengths is None else np.choose(sources, [values[rows % len(values)] for values in lengths])
    got = [mass[after:][sources[after:] == source].sum() for source in (1, 2)]
    assert got[0] / sum(got) == pytest.approx(0.6, abs=0.002 if lengths is None else 0.02)


def test_no_draw_is_lost_at_a_cap_whatever_the_weights() -> None:
    rng = np.random.default_rng(4)
    for _ in range(40):
        num = int(rng.integers(2, 8))
        sizes = rng.integers(5, 200, num).tolist()
        capped = rng.random(num) < 0.6
        capped[0] = False
        policies = [SourcePolicy(max_epochs=1, overflow="renormalise") if cap else None for cap in capped]
        plan = MixturePlan.build(
            rng.dirichlet(np.ones(num)), sizes, num_examples=30_000, block_size=64, policies=policies
        )
        assert plan.counts[capped].tolist() == np.array(sizes)[capped].tolist()
        assert plan.counts.sum() == 30_000


def test_a_stream_ends_when_every_source_is_at_its_cap() -> None:
    policies = [SourcePolicy(max_epochs=1, overflow="renormalise")] * 2
    plan = MixturePlan.build([0.9, 0.1], [50, 77], num_examples=1000, block_size=16, policies=policies)
    assert len(plan) == 127
    assert plan.counts.tolist() == [50, 77]
    sources, rows = plan.materialise()
    assert sorted(zip(sources.tolist(), rows.tolist(), strict=True)) == [
        (source, row) for source, size in enumerate([50, 77]) for row in range(size)
    ]
    with pytest.raises(IndexError, match="outside"):
        plan.locate([127])


@pytest.mark.parametrize("unit", ["examples", "tokens"])
def test_a_cap_that_stops_ends_the_stream_before_the_first_draw_beyond_it(unit: str) -> None:
    sizes = [100, 3000, 3000]
    lengths = None if unit == "examples" else lognormal(1, sizes)
    policies = [SourcePolicy(max_epochs=2.5, overflow="stop"), None, SourcePolicy(max_epochs=9, overflow="stop")]
    arguments = {"num_examples": 3000, "block_size": 64, "lengths": lengths}
    plan = MixturePlan.build([0.5, 0.3, 0.2], sizes, policies=policies, **arguments)  # type: ignore[arg-type]
    free = MixturePlan.build([0.5, 0.3, 0.2], sizes, **arguments)  # type: ignore[arg-type]
    expected, ranks = free.draws(range(3000))
    end = int(np.flatnonzero((expected == 0) & (ranks == 250))[0])
    assert len(plan) == end
    assert (plan.materialise()[0] == expected[:end]).all()
    assert plan.counts.tolist() == np.bincount(expected[:end], minlength=3).tolist()
    with pytest.raises(IndexError, match="outside"):
        plan.draws([end])
    # Other weights move the end.
    plan.set_weights([0.0, 0.5, 0.5], at=end // 64 * 64)
    assert len(plan) == 3000


def test_a_cap_that_is_an_error_is_refused_when_the_plan_is_built() -> None:
    policies = [SourcePolicy(max_epochs=2), None]
    with pytest.raises(ValueError) as caught:
        MixturePlan.build([0.5, 0.5], [100, 1000], num_examples=500, policies=policies, names=["wiki", "code"])
    words = ["'wiki'", "500 examples", "2.5 epochs", "max_epochs=2", "lower its weight", "'renormalise'"]
    assert all(word in str(caught.value) for word in words), caught.value
    plan = MixturePlan.build([0.5, 0.5], [100, 1000], num_examples=400, policies=policies)
    assert plan.counts.tolist() == [200, 200]


def test_floors_hold_in_every_segment() -> None:
    schedule = [Segment(0, (0.5, 0.5)), Segment(10, (0.95, 0.05))]
    with pytest.raises(ValueError, match=r"0\.05 of source 'code'.*min_weight=0\.1"):
        MixturePlan.build(
            [0.5, 0.5],
            [9, 9],
            num_examples=20,
            schedule=schedule,
            policies=[None, SourcePolicy(min_weight=0.1)],
            names=["wiki", "code"],
        )


@pytest.mark.parametrize(
    ("schedule", "words"),
    [
        ([Segment(5, (0.5, 0.5))], ["begins at 5", "start at 0"]),
        ([Segment(0, (0.5, 0.5)), Segment(0, (0.5, 0.5))], ["not after 0"]),
        ([Segment(0, (0.5, 0.5)), Segment(1.5, (0.5, 0.5))], ["1.5", "whole position"]),
        ([Segment(0, (0.5, 0.2, 0.3))], ["3 weights for 2 sources"]),
    ],
)
def test_schedules_that_make_no_sense(schedule: list[Segment], words: list[str]) -> None:
    with pytest.raises(ValueError) as caught:
        MixturePlan.build([0.5, 0.5], [9, 9], num_examples=20, schedule=schedule)
    assert all(word in str(caught.value) for word in words), caught.value


def test_rows_come_as_they_stand_without_shuffle() -> None:
    plan = MixturePlan.build(
        [0.5, 0.5], [30, 7], num_examples=200, block_size=16, policies=[SourcePolicy(shuffle=False), None]
    )
    sources, rows = plan.materialise()
    assert rows[sources == 0].tolist() == [rank % 30 for rank in range(100)]
    assert rows[sources == 1].tolist() != [rank % 7 for rank in range(100)]


def test_streams_of_unknown_size_and_length() -> None:
    plan = MixturePlan.build([0.5, 0.3, 0.2], None, block_size=64, seed=2)
    sources, ranks = plan.draws([10**6, 3])
    sized = MixturePlan.build([0.5, 0.3, 0.2], [9, 9, 9], num_examples=2 * 10**6, block_size=64, seed=2)
    assert [sources.tolist(), ranks.tolist()] == [part.tolist() for part in sized.draws([10**6, 3])]
    with pytest.raises(ValueError, match=r"without the sizes.*draws"):
        plan.locate([3])
    with pytest.raises(ValueError, match=r"no end.*num_examples"):
        _ = plan.counts
    with pytest.raises(ValueError, match="need the sizes"):
        MixturePlan.build([0.5, 0.5], None, policies=[SourcePolicy(max_epochs=1), None])


def test_a_longer_plan_begins_with_the_shorter_one() -> None:
    rng = np.random.default_rng(0)
    lengths = lognormal(2, [500, 400, 300])
    for arrays in (None, lengths):
        weights = rng.dirichlet(np.ones(3))
        short, long = (
            MixturePlan.build(weights, [500, 400, 300], num_examples=num, block_size=64, lengths=arrays).materialise()
            for num in (1000, 5000)
        )
        # The last block of a plan is shared out as the last, so the whole blocks before it are equal.
        same = 1000 if arrays is not None else 1000 // 64 * 64
        assert (short[0][:same] == long[0][:same]).sum() >= 1000 // 64 * 64
        assert (short[1][: 1000 // 64 * 64] == long[1][: 1000 // 64 * 64]).all()


def test_shares_of_tokens_are_met_under_schedules_and_growth() -> None:
    sizes = [60_000, 50_000, 40_000]
    lengths = lognormal(3, sizes)
    schedule = [Segment(0, (0.5, 0.3, 0.2), "linear"), Segment(40_000, (0.1, 0.1, 0.8))]
    plan = MixturePlan.build([0.5, 0.3, 0.2], sizes, num_examples=120_000, lengths=lengths, schedule=schedule)
    plan.set_weights([0.2, 0.7, 0.1], at=4096 * 20)
    sources, rows = plan.materialise()
    tokens = np.concatenate(lengths)[rows + np.cumsum([0, *sizes[:-1]])[sources]]
    for start, stop, wanted in ((40_960, 81_920, [0.1, 0.1, 0.8]), (81_920, 120_000, [0.2, 0.7, 0.1])):
        got = np.bincount(sources[start:stop], tokens[start:stop])
        assert np.abs(got / got.sum() - wanted).max() <= 0.001
    # In a linear segment the shares of a block are the means of the weights over it.
    for block in range(9):
        got = np.bincount(sources[block * 4096 : (block + 1) * 4096], tokens[block * 4096 : (block + 1) * 4096])
        wanted = [0.5, 0.3, 0.2] + (np.array([0.1, 0.1, 0.8]) - [0.5, 0.3, 0.2]) * (block + 0.5) * 4096 / 40_000
        assert np.abs(got / got.sum() - wanted).max() <= 2 * max(map(max, lengths)) / got.sum()


def test_the_length_under_a_schedule_follows_the_stopping_strategy() -> None:
    rng = np.random.default_rng(9)
    for turn in range(20):
        sizes = rng.integers(20, 200, 3).tolist()
        schedule = [Segment(0, (0.6, 0.3, 0.1), "linear"), Segment(150, (0.2, 0.2, 0.6))]
        lengths = lognormal(turn, sizes) if turn % 2 else None
        arguments = {"lengths": lengths, "schedule": schedule, "block_size": 16}
        first = MixturePlan.build([0.6, 0.3, 0.1], sizes, **arguments)  # type: ignore[arg-type]
        assert (first.counts <= sizes).all()
        every = MixturePlan.build([0.6, 0.3, 0.1], sizes, stopping_strategy="all_exhausted", **arguments)  # type: ignore[arg-type]
        assert (every.counts >= sizes).all()
        assert len(first) < len(every)


def test_the_report_is_the_stream_to_the_row() -> None:
    rng = np.random.default_rng(0)
    sizes = [300, 40, 700]
    for lengths in (None, lognormal(5, sizes)):
        policies = [None, SourcePolicy(max_epochs=3, overflow="renormalise"), None]
        plan = MixturePlan.build(
            rng.dirichlet(np.ones(3) * 5), sizes, num_examples=2000, block_size=64, lengths=lengths, policies=policies
        )
        report = plan_report(plan, ["a", "b", "c"])
        sources, rows = plan.materialise()
        mass = (
            np.ones(2000)
            if lengths is None
            else np.array([lengths[i][row] for i, row in zip(sources, rows, strict=True)])
        )
        for i, source in enumerate(report.sources):
            assert source.draws == (sources == i).sum()
            assert source.epochs == source.draws / sizes[i]
            assert source.share == pytest.approx(mass[sources == i].sum() / mass.sum())
            assert source.wanted == pytest.approx(plan.weights_at(0)[i])
        lines = str(report).splitlines()
        assert lines[0].split() == ["source", "rows", "draws", "share", "wanted", "epochs", "cap"]
        assert lines[2].split()[0] == "b"
        assert lines[2].endswith("3 (renormalise)")
        assert (
            len({line.index(cell) + len(cell) for line, cell in zip(lines, ["rows", "300", "40", "700"], strict=True)})
            == 1
        )
    with pytest.raises(ValueError, match="2 names for the 3 sources"):
        plan_report(plan, ["a", "b"])
    unknown = plan_report(MixturePlan.build([0.5, 0.5], None, num_examples=10))
    assert [(s.rows, s.epochs, s.draws) for s in unknown.sources] == [(None, None, 5)] * 2


def test_fractional_caps_round_down_to_rows() -> None:
    policies = [SourcePolicy(max_epochs=0.3, overflow="renormalise"), None]
    plan = MixturePlan.build([0.5, 0.5], [10, 100], num_examples=60, policies=policies)
    assert plan.counts.tolist() == [3, 57]
    assert math.isclose(plan_report(plan).sources[0].epochs or 0, 0.3)


def test_a_length_that_no_stream_reaches_is_refused_at_once() -> None:
    """Without looking ahead, the plan is followed for 2**31 positions first."""
    ending = {"schedule": [Segment(0, (0.5, 0.5)), Segment(30, (0.0, 1.0))]}
    slow = {"schedule": [Segment(0, (0.5, 0.5)), Segment(30, (1e-9, 1 - 1e-9))]}
    lengths = [np.full(100, 7), np.full(100, 3)]
    later = [Segment(0, (0.5, 0.5)), Segment(30, (0.9, 0.1))]
    half, whole = SourcePolicy(max_epochs=0.5, overflow="renormalise"), SourcePolicy()
    capped = {"schedule": later, "policies": [whole, half]}
    for more in ({}, {"lengths": lengths}):
        with pytest.raises(ValueError, match=r"never ends: .* \['0'\] are not exhausted; pass num_examples"):
            MixturePlan.build([0.5, 0.5], [100, 100], stopping_strategy="all_exhausted", **ending, **more)
        with pytest.raises(ValueError, match=r"gives .*e\+1\d examples, above"):
            MixturePlan.build([0.5, 0.5], [100, 100], stopping_strategy="all_exhausted", **slow, **more)
        with pytest.raises(ValueError, match=r"never ends: .* \['1'\] are not exhausted"):
            MixturePlan.build([0.5, 0.5], [100, 100], stopping_strategy="all_exhausted", **capped, **more)
        assert len(MixturePlan.build([0.5, 0.5], [100, 100], **ending, **more)) > 100
        # Caps that end the stream.
        for policies in ([half, half], [whole, SourcePolicy(max_epochs=0.5, overflow="stop")]):
            arguments = {"schedule": later, "policies": policies, **more}
            plan = MixturePlan.build([0.5, 0.5], [100, 100], stopping_strategy="all_exhausted", **arguments)
            assert plan.counts[1] == 50
    # The first source is exhausted before its weight falls to 0.
    plan = MixturePlan.build([0.5, 0.5], [5, 100], stopping_strategy="all_exhausted", **ending)
    assert plan.counts[1] == 100
