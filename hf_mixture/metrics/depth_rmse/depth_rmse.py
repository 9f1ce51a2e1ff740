"""Root mean squared error of depth maps.

Letters: H x W pixels.
"""

from typing import Any

import datasets
import evaluate
import numpy as np


_DESCRIPTION = """
Root mean squared error of predicted depth, over all pixels with a label of the whole data set.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions (list of [H, W] of float): Predicted depth.
    references (list of [H, W] of float): True depth, in the same unit.
    ignore_value (int): Label of pixels that do not count. Default: 255.
Returns:
    rmse: In the unit of the labels, lower is better.
Examples:
    >>> metric = evaluate.load("depth_rmse")
    >>> metric.compute(predictions=[[[1.0, 9.0]]], references=[[[3.0, 255.0]]])["rmse"]
    2.0
"""


class DepthRmse(evaluate.Metric):
    """Root mean squared error of depth."""

    def _info(self) -> evaluate.MetricInfo:
        maps = datasets.Sequence(datasets.Sequence(datasets.Value("float32")))
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation="",
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features({"predictions": maps, "references": maps}),
        )

    def _compute(self, predictions: list[Any], references: list[Any], ignore_value: int = 255) -> dict[str, float]:
        total, number = 0.0, 0
        for prediction, reference in zip(predictions, references, strict=True):
            predicted, true = np.asarray(prediction, float), np.asarray(reference, float)
            if predicted.shape != true.shape:
                raise ValueError(f"a prediction has the shape {predicted.shape} and its reference {true.shape}")
            counted = true != ignore_value
            total += float(((predicted - true)[counted] ** 2).sum())
            number += int(counted.sum())
        if not number:
            raise ValueError(f"no pixel of references counts: all are {ignore_value}; give labels")
        return {"rmse": float(np.sqrt(total / number))}
