"""kNN-Embed one user at a time, with dictionaries and fractions: the reference of the fast one."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction

import numpy as np


def slow_slots(weights: Sequence[float], k: int) -> list[int]:
    """Largest remainders; ties to the larger weight, then to the first component."""
    if not sum(weights):
        return [0] * len(weights)
    shares = [w * k for w in weights]
    slots = [math.floor(share) for share in shares]
    order = sorted(range(len(weights)), key=lambda c: (slots[c] - shares[c], -weights[c], c))
    for c in order[: k - sum(slots)]:
        slots[c] += 1
    return slots


def slow_mixtures(
    history: list[set[int]],
    clusters: Sequence[int],
    vectors: np.ndarray,
    *,
    smoothing: str,
    pool: str,
    num_neighbours: int,
    lam: float,
    max_components: int,
) -> list[dict[int, float]]:
    counts = [Counter(clusters[i] for i in items if clusters[i] >= 0) for items in history]
    able = [u for u, of_user in enumerate(counts) if of_user]
    units = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-30)
    found = []
    for u, own in enumerate(counts):
        p = share(own)
        others: dict[int, Fraction] = {}
        if smoothing == "global":
            others = share(sum(counts, Counter()))
        elif smoothing == "knn" and own:
            nearest = sorted((v for v in able if v != u), key=lambda v: (-float(units[u] @ units[v]), v))
            nearest = nearest[:num_neighbours]
            if pool == "counts":
                others = share(sum((counts[v] for v in nearest), Counter()))
            elif nearest:
                for v in nearest:
                    for c, value in share(counts[v]).items():
                        others[c] = others.get(c, Fraction(0)) + value / len(nearest)
        weight = Fraction(lam) if p and others else Fraction(1 if others else 0)
        mixed = {c: (1 - weight) * p.get(c, 0) + weight * others.get(c, 0) for c in {*p, *others}}
        kept = sorted((c for c in mixed if mixed[c] > 0), key=lambda c: (-mixed[c], c))[:max_components]
        total = sum(mixed[c] for c in kept)
        found.append({c: float(mixed[c] / total) for c in kept})
    return found


def share(counts: Counter[int]) -> dict[int, Fraction]:
    total = sum(counts.values())
    return {c: Fraction(number, total) for c, number in counts.items()}


def slow_list(  # noqa: PLR0917 - as the steps take them
    query: np.ndarray,
    items: np.ndarray,
    clusters: Sequence[int],
    mixture: dict[int, float],
    hidden: set[int],
    k: int,
    *,
    allocation: str = "proportional",
) -> list[int]:
    """The list of one user; the mixture by falling weight."""
    scores = items @ query
    best = sorted(range(len(items)), key=lambda i: (-scores[i], i))
    candidates = {c: [i for i in best if clusters[i] == c and i not in hidden] for c in mixture}
    if allocation == "pooled":
        taken = {c: len(found) for c, found in candidates.items()}
    else:
        weights = list(mixture.values()) if allocation == "proportional" else [1 / len(mixture)] * len(mixture)
        slots = dict(zip(mixture, slow_slots(weights, k), strict=True))
        taken = {c: min(slots[c], len(candidates[c])) for c in mixture}
        missing = sum(slots.values()) - sum(taken.values())
        for c in mixture:
            more = min(missing, len(candidates[c]) - taken[c])
            taken[c] += more
            missing -= more
    chosen = [i for c in mixture for i in candidates[c][: taken[c]]]
    chosen = sorted(chosen, key=lambda i: (-scores[i], i))[:k]
    for i in best:
        if len(chosen) < k and clusters[i] >= 0 and i not in hidden and i not in chosen:
            chosen.append(i)
    return sorted(chosen, key=lambda i: (-scores[i], i))
