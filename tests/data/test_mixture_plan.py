from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from hf_mixture.data import Mixture, Source
from hf_mixture.data.mixture_plan import expected_amounts, shares_in, starts_in
from hf_mixture.data.plan import MixturePlan
from hf_mixture.data.schedule import Segment, SourcePolicy


HALF = {"a": 0.5, "b": 0.5}
MEANS = {"tokens": {"a": 100.0, "b": 400.0}}


def scheduled(unit: str, schedule_unit: str, segments: list[Any], **more: Any) -> Mixture:
    return Mixture(HALF, unit=unit, schedule=segments, schedule_unit=schedule_unit, **more)  # type: ignore[arg-type]


def walk(mixture: Mixture, num_positions: int, lengths: dict[str, float]) -> np.ndarray:
    """float64 [N + 1, K]: examples drawn of each source before each position, one position after the other.

    The schedule counts the unit of the mixture, tokens or examples.
    """
    means = np.array([lengths[name] if mixture.unit == "tokens" else 1.0 for name in mixture.names])
    amounts = np.array([lengths[name] if mixture.schedule_unit == "tokens" else 1.0 for name in mixture.names])
    segments = mixture.schedule or ()
    starts = mixture.plan_arguments(mean_lengths={"tokens": lengths})["schedule"] or ()
    draws, current, spent = [np.zeros(len(means))], 0, 0.0
    for position in range(num_positions):
        while current + 1 < len(segments) and spent >= segments[current + 1].start - 1e-6:
            current += 1
        weights = np.array(segments[current].weights)
        if segments[current].interpolation == "linear":
            begin, end = starts[current].start, starts[current + 1].start
            inside = (position + 0.5 - begin) / (end - begin)
            weights = weights + min(inside, 1) * (np.array(segments[current + 1].weights) - weights)
        rows = weights / means / (weights / means).sum()
        spent += float(rows @ amounts)
        draws.append(draws[-1] + rows)
    return np.array(draws)


def test_positions_and_fractions() -> None:
    mixture = scheduled("examples", "examples", [(0, HALF), (70, {"a": 1, "b": 0}, "linear"), (90, HALF)])
    assert mixture.plan_arguments() == {
        "weights": (0.5, 0.5),
        "schedule": (Segment(0, (0.5, 0.5)), Segment(70, (1, 0), "linear"), Segment(90, (0.5, 0.5))),
        "policies": None,
    }
    mixture = scheduled(
        "examples", "fraction", [(0, HALF), (0.25, (1, 0))], policies={"b": SourcePolicy(shuffle=False)}
    )
    arguments = mixture.plan_arguments(num_examples=1001)
    assert [segment.start for segment in arguments["schedule"] or ()] == [0, 250]
    assert arguments["policies"] == (SourcePolicy(), SourcePolicy(shuffle=False))
    with pytest.raises(ValueError, match="num_examples"):
        mixture.plan_arguments()
    with pytest.raises(ValueError, match=r"segments 0 and 1 .* position 0"):
        mixture.plan_arguments(num_examples=1)
    assert Mixture(HALF, unit="tokens").plan_arguments() == {"weights": (0.5, 0.5), "schedule": None, "policies": None}


@pytest.mark.parametrize("unit", ["tokens", "examples"])
@pytest.mark.parametrize("interpolation", ["constant", "linear"])
def test_starts_in_tokens_become_the_positions_where_so_many_tokens_are_spent(unit: str, interpolation: str) -> None:
    segments = [(0, HALF, interpolation), (400_000, {"a": 0.9, "b": 0.1}), (600_000, {"a": 0.2, "b": 0.8})]
    mixture = scheduled(unit, "tokens", segments)
    starts = [s.start for s in mixture.plan_arguments(mean_lengths=MEANS)["schedule"] or ()]
    tokens = walk(mixture, 6000, MEANS["tokens"]) @ np.array([100, 400])
    for segment, start in zip(segments, starts, strict=True):
        # The tokens of a position lie between 100 and 400.
        assert abs(tokens[start] - segment[0]) < 400


def test_blocks_of_a_fixed_length_and_recorded_sizes() -> None:
    mixture = scheduled("tokens", "tokens", [(0, HALF), (10 * 512, (1, 0))])
    assert mixture.plan_arguments(mean_lengths={"tokens": 512})["schedule"][1].start == 10  # type: ignore[index]
    with pytest.raises(ValueError, match="source 'a' has no mean number of tokens"):
        mixture.plan_arguments()
    sizes = {"a": {"examples": 4, "tokens": 400}, "b": {"examples": 2, "tokens": 800}}
    sources = {name: Source("json", size=tuple(size.items())) for name, size in sizes.items()}
    recorded = scheduled("tokens", "tokens", [(0, HALF), (5120, (1, 0))], sources=sources)
    assert recorded.plan_arguments() == mixture.plan_arguments(mean_lengths=MEANS)
    for wrong in (0, -1, math.nan, "x", True):
        with pytest.raises(ValueError, match="mean length of 'a'"):
            mixture.plan_arguments(mean_lengths={"tokens": wrong})  # type: ignore[dict-item]


