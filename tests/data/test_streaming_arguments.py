"""Wrong arguments of a mixed stream: one clear error, before a row is read."""

from __future__ import annotations

from typing import Any

import pytest
from datasets import ClassLabel, Dataset, Features, IterableDatasetDict
from datasets.distributed import split_dataset_by_node

from hf_mixture import interleave_datasets
from hf_mixture.data import Mixture
from hf_mixture.data.mixture_dataset import MixtureDataset
from hf_mixture.data.schedule import SourcePolicy
from hf_mixture.data.streaming import MixtureIterableDataset


WEIGHTS = {"wiki": 0.5, "code": 0.5}


def streams() -> dict[str, Any]:
    rows = {name: Dataset.from_dict({"id": [f"{name}/{i}" for i in range(40)], "n": [1] * 40}) for name in WEIGHTS}
    return {"wiki": rows["wiki"].to_iterable_dataset(num_shards=2), "code": rows["code"].to_iterable_dataset()}


@pytest.mark.parametrize(
    ("mixture", "arguments", "error", "words"),
    [
        ({}, {"num_examples": 0}, ValueError, ["num_examples=0", "[1, 2**62]"]),
        ({}, {"num_examples": True}, ValueError, ["num_examples=True"]),
        ({}, {"num_examples": 2.5}, ValueError, ["num_examples=2.5"]),
        ({}, {"batch_size": 0}, ValueError, ["batch_size=0"]),
        ({}, {"batch_size": None}, ValueError, ["batch_size=None"]),
        ({}, {"num_lanes": 0}, ValueError, ["num_lanes=0"]),
        ({}, {"block_size": 0}, ValueError, ["block_size=0"]),
        ({}, {"start_at": -1}, ValueError, ["start_at=-1"]),
        ({}, {"stopping_strategy": "never"}, ValueError, ["'never'", "first_exhausted"]),
        ({}, {"stopping_strategy": "all_exhausted_without_replacement"}, ValueError, ["natural shares"]),
        ({}, {"sizes": {"web": 5}}, ValueError, ["['web']", "not domains"]),
        ({}, {"sizes": {"wiki": 0}}, ValueError, ["sizes['wiki']=0"]),
        ({}, {"length_column": "n"}, ValueError, ["unit 'tokens' or 'bytes'"]),
        ({"unit": "tokens"}, {}, ValueError, ["'wiki' has no column 'input_ids'", "length_column="]),
        ({"unit": "bytes"}, {"length_column": "m"}, ValueError, ["'wiki' has no column 'm'"]),
        ({}, {"provenance_column": ""}, ValueError, ["provenance_column=''"]),
        ({}, {"provenance_column": "id"}, ValueError, ["'wiki' already has a column 'id'"]),
        ({"weights": {"wiki": 0.5, "web": 0.5}}, {}, ValueError, ["unknown domains ['web']"]),
        ({"weights": {"wiki": 1.0}}, {}, ValueError, ["no weight to ['code']"]),
        (
            {"schedule": [(0, WEIGHTS), (0.5, WEIGHTS)], "schedule_unit": "fraction"},
            {},
            ValueError,
            ["fractions of the stream", "num_examples"],
        ),
        (
            {"schedule": [(0, WEIGHTS), (500, WEIGHTS)], "schedule_unit": "tokens"},
            {"num_examples": 100},
            ValueError,
            ["'wiki'", "mean number of tokens", "Source"],
        ),
        (
            {"policies": {"wiki": SourcePolicy(max_epochs=2)}},
            {"num_examples": 100},
            ValueError,
            ["'wiki' has max_epochs=2", "unknown number of rows", "sizes={'wiki': ...}"],
        ),
        (
            {"policies": {"wiki": SourcePolicy(max_epochs=2)}},
            {"sizes": {"wiki": 40}},
            ValueError,
            ["'wiki' has max_epochs=2", "num_examples, or sizes for ['code']"],
        ),
        (
            {"policies": {"wiki": SourcePolicy(max_epochs=2)}},
            {"sizes": {"wiki": 40}, "num_examples": 1000},
            ValueError,
            ["wiki", "max_epochs"],
        ),
        (
            {"policies": {"wiki": SourcePolicy(max_epochs=2)}, "unit": "tokens"},
            {"sizes": {"wiki": 40}, "num_examples": 10, "length_column": "n"},
            ValueError,
            ["'wiki' has max_epochs=2", "counts 'tokens'", "unit 'examples'"],
        ),
    ],
)
def test_wrong_arguments_are_one_clear_error(mixture: Any, arguments: Any, error: Any, words: list[str]) -> None:
    values = {"weights": WEIGHTS, "unit": "examples", **mixture}
    with pytest.raises(error) as caught:
        MixtureIterableDataset(streams(), Mixture(values.pop("weights"), **values), **arguments)
    assert all(word in str(caught.value) for word in words), caught.value


