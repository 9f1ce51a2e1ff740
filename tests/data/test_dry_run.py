from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from datasets import Dataset

from hf_mixture.data import Mixture, Source, interleave_datasets
from hf_mixture.data.dry_run import dry_run
from hf_mixture.data.plan import MixturePlan
from hf_mixture.data.plan_report import plan_report
from hf_mixture.data.schedule import SourcePolicy


HALF = {"a": 0.5, "b": 0.5}


def test_epochs_equal_the_counts_of_the_interleaver() -> None:
    sizes = {"a": 700, "b": 300, "c": 40}
    weights = {"a": 0.5, "b": 0.3, "c": 0.2}
    datasets = {name: Dataset.from_dict({"from": [name] * size}) for name, size in sizes.items()}
    mixture = Mixture(
        weights,
        unit="examples",
        schedule=[(0, weights), (0.5, {"a": 0.2, "b": 0.8, "c": 0.0})],
        schedule_unit="fraction",
    )
    report = dry_run(mixture, 1111, "examples", sizes={name: {"examples": size} for name, size in sizes.items()})
    mixed = interleave_datasets(datasets, mixture=mixture, num_examples=1111)["from"]
    plan = MixturePlan.build(
        **mixture.plan_arguments(num_examples=1111), sizes=list(sizes.values()), num_examples=1111, names=mixture.names
    )
    exact = {source.name: source for source in plan_report(plan).sources}
    for name, size in sizes.items():
        assert abs(exact[name].draws - mixed.count(name)) <= 1
        assert abs(exact[name].epochs - report.epochs[name]) <= 1 / size  # type: ignore[operator]
        assert abs(mixed.count(name) - report.drawn[name]) <= 1
        assert abs(mixed.count(name) / size - report.epochs[name]) <= 1 / size  # type: ignore[operator]


@pytest.mark.parametrize("seed", range(30))
def test_draws_equal_the_counts_of_a_plan_with_caps_and_schedules(seed: int) -> None:
    rng = np.random.default_rng(seed)
    num = int(rng.integers(2, 7))
    names = [f"s{i}" for i in range(num)]
    sizes = rng.integers(50, 3000, num).tolist()
    total = int(rng.integers(4000, 20_000))
    tables = [dict(zip(names, rng.dirichlet(np.ones(num)).tolist(), strict=True)) for _ in range(3)]
    kinds = ["constant", "linear"]
    segments = [(start, table, kinds[rng.integers(2)]) for start, table in zip((0, 0.3, 0.6), tables, strict=True)]
    segments[-1] = (*segments[-1][:2], "constant")
    policies = {
        name: SourcePolicy(max_epochs=float(rng.uniform(0.2, 3)), overflow="renormalise")
        for name in names[1:]
        if rng.random() < 0.6
    }
    mixture = Mixture(
        tables[0], unit="examples", schedule=segments, schedule_unit="fraction", policies=policies, normalise=True
    )
    report = dry_run(mixture, total, "examples", sizes={n: {"examples": s} for n, s in zip(names, sizes, strict=True)})
    # Small blocks: the plan looks at its weights and caps once a block.
    plan = MixturePlan.build(
        **mixture.plan_arguments(num_examples=total), sizes=sizes, num_examples=total, block_size=16
    )
    assert report.reached == pytest.approx(len(plan), abs=1)
    assert np.abs(plan.counts - np.array(list(report.drawn.values()))).max() <= 4


def test_tokens_follow_the_mean_lengths() -> None:
    rng = np.random.default_rng(0)
    lengths = [rng.integers(1, 200, 5000), rng.integers(1, 800, 5000)]
    sizes = {name: {"examples": 5000, "tokens": int(array.sum())} for name, array in zip("ab", lengths, strict=True)}
    mixture = Mixture({"a": 0.7, "b": 0.3}, unit="tokens")
    budget = 400_000
    report = dry_run(mixture, budget, "tokens", sizes=sizes)
    assert report.counted_in == "examples"
    means = np.array([array.mean() for array in lengths])
    assert np.array(list(report.drawn.values())) @ means == pytest.approx(budget)
    num_examples = round(sum(report.drawn.values()))
    plan = MixturePlan.build(mixture.shares, [5000, 5000], num_examples=num_examples, lengths=lengths)
    # The rows of a partial epoch are a sample of the source, a little longer or shorter than its mean.
    assert plan.counts == pytest.approx(list(report.drawn.values()), rel=0.03)


def test_caps_stop_are_passed_on_or_are_reported() -> None:
    def build(overflow: Any) -> Mixture:
        policies = {"a": SourcePolicy(max_epochs=2, overflow=overflow)}
        return Mixture(HALF, unit="examples", policies=policies)

    sizes = {"a": {"examples": 100}, "b": {"examples": 1000}}
    report = dry_run(build("renormalise"), 1000, "examples", sizes=sizes)
    assert (report.drawn, report.capped, report.exceeded) == ({"a": 200, "b": 800}, ("a",), ())
    report = dry_run(build("stop"), 1000, "examples", sizes=sizes)
    assert (report.drawn, report.stopped, report.reached) == ({"a": 200, "b": 200}, "a", 400)
    report = dry_run(build("error"), 1000, "examples", sizes=sizes)
    assert (report.drawn, report.exceeded, report.reached) == ({"a": 500, "b": 500}, ("a",), 1000)
    assert dry_run(build("error"), 400, "examples", sizes=sizes).exceeded == ()
    # When every source is at its cap, the stream ends.
    both = {name: SourcePolicy(max_epochs=1, overflow="renormalise") for name in HALF}
    report = dry_run(Mixture(HALF, unit="examples", policies=both), 5000, "examples", sizes=sizes)
    assert (report.drawn, report.reached) == ({"a": 100, "b": 1000}, 1100)
    assert report.stopped is not None


def test_what_is_known_decides_what_is_counted() -> None:
    tokens = Mixture(HALF, unit="tokens", sources={"a": Source("json", size=(("tokens", 100),))})
    report = dry_run(tokens, 1000, "tokens")
    assert report.counted_in == "tokens"
    assert report.epochs == {"a": 5, "b": None}
    assert dry_run(Mixture(HALF, unit="tokens"), 10, "tokens").epochs == {"a": None, "b": None}
    with pytest.raises(ValueError, match="no mean number of tokens"):
        dry_run(tokens, 1000, "examples")


@pytest.mark.parametrize(
    ("arguments", "options", "words"),
    [
        ((0, "tokens"), {}, ["amount=0"]),
        ((True, "tokens"), {}, ["amount=True"]),
        ((5, "rows"), {}, ["unit='rows'", "examples"]),
        ((5, "tokens"), {"sizes": {"c": {"tokens": 1}}}, ["'c'", "['a', 'b']"]),
        ((5, "tokens"), {"sizes": {"a": {"rows": 1}}}, ["'a'", "rows=1"]),
        ((5, "tokens"), {"sizes": {"a": {"tokens": 0}}}, ["'a'", "tokens=0"]),
        ((5, "tokens"), {}, ["'a'", "max_epochs=2", "size in tokens is not known"]),
    ],
)
def test_wrong_arguments_are_one_clear_error(arguments: Any, options: Any, words: list[str]) -> None:
    mixture = Mixture(HALF, unit="tokens", policies={"a": SourcePolicy(max_epochs=2)})
    with pytest.raises(ValueError) as caught:
        dry_run(mixture, *arguments, **options)
    assert all(word in str(caught.value) for word in words), caught.value
