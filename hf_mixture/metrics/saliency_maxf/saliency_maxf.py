"""Largest F measure of saliency maps over all thresholds.

Letters: H x W pixels.
"""

from typing import Any

import datasets
import evaluate
import numpy as np


_DESCRIPTION = """
Largest F measure of predicted saliency over thresholds: F = (1 + b) P R / (b P + R), where precision P and recall R
count the pixels of the whole data set.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions (list of [H, W] of float): Probabilities of being salient, from 0 to 1.
    references (list of [H, W] of int): 1 for salient pixels, 0 for others.
    beta_squared (float): b. Default: 1, as the published evaluation of InvPT has.
    threshold_step (float): Thresholds are its multiples between 0 and 1. Default: 0.05.
    ignore_value (int): Label of pixels that do not count. Default: 255.
Returns:
    max_f: From 0 to 1, higher is better.
    threshold: The threshold where it is reached.
Examples:
    >>> metric = evaluate.load("saliency_maxf")
    >>> metric.compute(predictions=[[[0.9, 0.6, 0.1]]], references=[[[1, 0, 0]]])["max_f"]
    1.0
"""


class SaliencyMaxf(evaluate.Metric):
    """Largest F measure over thresholds."""

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
        beta_squared: float = 1.0,
        threshold_step: float = 0.05,
        ignore_value: int = 255,
    ) -> dict[str, float]:
        if not 0 < threshold_step < 1:
            raise ValueError(f"threshold_step={threshold_step} must be above 0 and below 1; change it")
        # Not arange: the last multiple may be a rounding error below 1.
        thresholds = np.arange(1, round(np.ceil(1 / threshold_step - 1e-9))) * threshold_step
        hits = predicted_positives = np.zeros(len(thresholds))
        actual = 0
        for prediction, reference in zip(predictions, references, strict=True):
            probability, true = np.asarray(prediction), np.asarray(reference)
            if probability.shape != true.shape:
                raise ValueError(f"a prediction has the shape {probability.shape}, its reference {true.shape}")
            counted = true != ignore_value
            probability, true = probability[counted], true[counted] == 1
            if probability.size and not (probability.min() >= 0 and probability.max() <= 1):
                raise ValueError("predictions must be probabilities from 0 to 1; apply a softmax or a sigmoid")
            marked = probability >= thresholds[:, None]
            hits = hits + (marked & true).sum(axis=1)
            predicted_positives = predicted_positives + marked.sum(axis=1)
            actual += int(true.sum())
        if not actual:
            raise ValueError("no pixel of references is salient; recall is not defined")
        # (1 + b) P R / (b P + R), without the division by a number of predicted pixels that may be 0.
        scores = (1 + beta_squared) * hits / (beta_squared * actual + predicted_positives)
        best = int(scores.argmax())
        return {"max_f": float(scores[best]), "threshold": float(thresholds[best])}
