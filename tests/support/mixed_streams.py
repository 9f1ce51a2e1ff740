"""Three domains as streams of every kind, and what a mixture of them gives to one reader and to many."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import numpy as np
from datasets import Dataset, IterableDataset
from torch.utils.data import DataLoader

from hf_mixture.data import Mixture
from hf_mixture.data.streaming import MixtureIterableDataset


SIZES = {"wiki": 500, "code": 83, "books": 1000}
WEIGHTS = {"wiki": 0.5, "code": 0.2, "books": 0.3}
MIXTURE = Mixture(WEIGHTS, unit="examples", seed=3)
TOKENS = Mixture(WEIGHTS, unit="tokens", seed=3)


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
