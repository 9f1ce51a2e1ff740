"""RegMix (arXiv 2407.01492): train many tiny models on random mixtures, regress, optimise the regression.

Letters: n runs, K domains, q natural shares.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from hf_mixture.data.search.constraints import Constraints
from hf_mixture.data.search.families import DesignedSearch, PredictedSearch, describe_predictor
from hf_mixture.data.search.predictors import Kind
from hf_mixture.data.search.predictors.base import Model
from hf_mixture.data.search.predictors.boosting import fit_notebook
from hf_mixture.data.search.proposal import Space
from hf_mixture.data.search.protocol import Objective
from hf_mixture.data.search.ranks import FloatArray
from hf_mixture.data.search.simplex import regmix, regmix_reference
from hf_mixture.data.search.table import RunTable


class RegMixSearch(DesignedSearch, PredictedSearch):
    """One batch of random mixtures, one regression, one proposal.

    Nothing of the fit sees held-out rows: predictors are compared on folds of the given runs, and none of them can be
    passed rows to stop on.

    Args:
        domains: Names of the K domains.
        objective: What to optimise.
        prior: Natural (token) shares, by name or of shape (K,). Default: equal.
        num_runs: Number of trials. Default: 512.
        predictor: `"auto"`, or one or several of `"lightgbm"`, `"gp"`, `"law"`, `"ridge"`, `"log_linear"`, `"ols"`.
        max_usage: Largest number of epochs of a domain in a trial, relative to its natural share. Default: 15.
        reference: Draw the trials bit-equal to the published script (seed 42), rounding errors included.
        num_candidates: Number of mixtures that the proposal is chosen from. Default: 100,000.
        constraints: Bounds on the shares, of trials and proposal.
        table: Finished runs to learn from; with them no trial needs to be run.
        seed: Seed of trials, folds and proposal. Default: 42.

    Example:
        ```python
        >>> from hf_mixture.data.search import Objective, RegMixSearch, Run
        >>> search = RegMixSearch(["wiki", "code"], Objective("loss", "minimize"), num_runs=24, predictor="ridge")
        >>> trials = search.ask(24)
        >>> search.tell([Run(trial.trial_id, {"loss": 3.0 - trial.weights[0]}) for trial in trials])
        >>> result = search.propose()
        >>> result.weights[0] > 0.95, round(result.rho, 2)
        (True, 1.0)

        ```
    """

    method = "regmix"
    recorded = ("num_runs", "max_usage", "reference")

    def __init__(
        self,
        domains: Sequence[str],
        objective: Objective,
        *,
        prior: Any = None,
        num_runs: int = 512,
        predictor: str | Kind | Sequence[str | Kind] = "auto",
        max_usage: float | None = 15.0,
        reference: bool = False,
        num_candidates: int = 100_000,
        constraints: Constraints | None = None,
        table: RunTable | None = None,
        seed: int = 42,
    ) -> None:
        space = Space.build(domains, prior, constraints)
        settings = {
            "num_runs": num_runs,
            "max_usage": max_usage,
            "reference": reference,
            "predictor": describe_predictor(predictor),
            "num_candidates": num_candidates,
        }
        super().__init__(space, objective, table=table, seed=seed, settings=settings)
        self.num_runs, self.predictor, self.max_usage, self.reference = num_runs, predictor, max_usage, reference
        self.num_candidates = num_candidates

    def _design(self) -> FloatArray:
        if self.reference:
            return regmix_reference(self.space.prior, self.num_runs, seed=self.seed)
        bounded = bool(self.space.constraints.to_dict())
        lower, upper = self.space.constraints.bounds(self.space.domains) if bounded else (None, None)
        return regmix(
            self.space.prior, self.num_runs, seed=self.seed, max_usage=self.max_usage, lower=lower, upper=upper
        )


def fit_reference(train: RunTable, stopping: RunTable, metric: str) -> Model:
    """Fit the published notebook's model of one metric, stopped early on rows that it is then tested on.

    It exists to reproduce published figures; `RegMixSearch` never does this.

    Args:
        train: Runs to fit. Mixtures are used as given, not normalised.
        stopping: The notebook's test runs.
        metric: The metric.
    """
    return fit_notebook(train.raw_weights, train.metrics[metric], stopping.raw_weights, stopping.metrics[metric])


def reference_optimum(
    model: Model, prior: npt.ArrayLike, *, num_samples: int = 100_000, top: int = 128, seed: int = 42
) -> FloatArray:
    """The published notebook's optimum: the mean of the samples of Dir(q) with the lowest predictions.

    Args:
        model: Predicts a loss.
        prior: Shares q of shape (K,), as printed in the notebook.
        num_samples: Number of samples. Default: 100,000.
        top: Number of samples to average. Default: 128.
        seed: Seed. Default: 42.

    Returns:
        A mixture of shape (K,).
    """
    samples = np.random.RandomState(seed).dirichlet(np.asarray(prior), num_samples)
    return np.asarray(samples[np.argsort(model.predict(samples))[:top]].mean(axis=0), dtype=np.float64)
