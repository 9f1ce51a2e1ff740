from __future__ import annotations

import inspect
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from datasets import Dataset, DatasetDict
from hub_double import running_hub

from hf_mixture.data import Mixture, interleave_datasets
from hf_mixture.data.plan import MixturePlan
from hf_mixture.data.schedule import SourcePolicy
from hf_mixture.data.streaming import MixtureIterableDataset


SIZES = {"wiki": 500, "code": 80, "books": 1000}


@pytest.fixture(scope="module")
def domains() -> dict[str, Dataset]:
    rng = np.random.default_rng(0)
    return {
        name: Dataset.from_dict(
            {
                "text": ["é" * int(rng.integers(1, 40)) for _ in range(size)],
                "input_ids": [list(range(int(rng.integers(1, 9)))) for _ in range(size)],
                "id": [f"{name}/{i}" for i in range(size)],
                "length": rng.integers(1, 100, size),
            }
        )
        for name, size in SIZES.items()
    }


def names_of(dataset: Dataset) -> list[str]:
    return [name.split("/")[0] for name in dataset["id"]]


STRATEGIES = ["first_exhausted", "all_exhausted", "all_exhausted_without_replacement"]


@pytest.mark.parametrize(
    ("kind", "strategy", "probabilities", "seed"),
    [
        (kind, strategy, probabilities, seed)
        for kind in ("map_style", "iterable")
        for strategy in STRATEGIES
        for probabilities, seed in ((None, None), (None, 42), ([0.5, 0.3, 0.2], 42), ([0.5, 0.3, 0.2], 7))
    ]
    # With other strategies, datasets waits forever for a source that is never drawn.
    + [(kind, "first_exhausted", [0.5, 0.0, 0.5], 42) for kind in ("map_style", "iterable")]
    + [("map_style", "all_exhausted", [0.5, 0.0, 0.5], 42)],
)
def test_without_a_mixture_it_is_the_function_of_datasets(
    domains: dict[str, Dataset], *, kind: str, strategy: Any, probabilities: list[float] | None, seed: int | None
) -> None:
    sources: Any = {name: domain.select(range(60)) for name, domain in domains.items()}
    sources["books"] = domains["books"].select(range(90))
    if kind == "iterable":
        sources = {name: domain.to_iterable_dataset(num_shards=2) for name, domain in sources.items()}
    info, split = datasets.DatasetInfo(description="mixed"), datasets.Split.TEST
    arguments: Any = (probabilities, seed, info, split, strategy)

    def outcome(interleave: Any, given: Any) -> Any:
        try:
            mixed = interleave(given, *arguments)
        except ValueError as error:
            return str(error)
        facts = [type(mixed), mixed.info, mixed.split, mixed.features, list(mixed)]
        return [*facts, mixed._fingerprint if kind == "map_style" else mixed.num_shards]

    expected = outcome(datasets.interleave_datasets, list(sources.values()))
    assert outcome(interleave_datasets, list(sources.values())) == expected
    assert outcome(interleave_datasets, sources) == expected


def test_without_a_mixture_errors_are_those_of_datasets(domains: dict[str, Dataset]) -> None:
    wiki = domains["wiki"]
    wrong: list[tuple[Any, dict[str, Any]]] = [
        ([], {}),
        ([wiki, wiki.to_iterable_dataset()], {}),
        ([DatasetDict({"train": wiki})], {}),
        ([wiki, [1, 2]], {}),
        ([wiki, wiki], {"stopping_strategy": "never"}),
        ([wiki, wiki], {"probabilities": [0.5, 0.4]}),
        ([wiki, wiki.select([])], {"probabilities": [0.5, 0.5]}),
    ]
    for sources, arguments in wrong:
        messages = []
        for interleave in (interleave_datasets, datasets.interleave_datasets):
            with pytest.raises(ValueError) as caught:
                interleave(sources, **arguments)
            messages.append(str(caught.value))
        assert messages[0] == messages[1]


