"""Clusters of items.

Letters: I items, d embedding size, m clusters.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F


Array = np.ndarray[Any, Any]


def kmeans(vectors: Tensor, num_clusters: int, *, num_rounds: int = 30, seed: int = 0) -> Tensor:
    """Lloyd's algorithm from distinct rows that a seed draws.

    A cluster that loses all its rows takes the row that is farthest from its centre.

    Args:
        vectors: Rows [I, d].
        num_clusters: m, at most the number of distinct rows.
        num_rounds: Largest number of rounds. Default: 30.
        seed: Seed of the first centres. Default: 0.

    Returns:
        Cluster of each row [I].

    Raises:
        ValueError: If there are fewer distinct rows than clusters.
    """
    distinct = torch.unique(vectors, dim=0)
    if len(distinct) < num_clusters:
        raise ValueError(
            f"num_clusters={num_clusters} is more than the {len(distinct)} different embeddings of items with "
            "training edges; lower it"
        )
    chosen = torch.randperm(len(distinct), generator=torch.Generator().manual_seed(seed))[:num_clusters]
    centres = distinct[chosen.to(vectors.device)]
    labels = torch.full((len(vectors),), -1, device=vectors.device)
    for _ in range(num_rounds):
        before, (labels, closeness) = labels, _nearest(vectors, centres)
        sizes = torch.bincount(labels, minlength=num_clusters)
        for empty in (sizes == 0).nonzero().squeeze(1).tolist():
            # Rows alone in their cluster stay, or another cluster would be empty.
            farthest = torch.where(sizes[labels] > 1, closeness, torch.inf).argmin()
            sizes[labels[farthest]] -= 1
            labels[farthest], closeness[farthest] = empty, torch.inf
            sizes[empty] = 1
        centres = torch.zeros_like(centres).index_add_(0, labels, vectors) / sizes.unsqueeze(1)
        if torch.equal(labels, before):
            break
    return labels


def _nearest(vectors: Tensor, centres: Tensor, chunk: int = 8192) -> tuple[Tensor, Tensor]:
    """Nearest centre of each row, and a number that falls with the distance from it."""
    offset = centres.square().sum(dim=1) / 2
    found = [(part @ centres.T - offset).max(dim=1) for part in vectors.split(chunk)]
    labels = torch.cat([part.indices for part in found])
    closeness = torch.cat([part.values for part in found]) - vectors.square().sum(dim=1) / 2
    return labels, closeness


def number_clusters(labels: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Number clusters by falling size, of equal ones by their centroids, from the first column on.

    Args:
        labels: Cluster of each row [I], any integers; negative for none.
        vectors: Rows [I, d].

    Returns:
        New labels [I], -1 for none, and centroids [m, d].
    """
    inside = labels >= 0
    names, dense = torch.unique(labels[inside], return_inverse=True)
    sizes = torch.bincount(dense, minlength=len(names))
    sums = torch.zeros(len(names), vectors.shape[1], dtype=vectors.dtype, device=vectors.device)
    centroids = sums.index_add_(0, dense, vectors[inside]) / sizes.unsqueeze(1)
    keys = [*reversed(centroids.T.cpu().numpy()), -sizes.cpu().numpy()]
    order = torch.from_numpy(np.lexsort(keys)).to(labels.device)
    number = torch.empty_like(order)
    number[order] = torch.arange(len(order), device=labels.device)
    renamed = torch.full_like(labels, -1)
    renamed[inside] = number[dense]
    return renamed, centroids[order]


def labels_of(clusters: Any, vectors: Tensor, present: Tensor, num_clusters: int, seed: int) -> Tensor:
    """Cluster the items that occur in training.

    Args:
        clusters: None for k-means; labels of all items [I], negative for none; or an estimator with `fit_predict`, or
            with `fit` and `predict`.
        vectors: Embeddings of all items, of length 1 [I, d].
        present: Whether an item occurs in training [I].
        num_clusters: m for k-means.
        seed: Seed for k-means.

    Returns:
        Labels [I], -1 for items that do not occur.

    Raises:
        ValueError: If labels are not one integer for each item.
        TypeError: If `clusters` is something else.
    """
    labels = torch.full((len(vectors),), -1, device=vectors.device)
    rows = vectors[present]
    if clusters is None:
        labels[present] = kmeans(rows, num_clusters, seed=seed)
        return labels
    if hasattr(clusters, "fit"):
        numbers = rows.cpu().numpy().astype(np.float64)
        if hasattr(clusters, "fit_predict"):
            found = clusters.fit_predict(numbers)
        elif hasattr(clusters, "predict"):
            found = clusters.fit(numbers).predict(numbers)
        else:
            raise TypeError(f"clusters is a {type(clusters).__name__} without predict; give one with fit and predict")
        labels[present] = torch.as_tensor(np.asarray(found, dtype=np.int64), device=vectors.device)
        return labels
    given = np.asarray(clusters)
    if given.shape != (len(vectors),) or given.dtype.kind not in "iu":
        raise ValueError(
            f"clusters has the shape {given.shape} and type {given.dtype}; give one integer for each of the "
            f"{len(vectors)} items, or an estimator with fit and predict"
        )
    chosen = torch.as_tensor(given.astype(np.int64), device=vectors.device)
    return torch.where(present, chosen, labels)


def normalise(vectors: Tensor) -> Tensor:
    """Rows of length 1; zeros stay zeros."""
    return F.normalize(vectors, dim=1)
