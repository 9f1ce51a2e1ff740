"""How many clusters and items lists reach.

Letters: k list length, m clusters, I items.
"""

from typing import Any

import datasets
import evaluate
import numpy as np


_DESCRIPTION = """
How many clusters a list reaches, on average; which share of all clusters, and of all items, some list reaches.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions (list of list of int): Items listed for each user; negative ids stand for empty places.
    item_clusters (list of int): Cluster of each item, negative for none; such items count for the items alone.
    k (int): Length of the lists that counts. Default: 20.
Returns:
    clusters_per_list: Mean number of different clusters of a list, from 0 to k.
    cluster_coverage: Share of the clusters that have an item in some list, from 0 to 1.
    item_coverage: Share of the items that are in some list, from 0 to 1.
Examples:
    >>> metric = evaluate.load("cluster_coverage")
    >>> metric.compute(predictions=[[0, 1], [0, 2]], item_clusters=[0, 0, 1, 2])["clusters_per_list"]
    1.5
"""


class ClusterCoverage(evaluate.Metric):
    """Clusters and items that lists reach."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation="",
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features({"predictions": datasets.Sequence(datasets.Value("int64"))}),
        )

    def _compute(self, predictions: list[list[int]], item_clusters: Any, k: int = 20) -> dict[str, Any]:
        clusters = np.asarray(item_clusters)
        if k < 1 or clusters.ndim != 1 or not (clusters >= 0).any():
            raise ValueError(
                f"k={k} must be at least 1, and item_clusters one integer for each item, not all negative"
            )
        if not predictions:
            raise ValueError("predictions has no list; give at least one")
        reached: set[int] = set()
        items: set[int] = set()
        numbers = []
        for listed in predictions:
            first = [item for item in listed[:k] if item >= 0]
            if first and max(first) >= len(clusters):
                raise ValueError(f"predictions has the item {max(first)}, and item_clusters has {len(clusters)} items")
            found = {int(cluster) for cluster in clusters[first] if cluster >= 0} if first else set()
            numbers.append(len(found))
            reached |= found
            items |= set(first)
        return {
            "clusters_per_list": float(np.mean(numbers)),
            "cluster_coverage": len(reached) / len(np.unique(clusters[clusters >= 0])),
            "item_coverage": len(items) / len(clusters),
        }
