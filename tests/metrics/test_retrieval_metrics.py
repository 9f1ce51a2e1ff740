"""Metrics of lists of items, against loops and against pytrec_eval."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest

from hf_mixture.metrics import load_metric


def lists(seed: int, *, num_users: int = 40, num_items: int = 60) -> tuple[list[list[int]], list[list[int]]]:
    rng = np.random.default_rng(seed)
    predictions = [rng.permutation(num_items)[: rng.integers(1, 25)].tolist() for _ in range(num_users)]
    references = [rng.permutation(num_items)[: rng.integers(0, 15)].tolist() for _ in range(num_users)]
    return predictions, references


@pytest.mark.parametrize("k", [1, 5, 20])
def test_recall_and_ndcg_are_those_of_trec_eval(k: int) -> None:
    library = pytest.importorskip("pytrec_eval")
    predictions, references = lists(k)
    relevance = {str(u): {str(i): 1 for i in row} for u, row in enumerate(references) if row}
    run = {str(u): {str(i): float(-place) for place, i in enumerate(row)} for u, row in enumerate(predictions)}
    found = library.RelevanceEvaluator(relevance, {f"recall.{k}", f"ndcg_cut.{k}"}).evaluate(run)
    users = [u for u, row in enumerate(references) if row]
    given: dict[str, Any] = {"predictions": predictions, "references": references, "k": k}
    recall = load_metric("recall_at_k").compute(**given, average="macro")
    assert recall["per_user"] == pytest.approx([found[str(u)][f"recall_{k}"] for u in users], abs=1e-9)
    assert recall["recall_at_k"] == pytest.approx(np.mean(recall["per_user"]))
    assert recall["num_users"] == len(users) < 40
    ndcg = load_metric("ndcg_at_k").compute(**given)
    assert ndcg["per_user"] == pytest.approx([found[str(u)][f"ndcg_cut_{k}"] for u in users], abs=1e-9)
    assert ndcg["ndcg_at_k"] == pytest.approx(np.mean(ndcg["per_user"]))


def test_recall_by_hand() -> None:
    metric = load_metric("recall_at_k")
    given = {"predictions": [[1, 2, -1], [3, 4, 5], [9, 8, 7]], "references": [[2, 6, 7, 8], [], [7]], "k": 2}
    assert metric.compute(**given)["recall_at_k"] == 1 / 5
    assert metric.compute(**given, average="macro")["recall_at_k"] == 1 / 8
    assert metric.compute(**given, denominator="reachable")["recall_at_k"] == 1 / 3


def test_diversity_against_loops() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(60, 5))
    sets = [set(rng.permutation(20)[: rng.integers(0, 9)].tolist()) for _ in range(60)]
    predictions = [*lists(3)[0], [4], [7, -1, 9]]

    def cosine(a: int, b: int) -> float:
        return 1 - vectors[a] @ vectors[b] / math.sqrt((vectors[a] @ vectors[a]) * (vectors[b] @ vectors[b]))

    def jaccard(a: int, b: int) -> float:
        return 1 - len(sets[a] & sets[b]) / len(sets[a] | sets[b]) if sets[a] | sets[b] else 1.0

    members = [sorted(row) for row in sets]
    packed = (np.cumsum([0, *map(len, members)]), np.array([u for row in members for u in row]))
    metric = load_metric("intra_list_diversity")
    for distance, space in ((cosine, {"item_vectors": vectors}), (jaccard, {"item_sets": packed})):
        expected = []
        for row in predictions:
            pairs = list(itertools.combinations([i for i in row[:6] if i >= 0], 2))
            if pairs:
                expected.append(np.mean([distance(*pair) for pair in pairs]))
        found = metric.compute(predictions=predictions, k=6, **space)
        assert found["per_list"] == pytest.approx(expected, abs=1e-6)
        assert found["intra_list_diversity"] == pytest.approx(np.mean(expected), abs=1e-6)
        assert found["num_lists"] == len(expected) < len(predictions)


def test_coverage_by_hand() -> None:
    found = load_metric("cluster_coverage").compute(
        predictions=[[0, 1, 5], [4, 3, 2], [-1, -1, 0]], item_clusters=[0, 0, 7, 2, -1, 3], k=2
    )
    assert found == {"clusters_per_list": 2 / 3, "cluster_coverage": 2 / 4, "item_coverage": 4 / 6}


@pytest.mark.parametrize(
    ("name", "given", "said"),
    [
        ("recall_at_k", {"references": [[1]], "k": 0}, "k=0"),
        ("recall_at_k", {"references": [[]]}, "no relevant item"),
        ("recall_at_k", {"references": [[1]], "average": "weighted"}, "average='weighted'"),
        ("ndcg_at_k", {"references": [[]]}, "no relevant item"),
        ("ndcg_at_k", {"references": [[1]], "k": -1}, "k=-1"),
        ("intra_list_diversity", {}, "give one of them"),
        ("intra_list_diversity", {"item_vectors": [[1.0]], "k": 1}, "k=1"),
        ("intra_list_diversity", {"item_vectors": [[1.0]]}, "describe all items"),
        ("cluster_coverage", {"item_clusters": [-1, -1]}, "not all negative"),
        ("cluster_coverage", {"item_clusters": [0]}, "has the item 2"),
    ],
)
def test_bad_input(name: str, given: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        load_metric(name).compute(predictions=[[1, 2]], **given)


@pytest.mark.parametrize("name", ["recall_at_k", "ndcg_at_k"])
def test_an_item_listed_twice_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="an item twice"):
        load_metric(name).compute(predictions=[[1, 1]], references=[[1]])