def test_it_takes_the_arguments_of_datasets_in_their_order() -> None:
    stock = list(inspect.signature(datasets.interleave_datasets).parameters.values())
    ours = list(inspect.signature(interleave_datasets).parameters.values())[: len(stock)]
    assert [(p.name, p.default, p.kind) for p in ours] == [(p.name, p.default, p.kind) for p in stock]


def test_the_result_is_an_ordinary_dataset_with_the_rows_of_the_plan(
    domains: dict[str, Dataset], tmp_path: Any
) -> None:
    mixture = Mixture({"wiki": 0.5, "code": 0.2, "books": 0.3}, unit="examples", seed=3)
    mixed = interleave_datasets(domains, mixture=mixture)
    assert type(mixed) is Dataset
    sources, rows = MixturePlan.build(mixture.shares, list(SIZES.values()), seed=3).materialise()
    assert mixed["id"][:] == [f"{mixture.names[i]}/{row}" for i, row in zip(sources, rows, strict=True)]
    assert len(mixed) == 400
    assert mixed.column_names == domains["wiki"].column_names
    mixed.save_to_disk(tmp_path / "mixed")
    assert datasets.load_from_disk(str(tmp_path / "mixed"))["id"][:] == mixed["id"][:]


def test_names_decide_and_a_list_is_in_the_order_of_the_mixture(domains: dict[str, Dataset]) -> None:
    mixture = Mixture({"wiki": 0.5, "code": 0.2, "books": 0.3}, unit="examples")
    expected = interleave_datasets(domains, mixture=mixture)["id"][:]
    backwards = DatasetDict(dict(reversed(domains.items())))
    assert interleave_datasets(backwards, mixture=mixture)["id"][:] == expected
    assert interleave_datasets(list(domains.values()), mixture=mixture)["id"][:] == expected
    assert interleave_datasets(list(domains.values()), mixture)["id"][:] == expected
    assert interleave_datasets(domains, mixture=mixture, seed=0)["id"][:] == expected


def test_length(domains: dict[str, Dataset]) -> None:
    mixture = Mixture({"wiki": 0.5, "code": 0.2, "books": 0.3}, unit="examples")
    first = names_of(interleave_datasets(domains, mixture=mixture))
    assert {name: first.count(name) for name in SIZES} == {"wiki": 200, "code": 80, "books": 120}
    every = names_of(interleave_datasets(domains, mixture=mixture, stopping_strategy="all_exhausted"))
    assert abs(len(every) - 1000 / 0.3) <= 1
    assert every.count("books") == 1000
    assert len(interleave_datasets(domains, mixture=mixture, num_examples=12_345)) == 12_345
    assert len(interleave_datasets(domains, mixture=mixture, num_examples=np.int64(7))) == 7


