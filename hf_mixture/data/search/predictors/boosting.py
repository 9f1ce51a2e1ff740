"""Gradient-boosted trees: the regression of RegMix, with the number of trees set without the test rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from hf_mixture._extras import require
from hf_mixture.data.search.ranks import FloatArray


REGMIX_SETTINGS: dict[str, Any] = {
    "boosting_type": "gbdt",
    "objective": "regression",
    "n_estimators": 1000,
    "learning_rate": 1e-2,
    "random_state": 42,
    "verbosity": -1,
    "n_jobs": 1,
}
"""RegMix's settings (arXiv 2407.01492, regression notebook); every other one is LightGBM's default."""

DEFAULT_SETTINGS: dict[str, Any] = {**REGMIX_SETTINGS, "n_estimators": 300, "learning_rate": 5e-2}
"""RegMix's settings with a third of the trees: equal rank correlation on its runs, in a third of the time."""


@dataclass(frozen=True, eq=False)
class Trees:
    """A fitted LightGBM booster."""

    booster: Any

    def predict(self, weights: FloatArray) -> FloatArray:
        """Predicted values of shape (m,) at mixtures of shape (m, K)."""
        return np.asarray(self.booster.predict(weights), dtype=np.float64)

    def deviation(self, weights: FloatArray) -> None:
        """None: the model states no uncertainty."""


def fitter(settings: Mapping[str, Any] | None = None) -> Callable[[FloatArray, FloatArray], Trees]:
    """Return a function that fits trees to mixtures of shape (n, K) and values of shape (n,).

    All rows are fitted for a fixed number of rounds: nothing is held out and nothing can leak. Below 200 rows the
    smallest leaf shrinks to n / 10 rows, because LightGBM's default of 20 gives a constant on 40 rows.

    Args:
        settings: Keyword arguments of `lightgbm.LGBMRegressor`, over `DEFAULT_SETTINGS`.
    """

    def fit(weights: FloatArray, values: FloatArray) -> Trees:
        lightgbm = require("lightgbm", used_for="the predictor 'lightgbm'")
        chosen = {**DEFAULT_SETTINGS, "min_child_samples": min(20, max(1, len(values) // 10)), **(settings or {})}
        return Trees(lightgbm.LGBMRegressor(**chosen).fit(weights, values).booster_)

    return fit


def fit_notebook(
    weights: FloatArray, values: FloatArray, stopping_weights: FloatArray, stopping_values: FloatArray
) -> Trees:
    """Fit RegMix's published recipe, which stops early on the rows that it is later tested on.

    It reproduces the published figures and serves nothing else: what is stopped on the test rows has seen them.

    Args:
        weights: Mixtures of shape (n, K).
        values: Values of shape (n,).
        stopping_weights: Mixtures of shape (m, K) of the rows to stop on.
        stopping_values: Their values, of shape (m,).
    """
    lightgbm = require("lightgbm", used_for="the predictor 'lightgbm'")
    stop = lightgbm.early_stopping(stopping_rounds=3, verbose=False)
    model = lightgbm.LGBMRegressor(**REGMIX_SETTINGS, metric=["l1", "l2"])
    model.fit(weights, values, eval_X=stopping_weights, eval_y=stopping_values, eval_metric="l2", callbacks=[stop])
    return Trees(model.booster_)
