"""Where a mixture helps: clusters, allocation, query, and users with one interest or many.

Nothing is chosen here: every row is shown.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from hf_mixture.training.retrieval.measure import Judge
from hf_mixture.training.retrieval.mixtures import SMOOTHINGS, Workbench
from hf_mixture.training.retrieval.recipe import RetrievalRecipe


# The key of the clusters that no number was given for.
_PARTITION = -1


def study(recipe: RetrievalRecipe, bench: Workbench, chosen: dict[str, Any]) -> dict[str, Any]:
    """Vary one thing at a time around the chosen mixture of neighbours.

    Args:
        recipe: The recipe.
        bench: Embeddings, with a judge of the test.
        chosen: Fields that were chosen on validation, by smoothing.

    Returns:
        `"rows"`, recalls with what was varied; `"groups"`, recalls of users by number of interests and of items.
    """
    judge = bench.judge
    base = chosen["knn"]
    rows: list[dict[str, Any]] = []

    def add(what: str, value: str, fields: dict[str, Any], clusters: Any = None) -> dict[int, Any]:
        given = {"allocation": "proportional", "query": "user", **base, **fields}
        model = bench.prepare(given.pop("num_clusters"), given, clusters)
        found = {k: model.retrieve(judge.users, k) for k in (10, 50)}
        lists = {k: output.item_ids.numpy() for k, output in found.items()}
        rows.append(
            {
                "varied": what,
                "value": value,
                "num_clusters": model.config.num_fitted_clusters,
                "smoothing": model.config.smoothing,
                **{f"recall@{k}": judge.recall(lists[k], k) for k in lists},
                "num_scored": float(found[50].num_scored.mean()),
            }
        )
        return lists

    for num_clusters in recipe.mixtures.num_clusters:
        for smoothing in SMOOTHINGS:
            if smoothing in chosen:
                add("clusters", f"{num_clusters}", {**chosen[smoothing], "num_clusters": num_clusters})
    if recipe.study_partition:
        from hf_mixture.data.clustering.ppp import ProbabilisticPartition

        add("clusters", "PPP", {"num_clusters": _PARTITION}, ProbabilisticPartition())
    for allocation in ("proportional", "even", "pooled"):
        add("allocation", allocation, {"allocation": allocation})
    for query in ("user", "centroid"):
        add("query", query, {"query": query})
    mixed = add("components", str(base["max_components"]), {})
    model = bench.model
    plain = model.retrieve(judge.users, 10, method="one_vector").item_ids.numpy()
    groups = []
    own = bench.prepare(base["num_clusters"], {**base, "smoothing": "none", "max_components": 10_000})
    for name, values in (("interests", num_interests(own, judge)), ("history", history_sizes(judge))):
        groups += compare_groups(judge, plain, mixed[10], values, name)
    return {"rows": rows, "groups": groups}


def num_interests(model: Any, judge: Judge) -> Any:
    """Effective number of clusters of each user's items, exp of the entropy of p_mle [Q]."""
    weights = np.asarray(model.components(judge.users)[1])
    logs = np.log(np.where(weights > 0, weights, 1.0))
    return np.exp(-(weights * logs).sum(axis=1))


def history_sizes(judge: Judge) -> Any:
    """Number of training edges of each user [Q]."""
    return np.diff(judge.known.indptr)[judge.users]


def compare_groups(judge: Judge, plain: Any, mixed: Any, values: Any, name: str) -> list[dict[str, Any]]:
    """Recall at 10 of two kinds of lists for each quarter of the users by some value."""
    bounds = np.quantile(values, [0.25, 0.5, 0.75])
    quarter = np.searchsorted(bounds, values, side="left")
    hits = {key: judge.hits(lists, 10) for key, lists in (("one_vector", plain), ("knn", mixed))}
    found = []
    for number in range(4):
        inside = quarter == number
        if not inside.any():
            continue
        recalls = {key: float(hit[inside].sum() / size[inside].sum()) for key, (hit, size) in hits.items()}
        found.append(
            {
                "by": name,
                "from": float(values[inside].min()),
                "to": float(values[inside].max()),
                "num_users": int(inside.sum()),
                **recalls,
            }
        )
    return found