def test_repeats_are_reshuffled_epochs(domains: dict[str, Dataset]) -> None:
    mixture = Mixture({"wiki": 0.0, "code": 1.0, "books": 0.0}, unit="examples")
    ids = interleave_datasets(domains, mixture=mixture, num_examples=240)["id"][:]
    epochs = [ids[start : start + 80] for start in (0, 80, 160)]
    assert all(sorted(epoch) == sorted(domains["code"]["id"]) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


def test_weight_zero_is_never_drawn_and_may_be_empty(domains: dict[str, Dataset]) -> None:
    empty = domains["code"].select([])
    mixture = Mixture({"wiki": 0.5, "code": 0.0, "books": 0.5}, unit="tokens")
    mixed = interleave_datasets({**domains, "code": empty}, mixture=mixture, stopping_strategy="all_exhausted")
    assert set(names_of(mixed)) == {"wiki", "books"}


@pytest.mark.parametrize(
    ("unit", "arguments", "measure"),
    [
        ("tokens", {}, lambda row: len(row["input_ids"])),
        ("bytes", {}, lambda row: len(row["text"].encode())),
        ("tokens", {"length_column": "length"}, lambda row: row["length"]),
        ("bytes", {"length_column": "length"}, lambda row: row["length"]),
    ],
)
def test_shares_are_met_in_the_unit_of_the_mixture(
    domains: dict[str, Dataset], unit: Any, arguments: Any, measure: Any
) -> None:
    mixture = Mixture({"wiki": 0.5, "code": 0.2, "books": 0.3}, unit=unit)
    mixed = interleave_datasets(domains, mixture=mixture, num_examples=1000, **arguments)
    names, amounts = names_of(mixed), [measure(row) for row in mixed]
    for name, share in mixture.weights.items():
        got = sum(amount for other, amount in zip(names, amounts, strict=True) if other == name)
        # Within a row of each source, and the total has an error of its own.
        assert abs(got - share * sum(amounts)) <= max(amounts)


def test_lengths_may_be_given_by_name_or_in_order(domains: dict[str, Dataset]) -> None:
    mixture = Mixture({"wiki": 0.5, "code": 0.2, "books": 0.3}, unit="tokens")
    by_name = {name: np.asarray(dataset["length"]) for name, dataset in domains.items()}
    expected = interleave_datasets(domains, mixture=mixture, length_column="length")["id"][:]
    assert interleave_datasets(domains, mixture=mixture, lengths=by_name)["id"][:] == expected
    assert interleave_datasets(domains, mixture=mixture, lengths=list(by_name.values()))["id"][:] == expected


def test_lengths_follow_a_selection_of_rows(domains: dict[str, Dataset]) -> None:
    chosen = {name: dataset.select(range(len(dataset) - 1, -1, -2)) for name, dataset in domains.items()}
    mixture = Mixture({"wiki": 0.5, "code": 0.2, "books": 0.3}, unit="tokens")
    lengths = [np.array([len(ids) for ids in dataset["input_ids"]]) for dataset in chosen.values()]
    given = interleave_datasets(chosen, mixture=mixture, lengths=lengths)
    assert interleave_datasets(chosen, mixture=mixture)["id"][:] == given["id"][:]


def test_provenance_column(domains: dict[str, Dataset]) -> None:
    mixture = Mixture({"wiki": 0.5, "code": 0.2, "books": 0.3}, unit="examples")
    mixed = interleave_datasets(domains, mixture=mixture, provenance_column="source")
    assert mixed["source"][:] == names_of(mixed)
    with pytest.raises(ValueError, match=r"'wiki' already has a column 'text'"):
        interleave_datasets(domains, mixture=mixture, provenance_column="text")


def test_fingerprints_tell_results_apart(domains: dict[str, Dataset]) -> None:
    mixture = Mixture({"wiki": 0.5, "code": 0.2, "books": 0.3}, unit="examples")
    results = [
        interleave_datasets(domains, mixture=mixture),
        interleave_datasets(domains, mixture=mixture, num_examples=399),
        interleave_datasets(domains, mixture=mixture, provenance_column="source"),
        interleave_datasets({**domains, "wiki": domains["books"]}, mixture=mixture),
        interleave_datasets(domains, mixture=Mixture(mixture.weights, unit="examples", seed=1)),
        interleave_datasets(domains, mixture=Mixture(mixture.weights, unit="tokens"), num_examples=400),
        interleave_datasets(
            domains, mixture=Mixture(mixture.weights, unit="tokens"), num_examples=400, length_column="length"
        ),
    ]
    assert len({result._fingerprint for result in results}) == len(results)
    again = interleave_datasets(domains, mixture=mixture)
    assert again._fingerprint == results[0]._fingerprint
    # The result of a cached map is keyed by the fingerprint.
    assert again.map(lambda row: {"id": row["id"].upper()})["id"][0] == again["id"][0].upper()


@pytest.mark.parametrize(
    ("weights", "arguments", "error", "words"),
    [
        ({"wiki": 0.5, "web": 0.5}, {}, ValueError, ["unknown domains ['web']", "'wiki', 'code', 'books'"]),
        ({"wiki": 0.5, "code": 0.5}, {}, ValueError, ["no weight to ['books']", "weight 0"]),
        (None, {"probabilities": [1, 0, 0]}, ValueError, ["probabilities", "mixture", "one of them"]),
        (None, {"seed": 5}, ValueError, ["seed=5", "mixture.seed=0"]),
        (None, {"stopping_strategy": "never"}, ValueError, ["'never'", "first_exhausted"]),
        (
            None,
            {"stopping_strategy": "all_exhausted_without_replacement"},
            ValueError,
            ["natural shares", "Mixture.natural"],
        ),
        (None, {"num_examples": 0}, ValueError, ["num_examples=0", "[1, 2**31]"]),
        (None, {"num_examples": 10**12}, ValueError, ["num_examples=1000000000000", "[1, 2**31]"]),
        (None, {"num_examples": True}, ValueError, ["num_examples=True"]),
        (None, {"num_examples": 1.5}, ValueError, ["num_examples=1.5"]),
        (None, {"length_column": "length"}, ValueError, ["unit 'tokens' or 'bytes'", "'examples'"]),
        (None, {"provenance_column": ""}, ValueError, ["provenance_column=''"]),
        (None, {"mixture": {"wiki": 1.0}}, TypeError, ["dict", "Mixture"]),
    ],
)
def test_wrong_arguments_are_one_clear_error(
    domains: dict[str, Dataset], weights: Any, arguments: Any, error: Any, words: list[str]
) -> None:
    mixture = Mixture(weights or {"wiki": 0.5, "code": 0.2, "books": 0.3}, unit="examples")
    with pytest.raises(error) as caught:
        interleave_datasets(domains, **{"mixture": mixture, **arguments})
    assert all(word in str(caught.value) for word in words), caught.value


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"lengths": {"wiki": [1] * 500}}, ["no entry for domain 'code'"]),
        ({"lengths": [[1] * 500]}, ["1 arrays of lengths for 3 domains"]),
        ({"lengths": [[1] * 500, [1] * 80, [1] * 999]}, ["'books'", "(999,)", "1000 integers"]),
        ({"lengths": [[1] * 500, [1] * 80, [1.0] * 1000]}, ["'books'", "float64", "integers"]),
        ({"lengths": [[1] * 500, [1] * 80, [-1] * 1000]}, ["'books'", "-1", ">= 0"]),
        ({"lengths": [[1] * 500, [1] * 80, [0] * 1000]}, ["'books'", "not all 0"]),
        ({"lengths": [[1]] * 3, "length_column": "length"}, ["both", "one of them"]),
        ({"length_column": "nothing"}, ["'wiki'", "no column 'nothing'", "lengths="]),
        ({"length_column": "text"}, ["'text'", "string", "'tokens'", "token lists"]),
    ],
)
def test_wrong_lengths_are_one_clear_error(domains: dict[str, Dataset], arguments: Any, words: list[str]) -> None:
    mixture = Mixture({"wiki": 0.5, "code": 0.2, "books": 0.3}, unit="tokens")
    with pytest.raises(ValueError) as caught:
        interleave_datasets(domains, mixture=mixture, **arguments)
    assert all(word in str(caught.value) for word in words), caught.value


