"""The benchmark of PPP: what is stored follows from its rule, and is what the estimator does."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
from sklearn.metrics import adjusted_rand_score

from hf_mixture import ProbabilisticPartition


BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    sys.path.insert(0, str(BENCHMARKS))
    try:
        import bench_ppp
    finally:
        sys.path.remove(str(BENCHMARKS))
    return bench_ppp


@pytest.fixture(scope="module")
def stored() -> dict:
    return json.loads((BENCHMARKS / "results" / "ppp.json").read_text(encoding="utf-8"))


def test_the_default_is_what_the_rule_chose(bench: ModuleType, stored: dict) -> None:
    """Acceptance check 6: the rule of the docstring, applied to the stored table."""
    found = bench.chosen(stored["table"], bench.LIMITS)
    assert found == json.loads(json.dumps(stored["choice"]["default"]))
    defaults = ProbabilisticPartition().get_params()
    assert {name: defaults[name] for name in found["parameters"]} == found["parameters"]
    assert not bench.is_slow(found["parameters"])
    assert len(found["candidates"]) > 5


def test_the_stored_table_is_complete(bench: ModuleType, stored: dict) -> None:
    """Acceptance checks 6 and 7: all options and peers, a reason for each single cluster, four settings of EM."""
    assert set(stored["table"]) >= {*bench.RULES, *bench.DEFAULTS, "HDBSCAN", "BisectingKMeans, true k"}
    for name in bench.RULES:
        for found in stored["table"][name].values():
            reasons = found.get("one_cluster_because", [None] * len(found["clusters"]))
            assert [reason is not None for reason in reasons] == [count == 1 for count in found["clusters"]]
    assert [row["em_steps"] for row in stored["em_steps"] if row["rule"] == "default"] == [1, 2, 5, None]


@pytest.mark.parametrize("name", ["iris", "wine"])
def test_the_stored_table_is_measured_again(bench: ModuleType, stored: dict, name: str) -> None:
    rows, labels = bench.real_sets()[name]
    for rule in ("default", "E: full", "E + M: full or pdiag, full", "O: 16, dip"):
        given = {**bench.RULES, **bench.DEFAULTS}[rule]
        found = ProbabilisticPartition(**given).fit(rows)
        wanted = stored["table"][rule][name]
        assert found.n_clusters_ == wanted["clusters"][0]
        assert adjusted_rand_score(labels, found.labels_) == pytest.approx(wanted["ari"][0])