@pytest.mark.parametrize(
    ("source", "error", "words"),
    [
        (lambda rows: [1, 2], TypeError, ["'code' is a list", "IterableDataset"]),
        (lambda rows: IterableDatasetDict({"train": rows}), TypeError, ["splits ['train']", "dataset['train']"]),
        (lambda rows: split_dataset_by_node(rows, 0, 2), ValueError, ["'code' was split by split_dataset_by_node"]),
        (lambda rows: Dataset.from_dict({"id": []}), ValueError, ["'code' has weight 0.5 and no rows"]),
    ],
)
def test_sources_that_a_stream_cannot_read(source: Any, error: Any, words: list[str]) -> None:
    sources = streams()
    with pytest.raises(error) as caught:
        MixtureIterableDataset({**sources, "code": source(sources["code"])}, Mixture(WEIGHTS, unit="examples"))
    assert all(word in str(caught.value) for word in words), caught.value
    with pytest.raises(TypeError, match="mixture is a dict; it must be a Mixture"):
        MixtureIterableDataset(sources, WEIGHTS)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("value", "unit", "words"),
    [
        ("text", "tokens", ["holds a str", "'tokens'", "integers or token lists"]),
        (1.5, "tokens", ["holds a float"]),
        (None, "tokens", ["holds a NoneType"]),
        (-3, "tokens", ["holds a int"]),
        ([1, 2], "bytes", ["holds a list", "integers or text"]),
        ([[1], [2]], "tokens", ["holds a list"]),
    ],
)
def test_columns_that_hold_no_length(value: Any, unit: Any, words: list[str]) -> None:
    stream = Dataset.from_dict({"n": [value] * 3}).to_iterable_dataset()
    mixed = MixtureIterableDataset({"a": stream}, Mixture({"a": 1.0}, unit=unit), length_column="n")
    with pytest.raises(ValueError) as caught:
        next(iter(mixed))
    assert all(word in str(caught.value) for word in ("column 'n' of domain 'a'", *words)), caught.value


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"rank": 2, "world_size": 2}, ["rank=2", "[0, 2)"]),
        ({"rank": -1, "world_size": 2}, ["rank=-1"]),
        ({"rank": 0, "world_size": 0}, ["world_size=0"]),
        ({"rank": 0, "world_size": 2, "batch_size": 0}, ["batch_size=0"]),
    ],
)
def test_wrong_layouts(arguments: dict[str, int], words: list[str]) -> None:
    mixed = MixtureIterableDataset(streams(), Mixture(WEIGHTS, unit="examples"), num_examples=20)
    with pytest.raises(ValueError) as caught:
        mixed.set_layout(**arguments)
    assert all(word in str(caught.value) for word in words), caught.value
    assert len(list(mixed)) == 20
    unknown = MixtureIterableDataset(streams(), Mixture(WEIGHTS, unit="examples"))
    with pytest.raises(ValueError, match="would not end together; pass num_examples"):
        unknown.set_layout(rank=0, world_size=2)


@pytest.mark.parametrize(
    ("weights", "at", "words"),
    [
        ({"wiki": 1.0}, 8, ["['wiki']", "each of ['wiki', 'code']"]),
        ({"wiki": 0.5, "web": 0.5}, 8, ["['wiki', 'web']"]),
        ([0.5, 0.5], 8, ["list"]),
        (WEIGHTS, 5, ["at=5", "block size 8", "at=8"]),
        (WEIGHTS, 800, ["at=800", "behind the end"]),
        ({"wiki": 0.0, "code": 0.0}, 8, ["weights"]),
        ({"wiki": -1.0, "code": 2.0}, 8, ["weights"]),
        ({"wiki": 0.9, "code": 0.1}, 8, ["code", "min"]),
    ],
)
def test_weights_that_cannot_hold(weights: Any, at: int, words: list[str]) -> None:
    mixture = Mixture(WEIGHTS, unit="examples", policies={"code": SourcePolicy(min_weight=0.25)})
    mixed = MixtureIterableDataset(streams(), mixture, num_examples=40, block_size=8)
    with pytest.raises(ValueError) as caught:
        mixed.set_weights(weights, at=at)
    assert all(word in str(caught.value) for word in words), caught.value
    assert mixed.weights_at(39) == WEIGHTS


def test_labels_that_mean_different_things_are_not_mixed() -> None:
    sources = {
        name: Dataset.from_dict({"label": [0, 1]}, features=Features({"label": ClassLabel(names=labels)}))
        for name, labels in (("wiki", ["good", "bad"]), ("code", ["bad", "good"]))
    }
    mixture = Mixture(WEIGHTS, unit="examples")
    moving = {name: rows.to_iterable_dataset() for name, rows in sources.items()}
    message = r"'label' is ClassLabel\(names=\['good', 'bad'\]\) in domain 'wiki' and .* 'code'; .*align_labels"
    for build in (
        lambda: MixtureIterableDataset(moving, mixture, num_examples=4),
        lambda: interleave_datasets(sources, mixture=mixture),
        lambda: MixtureDataset(sources, mixture, num_examples=4),
    ):
        with pytest.raises(ValueError, match=message):
            build()
    missing = Dataset.from_dict({"label": [None, None]})
    assert len(list(MixtureIterableDataset({**moving, "code": missing}, mixture, num_examples=4))) == 4
