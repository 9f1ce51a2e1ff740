"""Largest F measure of edge maps over one threshold for the whole data set, with a tolerance of position.

Letters: N images, H x W pixels.
"""

from typing import Any

import datasets
import evaluate
import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import maximum_bipartite_matching


_DESCRIPTION = """
F measure of predicted edges at the threshold that is best for the whole data set (ODS). At each threshold predictions
are thinned to lines of one pixel, and matched with true edge pixels one to one, as many as possible, within a
distance. Precision is the matched share of predicted pixels, recall that of true ones, both over the whole data set.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions (list of [H, W] of float): Probabilities of being an edge, from 0 to 1.
    references (list of [H, W] of int): 1 for edge pixels, 0 for others.
    max_distance (float): Largest distance of a match, as a share of the image's diagonal. Default: 0.0075, as BSDS.
    num_thresholds (int): Thresholds are the multiples of 1 / (n + 1). Default: 99.
    thin (bool): Whether predictions are thinned. Default: True.
    ignore_value (int): Label of pixels that do not count. Default: 255.
Returns:
    ods_f: From 0 to 1, higher is better.
    threshold: The threshold where it is reached.
    precision: Precision there.
    recall: Recall there.
Examples:
    >>> metric = evaluate.load("edges_odsf")
    >>> metric.compute(predictions=[[[0.9, 0.1]]], references=[[[1, 0]]], num_thresholds=3)["ods_f"]
    1.0
"""

# The eight neighbours of a pixel, clockwise from above.
_AROUND = ((-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1))


def thin_lines(edges: Any) -> Any:
    """Thin regions to lines of one pixel that keep their connections, by the algorithm of Guo and Hall (1989).

    edges [N, H, W] of bool -> the same shape.
    """
    thinned = np.pad(np.asarray(edges, bool), ((0, 0), (1, 1), (1, 1)))
    middle = (slice(None), slice(1, -1), slice(1, -1))
    changed = True
    while changed:
        changed = False
        for side in (0, 4):
            around = [np.roll(thinned, (-dy, -dx), (1, 2))[middle] for dy, dx in _AROUND]
            after = around[1:] + around[:1]
            # Pairs of neighbours that begin at a side, and at a corner.
            of_sides = [one | other for one, other in zip(around[::2], after[::2], strict=True)]
            of_corners = [one | other for one, other in zip(around[1::2], after[1::2], strict=True)]
            neighbours = np.minimum(np.sum(of_sides, axis=0), np.sum(of_corners, axis=0))
            crossings = np.sum([~around[k] & (around[k + 1] | around[(k + 2) % 8]) for k in range(0, 8, 2)], axis=0)
            n, ne, e, se = (around[(side + k) % 8] for k in range(4))
            removed = (
                thinned[middle] & (crossings == 1) & (neighbours >= 2) & (neighbours <= 3) & ~((n | ne | ~se) & e)
            )
            thinned[middle] &= ~removed
            changed |= bool(removed.any())
    return thinned[middle]


def num_matches(predicted: Any, true: Any, distance: float) -> int:
    """Largest number of one-to-one pairs of predicted and true pixels [H, W] that lie within a distance, in pixels."""
    places = np.argwhere(predicted)
    number_of = np.full(true.shape, -1)
    number_of[true] = np.arange(true.sum())
    if len(places) == 0 or not true.any():
        return 0
    reach = int(distance)
    rows, columns = [], []
    for dy in range(-reach, reach + 1):
        for dx in range(-reach, reach + 1):
            if dy * dy + dx * dx > distance * distance:
                continue
            moved = places + np.array([dy, dx])
            inside = ((moved >= 0) & (moved < true.shape)).all(axis=1)
            found = number_of[tuple(moved[inside].T)]
            rows.append(np.flatnonzero(inside)[found >= 0])
            columns.append(found[found >= 0])
    row, column = np.concatenate(rows), np.concatenate(columns)
    graph = coo_array((np.ones(len(row), np.int8), (row, column)), shape=(len(places), int(true.sum()))).tocsr()
    return int((maximum_bipartite_matching(graph, perm_type="column") >= 0).sum())


class EdgesOdsf(evaluate.Metric):
    """F measure of edges at the best threshold of the data set."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation="",
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features(
                {
                    "predictions": datasets.Sequence(datasets.Sequence(datasets.Value("float32"))),
                    "references": datasets.Sequence(datasets.Sequence(datasets.Value("int32"))),
                }
            ),
        )

    def _compute(
        self,
        predictions: list[Any],
        references: list[Any],
        *,
        max_distance: float = 0.0075,
        num_thresholds: int = 99,
        thin: bool = True,
        ignore_value: int = 255,
    ) -> dict[str, float]:
        if num_thresholds < 1 or max_distance < 0:
            raise ValueError(f"num_thresholds={num_thresholds} must be at least 1, max_distance={max_distance} 0")
        thresholds = np.arange(1, num_thresholds + 1) / (num_thresholds + 1)
        matched, marked, actual = np.zeros(num_thresholds), np.zeros(num_thresholds), 0
        for prediction, reference in zip(predictions, references, strict=True):
            probability, true = np.asarray(prediction), np.asarray(reference)
            if probability.shape != true.shape:
                raise ValueError(f"a prediction has the shape {probability.shape}, its reference {true.shape}")
            if not (probability.min() >= 0 and probability.max() <= 1):
                raise ValueError("predictions must be probabilities from 0 to 1; apply a sigmoid")
            lines = probability >= thresholds[:, None, None]
            lines = (thin_lines(lines) if thin else lines) & (true != ignore_value)
            distance = max_distance * float(np.hypot(*true.shape))
            matched += [num_matches(line, true == 1, distance) for line in lines]
            marked += lines.sum(axis=(1, 2))
            actual += int((true == 1).sum())
        if not actual:
            raise ValueError("no pixel of references is an edge; recall is not defined")
        scores = 2 * matched / (marked + actual)
        best = int(scores.argmax())
        return {
            "ods_f": float(scores[best]),
            "threshold": float(thresholds[best]),
            "precision": float(matched[best] / marked[best]) if marked[best] else 0.0,
            "recall": float(matched[best] / actual),
        }