def test_a_source_that_is_never_drawn_needs_no_length() -> None:
    mixture = Mixture({"a": 1, "b": 0}, unit="examples")
    assert shares_in(mixture, "tokens", {"tokens": {"a": 3}}) == (1, 0)
    later = Mixture(
        {"a": 1, "b": 0}, unit="examples", schedule=[(0, (1, 0)), (5, (0.5, 0.5))], schedule_unit="examples"
    )
    with pytest.raises(ValueError, match="source 'b'"):
        shares_in(later, "tokens", {"tokens": {"a": 3}})


def test_shares_meet_the_realised_token_shares_at_a_million_documents() -> None:
    rng = np.random.default_rng(0)
    weights = {"short": 0.5, "middle": 0.3, "long": 0.2}
    # Whole passes over each source: a part of one has a mean length of its own.
    pools = {"short": (5.0, 500_000), "middle": (6.0, 150_000), "long": (7.5, 200_000)}
    lengths = {name: np.ceil(rng.lognormal(mean, 1.5, num)).astype(np.int64) for name, (mean, num) in pools.items()}
    size = {name: (("examples", len(array)), ("tokens", int(array.sum()))) for name, array in lengths.items()}
    documents = Mixture(weights, unit="examples", sources={name: Source("json", size=size[name]) for name in weights})
    plan = MixturePlan.build(documents.shares, [num for _, num in pools.values()], num_examples=1_000_000)
    sources, rows = plan.materialise()
    tokens = np.array([array[rows[sources == i]].sum() for i, array in enumerate(lengths.values())])
    realised = tokens / tokens.sum()

    converted = shares_in(documents, "tokens")
    assert np.abs(np.array(converted) - realised).max() < 1e-3
    # Reading the one as the other is wrong by a factor of 2.
    assert (realised / np.array(documents.shares)).max() > 2

    back = Mixture(dict(zip(weights, converted, strict=True)), unit="tokens", sources=documents.sources)
    assert shares_in(back, "examples") == pytest.approx(documents.shares, abs=1e-12)
    # The shares of documents that a plan of tokens realises.
    counts = MixturePlan.build(
        back.shares, list(plan.sizes or ()), num_examples=1_000_000, lengths=list(lengths.values())
    ).counts
    assert counts / counts.sum() == pytest.approx(documents.shares, abs=1e-3)
    with pytest.raises(ValueError, match="no mean number of tokens"):
        shares_in(Mixture(weights, unit="examples"), "tokens")


@pytest.mark.parametrize("unit", ["tokens", "examples"])
@pytest.mark.parametrize("interpolation", ["constant", "linear"])
@pytest.mark.parametrize("num_positions", [500, 2500, 5000])
def test_amounts_at_a_budget_are_those_of_the_walk(unit: str, interpolation: str, num_positions: int) -> None:
    segments = [(0, HALF, interpolation), (300_000, {"a": 0.9, "b": 0.1}, interpolation), (700_000, (0.2, 0.8))]
    mixture = scheduled(unit, "tokens", segments)
    draws = walk(mixture, num_positions, MEANS["tokens"])[-1]
    in_unit = draws * np.array([100, 400]) if unit == "tokens" else draws
    amounts = expected_amounts(mixture, num_positions, "examples", MEANS)
    assert list(amounts.values()) == pytest.approx(in_unit.tolist(), rel=2e-3)
    in_tokens = expected_amounts(mixture, float(draws @ np.array([100, 400])), "tokens", MEANS)
    assert list(in_tokens.values()) == pytest.approx(in_unit.tolist(), rel=2e-3)


def test_amounts_of_a_schedule_in_fractions() -> None:
    mixture = scheduled("examples", "fraction", [(0, HALF), (0.5, {"a": 1, "b": 0})])
    assert expected_amounts(mixture, 1000, "examples") == pytest.approx({"a": 750, "b": 250})
    # 750 examples of 100 tokens and 250 of 400.
    assert expected_amounts(mixture, 175_000, "tokens", MEANS) == pytest.approx({"a": 750, "b": 250})
    assert expected_amounts(Mixture(HALF, unit="tokens"), 10, "tokens") == {"a": 5, "b": 5}


def test_starts_in_another_unit_and_back() -> None:
    segments = [(0, HALF, "linear"), (1000, {"a": 0.9, "b": 0.1}), (3000, HALF)]
    examples = scheduled("tokens", "examples", segments)
    tokens = starts_in(examples, "tokens", MEANS)
    rounded = [(round(start), *segment[1:]) for start, segment in zip(tokens, segments, strict=True)]
    back = scheduled("tokens", "tokens", rounded).plan_arguments(mean_lengths=MEANS)["schedule"] or ()
    assert [segment.start for segment in back] == [0, 1000, 3000]
    assert starts_in(examples, "examples") == [0, 1000, 3000]


def test_a_budget_that_passes_a_cap_is_refused_where_it_must_not() -> None:
    sources = {"a": Source("json", size=(("examples", 10),)), "b": Source("json", size=(("examples", 1000),))}

    def build(**changes: Any) -> Mixture:
        fields = {"budget": (100, "examples"), "policies": {"a": SourcePolicy(max_epochs=4)}, **changes}
        return Mixture(HALF, unit="examples", sources=sources, **fields)

    with pytest.raises(ValueError, match=r"'a' for 5 epochs, above its max_epochs=4"):
        build()
    for allowed in ({"budget": (80, "examples")}, {"policies": {"a": SourcePolicy(max_epochs=4, overflow="stop")}}):
        assert build(**allowed).budget
    # Without the lengths nobody can say: the dry run asks for them.
    assert build(budget=(10**9, "tokens")).budget
