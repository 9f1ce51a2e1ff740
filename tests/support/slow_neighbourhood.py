"""Neighbourhood methods one user at a time: the reference of the sparse ones."""

from __future__ import annotations

import math


def slow_user_cf(history: list[set[int]], user: int, num_items: int, *, num_neighbours: int) -> list[int]:
    own = history[user]
    similar = {
        v: round(len(own & other) / math.sqrt(len(own) * len(other)), 10)
        for v, other in enumerate(history)
        if v != user and own & other
    }
    nearest = sorted(similar, key=lambda v: (-similar[v], v))[:num_neighbours]
    scores: dict[int, float] = {}
    for v in nearest:
        for item in history[v] - own:
            scores[item] = scores.get(item, 0.0) + similar[v]
    return best(scores, num_items)


def slow_item_cf(history: list[set[int]], user: int, num_items: int) -> list[int]:
    owners: dict[int, set[int]] = {}
    for u, items in enumerate(history):
        for item in items:
            owners.setdefault(item, set()).add(u)
    scores = {
        item: sum(len(users & owners[own]) / math.sqrt(len(users) * len(owners[own])) for own in history[user])
        for item, users in owners.items()
        if item not in history[user]
    }
    return best(scores, num_items)


def best(scores: dict[int, float], num_items: int) -> list[int]:
    """By score, in float32 as the fast ones have it, then by item."""
    rounded = {item: round(score, 5) for item, score in scores.items() if score > 0}
    return sorted(rounded, key=lambda item: (-rounded[item], item))[:num_items]
