"""Mean intersection over union of class maps.

Letters: C classes, H x W pixels.
"""

from typing import Any

import datasets
import evaluate
import numpy as np


_DESCRIPTION = """
Mean intersection over union of predicted class maps: for each class, the pixels where prediction and label both have
it, divided by those where either has it, over the whole data set; the mean over classes.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions (list of [H, W] of int): Predicted classes.
    references (list of [H, W] of int): True classes.
    num_classes (int): C.
    ignore_value (int): Label of pixels that do not count. Default: 255.
Returns:
    miou: From 0 to 1, higher is better; the mean over the classes that occur in predictions or labels.
    iou_by_class: For each class, or None where it does not occur.
Examples:
    >>> metric = evaluate.load("segmentation_miou")
    >>> metric.compute(predictions=[[[0, 1]]], references=[[[0, 0]]], num_classes=2)["iou_by_class"]
    [0.5, 0.0]
"""


def confusion(prediction: Any, reference: Any, num_classes: int, ignore_value: int) -> Any:
    """Count pixels by true and by predicted class [C, C], those to ignore left out."""
    predicted, true = np.asarray(prediction), np.asarray(reference)
    if predicted.shape != true.shape:
        raise ValueError(f"a prediction has the shape {predicted.shape} and its reference {true.shape}; give one")
    counted = true != ignore_value
    predicted, true = predicted[counted], true[counted]
    for name, values in (("predictions", predicted), ("references", true)):
        if values.size and not (values.min() >= 0 and values.max() < num_classes):
            raise ValueError(f"{name} has the class {values.max()} or {values.min()}; num_classes={num_classes}")
    return np.bincount(true * num_classes + predicted, minlength=num_classes**2).reshape(num_classes, num_classes)


class SegmentationMiou(evaluate.Metric):
    """Mean intersection over union."""

    def _info(self) -> evaluate.MetricInfo:
        grid = datasets.Sequence(datasets.Sequence(datasets.Value("int32")))
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation="",
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features({"predictions": grid, "references": grid}),
        )

    def _compute(
        self, predictions: list[Any], references: list[Any], num_classes: int, ignore_value: int = 255
    ) -> dict[str, Any]:
        pairs = zip(predictions, references, strict=True)
        counts = np.zeros((num_classes, num_classes), dtype=np.int64)
        for predicted, true in pairs:
            counts += confusion(predicted, true, num_classes, ignore_value)
        if not counts.any():
            raise ValueError(f"no pixel of references counts: all are {ignore_value}; give labels")
        common = np.diag(counts)
        union = counts.sum(axis=0) + counts.sum(axis=1) - common
        found = [float(both / either) if either else None for both, either in zip(common, union, strict=True)]
        return {"miou": float(np.mean([value for value in found if value is not None])), "iou_by_class": found}
