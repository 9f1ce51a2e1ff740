"""A mixed stream goes on exactly where it was, in this process and in the workers of a loader."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest
from datasets import Dataset, IterableDataset, interleave_datasets
from torch.utils.data import DataLoader, get_worker_info
from torch.utils.data import IterableDataset as TorchIterableDataset

from hf_mixture.data import Mixture
from hf_mixture.data.streaming import MixtureIterableDataset


SIZES = {"wiki": 700, "code": 90, "books": 1000}
WEIGHTS = {"wiki": 0.5, "code": 0.2, "books": 0.3}
CUTS = [0, 1, 17, 999, 1000, 1001, 2500]


def rows_from_shards(name: str, shards: list[int]) -> Iterator[dict[str, Any]]:
    for shard in shards:
        for i in range(shard, SIZES[name], 4):
            yield {"id": f"{name}/{i}", "input_ids": [0] * (1 + i * i % 23)}


def streams(kind: str) -> dict[str, Any]:
    tables = {
        name: Dataset.from_dict(
            {"id": [f"{name}/{i}" for i in range(size)], "input_ids": [[0] * (1 + i * i % 23) for i in range(size)]}
        )
        for name, size in SIZES.items()
    }
    arrow = {name: table.to_iterable_dataset(num_shards=4) for name, table in tables.items()}
    if kind == "generator":
        return {
            name: IterableDataset.from_generator(rows_from_shards, gen_kwargs={"name": name, "shards": list(range(4))})
            for name in SIZES
        }
    if kind == "shuffled":
        return {name: stream.shuffle(seed=1, buffer_size=64) for name, stream in arrow.items()}
    if kind == "mapped":
        return {name: stream.map(double, batched=True, batch_size=7) for name, stream in arrow.items()}
    if kind == "nested":
        parts = [arrow["wiki"], arrow["books"].filter(keep)]
        return {**arrow, "wiki": interleave_datasets(parts, [0.3, 0.7], seed=5, stopping_strategy="all_exhausted")}
    if kind == "mixed":
        return {"wiki": tables["wiki"], "code": streams("shuffled")["code"], "books": arrow["books"]}
    return tables if kind == "map_style" else arrow


def double(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
    return {key: [value for value in values for _ in range(2)] for key, values in batch.items()}


def keep(row: dict[str, Any]) -> bool:
    return len(row["input_ids"]) % 3 > 0


def ids(rows: list[dict[str, Any]]) -> list[str]:
    return [row["id"] for row in rows]


def dataset_of(kind: str, unit: Any = "examples", **kwargs: Any) -> MixtureIterableDataset:
    return MixtureIterableDataset(streams(kind), Mixture(WEIGHTS, unit=unit, seed=7), **kwargs)


KINDS = ["arrow", "generator", "shuffled", "mapped", "nested", "map_style", "mixed"]


@pytest.mark.parametrize(
    ("kind", "unit", "length"),
    [
        *((kind, unit, 3000) for kind in KINDS for unit in ("examples", "tokens")),
        *(
            pytest.param(kind, unit, None, marks=[] if kind in ("shuffled", "mixed") else pytest.mark.slow)
            for kind in KINDS
            for unit in ("examples", "bytes")
        ),
    ],
)
def test_it_goes_on_at_any_cut(kind: str, unit: str, length: int | None) -> None:
    kwargs: dict[str, Any] = {"num_examples": length, "length_column": "id" if unit == "bytes" else None}
    if length is None:
        kwargs["stopping_strategy"] = "all_exhausted"
    dataset, states = dataset_of(kind, unit, **kwargs), {0: ""}
    states[0] = json.dumps(dataset.state_dict())
    expected = []
    for row in dataset:
        expected.append(row["id"])
        if len(expected) in CUTS:
            states[len(expected)] = json.dumps(dataset.state_dict())
    assert len(states) == len(CUTS)
    end = json.dumps(dataset.state_dict())
    for cut, state in states.items():
        resumed = dataset_of(kind, unit, **kwargs)
        resumed.load_state_dict(json.loads(state))
        # A state that was loaded and not used yet is stored unchanged.
        assert json.dumps(resumed.state_dict()) == state
        # From the last cut to the end, from the others far enough for every source to go into its next shard.
        ahead = len(expected) if cut == CUTS[-1] else 300
        assert [row["id"] for _, row in zip(range(ahead), resumed, strict=False)] == expected[cut : cut + ahead]
        # The next iteration is a new one.
        assert next(iter(resumed))["id"] == expected[0]
    resumed = dataset_of(kind, unit, **kwargs)
    resumed.load_state_dict(json.loads(end))
    assert not list(resumed)


def test_it_goes_on_after_it_went_on() -> None:
    expected = [row["id"] for row in dataset_of("mixed", num_examples=900)]
    found, state = [], None
    while len(found) < 900:
        dataset = dataset_of("mixed", num_examples=900)
        if state is not None:
            dataset.load_state_dict(json.loads(state))
        for _, row in zip(range(37), dataset, strict=False):
            found.append(row["id"])
            state = json.dumps(dataset.state_dict())
    assert found == expected


def test_reading_on_does_not_read_the_rows_before_again() -> None:
    counted = CountedRows()
    dataset = MixtureIterableDataset(
        {"a": counted.stream(), "b": counted.stream()},
        Mixture({"a": 0.5, "b": 0.5}, unit="examples"),
        num_examples=10_000,
    )
    rows = iter(dataset)
    for _ in range(5000):
        next(rows)
    state = dataset.state_dict()
    counted.count = 0
    dataset.load_state_dict(state)
    for _ in zip(range(100), dataset, strict=False):
        pass
    # At most a batch of 32 rows of each source is read again, and one ahead.
    assert counted.count <= 100 + 2 * 2 * 32


class CountedRows:
    """Streams of 10 shards, of rows that are counted as they are made."""

    def __init__(self) -> None:
        self.count = 0

    def stream(self) -> IterableDataset:
        return IterableDataset.from_generator(self.rows, gen_kwargs={"shards": list(range(1000))})

    def rows(self, shards: list[int]) -> Iterator[dict[str, int]]:
        for shard in shards:
            for i in range(5):
                self.count += 1
                yield {"row": 5 * shard + i}


def test_weights_and_epoch_are_part_of_the_state() -> None:
    def build() -> MixtureIterableDataset:
        return dataset_of("shuffled", num_examples=1200, block_size=100)

    dataset = build()
    dataset.set_epoch(2)
    rows, found = iter(dataset), []
    for _ in range(450):
        found.append(next(rows)["id"])
    dataset.set_weights({"wiki": 0.0, "code": 0.0, "books": 1.0}, at=600)
    state = json.dumps(dataset.state_dict())
    rest = [row["id"] for row in rows]
    assert {row.split("/")[0] for row in rest[150:]} == {"books"}
    resumed = build()
    resumed.load_state_dict(json.loads(state))
    # A loader of accelerate begins with epoch 0.
    resumed.set_epoch(0)
    assert [row["id"] for row in resumed] == rest
    assert resumed.epoch == 2
    # A loader whose workers took the state up goes on with the next epoch.
    resumed.load_state_dict(json.loads(state))
    resumed.set_epoch(3)
    assert len(list(resumed)) == 1200


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_loader_that_stores_the_state_of_its_workers(num_workers: int) -> None:
    loaders = pytest.importorskip("torchdata.stateful_dataloader")

    def loader() -> Any:
        dataset = dataset_of("mixed", num_examples=1600, batch_size=4)
        return loaders.StatefulDataLoader(dataset, batch_size=4, num_workers=num_workers, collate_fn=ids)

    expected = list(loader())
    first = loader()
    found = [batch for _, batch in zip(range(151), first, strict=False)]
    resumed = loader()
    resumed.load_state_dict(first.state_dict())
    assert found + list(resumed) == expected


class WithPlace(TorchIterableDataset[tuple[str, str]]):
    """Gives each row with the state of the worker behind it, as a loader that stores states of workers does."""

    def __init__(self, dataset: MixtureIterableDataset, states: dict[int, str], kill_at: str = "") -> None:
        self.dataset, self.states, self.kill_at = dataset, states, kill_at

    def __iter__(self) -> Iterator[tuple[str, str]]:
        worker = get_worker_info()
        if worker.id in self.states:
            self.dataset.load_state_dict(json.loads(self.states[worker.id]))
        for row in self.dataset:
            if row["id"] == self.kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            yield row["id"], json.dumps(self.dataset.state_dict())


def read(loader: Any, batches: list[list[str]], states: dict[int, str]) -> None:
    for number, (rows, places) in enumerate(loader):
        batches.append(rows)
        states[number % 2] = places[-1]


@pytest.mark.parametrize(("unit", "num_lanes"), [("examples", None), ("tokens", None), ("examples", 3)])
def test_a_run_goes_on_after_a_worker_was_killed(unit: str, num_lanes: int | None) -> None:
    def loader(states: dict[int, str], kill_at: str = "") -> Any:
        dataset = dataset_of("mixed", unit, num_examples=1600, batch_size=4, num_lanes=num_lanes)
        return DataLoader(WithPlace(dataset, states, kill_at), batch_size=4, num_workers=2)

    expected: list[list[str]] = []
    read(loader({}), expected, {})
    assert sum(map(len, expected)) == 1600
    found: list[list[str]] = []
    states: dict[int, str] = {}
    # A row of the largest source, of which no row comes twice.
    victim = next(row for batch in expected[250:] for row in batch if row.startswith("books"))
    with pytest.raises(RuntimeError, match=r"exited unexpectedly|killed by signal"):
        read(loader({}, victim), found, states)
    assert 200 < len(found) <= next(number for number, batch in enumerate(expected) if victim in batch)
    assert found == expected[: len(found)]
    rest: list[list[str]] = []
    read(loader(states), rest, {})
    if len(found) % 2:
        # The next batch is one of worker 1, and a new loader begins with worker 0.
        last = [rest.pop()] if len(rest) % 2 else []
        rest = [batch for pair in zip(rest[1::2], rest[::2], strict=True) for batch in pair] + last
    assert found + rest == expected


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"version": 0}, ["version=0", "has 1"]),
        ({"names": ["wiki", "code"]}, ["names=['wiki', 'code']", "first run"]),
        ({"start_at": 5}, ["start_at=5"]),
        ({"plan": None}, ["seed=8", "has 7"]),
        ({"place": "gone"}, ["no 'place'", "state_dict()"]),
    ],
)
def test_a_state_of_another_stream_is_refused(changes: dict[str, Any], words: list[str]) -> None:
    dataset = dataset_of("arrow", num_examples=100)
    state = dataset.state_dict()
    if changes == {"plan": None}:
        changes = {"plan": {**state["plan"], "seed": 8}}
    state = {key: value for key, value in {**state, **changes}.items() if value != "gone"}
    with pytest.raises(ValueError) as caught:
        dataset.load_state_dict(state)
    assert all(word in str(caught.value) for word in words), caught.value
    assert len(list(dataset)) == 100


def test_a_state_of_another_reader_is_refused() -> None:
    dataset = dataset_of("arrow", num_examples=100)
    state = dataset.state_dict()
    other = dataset_of("arrow", num_examples=100)
    other.set_layout(rank=1, world_size=2)
    other.load_state_dict(state)
    with pytest.raises(ValueError, match=r"\[0, 1, 1, 1\], and this reader has \[1, 2, 2, 1\].*start_at="):
        next(iter(other))
