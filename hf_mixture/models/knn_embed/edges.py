"""Training edges: checking, as sparse rows, and as a data set with negatives for the stock Trainer.

Letters: E edges, B edges of a batch, N negatives.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hf_mixture._extras import require


Array = np.ndarray[Any, Any]
_PRIME = 2_654_435_761


def sparse() -> Any:
    """The module `scipy.sparse`."""
    return require("scipy.sparse", used_for="kNN-Embed", extra="retrieval")


def check_ids(ids: Any, name: str, size: int, what: str) -> Array:
    """Return ids as an array, after checking them.

    Args:
        ids: Integers [E].
        name: Name of the argument.
        size: How many there are to refer to.
        what: What they refer to, for the message.

    Returns:
        The ids in int64 [E].

    Raises:
        ValueError: If they are not integers in one row, or one is unknown.
    """
    array = np.asarray(ids)
    if array.size == 0:
        array = array.astype(np.int64)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise ValueError(f"{name} has the shape {array.shape} and type {array.dtype}; give integers in one row")
    unknown = array[(array < 0) | (array >= size)]
    if unknown.size:
        raise ValueError(
            f"{name} has the unknown id {int(unknown[0])} ({unknown.size} unknown in all); there are {size} {what}, "
            f"with ids from 0 to {size - 1}: add new ones with add_{what}"
        )
    return array.astype(np.int64)


def make_history(edges: Any, num_users: int, num_items: int) -> Any:
    """Make the matrix of training edges.

    Args:
        edges: A `datasets.Dataset` or mapping with the columns `user_ids` and `item_ids`, or a sparse matrix of scipy
            [users, items], of which every stored entry that is not 0 is an edge.
        num_users: Number of users.
        num_items: Number of items.

    Returns:
        A `scipy.sparse.csr_array` of ones [users, items], rows sorted, each edge once.

    Raises:
        TypeError: If `edges` is something else.
        ValueError: If a column is missing, columns differ in length, or an id is unknown.
    """
    sp = sparse()
    if sp.issparse(edges):
        if edges.shape != (num_users, num_items):
            raise ValueError(f"edges has the shape {edges.shape}; give [{num_users}, {num_items}], users by items")
        found = edges.tocoo()
        users, items = found.coords if hasattr(found, "coords") else (found.row, found.col)
        kept = found.data != 0
        users, items = users[kept], items[kept]
    else:
        names = getattr(edges, "column_names", None) or (list(edges.keys()) if hasattr(edges, "keys") else None)
        if names is None:
            raise TypeError(
                f"edges is a {type(edges).__name__}; give a Dataset or mapping with the columns user_ids and "
                "item_ids, or a sparse matrix"
            )
        missing = {"user_ids", "item_ids"} - set(names)
        if missing:
            raise ValueError(f"edges has the columns {list(names)}, without {sorted(missing)}; give both")
        users = check_ids(edges["user_ids"][:], "user_ids", num_users, "users")
        items = check_ids(edges["item_ids"][:], "item_ids", num_items, "items")
        if len(users) != len(items):
            raise ValueError(f"user_ids has {len(users)} rows and item_ids {len(items)}; give pairs")
    keys = np.unique(np.asarray(users, dtype=np.int64) * num_items + np.asarray(items, dtype=np.int64))
    indptr = np.concatenate([[0], np.bincount(keys // num_items, minlength=num_users).cumsum()])
    return sp.csr_array((np.ones(len(keys)), keys % num_items, indptr), shape=(num_users, num_items))


class EdgeDataset(torch.utils.data.Dataset[Any]):
    """Training edges as a data set whose batches are read at once.

    Args:
        edges: As for `KnnEmbedModel.fit_mixture`.
        num_users: Number of users.
        num_items: Number of items.

    Attributes:
        history: The edges as a sparse matrix [users, items].

    Raises:
        ValueError: If the edges are malformed.

    Example:
        >>> from hf_mixture import EdgeDataset
        >>> edges = EdgeDataset({"user_ids": [0, 1], "item_ids": [2, 0]}, num_users=2, num_items=3)
        >>> len(edges), edges[1]
        (2, {'user_ids': 1, 'item_ids': 0})
    """

    def __init__(self, edges: Any, num_users: int, num_items: int) -> None:
        self.history = make_history(edges, num_users, num_items)
        users = np.repeat(np.arange(num_users), np.diff(self.history.indptr))
        self.user_ids = torch.from_numpy(users)
        self.item_ids = torch.from_numpy(self.history.indices.astype(np.int64))

    def __len__(self) -> int:
        return len(self.user_ids)

    def __getitem__(self, place: int) -> dict[str, int]:
        return {"user_ids": int(self.user_ids[place]), "item_ids": int(self.item_ids[place])}

    def __getitems__(self, places: Sequence[int]) -> list[dict[str, Tensor]]:
        # A list of one, which the Trainer's removal of columns can go through.
        chosen = torch.as_tensor(places)
        return [{"user_ids": self.user_ids[chosen], "item_ids": self.item_ids[chosen]}]


class NegativeCollator:
    """Data collator that adds negative items to a batch of edges; the collator for a `KnnEmbedModel`.

    The draw depends on the edges of the batch and on `seed` alone, not on a global random state: a resumed run draws
    what an uninterrupted one would, and processes that train together draw differently.

    Args:
        num_items: Number of items.
        num_negatives: N, negatives of a batch (shared) or of each edge, at least 1. Default: 1,024.
        shared: Whether all edges of a batch have the same negatives; otherwise each has its own. Default: True.
        history: Matrix of training edges, `EdgeDataset.history`: negatives of an edge that its user has are drawn
            again, up to ten times. Only where they are not shared. Default: none.
        seed: Seed of the draws. Default: 0.

    Raises:
        ValueError: If a number is out of range, or `history` is given for shared negatives.

    Example:
        >>> from hf_mixture import EdgeDataset, NegativeCollator
        >>> edges = EdgeDataset({"user_ids": [0, 1], "item_ids": [2, 0]}, num_users=2, num_items=3)
        >>> collate = NegativeCollator(3, num_negatives=1, shared=False, history=edges.history)
        >>> batch = collate(edges.__getitems__([0, 1]))
        >>> tuple(batch["negatives"].shape), (batch["negatives"][:, 0] == batch["item_ids"]).any().item()
        ((2, 1), False)
    """

    def __init__(
        self,
        num_items: int,
        *,
        num_negatives: int = 1024,
        shared: bool = True,
        history: Any = None,
        seed: int = 0,
    ) -> None:
        if num_negatives < 1 or num_items < 1:
            raise ValueError(f"num_items={num_items} and num_negatives={num_negatives} must be at least 1; raise them")
        if shared and history is not None:
            raise ValueError("shared negatives belong to no user, so that history has no use; leave one of them out")
        self.num_items = num_items
        self.num_negatives = num_negatives
        self.shared = shared
        self.seed = seed
        self._known: Tensor | None = None
        if history is not None:
            users = np.repeat(np.arange(history.shape[0]), np.diff(history.indptr))
            # Sorted, as rows of the history are.
            self._known = torch.from_numpy(users * num_items + history.indices)

    def __call__(self, rows: Any) -> dict[str, Tensor]:
        """Make a batch.

        Args:
            rows: Rows with `user_ids` and `item_ids`, or the batch that an `EdgeDataset` gives.

        Returns:
            `user_ids` and `item_ids` [B], `negatives` [N] or [B, N].
        """
        if torch.is_tensor(rows[0]["user_ids"]):
            users, items = (torch.cat([row[name].reshape(-1) for row in rows]) for name in ("user_ids", "item_ids"))
        else:
            users, items = (torch.as_tensor([row[name] for row in rows]) for name in ("user_ids", "item_ids"))
        key = int((users * _PRIME + items * 40_503).sum()) + 1_000_003 * self.seed
        generator = torch.Generator().manual_seed(key % 2**63)
        shape = (self.num_negatives,) if self.shared else (len(users), self.num_negatives)
        negatives = torch.randint(self.num_items, shape, generator=generator)
        if self._known is not None:
            self._draw_again(negatives, users, self._known, generator)
        return {"user_ids": users, "item_ids": items, "negatives": negatives}

    def _draw_again(self, negatives: Tensor, users: Tensor, known: Tensor, generator: torch.Generator) -> None:
        for _ in range(10):
            keys = users.unsqueeze(1) * self.num_items + negatives
            place = torch.searchsorted(known, keys).clamp_(max=len(known) - 1)
            hits = known[place] == keys
            number = int(hits.sum())
            if not number:
                break
            negatives[hits] = torch.randint(self.num_items, (number,), generator=generator)
