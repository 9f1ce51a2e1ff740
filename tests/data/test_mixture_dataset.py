"""What stands at a position of a `MixtureDataset`, read one by one, in batches and by workers."""

from __future__ import annotations

import copy
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from packed_text import write_packs
from torch.utils.data import DataLoader

from hf_mixture import Mixture
from hf_mixture.data.mixture_dataset import MixtureDataset
from hf_mixture.data.order_guard import OrderGuard
from hf_mixture.data.pack import TokenPack
from hf_mixture.data.packed_rows import PackedRows, collate_packed
from hf_mixture.data.plan import MixturePlan
from hf_mixture.data.schedule import SourcePolicy


T = 32
WEIGHTS = {"email": 0.5, "json": 0.3, "logging": 0.2}


@pytest.fixture(scope="module")
def packs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, TokenPack]:
    return write_packs(tmp_path_factory.mktemp("packs"))


@pytest.fixture(scope="module")
def blocks(packs: dict[str, TokenPack]) -> dict[str, Any]:
    return {name: pack.blocks(T) for name, pack in packs.items()}


def tables(sizes: dict[str, int] | None = None) -> dict[str, Dataset]:
    sizes = sizes or {"a": 30, "b": 7, "c": 11}
    return {
        name: Dataset.from_dict({"text": [f"{name}{i}" for i in range(size)], "n": list(range(size))})
        for name, size in sizes.items()
    }


def mixed(sources: dict[str, Any], weights: dict[str, float] | None = None, **arguments: Any) -> MixtureDataset:
    mixture = Mixture(weights or dict.fromkeys(sources, 1.0), unit="examples", seed=3, normalise=True)
    return MixtureDataset(sources, mixture, **{"num_examples": 64, "block_size": 8, **arguments})


def test_items_are_the_rows_that_the_plan_names() -> None:
    sources = tables()
    dataset = mixed(sources, {"a": 0.5, "b": 0.25, "c": 0.25})
    plan = MixturePlan.build([0.5, 0.25, 0.25], [30, 7, 11], num_examples=64, seed=3, block_size=8)
    names = list(sources)
    expected = [sources[names[source]][int(row)] for source, row in zip(*plan.materialise(), strict=True)]
    assert [dataset[i] for i in range(64)] == expected
    assert [dataset[i - 64] for i in range(64)] == expected
    assert [
        row for start in range(0, 64, 5) for row in dataset.__getitems__(range(start, min(start + 5, 64)))
    ] == expected
    assert len(dataset) == 64
    for index in (64, -65):
        with pytest.raises(IndexError, match="lies outside"):
            dataset[index]


def test_batches_of_blocks_are_one_tensor(blocks: dict[str, Any]) -> None:
    dataset = mixed(blocks, WEIGHTS, provenance_column="domain")
    sources, rows = dataset.plan.locate(range(64))
    expected = torch.stack([blocks[dataset.names[s]][int(r)]["input_ids"] for s, r in zip(sources, rows, strict=True)])
    batch = dataset.__getitems__(list(range(8, 40)))
    assert isinstance(batch, PackedRows)
    assert torch.equal(batch["input_ids"], expected[8:40])
    assert batch["domain"] == [dataset.names[source] for source in sources[8:40]]
    assert torch.equal(dataset[11]["input_ids"], expected[11])
    assert dataset[11]["domain"] == dataset.names[sources[11]]
    assert np.bincount(sources).tolist() == [32, 19, 13]


def test_documents_of_packs_and_columns_of_tables(packs: dict[str, TokenPack]) -> None:
    as_table = Dataset.from_dict({"input_ids": [row["input_ids"].tolist() for row in packs["json"]]})
    sources = {"email": packs["email"], "json": as_table}
    dataset = mixed(sources, {"email": 0.5, "json": 0.5}, provenance_column="domain")
    for row, source, number in zip(dataset.__getitems__(range(16)), *dataset.plan.locate(range(16)), strict=True):
        name = dataset.names[source]
        assert row["domain"] == name
        assert torch.equal(torch.as_tensor(row["input_ids"]), packs[name][int(number)]["input_ids"])


