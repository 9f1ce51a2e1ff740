"""How many of K results each component of a mixture gives.

Letters: U users, C components, K results.
"""

from __future__ import annotations

from typing import Any

import numpy as np


Array = np.ndarray[Any, Any]


def allocate_slots(weights: Array, k: int) -> Array:
    """Share out K slots by largest remainders: a_c = floor(K p_c), and one more for the largest K p_c - a_c.

    Of equal remainders the larger weight comes first, then the first component.

    Args:
        weights: Weights of the components [U, C], each row with a sum of 1, or of 0 for a user without a mixture.
        k: K, at least 1.

    Returns:
        Slots [U, C], each row with a sum of exactly K, or of 0.

    Example:
        >>> import numpy as np
        >>> from hf_mixture.models.knn_embed.allocation import allocate_slots
        >>> allocate_slots(np.array([[0.5, 0.3, 0.2], [0.4, 0.3, 0.3]]), 4).tolist()
        [[2, 1, 1], [2, 1, 1]]
    """
    shares = weights.astype(np.float64) * k
    slots = np.floor(shares)
    order = np.lexsort((-weights, slots - shares), axis=-1)
    rank = np.empty_like(order)
    np.put_along_axis(rank, order, np.broadcast_to(np.arange(weights.shape[1]), weights.shape), axis=-1)
    left = np.where(weights.sum(axis=1) > 0, k - slots.sum(axis=1), 0)
    return (slots + (rank < left[:, None])).astype(np.int64)


def spill_slots(slots: Array, available: Array) -> Array:
    """Give slots that a component cannot fill to the others, the first ones first, as far as they have candidates.

    Args:
        slots: Slots [U, C], the components by falling weight.
        available: Candidates of each component [U, C].

    Returns:
        Slots [U, C], none more than there are candidates; rows may have a smaller sum than before.
    """
    filled = np.minimum(slots, available)
    missing = (slots - filled).sum(axis=1, keepdims=True)
    room = available - filled
    before = room.cumsum(axis=1) - room
    return filled + np.clip(missing - before, 0, room)
