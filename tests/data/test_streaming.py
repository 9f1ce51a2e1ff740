"""What a mixed stream gives: the source and the row at every position, for one reader and for many."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from mixed_streams import MIXTURE, SIZES, TOKENS, WEIGHTS, ids, names, passes, rows_of, streams, union

from hf_mixture.data import Mixture
from hf_mixture.data.plan import MixturePlan
from hf_mixture.data.streaming import MixtureIterableDataset


LAYOUTS = [(1, 0), (1, 2), (2, 0), (2, 2)]


@pytest.mark.parametrize("kind", ["arrow", "generator", "shuffled", "mapped"])
def test_by_examples_it_is_the_plan_over_the_rows_as_they_come(kind: str) -> None:
    plan = MixturePlan.build(MIXTURE.shares, None, seed=3, num_examples=5000)
    sources = streams(kind)
    iterators = [passes(sources[name]) for name in MIXTURE.names]
    expected = [next(iterators[source]) for source in plan.draws(range(5000))[0].tolist()]
    assert ids(MixtureIterableDataset(streams(kind), MIXTURE, num_examples=5000)) == expected


@pytest.mark.parametrize("num_lanes", [1, 4])
def test_by_tokens_rows_come_in_the_order_in_which_they_fall_due(num_lanes: int) -> None:
    lengths = {key: len(tokens) for name in SIZES for key, tokens in zip(*rows_of(name).values(), strict=True)}
    # Weights under which no two sources ever fall due at the same time.
    weights = {"wiki": 0.4862939, "code": 0.2112347, "books": 0.3024714}
    lanes = []
    for lane in range(num_lanes):
        due = []
        for name, weight in weights.items():
            iterator, mass = passes(streams("arrow")[name].shard(num_lanes, lane, contiguous=False)), 0
            for _ in range(2000):
                row = next(iterator)
                due.append(((mass + lengths[row] / 2) / weight, row))
                mass += lengths[row]
        lanes.append([row for _, row in sorted(due, key=lambda pair: pair[0])])
    expected = [lanes[chunk % num_lanes][chunk // num_lanes] for chunk in range(2000)]
    mixture = Mixture(weights, unit="tokens")
    dataset = MixtureIterableDataset(streams("arrow"), mixture, num_examples=2000, num_lanes=num_lanes)
    assert ids(dataset) == expected


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", ["arrow", "one_shard", "mixed"])
def test_the_sources_do_not_depend_on_readers_and_no_row_comes_twice(layout: tuple[int, int], kind: str) -> None:
    plan = MixturePlan.build(MIXTURE.shares, None, seed=3, num_examples=320)
    found = union(*layout, MIXTURE, kind, num_examples=320)
    assert len(found) == 320
    assert names(found) == [MIXTURE.names[source] for source in plan.draws(range(320))[0]]
    # 64 rows of the smallest source, which has 83; by shards, the passes of the lanes come to their ends apart.
    assert max(Counter(found).values()) == 1


@pytest.mark.parametrize("layout", [(2, 0), (2, 2)])
@pytest.mark.parametrize(
    ("mixture", "kind", "num_lanes"),
    [
        (MIXTURE, "one_shard", None),
        (MIXTURE, "map_style", None),
        (MIXTURE, "arrow", 4),
        (TOKENS, "arrow", 4),
        (TOKENS, "mixed", 4),
    ],
)
def test_the_rows_do_not_depend_on_readers(
    layout: tuple[int, int], mixture: Mixture, kind: str, num_lanes: int | None
) -> None:
    alone = union(1, 0, mixture, kind, num_examples=3000, num_lanes=num_lanes)
    assert len(alone) == 3000
    found = union(*layout, mixture, kind, num_examples=3000, num_lanes=num_lanes)
    # Processes end together, with the last batch that all of them have.
    assert found == alone[: len(found)]
    assert len(found) == 3000 // (4 * layout[0]) * 4 * layout[0]


def test_lanes_may_be_more_or_fewer_than_readers_and_share_no_divisor() -> None:
    expected = union(1, 0, MIXTURE, "arrow", num_examples=1200, num_lanes=3)
    assert union(2, 0, MIXTURE, "arrow", num_examples=1200, num_lanes=3) == expected
    assert union(1, 2, TOKENS, "arrow", num_examples=1200, num_lanes=3) == union(
        1, 0, TOKENS, "arrow", num_examples=1200, num_lanes=3
    )


@pytest.mark.parametrize("layout", [(1, 0), (2, 2)])
def test_by_examples_every_source_is_within_a_row_of_its_share_at_block_ends(layout: tuple[int, int]) -> None:
    found = np.array(names(union(*layout, MIXTURE, "arrow", num_examples=3000, block_size=64)))
    for name, weight in WEIGHTS.items():
        counts = np.cumsum(found == name)[63::64]
        assert np.abs(counts - weight * np.arange(64, 64 * len(counts) + 1, 64)).max() <= 1


@pytest.mark.parametrize(("layout", "num_lanes"), [((1, 0), 1), ((1, 2), 2), ((2, 2), 4)])
def test_by_tokens_every_source_is_within_half_a_row_of_its_share_in_every_lane(
    layout: tuple[int, int], num_lanes: int
) -> None:
    lengths = {key: len(tokens) for name in SIZES for key, tokens in zip(*rows_of(name).values(), strict=True)}
    longest = max(lengths.values())
    found = union(*layout, TOKENS, "arrow", num_examples=3000, batch_size=1)
    masses = np.array([[lengths[row] if name == row.split("/")[0] else 0 for row in found] for name in WEIGHTS])
    sums = masses.cumsum(axis=1)
    errors = np.abs(sums - np.array(list(WEIGHTS.values()))[:, None] * sums.sum(axis=0))
    # The total itself is off by the half rows of all sources.
    assert errors.max() <= num_lanes * longest
    assert errors[:, -1].max() <= 0.01 * sums[:, -1].sum()
    counted = np.array([names(found).count(name) for name in WEIGHTS]) / len(found)
    assert np.abs(counted - list(WEIGHTS.values())).max() > 0.03


@pytest.mark.parametrize(
    ("kind", "mixture"),
    [
        ("arrow", TOKENS),
        ("map_style", MIXTURE),
        ("mixed", MIXTURE),
        ("mixed", TOKENS),
        pytest.param("arrow", MIXTURE, marks=pytest.mark.slow),
        pytest.param("map_style", TOKENS, marks=pytest.mark.slow),
    ],
)
def test_a_stream_of_unknown_length_ends_where_its_sources_are_exhausted(mixture: Mixture, kind: str) -> None:
    sources = streams(kind)
    first = ids(MixtureIterableDataset(sources, mixture))
    exhausted = [name for name in SIZES if names(first).count(name) == SIZES[name]]
    assert exhausted
    if mixture.unit == "examples" and kind != "map_style":
        (following,), _ = MixturePlan.build(mixture.shares, None, seed=3).draws([len(first)])
        assert mixture.names[following] in exhausted
    assert max(Counter(first).values()) == 1
    every = ids(MixtureIterableDataset(sources, mixture, stopping_strategy="all_exhausted"))
    assert len(set(every)) == sum(SIZES.values())
    if mixture.unit == "tokens" or kind != "map_style":
        # The last row is the one that was outstanding; where all sizes are known, the plan has a length instead.
        last = every[-1].split("/")[0]
        assert Counter(every)[every[-1]] == 1
        assert len({row for row in every[:-1] if row.startswith(last)}) == SIZES[last] - 1
    for strategy, expected in (("first_exhausted", first), ("all_exhausted", every)):
        assert union(1, 2, mixture, kind, batch_size=1, stopping_strategy=strategy) == expected


def test_known_sizes_decide_the_length_beforehand() -> None:
    dataset = MixtureIterableDataset(streams(), MIXTURE, sizes=SIZES)
    assert len(dataset) == 415  # 83 / 0.2
    assert len(ids(dataset)) == 415
    dataset = MixtureIterableDataset(streams(), MIXTURE, sizes=SIZES, stopping_strategy="all_exhausted")
    found = ids(dataset)
    assert len(found) == len(dataset) == 3334
    assert names(found).count("books") == 1000
    with pytest.raises(TypeError, match="no length; pass num_examples"):
        len(MixtureIterableDataset(streams(), MIXTURE))
    wrong = MixtureIterableDataset(streams(), MIXTURE, sizes={**SIZES, "code": 80}, num_examples=2000)
    with pytest.raises(ValueError, match=r"'code' gave 83 rows in a pass and sizes says 80"):
        list(wrong)


def test_start_at_passes_over_the_rows_before(caplog: pytest.LogCaptureFixture) -> None:
    for mixture in (MIXTURE, TOKENS):
        for kind in ("arrow", "mixed"):
            whole = ids(MixtureIterableDataset(streams(kind), mixture, num_examples=1000, block_size=128, num_lanes=4))
            for start in (1, 128, 777):
                later = MixtureIterableDataset(
                    streams(kind), mixture, num_examples=1000, block_size=128, num_lanes=4, start_at=start
                )
                assert len(later) == 1000 - start
                assert ids(later) == whole[start:]