def test_tokens_cannot_be_counted_in_raw_text(domains: dict[str, Dataset]) -> None:
    texts = {name: dataset.select_columns("text") for name, dataset in domains.items()}
    mixture = Mixture({"wiki": 0.5, "code": 0.2, "books": 0.3}, unit="tokens")
    with pytest.raises(ValueError, match=r"'wiki' has no column 'input_ids'.*length_column="):
        interleave_datasets(texts, mixture=mixture)
    nulls = Dataset.from_dict({"text": ["a", None]})
    with pytest.raises(ValueError, match="1 nulls"):
        interleave_datasets([nulls], mixture=Mixture({"a": 1.0}, unit="bytes"))


def test_datasets_that_a_mixture_cannot_read(domains: dict[str, Dataset]) -> None:
    mixture = Mixture({"a": 0.5, "b": 0.5}, unit="examples")
    wiki = domains["wiki"]
    with pytest.raises(TypeError, match=r"'b' is a DatasetDict.*dataset\['train'\]"):
        interleave_datasets([wiki, DatasetDict({"train": wiki})], mixture=mixture)
    with pytest.raises(TypeError, match=r"'b' is a list"):
        interleave_datasets([wiki, [1, 2]], mixture=mixture)
    with pytest.raises(ValueError, match=r"'b' has weight 0\.5 and no rows"):
        interleave_datasets([wiki, wiki.select([])], mixture=mixture)
    with pytest.raises(ValueError, match="3 datasets for the 2 domains"):
        interleave_datasets([wiki] * 3, mixture=mixture)


