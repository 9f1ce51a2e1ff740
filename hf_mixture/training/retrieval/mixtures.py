"""Mixtures on given embeddings: the settings that are tried, and the models they make."""

from __future__ import annotations

from typing import Any

import numpy as np

from hf_mixture.training.retrieval.measure import Judge
from hf_mixture.training.retrieval.recipe import MixtureSpec


SMOOTHINGS = ("none", "global", "knn")


def settings_of(spec: MixtureSpec) -> dict[str, list[dict[str, Any]]]:
    """Fields of `KnnEmbedConfig` to try, by smoothing, without the number of clusters.

    Args:
        spec: The specification.

    Returns:
        The fields.
    """
    common = {"max_components": spec.max_components}
    return {
        "none": [{"smoothing": "none", **common}],
        "global": [
            {"smoothing": "global", "smoothing_weight": float(weight), **common} for weight in spec.global_weights
        ],
        "knn": [
            {"smoothing": "knn", "num_neighbours": k, "smoothing_weight": weight, **common}
            for k in spec.num_neighbours
            for weight in spec.smoothing_weights
        ],
    }


class Workbench:
    """A model of given embeddings, whose clusters are made once for each number.

    Args:
        users: What users search with [U, d].
        items: Embeddings of items [I, d].
        judge: Says which users and edges.
        seed: Seed of k-means.
    """

    def __init__(self, users: Any, items: Any, judge: Judge, seed: int) -> None:
        from hf_mixture.models.knn_embed.modeling_knn_embed import KnnEmbedModel

        self.judge = judge
        self.seed = seed
        self.model = KnnEmbedModel.from_embeddings(users, items)
        self._labels: dict[Any, Any] = {}

    def prepare(self, num_clusters: int, fields: dict[str, Any], clusters: Any = None) -> Any:
        """Fit the mixtures of the measured users.

        Args:
            num_clusters: m for k-means, or a number that names `clusters`.
            fields: Fields of the configuration to set.
            clusters: An estimator for the clusters. Default: k-means.

        Returns:
            The model.
        """
        self.model.config.num_clusters = num_clusters
        for name, value in fields.items():
            setattr(self.model.config, name, value)
        labels = self._labels.get(num_clusters, clusters)
        self.model.fit_mixture(self.judge.known, clusters=labels, users=self.judge.users, seed=self.seed)
        self._labels[num_clusters] = self.model.item_clusters.numpy().copy()
        return self.model


def choose_mixtures(bench: Workbench, spec: MixtureSpec) -> dict[str, Any]:
    """Try all settings, and choose the best of each smoothing by recall at 10.

    Args:
        bench: The embeddings, with a judge of validation.
        spec: What to try.

    Returns:
        `"one_vector"`, its recall; `"tried"`, all settings with recalls; `"chosen"`, the best fields by smoothing.
    """
    tried: list[dict[str, Any]] = []
    present = int((np.diff(bench.judge.known.T.tocsr().indptr) > 0).sum())
    for num_clusters in (m for m in spec.num_clusters if m <= present // 2):
        for smoothing, settings in settings_of(spec).items():
            for fields in settings:
                model = bench.prepare(num_clusters, fields)
                lists = model.retrieve(bench.judge.users, 10).item_ids.numpy()
                entry = {"smoothing": smoothing, "fields": {"num_clusters": num_clusters, **fields}}
                tried.append({**entry, "recall@10": bench.judge.recall(lists, 10)})
    lists = bench.model.retrieve(bench.judge.users, 10, method="one_vector").item_ids.numpy()
    chosen = {
        smoothing: max((e for e in tried if e["smoothing"] == smoothing), key=lambda e: float(e["recall@10"]))[
            "fields"
        ]
        for smoothing in SMOOTHINGS
    }
    return {"one_vector": bench.judge.recall(lists, 10), "tried": tried, "chosen": chosen}