@pytest.mark.parametrize("kind", ["blocks", "documents"])
def test_tokens_of_packs_are_counted(packs: dict[str, TokenPack], kind: str) -> None:
    sources = {name: pack.blocks(T) if kind == "blocks" else pack for name, pack in packs.items()}
    dataset = MixtureDataset(sources, Mixture(WEIGHTS, unit="tokens"), num_examples=600)
    tokens = dict.fromkeys(WEIGHTS, 0)
    for source, row in zip(*dataset.plan.locate(range(600)), strict=True):
        tokens[dataset.names[source]] += len(sources[dataset.names[source]][int(row)]["input_ids"])
    longest = max(int(source.lengths.max()) for source in sources.values())
    for name, weight in WEIGHTS.items():
        assert abs(tokens[name] - weight * sum(tokens.values())) <= longest


def test_lengths_of_tables_come_from_a_column_or_an_argument() -> None:
    sources = {
        name: Dataset.from_dict({"input_ids": [[1] * (i % 5 + 1) for i in range(50)], "size": [2] * 50})
        for name in "ab"
    }
    mixture = Mixture({"a": 0.5, "b": 0.5}, unit="tokens")
    by_items = MixtureDataset(sources, mixture, num_examples=40)
    by_argument = MixtureDataset(
        sources, mixture, num_examples=40, lengths={name: [i % 5 + 1 for i in range(50)] for name in "ab"}
    )
    by_column = MixtureDataset(sources, mixture, num_examples=40, length_column="size")
    assert by_items.rows(np.arange(40)) == by_argument.rows(np.arange(40))
    assert by_column.plan.counts.tolist() == [20, 20]


def test_a_schedule_in_tokens_is_met_by_blocks(blocks: dict[str, Any]) -> None:
    first, later = {"email": 1, "json": 0, "logging": 0}, {"email": 0, "json": 0.5, "logging": 0.5}
    mixture = Mixture(first, unit="examples", schedule=[(0, first), (20 * T, later)], schedule_unit="tokens")
    dataset = MixtureDataset(blocks, mixture, num_examples=60)
    sources, _ = dataset.plan.locate(range(60))
    assert set(sources[:20]) == {0}
    assert np.bincount(sources[20:]).tolist() == [0, 20, 20]
    assert dataset.weights_at(19) == first
    assert dataset.weights_at(20) == later


def test_a_source_that_only_a_later_segment_draws_must_have_rows() -> None:
    sources = tables({"a": 5, "b": 0})
    never = MixtureDataset(sources, Mixture({"a": 1, "b": 0}, unit="examples"), num_examples=4)
    assert never[3]["text"][0] == "a"
    with pytest.raises(ValueError, match=r"weights gives \['b'\] a share, and they have no rows"):
        never.set_weights({"a": 0.5, "b": 0.5}, at=0)
    later = Mixture(
        {"a": 1, "b": 0},
        unit="examples",
        schedule=[(0, {"a": 1, "b": 0}), (2, {"a": 0, "b": 1})],
        schedule_unit="examples",
    )
    with pytest.raises(ValueError, match="domain 'b' has no rows and is drawn"):
        MixtureDataset(sources, later, num_examples=4)


def test_weights_change_at_the_position_and_not_before() -> None:
    dataset = mixed(tables(), {"a": 1, "b": 0, "c": 0})
    before = [dataset[i] for i in range(64)]
    dataset.set_weights({"b": 1, "c": 1, "a": 2}, at=24)
    assert [dataset[i] for i in range(24)] == before[:24]
    sources, _ = dataset.plan.locate(range(24, 64))
    assert np.bincount(sources).tolist() == [20, 10, 10]
    assert dataset.weights_at(23) == {"a": 1, "b": 0, "c": 0}
    assert dataset.weights_at(24) == {"a": 0.5, "b": 0.25, "c": 0.25}


