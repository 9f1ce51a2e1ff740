"""What a predictor of run results is, and how one is chosen: by rank correlation on held-out folds.

Letters: n runs, K domains, F folds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any, Protocol

import numpy as np

from hf_mixture.data.search.ranks import FloatArray, spearman


class Model(Protocol):
    """A fitted predictor."""

    def predict(self, weights: FloatArray) -> FloatArray:
        """Predicted values of shape (m,) at mixtures of shape (m, K)."""

    def deviation(self, weights: FloatArray) -> FloatArray | None:
        """Standard deviations of shape (m,) of the error, or None when the model knows none."""


@dataclass(frozen=True)
class Kind:
    """One kind of predictor.

    Args:
        name: Its name.
        fit: Fits mixtures of shape (n, K) to values of shape (n,).
        min_rows: The fewest runs it can use, as a function of K.
        parameters: Its settings, for the record.
    """

    name: str
    fit: Callable[[FloatArray, FloatArray], Model]
    min_rows: Callable[[int], int]
    parameters: Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Score:
    """How well one kind predicts rows held out of its fit.

    Args:
        kind: Name of the kind.
        rho: Spearman correlation of held-out predictions and values; NaN when the predictions are constant.
        error: Root of the mean squared held-out error.
        predicted: Held-out predictions of shape (n,).
    """

    kind: str
    rho: float
    error: float
    predicted: FloatArray


@dataclass(frozen=True, eq=False)
class Fitted:
    """A predictor fitted on all rows, with its score on held-out folds and a measure of its uncertainty.

    Args:
        kind: The kind.
        model: The model of all rows.
        folds: The models of the folds.
        score: The held-out score.
        scores: The scores of all kinds that were compared.
    """

    kind: Kind
    model: Model
    folds: tuple[Model, ...]
    score: Score
    scores: tuple[Score, ...]

    def predict(self, weights: FloatArray) -> FloatArray:
        """Predicted values of shape (m,) at mixtures of shape (m, K)."""
        return self.model.predict(weights)

    def deviation(self, weights: FloatArray) -> FloatArray:
        """Standard deviation of shape (m,) of the prediction error.

        A Gaussian process states its own. Other kinds add the held-out error and the spread of the fold models.
        """
        stated = self.model.deviation(weights)
        if stated is not None:
            return stated
        spread = np.var([fold.predict(weights) for fold in self.folds], axis=0)
        return np.asarray(np.sqrt(self.score.error**2 + spread), dtype=np.float64)

    def describe(self) -> dict[str, Any]:
        """Kind, settings and the scores of all kinds, as plain JSON values."""
        return {
            "kind": self.kind.name,
            "parameters": dict(self.kind.parameters),
            "held_out": {
                score.kind: {"rho": finite(score.rho), "error": finite(score.error)} for score in self.scores
            },
        }


def finite(value: float | None) -> float | None:
    """The value, or None when it is absent or not finite: JSON has no NaN."""
    return float(value) if value is not None and math.isfinite(value) else None


def cross_validate(
    kind: Kind, weights: FloatArray, values: FloatArray, *, num_folds: int = 5, seed: int = 0
) -> tuple[Score, tuple[Model, ...]]:
    """Fit a kind on all folds but one, predict the one, for each fold.

    Args:
        kind: The kind of predictor.
        weights: Mixtures of shape (n, K).
        values: Values of shape (n,).
        num_folds: Number F of folds, at most n. Default: 5.
        seed: Seed of the assignment of rows to folds. Default: 0.

    Returns:
        The score on held-out rows, and the F models.
    """
    num = len(values)
    fold = np.random.default_rng(seed).permutation(num) % min(num_folds, num)
    predicted = np.empty(num)
    models = []
    for part in range(min(num_folds, num)):
        model = kind.fit(weights[fold != part], values[fold != part])
        predicted[fold == part] = model.predict(weights[fold == part])
        models.append(model)
    error = float(np.sqrt(np.mean((predicted - values) ** 2)))
    return Score(kind.name, spearman(predicted, values), error, predicted), tuple(models)


def choose(
    kinds: Sequence[Kind], weights: FloatArray, values: FloatArray, *, num_folds: int = 5, seed: int = 0
) -> Fitted:
    """Fit the kind that ranks held-out rows best; ties go to the smaller error.

    Args:
        kinds: Kinds to compare; with one, it is fitted and scored.
        weights: Mixtures of shape (n, K).
        values: Values of shape (n,).
        num_folds: Number of folds. Default: 5.
        seed: Seed of the folds. Default: 0.

    Raises:
        ValueError: There are fewer rows than any of the kinds can use.
    """
    num, num_domains = weights.shape
    # Each fold must leave enough rows for the fit.
    usable = [kind for kind in kinds if num - math.ceil(num / num_folds) >= kind.min_rows(num_domains)]
    if not usable:
        needed = min((_rows_needed(kind.min_rows(num_domains), num_folds), kind.name) for kind in kinds)
        raise ValueError(
            f"the table has {num} rows; predictors {[kind.name for kind in kinds]} with {num_domains} domains and "
            f"{num_folds} folds need at least {needed[0]} ({needed[1]}): add runs or choose another predictor"
        )
    trials = [cross_validate(kind, weights, values, num_folds=num_folds, seed=seed) for kind in usable]
    best = max(range(len(usable)), key=lambda index: _order(trials[index][0]))
    kind, (score, folds) = usable[best], trials[best]
    return Fitted(kind, kind.fit(weights, values), folds, score, tuple(other for other, _ in trials))


def _rows_needed(min_rows: int, num_folds: int) -> int:
    """The fewest rows of which each fold leaves `min_rows` for the fit."""
    return next(num for num in count(min_rows) if num - math.ceil(num / num_folds) >= min_rows)


def _order(score: Score) -> tuple[float, float]:
    return (-1.0 if math.isnan(score.rho) else round(score.rho, 3), -score.error)
