"""Share of the relevant items that are among the first k of a list.

Letters: k list length, R_u relevant items of user u, L_u the first k items listed for u.
"""

from typing import Any

import datasets
import evaluate
import numpy as np


_DESCRIPTION = """
Recall at k: how many of the items that a user really has are among the first k of a list made for the user. By default
hits and relevant items are added up over all users (micro); the denominator is the number of relevant items.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions (list of list of int): Items listed for each user, the best first; negative ids stand for empty places.
    references (list of list of int): Relevant items of each user. Users without any are left out.
    k (int): Length of the lists that counts. Default: 10.
    average (str): "micro", sum of hits / sum of relevant items; or "macro", the mean of the recalls of the users.
    denominator (str): "all" relevant items, or "reachable" ones, min(k, their number).
Returns:
    recall_at_k: From 0 to 1.
    num_users: Number of users that counted.
    per_user: Recall of each user that counted, in their order.
Examples:
    >>> metric = evaluate.load("recall_at_k")
    >>> metric.compute(predictions=[[3, 1, 2]], references=[[1, 7]], k=2)["recall_at_k"]
    0.5
"""


def hits_at_k(predictions: list[list[int]], references: list[list[int]], k: int) -> tuple[Any, Any]:
    """Count hits and relevant items of each user that has any.

    Args:
        predictions: Lists.
        references: Relevant items.
        k: Length that counts.

    Returns:
        Hits [users] and relevant items [users].

    Raises:
        ValueError: If k is below 1, a list has an item twice, or no user has a relevant item.
    """
    if k < 1:
        raise ValueError(f"k={k} must be at least 1")
    hits, sizes = [], []
    for listed, relevant in zip(predictions, references, strict=True):
        first = [item for item in listed[:k] if item >= 0]
        wanted = set(relevant)
        if len(set(first)) < len(first):
            raise ValueError(f"a list has an item twice among its first {k}: {first[:10]}; list each item once")
        if wanted:
            hits.append(len(wanted.intersection(first)))
            sizes.append(len(wanted))
    if not sizes:
        raise ValueError("references has no relevant item; give at least one")
    return np.array(hits), np.array(sizes)


class RecallAtK(evaluate.Metric):
    """Recall of the first k items of lists."""

    def _info(self) -> evaluate.MetricInfo:
        ids = datasets.Sequence(datasets.Value("int64"))
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation="",
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features({"predictions": ids, "references": ids}),
        )

    def _compute(
        self,
        predictions: list[list[int]],
        references: list[list[int]],
        k: int = 10,
        average: str = "micro",
        denominator: str = "all",
    ) -> dict[str, Any]:
        if average not in ("micro", "macro") or denominator not in ("all", "reachable"):
            raise ValueError(
                f"average={average!r} must be 'micro' or 'macro', and denominator={denominator!r} 'all' or 'reachable'"
            )
        hits, sizes = hits_at_k(predictions, references, k)
        if denominator == "reachable":
            sizes = np.minimum(sizes, k)
        value = hits.sum() / sizes.sum() if average == "micro" else (hits / sizes).mean()
        return {"recall_at_k": float(value), "num_users": len(sizes), "per_user": (hits / sizes).tolist()}