def test_both_weights_are_met_on_their_side_of_a_change() -> None:
    sources = tables(dict.fromkeys("abcde", 5000))
    before, after = [0.6, 0.3, 0.0999, 1e-4, 0.0], [0.0, 1 / 3, 1 / 7, 1e-3, 1 - 1 / 3 - 1 / 7 - 1e-3]
    dataset = mixed(sources, dict(zip("abcde", before, strict=True)), num_examples=4096, block_size=32)
    dataset.set_weights(dict(zip("abcde", after, strict=True)), at=1600)
    numbers, _ = dataset.plan.locate(range(4096))
    for start, end, weights in ((0, 1600, before), (1600, 4096, after)):
        for block_end in range(start + 32, end + 1, 32):
            counts = np.bincount(numbers[start:block_end], minlength=5)
            assert np.abs(counts - (block_end - start) * np.array(weights)).max() <= 1


def test_a_stop_policy_shortens_the_stream() -> None:
    mixture = Mixture(
        {"a": 0.5, "b": 0.5}, unit="examples", policies={"b": SourcePolicy(max_epochs=1, overflow="stop")}
    )
    dataset = MixtureDataset(tables({"a": 30, "b": 7}), mixture, num_examples=64, block_size=4)
    assert len(dataset) == len(dataset.plan) < 20


def test_start_at_moves_the_first_item() -> None:
    whole, rest = mixed(tables()), mixed(tables(), start_at=24)
    assert len(rest) == 40
    assert [rest[i] for i in range(40)] == [whole[i] for i in range(24, 64)]
    assert rest.__getitems__([3, 4]) == [whole[27], whole[28]]
    assert rest[-1] == whole[63]


def test_a_loader_that_shuffles_is_refused_and_an_ordered_one_is_not() -> None:
    dataset = mixed(tables())
    with pytest.raises(ValueError, match=r'train_sampling_strategy="sequential".*shuffle=False'):
        next(iter(DataLoader(dataset, batch_size=4, shuffle=True, collate_fn=list)))
    with pytest.raises(ValueError, match="is read in another order than its own"):
        list(DataLoader(dataset, batch_size=1, shuffle=True, collate_fn=list))
    for workers in (0, 2):
        loader = DataLoader(dataset, batch_size=6, collate_fn=list, num_workers=workers)
        for _ in range(2):
            assert [row for batch in loader for row in batch] == [dataset[i] for i in range(64)]


def test_batches_that_wrap_around_warn() -> None:
    dataset = mixed(tables(), num_examples=10)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dataset.__getitems__([6, 7, 8, 9])
    with pytest.warns(UserWarning, match="samples from its beginning are repeated"):
        rows = dataset.__getitems__([8, 9, 0, 1])
    assert rows == [dataset[8], dataset[9], dataset[0], dataset[1]]
    with pytest.warns(UserWarning, match="dataloader_drop_last=True"):
        mixed(tables(), num_examples=3).__getitems__([0, 1, 2, 0, 1, 2, 0, 1])


@pytest.mark.parametrize("indices", [[0, 2], [1, 0], [3, 3], [5, 6, 8], [63, 1], [10, 0]])
def test_other_batches_are_refused(indices: list[int]) -> None:
    with pytest.raises(ValueError, match="is read in another order"):
        OrderGuard().wraps(np.array(indices), 64)


@pytest.mark.parametrize(
    "passes", [[range(5), range(5)], [range(0, 9, 3), range(1, 9, 3)], [range(5, 9), range(3, 9)], [[4, 0], [1, 5]]]
)
def test_single_samples_may_start_again(passes: list[list[int]]) -> None:
    guard = OrderGuard()
    for indices in passes:
        for index in indices:
            assert not guard.wraps(np.array([index]), 9)


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_persistent_workers_see_a_change_of_weights(blocks: dict[str, Any], context: str) -> None:
    dataset = mixed(blocks, {"email": 1, "json": 0, "logging": 0}, provenance_column="domain")
    loader = DataLoader(
        dataset,
        batch_size=4,
        num_workers=1,
        prefetch_factor=1,
        persistent_workers=True,
        collate_fn=collate_packed,
        multiprocessing_context=context,
    )
    iterator = iter(loader)
    seen = next(iterator)["domain"] + next(iterator)["domain"]
    dataset.set_weights({"email": 0, "json": 1, "logging": 0}, at=24)
    seen += [name for batch in iterator for name in batch["domain"]]
    assert seen == ["email"] * 24 + ["json"] * 40
    again = [name for batch in loader for name in batch["domain"]]
    assert again == seen


