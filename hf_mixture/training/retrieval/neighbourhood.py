"""Neighbourhood methods: the strong baselines that need no training.

Letters: Q users who are asked for, U users, I items, k neighbours, K list length.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np


Array = np.ndarray[Any, Any]


def best_items(scores: Array, seen: Any, num_items: int) -> Array:
    """List the items with the largest scores above 0 that a user has not seen, of equal ones the first.

    Args:
        scores: Scores [Q, I]; changed in place.
        seen: Items of the users, a `csr_array` [Q, I].
        num_items: K.

    Returns:
        Items [Q, K], -1 where no more have a score.
    """
    import torch

    from hf_mixture.models.knn_embed.top_k import top_k

    scores[np.repeat(np.arange(len(scores)), np.diff(seen.indptr)), seen.indices] = -np.inf
    values, items = top_k(torch.from_numpy(scores), min(num_items, scores.shape[1]))
    return torch.where(values > 0, items, -1).numpy()


def popularity_lists(train: Any, users: Array, num_items: int) -> Array:
    """List the items with the most training edges.

    Args:
        train: Training edges [U, I].
        users: The users [Q].
        num_items: K.

    Returns:
        Items [Q, K].
    """
    counts = np.bincount(train.indices, minlength=train.shape[1]).astype(np.float32)
    parts = [best_items(np.tile(counts, (len(part), 1)), train[part], num_items) for part in _parts(users)]
    return np.concatenate(parts)


def user_cf_lists(train: Any, users: Array, num_items: int, *, num_neighbours: int) -> Array:
    """Add up the items of the most similar users, each with its similarity: the cosine of sets of items.

    Args:
        train: Training edges [U, I].
        users: The users [Q].
        num_items: K.
        num_neighbours: k; ties by user id.

    Returns:
        Items [Q, K].
    """
    unit = _unit_rows(train)
    transposed = unit.T.tocsr()
    parts = []
    for part in _parts(users):
        similar = (unit[part] @ transposed).tocsr()
        rows = np.repeat(np.arange(len(part)), np.diff(similar.indptr))
        apart = similar.indices != part[rows]
        nearest = _largest_of_rows(similar, rows, apart, num_neighbours)
        parts.append(best_items((nearest @ train).toarray().astype(np.float32), train[part], num_items))
    return np.concatenate(parts)


def item_cf_lists(train: Any, users: Array, num_items: int) -> Array:
    """Add up the similarity of each item to those of the user: the cosine of sets of users.

    Args:
        train: Training edges [U, I].
        users: The users [Q].
        num_items: K.

    Returns:
        Items [Q, K].
    """
    unit = _unit_rows(train.T.tocsr()).T.tocsr()
    transposed = unit.T.tocsr()
    parts = []
    for part in _parts(users):
        history = train[part]
        # From the left, so that no matrix of all pairs of items is held.
        scores = ((history @ transposed) @ unit).toarray().astype(np.float32)
        parts.append(best_items(scores, history, num_items))
    return np.concatenate(parts)


def _unit_rows(matrix: Any) -> Any:
    from scipy import sparse

    lengths = np.sqrt(np.asarray(matrix.sum(axis=1)).ravel())
    scale = np.divide(1.0, lengths, out=np.zeros_like(lengths), where=lengths > 0)
    return (sparse.diags_array(scale) @ matrix).tocsr()


def _largest_of_rows(matrix: Any, rows: Array, kept: Array, number: int) -> Any:
    """The largest entries of each row of a sparse matrix, of equal ones those of the first columns."""
    from scipy import sparse

    rows, columns, values = rows[kept], matrix.indices[kept], matrix.data[kept]
    # Sums of products come in an order of their own; equal similarities must not differ in their last bits.
    order = np.lexsort((columns, -np.round(values, 10), rows))
    counts = np.bincount(rows, minlength=matrix.shape[0])
    rank = np.arange(len(order)) - np.repeat(counts.cumsum() - counts, counts)
    chosen = order[rank < number]
    return sparse.csr_array((values[chosen], (rows[chosen], columns[chosen])), shape=matrix.shape)


def _parts(users: Array, size: int = 512) -> Iterator[Array]:
    for first in range(0, len(users), size):
        yield users[first : first + size]
