from __future__ import annotations

import math

import numpy as np
import pytest

from hf_mixture.training.thoughts.compare import (
    best_by_kind,
    difference,
    erased_share,
    requirements,
    routed,
    row_of,
)


KINDS = ["x", "x", "y"]
BYTES = np.array([10, 20, 30])
NATS = np.array([[1.0, 5.0], [9.0, 6.0], [8.0, 2.0]])


def test_the_best_expert_of_a_kind_counts_bytes_and_not_documents() -> None:
    # Kind x: 10 against 11 nats; kind y: 8 against 2.
    assert best_by_kind(NATS, KINDS, BYTES) == {"x": 0, "y": 1}
    assert routed(NATS, [0, 0, 1]).tolist() == [1.0, 9.0, 2.0]


def test_a_row_pools_documents_and_averages_seeds() -> None:
    row = row_of("one", [NATS[:, 0], NATS[:, 1]], KINDS, BYTES, [4, 7])
    each = [18 / 60 / math.log(2), 13 / 60 / math.log(2)]
    assert [run["bits_per_byte"] for run in row["runs"]] == pytest.approx(each)
    assert [run["seed"] for run in row["runs"]] == [4, 7]
    assert row["bits_per_byte"] == pytest.approx(sum(each) / 2)
    assert row["sd"] == pytest.approx(abs(each[0] - each[1]) / math.sqrt(2))
    assert row["by_kind"]["y"] == pytest.approx(5 / 30 / math.log(2))


def test_a_verdict_needs_an_interval_without_zero() -> None:
    draw = np.random.default_rng(0)
    base, size = draw.uniform(50, 100, 200), np.full(200, 40)
    assert difference([base - 1], [base], size)["verdict"] == "better"
    assert difference([base + 1, base + 2], [base, base], size)["verdict"] == "worse"
    assert difference([base + draw.normal(0, 5, 200)], [base], size)["verdict"] == "undecided"
    assert difference([base - 1], [base], size)["mean"] == pytest.approx(-1 / math.log(2) / 40)


def test_wrong_peers_can_erase_only_what_was_gained() -> None:
    assert erased_share(1.0, 1.9, 2.0) == pytest.approx(0.9)
    assert erased_share(1.0, 2.5, 2.0) == pytest.approx(1.5)
    assert erased_share(2.0, 2.5, 2.0) is None


@pytest.mark.parametrize(("verdict", "erased", "met"), [("better", 0.8, True), ("undecided", None, False)])
def test_requirements(verdict: str, erased: float | None, met: bool) -> None:
    found = {"mean": 0.0, "low": 0.0, "high": 0.0, "verdict": verdict}
    entries = requirements({"domain oracle": found, "self_only": found}, erased)
    assert [entry["met"] for entry in entries] == [met] * 3
