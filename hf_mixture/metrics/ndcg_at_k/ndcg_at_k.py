"""Discounted gain of a list beside that of the best list.

Letters: k list length, R_u relevant items of user u.
"""

from typing import Any

import datasets
import evaluate
import numpy as np


_DESCRIPTION = """
Normalised discounted cumulative gain at k with relevance 0 or 1: the sum of 1 / log2(rank + 1) over the relevant items
among the first k of a list, divided by that of a list that begins with min(k, |R_u|) relevant items; the mean over
users.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions (list of list of int): Items listed for each user, the best first; negative ids stand for empty places.
    references (list of list of int): Relevant items of each user. Users without any are left out.
    k (int): Length of the lists that counts. Default: 10.
Returns:
    ndcg_at_k: From 0 to 1.
    num_users: Number of users that counted.
    per_user: Value of each user that counted, in their order.
Examples:
    >>> metric = evaluate.load("ndcg_at_k")
    >>> round(metric.compute(predictions=[[3, 1, 2]], references=[[1]], k=3)["ndcg_at_k"], 4)
    0.6309
"""


def ndcg_of(listed: list[int], relevant: set[int], k: int) -> float:
    """NDCG of one list.

    Args:
        listed: Items, the best first.
        relevant: Relevant items, at least one.
        k: Length that counts.

    Returns:
        From 0 to 1.

    Raises:
        ValueError: If an item is listed twice.
    """
    first = listed[:k]
    there = [item for item in first if item >= 0]
    if len(set(there)) < len(there):
        raise ValueError(f"a list has an item twice among its first {k}: {there[:10]}; list each item once")
    discounts = 1 / np.log2(np.arange(2, k + 2))
    gains = np.array([item in relevant for item in first], dtype=float)
    return float(gains @ discounts[: len(gains)] / discounts[: min(k, len(relevant))].sum())


class NdcgAtK(evaluate.Metric):
    """Normalised discounted cumulative gain of the first k items of lists."""

    def _info(self) -> evaluate.MetricInfo:
        ids = datasets.Sequence(datasets.Value("int64"))
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation="",
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features({"predictions": ids, "references": ids}),
        )

    def _compute(self, predictions: list[list[int]], references: list[list[int]], k: int = 10) -> dict[str, Any]:
        if k < 1:
            raise ValueError(f"k={k} must be at least 1")
        values = [
            ndcg_of(listed, set(relevant), k)
            for listed, relevant in zip(predictions, references, strict=True)
            if relevant
        ]
        if not values:
            raise ValueError("references has no relevant item; give at least one")
        return {"ndcg_at_k": float(np.mean(values)), "num_users": len(values), "per_user": values}
