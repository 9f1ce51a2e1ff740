"""Sharded retraining: one recommender for each shard of users; a request retrains the shards that it touches.

Letters: S shards, U users, I items, d width of a model's vectors.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from hf_mixture.models.mm_recommender.interactions import Ids, Interactions
from hf_mixture.models.mm_recommender.modeling_mm_recommender import Tables


def shard_of(users: Ids, num_shards: int) -> Ids:
    """The shard of each user, by a hash of the id.

    Args:
        users: Users.
        num_shards: S, at least 2.

    Returns:
        Numbers from 0 to S - 1.

    Raises:
        ValueError: If there would be fewer than two shards.

    Example:
        >>> import numpy as np
        >>> from hf_mixture.models.mm_recommender.shards import shard_of
        >>> bool(np.bincount(shard_of(np.arange(1000), 4)).min() > 200)
        True
    """
    if num_shards < 2:
        raise ValueError(f"num_shards={num_shards} must be at least 2; raise it")
    return (users * 2_654_435_761 % 2**32) * num_shards // 2**32


def shards_of_interactions(interactions: Interactions, num_shards: int) -> list[Interactions]:
    """Part interactions by the shards of their users.

    Args:
        interactions: Interactions.
        num_shards: S.

    Returns:
        The interactions of each shard.
    """
    places = shard_of(interactions.users, num_shards)
    return [interactions.select(places == shard) for shard in range(num_shards)]


def touched_shards(forget: Interactions, num_shards: int) -> list[int]:
    """Shards that hold interactions to forget.

    Args:
        forget: D_f.
        num_shards: S.

    Returns:
        Their numbers.
    """
    return sorted({int(shard) for shard in shard_of(forget.users, num_shards)})


def ensemble_tables(parts: Sequence[Tables], learned: Sequence[Interactions]) -> Tables:
    """Tables whose inner products are the mean of the shards' scores, each z-normalised for each user.

    A user's mean is over the shards that have learned from the user; of a user whom none knows, over all.

    Args:
        parts: Vectors of each shard's model.
        learned: Interactions that each of them has learned from.

    Returns:
        Vectors of S (d + 1) numbers: those of each shard scaled, and one number for its mean.
    """
    num_users = len(parts[0].users)
    known = torch.stack([torch.from_numpy(np.bincount(p.users, minlength=num_users) > 0) for p in learned])
    known |= ~known.any(dim=0)
    shares = known / known.sum(dim=0)
    users, items = [], []
    with torch.no_grad():
        for part, share in zip(parts, shares, strict=True):
            # Mean and deviation of u . i over items, from the moments of the items.
            mean_item = part.items.mean(dim=0)
            centred = part.items - mean_item
            covariance = centred.T @ centred / len(part.items)
            deviation = ((part.users @ covariance) * part.users).sum(dim=1).clamp(min=0).sqrt()
            scale = (share / deviation.clamp(min=torch.finfo(deviation.dtype).tiny))[:, None]
            users.append(torch.cat([part.users, -(part.users @ mean_item)[:, None]], dim=1) * scale)
            items.append(torch.cat([part.items, torch.ones(len(part.items), 1)], dim=1))
    return Tables(torch.cat(users, dim=1), torch.cat(items, dim=1))
