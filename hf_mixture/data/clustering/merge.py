"""Joining clusters that the mixture does not tell apart, the most alike first.

Letters: L leaves.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from tqdm.auto import tqdm

from hf_mixture.data.clustering.gaussian import Moments, pooled
from hf_mixture.data.clustering.growth import Leaf
from hf_mixture.data.clustering.judge import Rule, judge
from hf_mixture.data.clustering.rows import IntArray, Rows


# With more clusters than this, only pairs of near centroids are compared.
ALL_PAIRS_UP_TO = 50
NUM_NEIGHBOURS = 10


def merge_leaves(rows: Rows, leaves: Sequence[Leaf], rule: Rule) -> IntArray:
    """Join the pair of clusters with the smallest score while that is not above 0.

    The score is that of `judge` on the union, with the two clusters as the partition. Pairs with equal scores are
    ordered by size and centroid.

    Args:
        rows: The rows.
        leaves: The clusters to begin with.
        rule: How pairs are judged.

    Returns:
        For each leaf the number of its cluster, from 0, in the order of the first leaf of each.
    """
    index = [leaf.index for leaf in leaves]
    moments = [leaf.moments for leaf in leaves]
    cluster = np.arange(len(leaves))
    active = list(range(len(leaves)))
    scores: dict[tuple[int, int], float] = {}
    with tqdm(desc="pairs compared", unit="pair", delay=2) as progress:
        while len(active) > 1:
            pairs = _pairs(active, moments)
            for pair in pairs:
                if pair not in scores:
                    scores[pair] = _score(rows, [index[number] for number in pair], [moments[n] for n in pair], rule)
                    progress.update()

            def rank(pair: tuple[int, int]) -> tuple[float, float, tuple[float, ...]]:
                union = pooled([moments[number] for number in pair])
                return scores[pair], union.weight, tuple(union.mean.tolist())

            lowest = min(scores[pair] for pair in pairs)
            if lowest > 0:
                break
            first, second = min((pair for pair in pairs if scores[pair] == lowest), key=rank)
            active = [number for number in active if number not in (first, second)] + [len(index)]
            cluster[np.isin(cluster, (first, second))] = len(index)
            index.append(np.sort(np.concatenate([index[first], index[second]])))
            moments.append(pooled([moments[first], moments[second]]))
    _, places, numbers = np.unique(cluster, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(places))[numbers]


def _pairs(active: list[int], moments: list[Moments]) -> list[tuple[int, int]]:
    if len(active) <= ALL_PAIRS_UP_TO:
        return [(one, two) for place, one in enumerate(active) for two in active[place + 1 :]]
    means = np.stack([moments[number].mean for number in active])
    squares = (means**2).sum(axis=1)
    distances = squares[:, None] + squares - 2 * means @ means.T
    np.fill_diagonal(distances, np.inf)
    nearest = np.argsort(distances, axis=1, kind="stable")[:, :NUM_NEIGHBOURS]
    pairs = {
        (min(one, active[near]), max(one, active[near]))
        for one, row in zip(active, nearest.tolist(), strict=True)
        for near in row
    }
    return sorted(pairs)


def _score(rows: Rows, index: list[IntArray], moments: list[Moments], rule: Rule) -> float:
    union = np.concatenate(index)
    order = np.argsort(union)
    second = (np.arange(len(union)) >= len(index[0]))[order]
    return judge(rows.take(union[order]), second, pooled(moments), moments, rule).score
