"""Recall and NDCG of rankings, a whole catalogue at once.

Letters: R users, I items, N pairs, k length of a list.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from hf_mixture.models.mm_recommender.interactions import Ids, Interactions


@dataclass(frozen=True)
class RankingQuality:
    """Means over the users that have something to find.

    Args:
        recall: Found items over items to find.
        ndcg: Discounted gain over that of a perfect list.
        num_users: Users that count; without any, both measures are 0.
    """

    recall: float
    ndcg: float
    num_users: int


def top_items(
    users: Tensor,
    items: Tensor,
    user_ids: Ids,
    k: int,
    *,
    masked: Interactions | None = None,
    left_out: Ids | None = None,
) -> Ids:
    """The k best items of each user.

    Args:
        users: Vectors of all users [U, d].
        items: Vectors of all items [I, d].
        user_ids: Users to rank for [R].
        k: Length of the lists; a smaller catalogue gives shorter ones.
        masked: Interactions whose items their users cannot get. Default: none.
        left_out: Items that no one can get. Default: none.

    Returns:
        Items, best first [R, min(k, I)]; -1 where nothing was left.
    """
    found = np.empty((len(user_ids), min(k, len(items))), dtype=np.int64)
    starts = masked.starts() if masked is not None else None
    # A block of scores fits into the memory of a laptop.
    block = max(1, 2**24 // len(items))
    with torch.no_grad():
        for first in range(0, len(user_ids), block):
            chosen = user_ids[first : first + block]
            scores = users[torch.from_numpy(chosen)] @ items.T
            if left_out is not None and len(left_out):
                scores[:, torch.from_numpy(left_out)] = -torch.inf
            if masked is not None and starts is not None:
                begins, ends = starts[chosen], starts[chosen + 1]
                counts = ends - begins
                rows = np.repeat(np.arange(len(chosen)), counts)
                within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
                columns = masked.items[np.repeat(begins, counts) + within]
                scores[torch.from_numpy(rows), torch.from_numpy(columns)] = -torch.inf
            best = scores.topk(found.shape[1], dim=1)
            found[first : first + block] = best.indices.masked_fill(best.values == -torch.inf, -1).cpu().numpy()
    return found


def ranking_quality(lists: Ids, user_ids: Ids, wanted: Interactions) -> RankingQuality:
    """Recall and NDCG of lists.

    Args:
        lists: Items, best first [R, k]; -1 for none.
        user_ids: User of each list [R], each once.
        wanted: Items to find.

    Returns:
        The means over those of the users who have something to find.

    Example:
        >>> import numpy as np
        >>> from hf_mixture.models.mm_recommender.interactions import Interactions
        >>> from hf_mixture.models.mm_recommender.ranking import ranking_quality
        >>> wanted = Interactions.of([0, 0], [3, 4], num_users=1, num_items=5)
        >>> ranking_quality(np.array([[3, 1]]), np.array([0]), wanted).recall
        0.5
    """
    counts = np.bincount(wanted.users, minlength=wanted.num_users)[user_ids]
    hits = wanted.contains(np.repeat(user_ids, lists.shape[1]), lists.reshape(-1).clip(0)).reshape(lists.shape)
    hits &= lists >= 0
    there = counts > 0
    if not there.any():
        return RankingQuality(0.0, 0.0, 0)
    gains = 1 / np.log2(np.arange(2, lists.shape[1] + 2))
    ideal = np.concatenate([[0.0], np.cumsum(gains)])[np.minimum(counts, lists.shape[1])]
    recall = hits.sum(axis=1)[there] / counts[there]
    ndcg = (hits @ gains)[there] / ideal[there]
    return RankingQuality(float(recall.mean()), float(ndcg.mean()), int(there.sum()))


def quality_of(
    users: Tensor,
    items: Tensor,
    wanted: Interactions,
    *,
    k: int = 20,
    masked: Interactions | None = None,
    left_out: Ids | None = None,
) -> RankingQuality:
    """Recall and NDCG of a model for all users who have something to find.

    Args:
        users: Vectors of all users [U, d].
        items: Vectors of all items [I, d].
        wanted: Items to find.
        k: Length of the lists. Default: 20.
        masked: Interactions whose items their users cannot get. Default: none.
        left_out: Items that no one can get. Default: none.

    Returns:
        The means.
    """
    user_ids = np.unique(wanted.users)
    return ranking_quality(top_items(users, items, user_ids, k, masked=masked, left_out=left_out), user_ids, wanted)
