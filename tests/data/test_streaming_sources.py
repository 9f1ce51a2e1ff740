"""The sources of a mixed stream: their passes, their columns and formats, and what is said of them."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from datasets import Dataset, IterableDataset, interleave_datasets
from mixed_streams import MIXTURE, SIZES, TOKENS, WEIGHTS, ids, names, passes, streams
from torch.utils.data import DataLoader

from hf_mixture.data import Mixture
from hf_mixture.data.schedule import SourcePolicy
from hf_mixture.data.streaming import MixtureIterableDataset


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
        for arguments in ({"num_examples": 50}, {"stopping_strategy": "all_exhausted"}, {}):
            with pytest.raises(ValueError, match=r"source 'code' gives no rows; a drawn source must have rows"):
                list(MixtureIterableDataset(sources, Mixture(WEIGHTS, unit=unit), **arguments))


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


@pytest.mark.parametrize("kind", ["arrow", "map_style"])
def test_a_source_of_empty_rows_is_an_error_and_not_an_endless_pass(kind: str) -> None:
    features = streams("map_style")["code"].features
    empty = Dataset.from_dict({"id": ["code/0", "code/1"], "input_ids": [[], []]}, features=features)
    sources = {**streams(kind), "code": empty if kind == "map_style" else empty.to_iterable_dataset()}
    for arguments in ({"num_examples": 50}, {"stopping_strategy": "all_exhausted"}):
        with pytest.raises(ValueError, match="'code' gave a whole pass of rows of length 0"):
            list(MixtureIterableDataset(sources, TOKENS, **arguments))


def test_empty_rows_among_others_are_given_also_after_a_resume() -> None:
    rows = {"id": [f"code/{i}" for i in range(4)], "input_ids": [[0], [], [], []]}
    mixture = Mixture({"wiki": 0.5, "code": 0.5}, unit="tokens")

    def mixed() -> MixtureIterableDataset:
        sources = {"wiki": streams()["wiki"], "code": Dataset.from_dict(rows).to_iterable_dataset()}
        return MixtureIterableDataset(sources, mixture, num_examples=300)

    whole, cut = mixed(), mixed()
    expected, iterator = ids(whole), iter(cut)
    while next(iterator)["id"] != "code/0":
        pass
    state = cut.state_dict()
    again = mixed()
    again.load_state_dict(state)
    assert ids(again) == expected[expected.index("code/0") + 1 :]


def test_columns_of_a_transform_are_kept() -> None:
    shouted = streams("map_style")["code"].with_transform(
        lambda batch: {"shout": [row.upper() for row in batch["id"]]}
    )
    mixture = Mixture({"wiki": 0.5, "code": 0.5}, unit="examples")
    sources = {"wiki": streams()["wiki"], "code": shouted}
    rows = list(MixtureIterableDataset(sources, mixture, num_examples=20, provenance_column="domain"))
    assert {tuple(row) for row in rows} == {("id", "input_ids", "domain"), ("shout", "domain")}
    assert all(row["shout"].startswith("CODE/") for row in rows if row["domain"] == "code")
    with pytest.raises(ValueError, match="'code' already has a column 'shout'"):
        list(MixtureIterableDataset(sources, mixture, num_examples=20, provenance_column="shout"))
