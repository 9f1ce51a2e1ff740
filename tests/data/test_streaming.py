"""What a mixed stream gives: the source and the row at every position, for one reader and for many."""

from __future__ import annotations

import functools
import json
import logging
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from datasets import Dataset, IterableDataset, interleave_datasets
from torch.utils.data import DataLoader

from hf_mixture.data import Mixture
from hf_mixture.data.plan import MixturePlan
from hf_mixture.data.schedule import SourcePolicy
from hf_mixture.data.streaming import MixtureIterableDataset


SIZES = {"wiki": 500, "code": 83, "books": 1000}
WEIGHTS = {"wiki": 0.5, "code": 0.2, "books": 0.3}
MIXTURE = Mixture(WEIGHTS, unit="examples", seed=3)
TOKENS = Mixture(WEIGHTS, unit="tokens", seed=3)
LAYOUTS = [(1, 0), (1, 2), (2, 0), (2, 2)]


@functools.cache
def rows_of(name: str) -> dict[str, list[Any]]:
    rng = np.random.default_rng(len(name))
    lengths = np.minimum(rng.lognormal(1.0 if name == "wiki" else 2.0, 1.5, SIZES[name]) + 1, 200).astype(int)
    return {
        "id": [f"{name}/{i}" for i in range(SIZES[name])],
        "input_ids": [[0] * length for length in lengths.tolist()],
    }


def rows_from_shards(name: str, shards: list[int]) -> Iterator[dict[str, Any]]:
    columns = rows_of(name)
    for shard in shards:
        for i in range(shard, SIZES[name], 4):
            yield {key: values[i] for key, values in columns.items()}


@functools.cache
def table(name: str) -> Dataset:
    return Dataset.from_dict(rows_of(name))


def streams(kind: str = "arrow") -> dict[str, Any]:
    tables = {name: table(name) for name in SIZES}
    if kind == "map_style":
        return tables
    if kind == "generator":
        return {
            name: IterableDataset.from_generator(rows_from_shards, gen_kwargs={"name": name, "shards": list(range(4))})
            for name in SIZES
        }
    sharded = {
        name: table.to_iterable_dataset(num_shards=1 if kind == "one_shard" else 4) for name, table in tables.items()
    }
    if kind == "shuffled":
        return {name: stream.shuffle(seed=1, buffer_size=50) for name, stream in sharded.items()}
    if kind == "mixed":
        return {"wiki": tables["wiki"], "code": streams("one_shard")["code"], "books": streams("shuffled")["books"]}
    if kind == "mapped":
        return {name: stream.map(twice, batched=True, batch_size=7) for name, stream in sharded.items()}
    return sharded