@pytest.mark.parametrize(
    "arguments",
    [{"num_examples": 3}, {"lengths": []}, {"length_column": "n"}, {"provenance_column": "s"}, {"sizes": {"wiki": 1}}],
)
def test_arguments_of_mixtures_need_one(domains: dict[str, Dataset], arguments: Any) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(arguments))}.*need a mixture"):
        interleave_datasets(domains, **arguments)


WEIGHTS = {"wiki": 0.5, "code": 0.2, "books": 0.3}


def test_schedules_and_policies_hold_in_the_materialised_result(domains: dict[str, Dataset]) -> None:
    later = {"wiki": 0.0, "code": 0.1, "books": 0.9}
    mixture = Mixture(
        WEIGHTS,
        unit="examples",
        schedule=[(0, WEIGHTS, "linear"), (0.5, later)],
        schedule_unit="fraction",
        policies={
            "code": SourcePolicy(max_epochs=1.5, overflow="renormalise", shuffle=False),
            "books": SourcePolicy(min_weight=0.3),
        },
    )
    mixed = interleave_datasets(domains, mixture=mixture, num_examples=3000)
    plan = MixturePlan.build(
        **mixture.plan_arguments(num_examples=3000), sizes=list(SIZES.values()), num_examples=3000
    )
    sources, rows = plan.materialise()
    assert mixed["id"][:] == [f"{mixture.names[i]}/{row}" for i, row in zip(sources, rows, strict=True)]
    names = names_of(mixed)
    assert names.count("code") == 120
    assert names.count("wiki") > 300
    assert "wiki" not in names[1500:]
    code = [text for text in mixed["id"] if text.startswith("code")]
    assert code == [f"code/{i % 80}" for i in range(120)]


def test_a_source_that_only_the_schedule_draws_is_there(domains: dict[str, Dataset]) -> None:
    start = {"wiki": 0.5, "code": 0.0, "books": 0.5}
    for unit in ("examples", "tokens"):
        mixture = Mixture(start, unit=unit, schedule=[(0, start), (512, WEIGHTS)], schedule_unit="examples")
        names = names_of(interleave_datasets(domains, mixture=mixture, num_examples=1024))
        assert "code" not in names[:512]
        assert "code" in names[512:]


@pytest.mark.parametrize(
    ("arguments", "more", "words"),
    [
        ({"schedule": [(0, WEIGHTS), (0.5, WEIGHTS)], "schedule_unit": "fraction"}, {}, ["fractions", "num_examples"]),
        ({"policies": {"code": SourcePolicy(max_epochs=2)}}, {"num_examples": 3000}, ["code", "max_epochs"]),
        ({}, {"sizes": {"web": 3}}, ["['web']", "not domains"]),
        ({}, {"sizes": {"wiki": 3}}, ["sizes['wiki']=3", "500 rows"]),
        ({}, {"sizes": {"wiki": 0}}, ["sizes['wiki']=0"]),
    ],
)
def test_schedules_and_caps_that_cannot_hold_are_one_clear_error(
    domains: dict[str, Dataset], arguments: Any, more: Any, words: list[str]
) -> None:
    with pytest.raises(ValueError) as caught:
        interleave_datasets(domains, mixture=Mixture(WEIGHTS, unit="examples", **arguments), **more)
    assert all(word in str(caught.value) for word in words), caught.value


