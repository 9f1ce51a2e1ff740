"""How different the items of a list are from one another.

Letters: k list length, i and j items of one list.
"""

from typing import Any

import datasets
import evaluate
import numpy as np


_DESCRIPTION = """
Mean distance of the pairs of items of a list, averaged over lists: one minus the cosine of given vectors, or one minus
the Jaccard similarity of given sets, such as the users who have an item. The space should be one that no compared
model was trained in.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions (list of list of int): Items listed for each user; negative ids stand for empty places. Lists with
        fewer than two items are left out.
    item_vectors (array [items, d]): Vectors of the items, for the cosine. A vector of zeros has the distance 1 from
        all.
    item_sets (pair of arrays): Sets of the items, for Jaccard: `indptr` [items + 1] and `members`, as the rows of a
        sparse matrix. Two empty sets have the distance 1. Give this or `item_vectors`.
    k (int): Length of the lists that counts. Default: 20.
Returns:
    intra_list_diversity: From 0 (all alike) to 1 for sets, to 2 for vectors.
    num_lists: Number of lists that counted.
    per_list: Value of each list that counted, in their order.
Examples:
    >>> metric = evaluate.load("intra_list_diversity")
    >>> metric.compute(predictions=[[0, 1]], item_sets=([0, 2, 4], [5, 6, 6, 7]))["intra_list_diversity"]
    0.6666666666666667
"""


def cosine_distance(items: Any, vectors: Any) -> float:
    """Mean distance of all pairs of items by their unit vectors."""
    rows = vectors[items]
    number = len(items)
    return float(1 - ((rows @ rows.T).sum() - (rows * rows).sum()) / (number * (number - 1)))


def jaccard_distance(items: Any, sets: list[Any]) -> float:
    """Mean distance of all pairs of items by their sets."""
    chosen = [sets[item] for item in items]
    names, columns = np.unique(np.concatenate(chosen), return_inverse=True)
    member = np.zeros((len(chosen), len(names)), dtype=np.float32)
    member[np.repeat(np.arange(len(chosen)), [len(part) for part in chosen]), columns] = 1
    both = member @ member.T
    sizes = member.sum(axis=1)
    either = sizes[:, None] + sizes - both
    similarity = np.divide(both, either, out=np.zeros_like(both), where=either > 0)
    above = np.triu_indices(len(chosen), 1)
    return float(1 - similarity[above].mean(dtype=np.float64))


class IntraListDiversity(evaluate.Metric):
    """Mean distance of the items of lists."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation="",
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features({"predictions": datasets.Sequence(datasets.Value("int64"))}),
        )

    def _compute(
        self, predictions: list[list[int]], item_vectors: Any = None, item_sets: Any = None, k: int = 20
    ) -> dict[str, Any]:
        if (item_vectors is None) == (item_sets is None):
            raise ValueError("item_vectors and item_sets: give one of them")
        if k < 2:
            raise ValueError(f"k={k} must be at least 2, for there to be pairs")
        space: Any
        if item_vectors is not None:
            vectors = np.asarray(item_vectors, dtype=np.float64)
            space = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-300)
        else:
            indptr, members = (np.asarray(part) for part in item_sets)
            space = np.split(members, indptr[1:-1])
        distance: Any = jaccard_distance if item_vectors is None else cosine_distance
        number = len(space)
        values = []
        for listed in predictions:
            items = [item for item in listed[:k] if item >= 0]
            if items and max(items) >= number:
                raise ValueError(f"predictions has the item {max(items)}, and there are {number}; describe all items")
            if len(items) > 1:
                values.append(distance(items, space))
        if not values:
            raise ValueError("predictions has no list with two items; give at least one")
        return {"intra_list_diversity": float(np.mean(values)), "num_lists": len(values), "per_list": values}
