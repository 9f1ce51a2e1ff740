"""Two families of searches: those whose trials are all known beforehand, and those that propose by a predictor.

A search may belong to both (RegMix, DML), to one (CLIMB; random search, grid) or to none (ADMIRE).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

from hf_mixture.data.search.constraints import Constraints
from hf_mixture.data.search.predictors import Kind
from hf_mixture.data.search.proposal import propose
from hf_mixture.data.search.protocol import SearchResult, Trial
from hf_mixture.data.search.ranks import FloatArray
from hf_mixture.data.search.session import SearchSession


class DesignedSearch(SearchSession):
    """A search whose trials are a design: all of them are fixed before the first run.

    Attributes:
        num_runs (`int`): Number of trials.
        rows (`Sequence[int] | None`): Row of the pool of each trial, or None without a pool.
    """

    num_runs: int
    rows: Sequence[int] | None = None

    @cached_property
    def design(self) -> FloatArray:
        """The mixtures of all trials, of shape (num_runs, K)."""
        return self._design()

    @property
    def done(self) -> bool:
        """Whether all trials were asked and told."""
        return len(self.trials) >= self.num_runs and not self.pending

    @property
    def batch_size(self) -> int:
        """All of them."""
        return self.num_runs

    def _design(self) -> FloatArray:
        raise NotImplementedError

    def _suggest(self, num: int) -> list[Trial]:
        start = len(self.trials)
        return [
            self._add(self.design[index], candidate=None if self.rows is None else self.rows[index])
            for index in range(start, min(start + num, self.num_runs))
        ]


class PredictedSearch(SearchSession):
    """A search that proposes the mixture that a predictor of its runs likes best.

    Attributes:
        predictor: `"auto"`, or one or several kinds of predictor.
        num_candidates (`int`): Number of mixtures that the proposal is chosen from when there is no pool.
        top (`int`): Number of best candidates that are averaged.
        recorded (`tuple[str, ...]`): Settings that the result carries.
    """

    predictor: str | Kind | Sequence[str | Kind] = "auto"
    num_candidates: int = 100_000
    top: int = 128
    recorded: tuple[str, ...] = ()

    def propose(self, constraints: Constraints | None = None) -> SearchResult:
        """The mixture that the predictor of all runs likes best: of the pool, or an average of the best candidates.

        Args:
            constraints: Bounds to use in place of the search's own.

        Raises:
            ValueError: There are too few runs for any of the predictors, or no candidate obeys the bounds.
        """
        limits = constraints or self.space.constraints
        return propose(
            self.method,
            self.told_table,
            self.objective,
            self.space,
            predictor=self.predictor,
            constraints=limits,
            candidates=self._candidates(limits),
            num_candidates=self.num_candidates,
            top=self.top,
            seed=self.seed,
            parameters={name: self.settings[name] for name in self.recorded},
        )

    def _candidates(self, limits: Constraints) -> FloatArray | None:
        """Mixtures of shape (m, K) to choose among; None for the pool, or a sample of the bounds."""
        return None


def describe_predictor(predictor: str | Kind | Sequence[str | Kind]) -> Any:
    """The choice of a predictor as plain JSON values, for the settings that a restored state must share."""
    if isinstance(predictor, Kind):
        return {"kind": predictor.name, "parameters": dict(predictor.parameters)}
    return predictor if isinstance(predictor, str) else [describe_predictor(each) for each in predictor]
