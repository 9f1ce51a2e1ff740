from __future__ import annotations

import copy

import numpy as np
from datasets import (
    ClassLabel,
    Dataset,
    Features,
    IterableDataset,
    Value,
    concatenate_datasets,
    interleave_datasets,
    load_from_disk,
)
from datasets.distributed import split_dataset_by_node

from hf_mixture._compat.datasets import (
    features_agree,
    fingerprint_of,
    has_shuffle_buffer,
    is_split_by_node,
    select_rows,
    streams_tables,
)


def test_fingerprint_of() -> None:
    rows = Dataset.from_dict({"a": [1, 2, 3]})
    chosen = rows.select([0, 2], new_fingerprint="0123456789abcdef")
    assert fingerprint_of(chosen) == "0123456789abcdef"
    assert fingerprint_of(rows) != fingerprint_of(chosen)


def test_shuffle_buffers_are_found_wherever_they_are() -> None:
    stream = Dataset.from_dict({"a": list(range(40))}).to_iterable_dataset(num_shards=4)
    shuffled = stream.shuffle(seed=0, buffer_size=8)
    doubled = shuffled.map(lambda row: {"b": 2 * row["a"]})
    for plain in (stream, stream.map(lambda row: {"b": 1}), stream.take(3), interleave_datasets([stream, stream])):
        assert not has_shuffle_buffer(plain)
    for buffered in (shuffled, doubled, doubled.take(3), shuffled.shard(2, 0), interleave_datasets([stream, doubled])):
        assert has_shuffle_buffer(buffered)
    # The reason to look: the state of a stream leaves the rows in the buffer out.
    iterator = iter(shuffled)
    seen = [next(iterator)["a"] for _ in range(10)]
    resumed = stream.shuffle(seed=0, buffer_size=8)
    resumed.load_state_dict(shuffled.state_dict())
    assert len(seen) + len(list(resumed)) < 40


def test_streams_of_one_process_are_known() -> None:
    stream = Dataset.from_dict({"a": [1, 2]}).to_iterable_dataset()
    assert not is_split_by_node(stream)
    assert is_split_by_node(split_dataset_by_node(stream, rank=0, world_size=2))


def test_select_rows_is_select(tmp_path) -> None:
    rows = Dataset.from_dict({"a": list(range(50)), "b": [str(i) for i in range(50)]})
    halves = concatenate_datasets([rows.select([*range(30, 50)]), rows.select([3, 1, 2])])
    chosen = np.random.default_rng(0).integers(0, 23, 200)
    for source in (rows, halves, rows.with_format("numpy"), rows.with_format("torch", columns=["a"])):
        ours = select_rows(source, chosen, "0123456789abcdef")
        stock = source.select(chosen, new_fingerprint="0123456789abcdef")
        assert ours.with_format(None)[:] == stock.with_format(None)[:]
        assert (ours._fingerprint, ours.format, ours.features) == (stock._fingerprint, stock.format, stock.features)
        assert type(ours[0]["a"]) is type(stock[0]["a"])
    ours = select_rows(halves, chosen, "0")
    ours.save_to_disk(tmp_path)
    assert load_from_disk(tmp_path)["a"][:] == ours["a"][:]
    assert copy.deepcopy(ours)["a"][:] == ours["a"][:]
    assert len(select_rows(rows, np.zeros(0, np.int64), "0")) == 0


def test_streams_of_tables_are_told_from_streams_of_rows() -> None:
    assert streams_tables(Dataset.from_dict({"a": [1]}).to_iterable_dataset())
    assert not streams_tables(IterableDataset.from_generator(lambda: iter([{"a": 1}])))


def test_features_agree_where_shared_columns_have_one_type() -> None:
    labels = Features({"label": ClassLabel(names=["good", "bad"])})
    turned = Features({"label": ClassLabel(names=["bad", "good"])})
    assert features_agree(labels, labels)
    assert features_agree(labels, Features({"other": Value("int64")}))
    assert features_agree(labels, Features({"label": Value("null")}))
    assert not features_agree(labels, turned)
    assert not features_agree(labels, Features({"label": Value("int64")}))
