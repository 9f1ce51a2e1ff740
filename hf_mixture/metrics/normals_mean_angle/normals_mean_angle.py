"""Mean angle between predicted and true surface normals.

Letters: H x W pixels.
"""

from typing import Any

import datasets
import evaluate
import numpy as np


_DESCRIPTION = """
Mean angle, in degrees, between predicted and true surface normals, over all pixels with a label of the whole data set.
Both are brought to length 1.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions (list of [3, H, W] of float): Predicted normals, of any length.
    references (list of [3, H, W] of float): True normals.
    ignore_value (int): Label of pixels that do not count, in any channel. Default: 255.
Returns:
    mean_angle: From 0 to 180, in degrees, lower is better.
    median_angle: The median.
Examples:
    >>> metric = evaluate.load("normals_mean_angle")
    >>> found = metric.compute(predictions=[[[[2.0]], [[0.0]], [[0.0]]]], references=[[[[0.0]], [[1.0]], [[0.0]]]])
    >>> found["mean_angle"]
    90.0
"""


def angles(prediction: Any, reference: Any, ignore_value: int) -> Any:
    """Angles in degrees at the pixels that count."""
    predicted, true = np.asarray(prediction, float), np.asarray(reference, float)
    if predicted.shape != true.shape or true.ndim != 3 or len(true) != 3:
        raise ValueError(f"prediction and reference are {predicted.shape} and {true.shape}; both must be (3, H, W)")
    counted = (true != ignore_value).all(axis=0)
    predicted, true = predicted[:, counted], true[:, counted]
    if not (np.linalg.norm(true, axis=0) > 0).all():
        raise ValueError(f"references has normals of length 0; give such pixels the value {ignore_value}")
    # The arc tangent is exact where vectors are all but parallel. A prediction of 0 counts as a right angle.
    across, along = np.linalg.norm(np.cross(predicted, true, axis=0), axis=0), (predicted * true).sum(axis=0)
    return np.degrees(np.where((across == 0) & (along == 0), np.pi / 2, np.arctan2(across, along)))


class NormalsMeanAngle(evaluate.Metric):
    """Mean angle between normals."""

    def _info(self) -> evaluate.MetricInfo:
        maps = datasets.Sequence(datasets.Sequence(datasets.Sequence(datasets.Value("float32"))))
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation="",
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features({"predictions": maps, "references": maps}),
        )

    def _compute(self, predictions: list[Any], references: list[Any], ignore_value: int = 255) -> dict[str, float]:
        pairs = zip(predictions, references, strict=True)
        found = np.concatenate([np.zeros(0), *(angles(predicted, true, ignore_value) for predicted, true in pairs)])
        if found.size == 0:
            raise ValueError(f"no pixel of references counts: all are {ignore_value}; give labels")
        return {"mean_angle": float(found.mean()), "median_angle": float(np.median(found))}
