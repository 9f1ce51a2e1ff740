"""CLIMB's domains (arXiv 2504.13161): embed documents, cluster, prune by quality, merge near clusters.

Letters: d documents, h embedding size, C clusters.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from hf_mixture._extras import require
from hf_mixture.data.search.ranks import FloatArray


IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class ClusterDomains:
    """Documents grouped into domains.

    Args:
        labels: Domain of each document, of shape (d,); -1 for pruned documents.
        names: Names of the domains.
        centroids: Mean embedding of each domain, of shape (C, h).
        sizes: Number of documents, or their total length, by domain; shape (C,).
        pruned: Number of clusters that were pruned.
    """

    labels: IntArray
    names: tuple[str, ...]
    centroids: FloatArray
    sizes: FloatArray
    pruned: int

    @property
    def prior(self) -> dict[str, float]:
        """Natural share of each domain."""
        return dict(zip(self.names, (self.sizes / self.sizes.sum()).tolist(), strict=True))


def embed_texts(texts: Sequence[str], *, num_features: int = 4096, size: int = 128, seed: int = 0) -> FloatArray:
    """Embed documents without a pretrained model: hashed word TF-IDF, reduced by a truncated SVD, scaled to length 1.

    CLIMB uses a sentence encoder; pass its embeddings to `cluster_domains` where one is at hand.

    Args:
        texts: d documents.
        num_features: Number of hash buckets. Default: 4096.
        size: Embedding size h; at most d - 1 and `num_features` - 1 are used. Default: 128.
        seed: Seed of the SVD. Default: 0.

    Returns:
        Embeddings of shape (d, h).

    Raises:
        ImportError: scikit-learn is not installed.
    """
    text = require("sklearn.feature_extraction.text", used_for="embed_texts")
    decomposition = require("sklearn.decomposition", used_for="embed_texts")
    preprocessing = require("sklearn.preprocessing", used_for="embed_texts")
    counts = text.HashingVectorizer(n_features=num_features, alternate_sign=False, norm=None).transform(texts)
    weighted = text.TfidfTransformer(sublinear_tf=True).fit_transform(counts)
    size = max(1, min(size, len(texts) - 1, num_features - 1))
    reduced = decomposition.TruncatedSVD(size, random_state=seed).fit_transform(weighted)
    return np.asarray(preprocessing.normalize(reduced), dtype=np.float64)


def cluster_domains(
    embeddings: npt.ArrayLike,
    *,
    clusterer: Any = None,
    num_clusters: int = 64,
    quality: npt.ArrayLike | None = None,
    min_quality: float | None = None,
    lengths: npt.ArrayLike | None = None,
    merge_distance: float | None = None,
    num_domains: int | None = None,
    name: Callable[[int], str] = "cluster_{}".format,
    seed: int = 0,
) -> ClusterDomains:
    """Cluster documents, drop clusters of low mean quality, merge clusters whose centroids are near.

    Args:
        embeddings: Array of shape (d, h).
        clusterer: A scikit-learn clusterer (with `fit_predict`). Default: k-means with `num_clusters` clusters.
        num_clusters: Number of clusters of the default clusterer. Default: 64.
        quality: Score of each document, of shape (d,).
        min_quality: Clusters whose mean quality is lower are pruned. Default: none is.
        lengths: Length of each document, of shape (d,), to size the domains by. Default: 1 for each.
        merge_distance: Clusters merge while two centroids are nearer than this (Euclidean, average linkage).
        num_domains: Clusters merge until this many are left. Default: merge by distance, or not at all.
        name: Names a domain by its number.
        seed: Seed of the default clusterer. Default: 0.

    Returns:
        The domains, the largest first.

    Raises:
        ValueError: Quality is needed and missing, both merge rules are given, or all clusters are pruned.
        ImportError: scikit-learn is not installed.

    Example:
        ```python
        >>> from hf_mixture.data.search.clusters import cluster_domains
        >>> points = [[0.0, 0.0], [0.1, 0.0], [5.0, 5.0], [5.1, 5.0], [5.0, 5.1]]
        >>> cluster_domains(points, num_clusters=2).prior
        {'cluster_0': 0.6, 'cluster_1': 0.4}

        ```
    """
    points = np.asarray(embeddings, dtype=np.float64)
    if min_quality is not None and quality is None:
        raise ValueError(f"min_quality={min_quality!r} needs quality, a score for each document: pass it")
    if merge_distance is not None and num_domains is not None:
        raise ValueError(
            f"merge_distance={merge_distance!r} and num_domains={num_domains!r} exclude each other: pass one"
        )
    if clusterer is None:
        cluster = require("sklearn.cluster", used_for="cluster_domains")
        clusterer = cluster.KMeans(min(num_clusters, len(points)), n_init=1, random_state=seed)
    labels = _number(np.asarray(clusterer.fit_predict(points), dtype=np.int64))
    total = int(labels.max()) + 1
    pruned = 0
    if min_quality is not None:
        scores = np.asarray(quality, dtype=np.float64)
        means = np.array([scores[labels == label].mean() for label in range(total)])
        low = np.flatnonzero(means < min_quality)
        pruned = len(low)
        if pruned == total:
            raise ValueError(
                f"min_quality={min_quality!r} prunes all {total} clusters (best mean {means.max():.3g}): lower it"
            )
        labels = _number(np.where(np.isin(labels, low), -1, labels))
    labels = _merge(points, labels, merge_distance, num_domains)
    weight = np.ones(len(points)) if lengths is None else np.asarray(lengths, dtype=np.float64)
    sizes = np.array([weight[labels == label].sum() for label in range(int(labels.max()) + 1)])
    order = np.argsort(-sizes, kind="stable")
    position = np.empty_like(order)
    position[order] = np.arange(len(order))
    labels = np.where(labels >= 0, position[labels], -1)
    centroids = _centroids(points, labels)
    return ClusterDomains(labels, tuple(name(label) for label in range(len(order))), centroids, sizes[order], pruned)


def _merge(points: FloatArray, labels: IntArray, distance: float | None, number: int | None) -> IntArray:
    count = int(labels.max()) + 1
    if count < 2 or (distance is None and (number is None or number >= count)):
        return labels
    cluster = require("sklearn.cluster", used_for="cluster_domains")
    rule = {"n_clusters": number} if number is not None else {"n_clusters": None, "distance_threshold": distance}
    groups = cluster.AgglomerativeClustering(linkage="average", **rule).fit_predict(_centroids(points, labels))
    return np.where(labels >= 0, np.asarray(groups, dtype=np.int64)[labels], -1)


def _centroids(points: FloatArray, labels: IntArray) -> FloatArray:
    return np.stack([points[labels == label].mean(axis=0) for label in range(int(labels.max()) + 1)])


def _number(labels: IntArray) -> IntArray:
    """Renumber clusters 0, 1, ...; negative labels (noise, pruned) become -1."""
    kept = np.unique(labels[labels >= 0])
    return np.where(labels >= 0, np.searchsorted(kept, labels), -1).astype(np.int64)
