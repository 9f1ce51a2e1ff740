"""Bookkeeping of ask and tell, shared by the searchers that run trials.

A search is a pure function of its settings and of what was asked and told: its random numbers are keyed by the seed
and by the index of a trial, so a search that is restored from its state continues as if it had not stopped.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hf_mixture.data.search.constraints import Constraints
from hf_mixture.data.search.proposal import Space, incumbent
from hf_mixture.data.search.protocol import Objective, Run, SearchResult, Trial
from hf_mixture.data.search.ranks import FloatArray
from hf_mixture.data.search.table import RunTable


FORMAT = "hf_mixture_search"
VERSION = 1


class SearchSession:
    """Trials that were asked, runs that were told, and their table.

    Args:
        space: Domains, prior, bounds, pool.
        objective: What to optimise.
        table: Earlier runs to learn from, with ids of their own.
        seed: Seed of the search, >= 0.
        settings: Settings that a restored state must share.

    Attributes:
        trials (`list[Trial]`): All trials that were asked, in order.
    """

    method = ""

    def __init__(
        self, space: Space, objective: Objective, *, table: RunTable | None, seed: int, settings: Mapping[str, Any]
    ) -> None:
        if table is not None:
            if table.domains != space.domains:
                raise ValueError(f"table has domains {table.domains}, the search {space.domains}; they must agree")
            objective.values(table)
        self.space = space
        self.objective = objective
        self.earlier = table
        self.seed = seed
        self.trials: list[Trial] = []
        self._runs: dict[str, Run] = {}
        self._offset = _first_free(f"{self.method}-", () if table is None else table.run_ids)
        self.settings = {
            "method": self.method,
            "domains": list(space.domains),
            "prior": [float(share) for share in space.prior],
            "constraints": space.constraints.to_dict(),
            "objective": objective.name,
            "direction": objective.direction,
            "seed": seed,
            "table": None if table is None else table.sha256,
            "pool": None if space.pool is None else hashlib.sha256(space.pool.tobytes()).hexdigest(),
            **settings,
        }

    @property
    def pending(self) -> list[Trial]:
        """Trials that were asked and not yet told, in order."""
        return [trial for trial in self.trials if trial.trial_id not in self._runs]

    @property
    def runs(self) -> list[Run]:
        """Runs that were told, in the order of telling."""
        return list(self._runs.values())

    @property
    def done(self) -> bool:
        """Whether the search wants no further runs."""
        return False

    @property
    def batch_size(self) -> int:
        """How many trials are worth asking for at once where many can be run at once."""
        return 1

    def ask(self, num: int = 1) -> list[Trial]:
        """Up to `num` trials to run next; none when the search is done or waits for pending runs.

        Args:
            num: Largest number of trials, >= 1. Default: 1.

        Raises:
            ValueError: `num` is below 1.
        """
        if num < 1:
            raise ValueError(f"num={num!r} must be at least 1: ask for one trial or more")
        return self._suggest(num)

    def tell(self, runs: Run | Sequence[Run]) -> None:
        """Report finished runs, in any order; nothing is recorded when one of them is refused.

        Args:
            runs: One run or several.

        Raises:
            ValueError: A trial is unknown or told twice, a metric is missing or not finite, or a cost is not above 0.
        """
        batch = [runs] if isinstance(runs, Run) else list(runs)
        known = {trial.trial_id for trial in self.trials}
        seen = set(self._runs)
        for run in batch:
            if run.trial_id not in known:
                raise ValueError(
                    f"trial_id={run.trial_id!r} was never asked; tell the id of a trial that `ask` returned"
                )
            if run.trial_id in seen:
                raise ValueError(f"trial_id={run.trial_id!r} was told before; tell each run once")
            seen.add(run.trial_id)
            self._check_metrics(run)
        for run in batch:
            self._runs[run.trial_id] = run

    @property
    def table(self) -> RunTable | None:
        """All runs as a table, earlier ones first, then trials in the order of asking; None when there is none."""
        told = [trial for trial in self.trials if trial.trial_id in self._runs]
        return self._table_of(told)

    @property
    def told_table(self) -> RunTable:
        """All runs as a table.

        Raises:
            ValueError: There is none.
        """
        table = self.table
        if table is None:
            raise ValueError("no run was told yet; tell finished runs, or pass table= to the search")
        return table

    def propose(self, constraints: Constraints | None = None) -> SearchResult:
        """The best mixture that the runs so far suggest.

        Args:
            constraints: Bounds to use in place of the search's own.
        """
        raise NotImplementedError

    @property
    def incumbent(self) -> dict[str, Any] | None:
        """The best run at fidelity 1 so far; it can only improve."""
        table = self.table
        return None if table is None else incumbent(table, self.objective, self.space.constraints)

    @property
    def trace(self) -> list[tuple[float, float]]:
        """Cost spent and value of the best run at fidelity 1, after each told run that has one."""
        trials = {trial.trial_id: trial for trial in self.trials}
        spent, best, points = 0.0, math.nan, []
        for run in self._runs.values():
            trial = trials[run.trial_id]
            spent += self._cost(trial, run)
            if trial.fidelity == 1:
                value = self._value(run)
                best = value if math.isnan(best) or self.objective.sign * (value - best) > 0 else best
            if not math.isnan(best):
                points.append((spent, best))
        return points

    def state_dict(self) -> dict[str, Any]:
        """Everything that was asked and told, as plain JSON values."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "settings": self.settings,
            "trials": [
                [trial.trial_id, list(trial.weights), trial.fidelity, trial.candidate] for trial in self.trials
            ],
            "runs": [[run.trial_id, dict(run.metrics), run.cost] for run in self._runs.values()],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict`: the next asks are those of the uninterrupted search.

        Raises:
            ValueError: The state has another format, or comes from a search with other settings.
        """
        if state.get("format") != FORMAT or state.get("version") != VERSION:
            raise ValueError(
                f"the state has format {state.get('format')!r} version {state.get('version')!r}; this is a state of "
                f"{FORMAT!r} version {VERSION}: pass what state_dict() returned"
            )
        for name, value in self.settings.items():
            if state["settings"].get(name) != value:
                raise ValueError(
                    f"the state was written with {name}={state['settings'].get(name)!r}, this search has {value!r}; "
                    "they must agree: build the search with the same settings, or start a new one"
                )
        domains = self.space.domains
        trials = [Trial(name, domains, tuple(weights), level, row) for name, weights, level, row in state["trials"]]
        runs = {name: Run(name, dict(metrics), cost) for name, metrics, cost in state["runs"]}
        self.trials, self._runs = trials, runs

    def _suggest(self, num: int) -> list[Trial]:
        raise NotImplementedError

    def _add(self, weights: FloatArray, *, fidelity: float = 1.0, candidate: int | None = None) -> Trial:
        name = f"{self.method}-{self._offset + len(self.trials):05d}"
        shares = tuple(float(share) for share in weights)
        trial = Trial(name, self.space.domains, shares, fidelity, candidate)
        self.trials.append(trial)
        return trial

    def _cost(self, trial: Trial, run: Run | None) -> float:
        return trial.fidelity if run is None or run.cost is None else run.cost

    def _value(self, run: Run) -> float:
        metric = self.objective.metric
        parts = {metric: 1.0} if isinstance(metric, str) else metric
        return float(sum(weight * run.metrics[name] for name, weight in parts.items()))

    def _table_of(self, trials: Sequence[Trial]) -> RunTable | None:
        if not trials:
            return self.earlier
        runs = [self._runs[trial.trial_id] for trial in trials]
        names = [name for name in runs[0].metrics if all(name in run.metrics for run in runs)]
        told = RunTable(
            [trial.trial_id for trial in trials],
            self.space.domains,
            np.array([trial.weights for trial in trials]),
            {name: [run.metrics[name] for run in runs] for name in names},
            fidelity=[trial.fidelity for trial in trials],
            cost=[self._cost(trial, run) for trial, run in zip(trials, runs, strict=True)],
        )
        return told if self.earlier is None else self.earlier.concat(told)

    def _check_metrics(self, run: Run) -> None:
        metric = self.objective.metric
        for name in [metric] if isinstance(metric, str) else metric:
            if name not in run.metrics:
                raise ValueError(
                    f"run {run.trial_id!r} has metrics {list(run.metrics)} and lacks {name!r} of the objective: add it"
                )
        for name, value in run.metrics.items():
            if not math.isfinite(value):
                raise ValueError(
                    f"metric {name!r} of run {run.trial_id!r} is {value!r}; it must be a finite number: repeat the run"
                )
        if run.cost is not None and not (math.isfinite(run.cost) and run.cost > 0):
            raise ValueError(f"cost of run {run.trial_id!r} is {run.cost!r}; it must be above 0: correct it")


def _first_free(prefix: str, run_ids: Sequence[str]) -> int:
    """The number after the largest that earlier trials of the same method used."""
    numbers = [run_id.removeprefix(prefix) for run_id in run_ids if run_id.startswith(prefix)]
    return 1 + max((int(number) for number in numbers if number.isdecimal()), default=-1)