def test_a_copy_has_its_own_changes(blocks: dict[str, Any]) -> None:
    dataset = mixed(blocks, {"email": 1, "json": 0, "logging": 0})
    dataset.set_weights({"email": 0, "json": 1, "logging": 0}, at=24)
    other = copy.deepcopy(dataset)
    assert other.weights_at(30) == {"email": 0, "json": 1, "logging": 0}
    other.set_weights({"email": 0, "json": 0, "logging": 1}, at=32)
    assert dataset.weights_at(40) == {"email": 0, "json": 1, "logging": 0}


def test_the_state_restores_the_changes() -> None:
    dataset = mixed(tables())
    dataset.set_weights({"a": 0, "b": 1, "c": 1}, at=16)
    state = json.loads(json.dumps(dataset.state_dict()))
    other = mixed(tables())
    other.load_state_dict(state)
    assert [other[i] for i in range(64)] == [dataset[i] for i in range(64)]
    other.set_weights({"a": 1, "b": 0, "c": 0}, at=32)
    dataset.load_state_dict(other.state_dict())
    assert [other[i] for i in range(64)] == [dataset[i] for i in range(64)]


def test_the_state_brings_the_block_size_where_none_was_given() -> None:
    dataset = mixed(tables(), block_size=16)
    other = mixed(tables(), block_size=None)
    other.load_state_dict(dataset.state_dict())
    assert other.plan.block_size == 16
    assert [other[i] for i in range(64)] == [dataset[i] for i in range(64)]


def test_blocks_are_resized_only_where_no_size_was_given_and_nothing_hangs_on_it() -> None:
    for dataset, expected in ((mixed(tables()), 8), (mixed(tables(), block_size=None), 16)):
        dataset.resize_blocks(16)
        assert dataset.plan.block_size == expected
        dataset.set_weights({"a": 1, "b": 0, "c": 0}, at=32)
        dataset.resize_blocks(4)
        assert dataset.plan.block_size == expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"names": ["a", "b", "gone"]}, r"mixed the domains \['a', 'b', 'gone'\], this one mixes \['a', 'b', 'c'\]"),
        ({"names": ["b", "a", "c"]}, "resume with the same domains"),
        ({"unit": "tokens"}, "the interrupted run counted tokens, this mixture counts examples"),
        ({"sizes": {"a": 30, "b": 8, "c": 11}}, r"the number of rows of \['b'\] has changed.*\[8\] then, \[7\] now"),
        ({"version": 0}, "is of version 0"),
    ],
)
def test_a_state_of_another_run_is_refused(change: dict[str, Any], message: str) -> None:
    dataset = mixed(tables())
    with pytest.raises(ValueError, match=message):
        dataset.load_state_dict({**dataset.state_dict(), **change})


def test_changed_data_is_refused() -> None:
    dataset = mixed(tables())
    changed = tables()
    changed["b"] = Dataset.from_dict({"text": [f"B{i}" for i in range(7)], "n": list(range(7))})
    with pytest.raises(ValueError, match=r"the data of \['b'\] has changed since the interrupted run"):
        mixed(changed).load_state_dict(dataset.state_dict())
    with pytest.raises(ValueError, match="block_size"):
        mixed(tables(), block_size=4).load_state_dict(dataset.state_dict())
    with pytest.raises(ValueError, match="schedule"):
        mixed(tables(), {"a": 1, "b": 1, "c": 2}).load_state_dict(dataset.state_dict())


