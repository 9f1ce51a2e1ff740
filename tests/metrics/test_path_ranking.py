"""The ranking of candidates: the published table of 36 paths, scipy, and ties."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from hf_mixture.metrics import load_metric


TABLE = Path(__file__).parents[3] / "shared" / "data" / "pooling_supernets" / "resnet20_cifar10_paths.csv"


@pytest.mark.skipif(not TABLE.exists(), reason=f"the published accuracies are not at {TABLE}")
@pytest.mark.parametrize(
    ("column", "pearson", "spearman", "kendall", "path", "reached", "rank"),
    [
        ("m1_acc", 0.3060, 0.2329, 0.1429, 23, 90.342, 18),
        ("m2_acc", 0.5534, 0.4734, 0.3116, 24, 90.517, 15),
        ("m4_acc", 0.8352, 0.7568, 0.5968, 28, 90.957, 8),
        ("m8_acc", 0.8143, 0.7091, 0.5302, 28, 90.957, 8),
    ],
)
def test_the_published_table_is_replayed(  # noqa: PLR0917 - a row of that table
    column: str, pearson: float, spearman: float, kendall: float, path: int, reached: float, rank: int
) -> None:
    with TABLE.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 36
    found = load_metric("path_ranking").compute(
        predictions=[float(row[column]) for row in rows], references=[float(row["standalone_acc"]) for row in rows]
    )
    assert found["pearson"] == pytest.approx(pearson, abs=5e-4)
    assert found["spearman"] == pytest.approx(spearman, abs=5e-4)
    assert found["kendall"] == pytest.approx(kendall, abs=5e-4)
    assert int(rows[found["argmax"]]["path_index"]) == path
    assert found["reference_of_argmax"] == pytest.approx(reached, abs=5e-4)
    assert found["rank_of_argmax"] == rank


@pytest.mark.parametrize("seed", range(4))
def test_correlations_are_those_of_scipy_with_ties(seed: int) -> None:
    generator = np.random.default_rng(seed)
    scores, truth = generator.integers(0, 6, 30).astype(float), generator.integers(0, 9, 30).astype(float)
    found = load_metric("path_ranking").compute(predictions=scores.tolist(), references=truth.tolist())
    assert found["pearson"] == pytest.approx(stats.pearsonr(scores, truth).statistic)
    assert found["spearman"] == pytest.approx(stats.spearmanr(scores, truth).statistic)
    assert found["kendall"] == pytest.approx(stats.kendalltau(scores, truth, variant="b").statistic)
    assert found["argmax"] == scores.tolist().index(scores.max())
    assert found["regret"] == truth.max() - truth[found["argmax"]]


def test_constant_scores_have_no_correlation() -> None:
    found = load_metric("path_ranking").compute(predictions=[1.0, 1.0, 1.0], references=[1.0, 3.0, 2.0])
    assert (found["pearson"], found["spearman"], found["kendall"]) == (None, None, None)
    assert (found["argmax"], found["rank_of_argmax"], found["regret"]) == (0, 3, 2.0)


def test_bad_candidates_are_refused() -> None:
    metric = load_metric("path_ranking")
    with pytest.raises(ValueError, match="at least 2"):
        metric.compute(predictions=[1.0], references=[1.0])
    with pytest.raises(ValueError, match="row 1 of references is nan"):
        metric.compute(predictions=[1.0, 2.0], references=[1.0, float("nan")])