def test_columns_that_a_source_lacks_are_none(domains: dict[str, Dataset]) -> None:
    sources = {**domains, "code": domains["code"].remove_columns("length")}
    for row in interleave_datasets(sources, mixture=Mixture(WEIGHTS, unit="examples")):
        assert (row["length"] is None) == row["id"].startswith("code")


def test_sources_that_are_selections_themselves(domains: dict[str, Dataset]) -> None:
    chosen = {name: dataset.shuffle(seed=1).select(range(20, 80)) for name, dataset in domains.items()}
    mixed = interleave_datasets(chosen, mixture=Mixture(WEIGHTS, unit="examples"), stopping_strategy="all_exhausted")
    assert set(mixed["id"]) == {text for dataset in chosen.values() for text in dataset["id"]}


def test_more_sources_than_two_bytes_count() -> None:
    sources = {f"s{i}": Dataset.from_dict({"id": [f"s{i}"] * 3}) for i in (0, 255, 256, 300)}
    rest = Dataset.from_dict({"id": ["rest"]})
    for num, last in ((301, 300), (70_000, 69_999)):
        names = [f"s{i}" for i in range(num)]
        given = {name: sources.get(name, rest) for name in names}
        given[f"s{last}"] = Dataset.from_dict({"id": [f"s{last}"] * 3})
        used = {"s0", "s255", "s256", f"s{last}"}
        mixture = Mixture({name: float(name in used) for name in names}, unit="examples", normalise=True)
        mixed = interleave_datasets(given, mixture=mixture)
        assert sorted(mixed["id"]) == sorted(name for name in used for _ in range(3))


def test_processes_agree_on_fingerprint_and_rows_and_the_result_can_be_pushed(tmp_path: Any) -> None:
    script = Path(__file__).parent / "push_mixed.py"
    here = runpy.run_path(str(script))
    with running_hub() as hub:
        # Another seed of hashes than that of this process.
        environment = {**hub.environment(tmp_path / "home"), "PYTHONHASHSEED": "7"}
        command = [sys.executable, str(script), "tester/mixed"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert any(path.endswith(".parquet") for path in hub.store.files("dataset", "tester/mixed"))
    assert done.stdout.strip() == here["describe"](here["build"]())
    assert done.stdout.count("a/") > 10


def test_streams_with_a_mixture_are_a_mixed_stream(domains: dict[str, Dataset]) -> None:
    streams: Any = {**domains, "books": domains["books"].to_iterable_dataset()}
    mixture = Mixture(WEIGHTS, unit="tokens")
    mixed = interleave_datasets(
        streams, mixture, num_examples=300, length_column="length", provenance_column="domain", sizes={"books": 1000}
    )
    assert type(mixed) is MixtureIterableDataset
    expected = MixtureIterableDataset(
        streams, mixture, num_examples=300, length_column="length", provenance_column="domain"
    )
    assert list(mixed) == list(expected)
    assert [row["domain"] for row in mixed] == [row["id"].split("/")[0] for row in mixed]
    every = interleave_datasets(
        list(streams.values()), mixture=Mixture(WEIGHTS, unit="examples"), stopping_strategy="all_exhausted"
    )
    assert len({row["id"] for row in every}) == sum(SIZES.values())
    for arguments, words in (
        ({"lengths": {}}, r"\['lengths'\] belong to a datasets.Dataset.*length_column="),
        ({"info": datasets.DatasetInfo()}, r"\['info'\] belong"),
        ({"split": "train"}, r"\['split'\] belong"),
    ):
        with pytest.raises(ValueError, match=words):
            interleave_datasets(streams, mixture=mixture, **arguments)
