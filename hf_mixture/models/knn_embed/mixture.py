"""Mixtures of users over clusters of items, as sparse rows.

Letters: U users, Q users who are asked for, I items, m clusters, k neighbours.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from hf_mixture.models.knn_embed.edges import sparse


Array = np.ndarray[Any, Any]


def cluster_counts(history: Any, item_clusters: Array, num_clusters: int) -> Any:
    """Count the items of each user in each cluster.

    Args:
        history: Training edges, a `csr_array` of ones [U, I].
        item_clusters: Cluster of each item [I], -1 for none.
        num_clusters: m.

    Returns:
        Counts, a `csr_array` [U, m].
    """
    inside = item_clusters >= 0
    member = sparse().csr_array(
        (np.ones(int(inside.sum())), (inside.nonzero()[0], item_clusters[inside])),
        shape=(len(item_clusters), num_clusters),
    )
    counts = (history @ member).tocsr()
    counts.sort_indices()
    return counts


def shares(counts: Any) -> Any:
    """Divide each row by its sum; p_mle of counts. Rows of zeros stay.

    Args:
        counts: A `csr_array` [U, m].

    Returns:
        The shares, a `csr_array` [U, m].
    """
    sums = np.asarray(counts.sum(axis=1)).ravel()
    scale = np.divide(1.0, sums, out=np.zeros_like(sums), where=sums > 0)
    found = counts.copy()
    found.data = found.data * np.repeat(scale, np.diff(found.indptr))
    return found


def smooth(
    own_counts: Any, counts: Any, *, smoothing: str, pool: str = "mean", neighbours: Array | None = None, lam: float
) -> Any:
    """Mix the mixture of each user with that of others: p = (1 - lambda) p_mle + lambda p_others.

    p_others is that of all counts (`"global"`), or of the nearest users (`"knn"`): the mean of their p_mle or the
    share of their counts. A user without history has p_others alone, and one without neighbours p_mle.

    Args:
        own_counts: Counts of the users whose mixtures are wanted [Q, m].
        counts: Counts of the users who can be neighbours [U, m].
        smoothing: `"none"`, `"global"` or `"knn"`.
        pool: `"mean"` or `"counts"`.
        neighbours: Rows of `counts` that are the neighbours of each user [Q, k], -1 for none; with `"knn"`.
        lam: Lambda.

    Returns:
        Mixtures, a `csr_array` [Q, m].
    """
    sp = sparse()
    own = shares(own_counts)
    if smoothing == "none":
        return own
    if smoothing == "global":
        total = np.asarray(counts.sum(axis=0)).ravel()
        row = sp.csr_array((total / max(total.sum(), 1))[None])
        others = row[np.zeros(own_counts.shape[0], dtype=np.int64)]
    else:
        assert neighbours is not None  # noqa: S101 - found by the caller
        there = neighbours >= 0
        asked = there.nonzero()[0]
        adjacency = sp.csr_array(
            (np.ones(len(asked)), (asked, neighbours[there])), shape=(own_counts.shape[0], counts.shape[0])
        )
        others = shares(adjacency @ (shares(counts) if pool == "mean" else counts))
    has_own = np.asarray(own.sum(axis=1)).ravel() > 0
    has_others = np.asarray(others.sum(axis=1)).ravel() > 0
    weight = np.where(has_own & has_others, lam, has_others.astype(float))
    mixed = sp.diags_array(1 - weight) @ own + sp.diags_array(weight) @ others
    mixed = mixed.tocsr()
    mixed.eliminate_zeros()
    mixed.sort_indices()
    return mixed


def keep_largest(mixtures: Any, max_components: int) -> tuple[Array, Array, Array]:
    """Keep the largest weights of each user, of equal ones those of the first clusters, and make their sum 1.

    Args:
        mixtures: A `csr_array` [U, m].
        max_components: How many to keep.

    Returns:
        `indptr` [U + 1], clusters and weights of the entries, those of a user by falling weight.
    """
    rows = np.repeat(np.arange(mixtures.shape[0]), np.diff(mixtures.indptr))
    order = np.lexsort((mixtures.indices, -mixtures.data, rows))
    rank = np.arange(len(order)) - np.repeat(mixtures.indptr[:-1], np.diff(mixtures.indptr))
    kept = order[rank < max_components]
    rows, clusters, weights = rows[kept], mixtures.indices[kept], mixtures.data[kept]
    sums = np.bincount(rows, weights=weights, minlength=mixtures.shape[0])
    indptr = np.concatenate([[0], np.bincount(rows, minlength=mixtures.shape[0]).cumsum()])
    return indptr.astype(np.int64), clusters.astype(np.int64), weights / sums[rows]


def padded_components(indptr: Array, clusters: Array, weights: Array, users: Array) -> tuple[Array, Array]:
    """Give some users' mixtures as rows of one length.

    Args:
        indptr: [U + 1].
        clusters: Clusters of the entries.
        weights: Their weights.
        users: The users [Q].

    Returns:
        Clusters [Q, C], -1 where a user has fewer, and weights [Q, C] in float64, with sums of exactly that of
        rounding, 0 where there is none.
    """
    lengths = indptr[users + 1] - indptr[users]
    width = max(1, int(lengths.max(initial=0)))
    columns = np.arange(width)
    inside = columns < lengths[:, None]
    places = np.where(inside, indptr[users][:, None] + columns, 0)
    if not len(clusters):
        return np.full(places.shape, -1), np.zeros(places.shape)
    found = np.where(inside, weights[places].astype(np.float64), 0.0)
    sums = found.sum(axis=1, keepdims=True)
    return np.where(inside, clusters[places], -1), np.divide(found, sums, out=found, where=sums > 0)