def twice(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
    return {key: [value for value in values for _ in range(2)] for key, values in batch.items()}


def ids(rows: Any) -> list[str]:
    return [row["id"] for row in rows]


def names(found: list[str]) -> list[str]:
    return [row.split("/")[0] for row in found]


def union(
    world_size: int, num_workers: int, mixture: Mixture, kind: str, batch_size: int = 4, **kwargs: Any
) -> list[str]:
    """The rows that all processes get, in the order of their positions: batch k of process r is number k W + r."""
    batches = []
    for rank in range(world_size):
        dataset = MixtureIterableDataset(streams(kind), mixture, batch_size=batch_size, **kwargs)
        dataset.set_layout(rank=rank, world_size=world_size)
        batches.append(list(DataLoader(dataset, batch_size=batch_size, num_workers=num_workers, collate_fn=ids)))
    assert len({len(own) for own in batches}) == 1
    return [row for turn in zip(*batches, strict=True) for batch in turn for row in batch]


def passes(source: Any, stride: int = 1, offset: int = 0) -> Iterator[str]:
    """The rows of a stream, pass after pass; of each pass, one row in `stride`."""
    for epoch in range(10**6):
        source.set_epoch(epoch)
        yield from ids(source)[offset::stride]


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


def test_each_pass_has_an_order_of_its_own_unless_the_policy_says_otherwise() -> None:
    for kind in ("shuffled", "map_style"):
        sources = streams(kind)
        for shuffle in (True, False):
            mixture = Mixture(
                {"wiki": 0.0, "code": 1.0, "books": 0.0},
                unit="examples",
                policies={"code": SourcePolicy(shuffle=shuffle)},
            )
            found = ids(MixtureIterableDataset(sources, mixture, num_examples=249))
            parts = [found[:83], found[83:166], found[166:]]
            assert all(set(part) == set(found) and len(set(part)) == 83 for part in parts)
            assert len(set(map(tuple, parts))) == (3 if shuffle else 1)


def test_set_epoch_gives_other_orders_also_to_workers_that_live_on() -> None:
    dataset = MixtureIterableDataset(streams("shuffled"), MIXTURE, num_examples=400)
    loader = DataLoader(
        dataset, batch_size=None, num_workers=1, persistent_workers=True, collate_fn=lambda row: row["id"]
    )
    first, again = list(loader), list(loader)
    dataset.set_epoch(1)
    other = list(loader)
    assert first == again != other
    assert names(first) == names(other)
    sources = streams("shuffled")
    iterators = {name: passes(sources[name]) for name in SIZES}
    for iterator, name in zip(iterators.values(), SIZES, strict=True):
        for _ in range(SIZES[name]):
            next(iterator)
    # Epoch 1 of the mixture begins with epoch 1 of its sources.
    assert other == [next(iterators[name]) for name in names(other)]


def never() -> Iterator[dict[str, Any]]:
    raise RuntimeError("a source of weight 0 was opened")
    yield


def test_a_source_of_weight_zero_is_never_opened() -> None:
    sources = {**streams(), "code": IterableDataset.from_generator(never)}
    for unit in ("examples", "tokens"):
        mixture = Mixture({"wiki": 0.5, "code": 0.0, "books": 0.5}, unit=unit)
        assert set(names(ids(MixtureIterableDataset(sources, mixture, num_examples=50)))) == {"wiki", "books"}
        assert set(names(ids(MixtureIterableDataset(sources, mixture)))) == {"wiki", "books"}
    mixture = Mixture(WEIGHTS, unit="examples")
    with pytest.raises(RuntimeError, match="was opened"):
        list(MixtureIterableDataset(sources, mixture, num_examples=50))


def test_an_empty_stream_is_an_error_that_names_it() -> None:
    sources = {**streams(), "code": streams()["code"].filter(lambda row: False)}
    for unit in ("examples", "tokens"):
        for arguments in ({"num_examples": 50}, {"stopping_strategy": "all_exhausted"}):
            with pytest.raises(ValueError, match=r"source 'code' gives no rows; a drawn source must have rows"):
                list(MixtureIterableDataset(sources, Mixture(WEIGHTS, unit=unit), **arguments))


def test_caps_hold_where_sizes_are_known() -> None:
    policies = {"code": SourcePolicy(max_epochs=2, overflow="renormalise")}
    mixture = Mixture(WEIGHTS, unit="examples", policies=policies)
    sources = {**streams(), "wiki": streams("map_style")["wiki"]}
    found = ids(MixtureIterableDataset(sources, mixture, sizes={"code": 83}, num_examples=3000))
    assert names(found).count("code") == 166
    # 830 positions to the cap, and 5 to 3 for the two others from there on.
    assert abs(names(found).count("wiki") - (830 * 0.5 + 2170 * 5 / 8)) <= 2
    stopped = Mixture(WEIGHTS, unit="examples", policies={"code": SourcePolicy(max_epochs=2, overflow="stop")})
    dataset = MixtureIterableDataset(sources, stopped, sizes={"code": 83}, num_examples=3000)
    found = ids(dataset)
    assert len(found) == len(dataset) < 3000
    assert names(found).count("code") == 166


def test_schedules() -> None:
    later = {"wiki": 0.0, "code": 0.2, "books": 0.8}
    for unit, mixture_unit in (("examples", "examples"), ("fraction", "examples"), ("examples", "tokens")):
        starts = (0, 1024) if unit == "examples" else (0, 0.5)
        schedule = [(starts[0], WEIGHTS), (starts[1], later)]
        mixture = Mixture(WEIGHTS, unit=mixture_unit, schedule=schedule, schedule_unit=unit)
        found = names(ids(MixtureIterableDataset(streams(), mixture, num_examples=2048, block_size=512)))
        assert "wiki" in found[:1024]
        assert "wiki" not in found[1024:]
        if mixture_unit == "examples":
            assert abs(found[1024:].count("books") - 1024 * 0.8) <= 2
    linear = Mixture(
        WEIGHTS, unit="examples", schedule=[(0, WEIGHTS, "linear"), (2048, later)], schedule_unit="examples"
    )
    found = names(ids(MixtureIterableDataset(streams(), linear, num_examples=2048)))
    assert abs(found.count("wiki") - 2048 * 0.25) <= 2


@pytest.mark.parametrize("mixture", [MIXTURE, TOKENS])
@pytest.mark.parametrize("context", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_weights_change_at_the_position_also_in_workers_that_live_on(mixture: Mixture, context: str) -> None:
    dataset = MixtureIterableDataset(streams(), mixture, num_examples=512, block_size=32)
    loader = DataLoader(
        dataset,
        batch_size=8,
        num_workers=2,
        prefetch_factor=1,
        persistent_workers=True,
        multiprocessing_context=context,
        collate_fn=ids,
    )
    batches = []
    for number, batch in enumerate(loader):
        if number == 10:
            dataset.set_weights({"wiki": 0.0, "code": 0.0, "books": 1.0}, at=256)
            with pytest.raises(ValueError, match=r"at=32 lies before the frontier"):
                dataset.set_weights(WEIGHTS, at=32)
        batches.append(batch)
    whole = MixtureIterableDataset(streams(), mixture, num_examples=512, block_size=32)
    whole.set_weights({"wiki": 0, "code": 0, "books": 1}, at=256)
    assert whole.weights_at(255) == WEIGHTS
    assert whole.weights_at(256) == {"wiki": 0.0, "code": 0.0, "books": 1.0}
    by_position = [batches[2 * turn + worker][i] for turn in range(32) for i in range(8) for worker in range(2)]
    assert set(names(by_position[256:])) == {"books"}
    assert "wiki" in names(by_position[200:256])
    if mixture is MIXTURE:
        assert names(by_position) == names(ids(whole))


def test_a_change_behind_a_reader_stops_it() -> None:
    dataset = MixtureIterableDataset(streams(), MIXTURE, num_examples=512, block_size=32)
    rows = iter(dataset)
    for _ in range(100):
        next(rows)
    # The change of another process, whose frontier is another one.
    other = MixtureIterableDataset(streams(), MIXTURE, num_examples=512, block_size=32)
    other.set_weights(WEIGHTS | {"wiki": 0.6, "code": 0.1}, at=64)
    dataset.plan.load_state_dict(other.plan.state_dict())
    with pytest.raises(RuntimeError, match="before 128 were changed after"):
        list(rows)


def test_columns_that_a_source_lacks_are_none_and_the_domain_is_told() -> None:
    sources = {**streams(), "code": streams()["code"].remove_columns("input_ids")}
    dataset = MixtureIterableDataset(sources, MIXTURE, num_examples=200, provenance_column="domain")
    stock = interleave_datasets([sources[name] for name in SIZES])
    for row in dataset:
        assert set(row) == {*stock.column_names, "domain"}
        assert row["domain"] == row["id"].split("/")[0]
        assert (row["input_ids"] is None) == (row["domain"] == "code")


@pytest.mark.parametrize("format", ["torch", "numpy"])
def test_formats_of_tensors_pass_through(format: str) -> None:
    plain = MixtureIterableDataset(streams(), TOKENS, num_examples=100)
    sources = {name: stream.with_format(format) for name, stream in streams().items()}
    for expected, row in zip(plain, MixtureIterableDataset(sources, TOKENS, num_examples=100), strict=True):
        assert type(row["input_ids"]) is type(next(iter(sources["wiki"]))["input_ids"])
        assert {**row, "input_ids": row["input_ids"].tolist()} == expected
    tables = {name: stream.with_format("arrow") for name, stream in streams().items()}
    with pytest.raises(ValueError, match=r"formatted as Table; a mixture gives rows"):
        next(iter(MixtureIterableDataset(tables, MIXTURE, num_examples=100)))


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


def test_a_stream_that_every_reader_reads_is_named(caplog: pytest.LogCaptureFixture) -> None:
    dataset = MixtureIterableDataset(streams("mixed"), MIXTURE, num_examples=100)
    dataset.set_layout(rank=0, world_size=2)
    with caplog.at_level(logging.WARNING, logger="hf_mixture"):
        list(dataset)
    assert "Each of the 2 readers reads all rows of ['code'] and keeps its own" in caplog.text
    caplog.clear()
    dataset = MixtureIterableDataset(streams(), MIXTURE, num_examples=100)
    dataset.set_layout(rank=0, world_size=2)
    with caplog.at_level(logging.WARNING, logger="hf_mixture"):
        list(dataset)
    assert not caplog.records


def test_a_source_may_be_used_elsewhere_at_the_same_time() -> None:
    sources = streams()
    expected = ids(MixtureIterableDataset(streams(), MIXTURE, num_examples=300))
    same = MixtureIterableDataset({**sources, "code": sources["wiki"]}, MIXTURE, num_examples=300)
    outside = iter(sources["wiki"])
    found = []
    for row in MixtureIterableDataset(sources, MIXTURE, num_examples=300):
        next(outside)
        found.append(row["id"])
    assert found == expected
    assert [row for row, name in zip(ids(same), names(expected), strict=True) if name == "wiki"] == [
        row for row in expected if row.startswith("wiki")
    ]
    assert sources["wiki"].epoch == 0


def test_more_sources_than_a_byte_counts() -> None:
    num = 300
    sources = {f"s{i}": Dataset.from_dict({"id": [f"s{i}/0", f"s{i}/1"]}).to_iterable_dataset() for i in range(num)}
    mixture = Mixture.uniform(sources, unit="examples")
    found = ids(MixtureIterableDataset(sources, mixture, sizes=dict.fromkeys(sources, 2)))
    assert Counter(found) == Counter(f"s{i}/{row}" for i in range(num) for row in range(2))
    json.dumps(MixtureIterableDataset(sources, mixture, num_examples=1).state_dict())
