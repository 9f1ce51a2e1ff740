"""The stored comparisons of recommenders have every baseline, seed, figure and verdict that they must be read with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hf_mixture.training.unlearn.verdict import reaches_target, verdict


RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
BASELINES = {"popularity", "user-CF, k=10", "user-CF, k=50", "user-CF, k=200", "item-CF"}
MEASURES = {"recall@10", "recall@20", "recall@50", "ndcg@10", "diversity@20", "coverage@20", "num_scored"}


def stored(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return found


@pytest.mark.parametrize("name", ["knn_embed_citation", "knn_embed_movielens"])
def test_mixtures_stand_beside_every_baseline(name: str) -> None:
    result = stored(name)
    rows = {row["system"]: row for row in result["rows"]}
    mixtures = {
        f"{embedding}: {method}"
        for embedding in ("twhin", "als", "lightgcn")
        for method in ("one vector", "MLE mixture", "global mixture", "kNN-Embed")
    }
    assert rows.keys() >= BASELINES | mixtures
    for system, row in rows.items():
        assert len(row["seeds"]) == (1 if system in BASELINES else 3)
        assert all(seed.keys() >= MEASURES for seed in row["seeds"])
    # The text names the best system, whichever it is.
    means = {system: sum(s["recall@10"] for s in row["seeds"]) / len(row["seeds"]) for system, row in rows.items()}
    best = max(means, key=lambda system: means[system])
    assert result["verdicts"][0] == f"Best recall at 10: {best}, {means[best]:.4f}."


@pytest.mark.parametrize("name", ["unlearn_movielens", "unlearn_tiktok"])
def test_forgetting_stands_beside_every_simpler_way(name: str) -> None:
    result = stored(name)
    assert {(case["backbone"], case["kind"]) for case in result["cases"]} == {
        (backbone, kind) for backbone in ("vbpr", "lightgcn_mm") for kind in ("users", "items", "interactions")
    }
    for case in result["cases"]:
        rows = {row["arm"]: row for row in case["rows"]}
        families = {
            *("original", "gold", "fine_tune", "ascent", "ascent_retain", "reset_fine_tune", "sharded-4"),
            *("sum", "alternate", "two_phase", "project", "mask", "reset", "refit"),
        }
        assert {arm.partition("@")[0] for arm in rows} == families | (
            {"block_list"} if case["kind"] == "items" else set()
        )
        figures = {arm: row["by_seed"] for arm, row in rows.items()}
        for arm, row in rows.items():
            assert len(row["by_seed"]) == 3
            assert row["by_seed"][0].keys() >= {"q", "v", "c", "auc_difference"}
            if arm not in ("original", "gold", "block_list"):
                assert row["verdict"] == verdict(arm, row["by_seed"], figures)
                assert row["reaches_target"] == reaches_target(row["by_seed"])
