"""What streams of datasets do, beside what a mixed stream does: the reasons for the latter."""

from __future__ import annotations

from typing import Any

from datasets import Dataset, interleave_datasets
from datasets.distributed import split_dataset_by_node
from torch.utils.data import DataLoader

from hf_mixture.data import Mixture
from hf_mixture.data.streaming import MixtureIterableDataset


WEIGHTS = {"a": 0.5, "b": 0.3, "c": 0.2}


def streams(num_rows: int) -> dict[str, Any]:
    return {
        name: Dataset.from_dict({"id": [f"{name}{i}" for i in range(num_rows)]}).to_iterable_dataset(num_shards=8)
        for name in WEIGHTS
    }


def same_source(first: Any, second: Any) -> float:
    pairs = list(zip(first, second, strict=False))
    return sum(one["id"][0] == other["id"][0] for one, other in pairs) / len(pairs)


def test_processes_draw_the_same_sources_with_datasets_and_independent_ones_here() -> None:
    stock = interleave_datasets(list(streams(400).values()), list(WEIGHTS.values()), seed=0)
    assert same_source(stock.shard(2, 0), stock.shard(2, 1)) == 1.0
    assert same_source(split_dataset_by_node(stock, 0, 2), split_dataset_by_node(stock, 1, 2)) == 1.0
    ours = []
    for rank in range(2):
        mixed = MixtureIterableDataset(streams(400), Mixture(WEIGHTS, unit="examples"), num_examples=800)
        mixed.set_layout(rank=rank, world_size=2)
        ours.append(mixed)
    # Independent draws agree with probability .25 + .09 + .04 = .38; the standard deviation of 400 pairs is .024.
    assert abs(same_source(*ours) - 0.38) < 0.1


def test_the_number_of_workers_changes_totals_with_datasets_and_nothing_here() -> None:
    def total(dataset: Any, num_workers: int) -> int:
        return sum(1 for _ in DataLoader(dataset, batch_size=None, num_workers=num_workers))

    stock = interleave_datasets(
        list(streams(300).values()), list(WEIGHTS.values()), seed=0, stopping_strategy="all_exhausted"
    )
    assert len({total(stock, num_workers) for num_workers in (0, 2, 4)}) > 1
    mixed = MixtureIterableDataset(streams(300), Mixture(WEIGHTS, unit="examples"), stopping_strategy="all_exhausted")
    assert len({total(mixed, num_workers) for num_workers in (0, 2, 4)}) == 1


def test_a_source_of_one_shard_stops_workers_with_datasets_and_none_here() -> None:
    def workers_that_read(dataset: Any) -> int:
        loader = DataLoader(dataset, batch_size=10, num_workers=2, collate_fn=worker_and_rows)
        return len({worker for worker, num_rows in loader if num_rows})

    sources = streams(300)
    sources["c"] = Dataset.from_dict({"id": [f"c{i}" for i in range(300)]}).to_iterable_dataset(num_shards=1)
    stock = interleave_datasets(list(sources.values()), list(WEIGHTS.values()), seed=0)
    assert workers_that_read(stock) == 1
    assert workers_that_read(MixtureIterableDataset(sources, Mixture(WEIGHTS, unit="examples"), num_examples=200)) == 2


def worker_and_rows(rows: list[Any]) -> tuple[int, int]:
    from torch.utils.data import get_worker_info

    return get_worker_info().id, len(rows)


def test_datasets_loses_rows_of_a_shuffle_buffer_on_resume_and_nothing_is_lost_here() -> None:
    def build(own: bool) -> Any:
        sources = {name: stream.shuffle(seed=3, buffer_size=50) for name, stream in streams(200).items()}
        if own:
            return MixtureIterableDataset(sources, Mixture(WEIGHTS, unit="examples"), num_examples=400)
        return interleave_datasets(list(sources.values()), list(WEIGHTS.values()), seed=0)

    for own in (True, False):
        dataset = build(own)
        rows = iter(dataset)
        for _ in range(100):
            next(rows)
        state = dataset.state_dict()
        rest = [row["id"] for row in rows]
        resumed = build(own)
        resumed.load_state_dict(state)
        assert ([row["id"] for row in resumed] == rest) is own


def test_shares_are_drawn_with_datasets_and_met_here() -> None:
    stock = interleave_datasets(list(streams(4000).values()), list(WEIGHTS.values()), seed=0)
    mixed = MixtureIterableDataset(streams(4000), Mixture(WEIGHTS, unit="examples"), num_examples=4000)
    errors = []
    for dataset in (stock, mixed):
        rows = [row["id"][0] for _, row in zip(range(4000), dataset, strict=False)]
        errors.append(max(abs(rows.count(name) - weight * 4000) for name, weight in WEIGHTS.items()))
    assert errors[0] > 10
    assert errors[1] <= 1