def test_the_same_data_loaded_again_is_the_same(tmp_path: Path) -> None:
    for name, table in tables().items():
        table.save_to_disk(str(tmp_path / name))
    first, second = ({name: Dataset.load_from_disk(str(tmp_path / name)) for name in "abc"} for _ in range(2))
    again = mixed(second)
    again.load_state_dict(mixed(first).state_dict())
    assert again.fingerprints == mixed(first).fingerprints


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_examples": 0}, "num_examples=0 is not an integer >= 1"),
        ({"num_examples": None}, "num_examples=None is not an integer >= 1"),
        ({"block_size": 0}, "block_size=0 is not an integer >= 1"),
        ({"start_at": -1}, "start_at=-1 is not an integer >= 0"),
        ({"start_at": 64}, "start_at=64 lies behind the end of the stream, 64"),
        ({"provenance_column": "text"}, "already has a column 'text'"),
        ({"lengths": {}}, "belong to unit 'tokens' or 'bytes'"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mixed(tables(), **arguments)


def test_sources_that_do_not_fit_are_refused(packs: dict[str, TokenPack], blocks: dict[str, Any]) -> None:
    mixture = Mixture({"a": 0.5, "b": 0.5}, unit="examples")
    good = tables({"a": 5, "b": 6})
    cases = [
        ({"a": good["a"]}, r"names unknown domains \['b'\]"),
        ({**good, "c": good["a"]}, r"gives no weight to \['c'\]"),
        ({**good, "b": good["b"].select(range(0))}, "domain 'b' has no rows and is drawn"),
        ({**good, "b": good["b"].rename_column("n", "m")}, "the sources have different columns"),
        ({**good, "b": good["b"].with_format("torch", columns=["n"])}, "the sources have different columns"),
        ({"a": packs["json"].blocks(16), "b": packs["json"].blocks(8)}, "blocks of different sizes"),
        ({"a": packs["json"].blocks(16), "b": packs["json"]}, "blocks of different sizes"),
    ]
    for sources, message in cases:
        with pytest.raises(ValueError, match=message):
            MixtureDataset(sources, mixture, num_examples=4)
    for stranger in (good["a"].to_iterable_dataset(), [1, 2]):
        with pytest.raises(TypeError, match="a TokenPack or blocks of one: convert it"):
            MixtureDataset({**good, "b": stranger}, mixture, num_examples=4)
    with pytest.raises(ValueError, match="knows the tokens of its rows and not their bytes"):
        MixtureDataset(blocks, Mixture(WEIGHTS, unit="bytes"), num_examples=4)


def test_weights_that_do_not_fit_are_refused_and_change_nothing() -> None:
    dataset = mixed(tables())
    before = dataset.state_dict()
    good = {"a": 1.0, "b": 0.0, "c": 0.0}
    dataset.plan.advance_frontier(17)
    for weights, at, message in [
        ({"a": 1.0, "b": 0.0}, 24, r"it must map each of \['a', 'b', 'c'\] to a number"),
        ({**good, "d": 0.0}, 24, r"it must map each of \['a', 'b', 'c'\] to a number"),
        ({**good, "a": -1.0}, 24, "must be finite numbers >= 0"),
        (good, 20, "not a multiple of the block size 8"),
        (good, 16, "lies before the frontier 17"),
    ]:
        with pytest.raises(ValueError, match=message):
            dataset.set_weights(weights, at=at)
    assert dataset.state_dict() == before


@pytest.mark.parametrize("index", [slice(0, 3), [0, 1], "text"])
def test_an_index_is_one_integer(index: Any) -> None:
    with pytest.raises(TypeError, match=r"an item is one row, by an integer: use rows\("):
        mixed(tables())[index]


def test_a_transform_may_not_give_the_provenance_column() -> None:
    shouted = Dataset.from_dict({"text": ["a", "b"]}).with_transform(lambda batch: {"shout": batch["text"]})
    with pytest.raises(ValueError, match="'a' already has a column 'shout'"):
        mixed({"a": shouted}, provenance_column="shout")[0]


def test_thousands_of_domains_keep_few_row_numbers_of_each() -> None:
    sources = dict.fromkeys((f"d{i}" for i in range(1500)), Dataset.from_dict({"i": list(range(10))}))
    dataset = mixed(sources, num_examples=6000)
    rows = dataset.rows(np.arange(100))
    assert sum(len(numbers) for numbers in dataset._chunks.values()) <= 100 * 1400
    assert [row["i"] for row in rows] == dataset.plan.locate(range(100))[1].tolist()
