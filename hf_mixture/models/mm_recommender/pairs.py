"""Rows for the stock Trainer: each holds the same numbers of pairs to retain and pairs to forget.

Whatever sampler cuts the rows into batches, and however Accelerate shares batches out to processes, every process has
both kinds in the same proportion. Negatives are drawn beforehand, so that they depend on the row alone.

Letters: K rows, r retain pairs and f forget pairs of a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from hf_mixture.models.mm_recommender.interactions import Ids, Interactions, sample_negatives


RETAIN, FORGET = 0, 1


class PairedInteractions(Dataset[dict[str, Any]]):
    """Training rows, in the order to see them (`train_sampling_strategy="sequential"`).

    Retained interactions are passed over in new random orders again and again; so are those to forget. Negatives of
    both avoid `retain` and `forget`; those of pairs to retain also avoid `forgotten_items`.

    Args:
        retain: Interactions to learn or to keep.
        num_rows: K, number of rows: optimizer steps times the rows of a batch over all processes.
        retain_pairs: r, pairs to retain of a row, at least 0. Default: 8.
        forget: Interactions to forget. Default: none.
        forget_pairs: f, pairs to forget of a row. Default: 1, or 0 where there is nothing to forget.
        forgotten_items: Items that are no negatives. Default: none.
        seed: Seed of orders and negatives. Default: 0.

    Raises:
        ValueError: If a row would be empty, or there are no interactions to fill it.

    Example:
        >>> from hf_mixture.models.mm_recommender.interactions import Interactions
        >>> from hf_mixture.models.mm_recommender.pairs import PairedInteractions
        >>> retain = Interactions.of([0, 1], [0, 1], num_users=2, num_items=9)
        >>> forget = Interactions.of([0], [5], num_users=2, num_items=9)
        >>> rows = PairedInteractions(retain, num_rows=4, retain_pairs=2, forget=forget)
        >>> len(rows), rows[0]["labels"].tolist(), rows[3]["item_ids"][2].item()
        (4, [0, 0, 1], 5)
    """

    def __init__(
        self,
        retain: Interactions,
        *,
        num_rows: int,
        retain_pairs: int = 8,
        forget: Interactions | None = None,
        forget_pairs: int | None = None,
        forgotten_items: Ids | None = None,
        seed: int = 0,
    ) -> None:
        if forget_pairs is None:
            forget_pairs = int(forget is not None and len(forget) > 0)
        for name, value, least in (("num_rows", num_rows, 1), ("retain_pairs", retain_pairs, 0)):
            if value < least:
                raise ValueError(f"{name}={value} must be at least {least}; raise it")
        if retain_pairs + forget_pairs < 1:
            raise ValueError("retain_pairs and forget_pairs are both 0; raise one of them")
        if (retain_pairs and not len(retain)) or (forget_pairs and (forget is None or not len(forget))):
            raise ValueError("there are no interactions to fill the rows with; give some, or ask for no such pairs")
        self.retain_pairs, self.forget_pairs = retain_pairs, forget_pairs
        avoided = retain if forget is None else union(retain, forget)
        # One stream of random numbers for each kind: the pairs to retain are the same with and without others.
        streams = [np.random.default_rng([seed, kind]) for kind in (RETAIN, FORGET)]
        parts = []
        for kind, pairs, count, never in (
            (RETAIN, retain, retain_pairs, forgotten_items),
            (FORGET, forget, forget_pairs, None),
        ):
            if count and pairs is not None:
                order = _orders(len(pairs), num_rows * count, streams[kind])
                users, items = pairs.users[order], pairs.items[order]
                negatives = sample_negatives(users, avoided, streams[kind], never=never)
                labels = np.full_like(users, kind)
                parts.append(np.stack([users, items, negatives, labels]).reshape(4, num_rows, count))
        self._columns = torch.from_numpy(np.concatenate(parts, axis=2))

    def __len__(self) -> int:
        return self._columns.shape[1]

    def __getitem__(self, index: int) -> dict[str, Any]:
        return _named(self._columns[:, index])

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """Rows as one, which `collate_pairs` takes for a list of them; a list of thousands would take longer."""
        return [_named(self._columns[:, torch.as_tensor(indices)].flatten(1))]


def collate_pairs(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Join rows to a batch: `user_ids`, `item_ids`, `negative_ids`, `is_forget` and `labels`, one of each for a pair.

    Args:
        rows: Rows of `PairedInteractions`, or mappings with `user_ids`, `item_ids`, `negative_ids` and `labels`.

    Returns:
        The batch; `labels` is 0 for a pair to retain and 1 for one to forget.
    """
    batch = {
        name: torch.cat([torch.as_tensor(row[name]).reshape(-1) for row in rows])
        for name in ("user_ids", "item_ids", "negative_ids", "labels")
    }
    return batch | {"is_forget": batch["labels"] == FORGET}


def union(first: Interactions, second: Interactions) -> Interactions:
    """All pairs of two collections.

    Args:
        first: Interactions.
        second: Interactions in the same catalogue.

    Returns:
        The union.
    """
    return Interactions.of(
        np.concatenate([first.users, second.users]),
        np.concatenate([first.items, second.items]),
        num_users=first.num_users,
        num_items=first.num_items,
    )


def _named(columns: Any) -> dict[str, Any]:
    return dict(zip(("user_ids", "item_ids", "negative_ids", "labels"), columns, strict=True))


def _orders(size: int, count: int, generator: np.random.Generator) -> Ids:
    """`count` places of `size`: each pass in a new random order."""
    passes = [generator.permutation(size) for _ in range(-(-count // size))]
    return np.concatenate(passes)[:count]
