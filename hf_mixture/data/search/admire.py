"""ADMIRE (arXiv 2508.11551): Bayesian optimisation of mixtures over several sizes of run.

Letters: K domains, x a mixture, m a fidelity in (0, 1] (1 = target).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from hf_mixture.data.search.acquisition import (
    expected_improvement,
    max_value_entropy,
    multi_fidelity_entropy,
    sample_maxima,
)
from hf_mixture.data.search.constraints import Constraints
from hf_mixture.data.search.fidelity import fidelity_warnings
from hf_mixture.data.search.proposal import Space, direction_warnings, incumbent
from hf_mixture.data.search.protocol import Objective, Run, SearchResult, Trial
from hf_mixture.data.search.ranks import FloatArray
from hf_mixture.data.search.session import SearchSession
from hf_mixture.data.search.surrogate import Surrogate, fit_surrogate, held_out_rho
from hf_mixture.data.search.table import RunTable


Acquisition = Literal["mf_mes", "mes", "ei"]


class AdmireSearch(SearchSession):
    """Screens with small runs, then verifies at the target size.

    A cost model alone keeps asking for the cheapest runs and never verifies. So 1 - `target_share` of the budget goes
    to smaller runs, each the one that tells most about the best target value per unit of cost; then all the rest to
    target runs, chosen by expected improvement. The proposal is the best *measured* target run and never gets worse.
    Trials may be asked in batches and told in any order; pending ones count as told with their posterior mean.

    Args:
        domains: Names of the K domains.
        objective: What to optimise.
        prior: Natural shares, by name or of shape (K,). Default: equal.
        fidelities: Cost of a run by fidelity; fidelity 1 is the target and costs 1. Default: `{1.0: 1.0}`.
        budget: Total cost at which the search is done. Default: 16.
        acquisition: `"mf_mes"` (information per cost), `"mes"` (the same at the target only), or `"ei"` (expected
            improvement at the target). Default: `"mf_mes"`.
        target_share: Share of the budget that target runs get, in [0, 1]. Default: 0.8.
        pool: Mixtures that can be run, by fidelity, each of shape (p, K); or one array for all. A smaller run is made
            with mixtures of the target's pool where there are such. Default: the simplex.
        num_candidates: Number of mixtures that are ranked when there is no pool. Default: 512.
        num_maxima: Number of samples of the maximum. Default: 10.
        surrogate: `"exact"` (this package's process) or `"botorch"` (`SingleTaskMultiFidelityGP`). Default: `"exact"`.
        constraints: Bounds on the shares, of trials and proposal.
        table: Earlier runs to learn from.
        seed: Seed. Default: 0.

    Raises:
        ValueError: Fidelities lack the target, a cost is not above 0, or `target_share` is outside [0, 1].

    Example:
        ```python
        >>> from hf_mixture.data.search import AdmireSearch, Objective, Run
        >>> search = AdmireSearch(["a", "b"], Objective("loss", "minimize"), fidelities={0.1: 0.1, 1.0: 1.0}, budget=4)
        >>> while trials := search.ask():
        ...     search.tell([Run(t.trial_id, {"loss": (t.weights[0] - 0.3) ** 2 - t.fidelity}) for t in trials])
        >>> abs(search.propose().weights[0] - 0.3) < 0.1
        True

        ```
    """

    method = "admire"

    def __init__(
        self,
        domains: Sequence[str],
        objective: Objective,
        *,
        prior: Any = None,
        fidelities: Mapping[float, float] | None = None,
        budget: float = 16.0,
        acquisition: Acquisition = "mf_mes",
        target_share: float = 0.8,
        pool: Any = None,
        num_candidates: int = 512,
        num_maxima: int = 10,
        surrogate: Literal["exact", "botorch"] = "exact",
        constraints: Constraints | None = None,
        table: RunTable | None = None,
        seed: int = 0,
    ) -> None:
        levels = dict(sorted((fidelities or {1.0: 1.0}).items()))
        if 1.0 not in levels or min(levels) <= 0 or max(levels) > 1 or min(levels.values()) <= 0:
            raise ValueError(
                f"fidelities={fidelities!r} must map fidelities in (0, 1] to costs above 0, 1.0 among them: correct it"
            )
        if acquisition not in ("mf_mes", "mes", "ei"):
            raise ValueError(f"acquisition={acquisition!r} is not one of ['mf_mes', 'mes', 'ei']; choose one")
        if not 0 <= target_share <= 1:
            raise ValueError(f"target_share={target_share!r} must lie in [0, 1]: correct it")
        pools = _pools(pool, levels)
        space = Space.build(domains, prior, constraints, None if pools is None else pools[1.0])
        self.levels, self.budget, self.acquisition, self.target_share = levels, budget, acquisition, target_share
        self.pools, self.num_candidates, self.num_maxima, self.surrogate = pools, num_candidates, num_maxima, surrogate
        settings = {
            "fidelities": [[level, cost] for level, cost in levels.items()],
            "budget": budget,
            "acquisition": acquisition,
            "target_share": target_share,
            "num_candidates": num_candidates,
            "num_maxima": num_maxima,
            "surrogate": surrogate,
        }
        super().__init__(space, objective, table=table, seed=seed, settings=settings)
        self._allowed_rows = {level: self._allowed(level) for level in levels}

    @property
    def spent(self) -> float:
        """Cost of all trials that were asked, pending ones included."""
        return self._spent(1.0) + sum(self._spent(level) for level in self.levels if level != 1.0)

    @property
    def done(self) -> bool:
        """Whether the budget is spent and all runs were told."""
        return self._affordable() == [] and not self.pending

    @property
    def batch_size(self) -> int:
        """A few: each run informs the choice of the next."""
        return 4

    def propose(self, constraints: Constraints | None = None) -> SearchResult:
        """The best measured target run; before there is one, the mixture with the best posterior mean.

        Args:
            constraints: Bounds to use in place of the search's own.

        Returns:
            The proposal, with posterior mean and deviation at it.

        Raises:
            ValueError: No run was told.
        """
        table = self.told_table
        limits = constraints or self.space.constraints
        sign = self.objective.sign
        process = self._fit()
        best = incumbent(table, self.objective, limits)
        warnings = fidelity_warnings(table, self.objective) + direction_warnings(self.objective)
        if best is not None:
            weights = np.array(list(best["weights"].values()))
        else:
            points = self._target_points(limits)
            mean, _ = process.posterior(points, torch.ones(len(points), dtype=torch.float64))
            weights = points[int(torch.argmax(mean))].numpy()
            warnings += ("no target run was measured: the proposal rests on smaller runs alone",)
        one = torch.ones(1, dtype=torch.float64)
        mean, covariance = process.posterior(torch.as_tensor(weights)[None], one)
        return SearchResult(
            method=self.method,
            domains=self.space.domains,
            weights=tuple(float(share) for share in weights),
            objective=self.objective.name,
            direction=self.objective.direction,
            predicted=sign * float(mean[0]),
            uncertainty=float(covariance[0, 0].clamp_min(0).sqrt()),
            rho=held_out_rho(process, table, self.objective),
            num_rows=len(table),
            table_sha256=table.sha256,
            predictor={"kind": "gp", "parameters": {"surrogate": self.surrogate, "acquisition": self.acquisition}},
            incumbent=best,
            comparison=self._comparison(process),
            parameters={"seed": self.seed, "spent": self.spent, **self._record()},
            constraints=limits.to_dict(),
            warnings=warnings,
        )

    def _record(self) -> dict[str, Any]:
        names = ("fidelities", "budget", "target_share", "num_candidates", "num_maxima")
        return {name: self.settings[name] for name in names}

    def _comparison(self, process: Surrogate) -> dict[str, float]:
        equal = np.full(len(self.space.domains), 1 / len(self.space.domains))
        points = torch.as_tensor(np.stack([self.space.prior, equal]))
        mean, _ = process.posterior(points, torch.ones(2, dtype=torch.float64))
        return {
            name: self.objective.sign * float(value)
            for name, value in zip(("natural", "stratified"), mean, strict=True)
        }

    def _suggest(self, num: int) -> list[Trial]:
        trials: list[Trial] = []
        process: Surrogate | None = None
        while len(trials) < num and (levels := self._affordable()):
            options = self._options(levels)
            if not len(options[0]):
                break
            if process is None and (self._runs or self.earlier is not None):
                process = self._fit(self.pending)
            if process is None:
                trial = self._first(options)
            else:
                points, fidelity, rows = options
                pick = int(torch.argmax(self._score(process, points, fidelity)))
                trial = self._add(points[pick].numpy(), fidelity=float(fidelity[pick]), candidate=rows[pick])
                believed = process.posterior(points[pick : pick + 1], fidelity[pick : pick + 1])[0]
                process = process.condition(points[pick : pick + 1], fidelity[pick : pick + 1], believed)
            trials.append(trial)
        return trials

    def _first(self, options: tuple[torch.Tensor, torch.Tensor, list[int | None]]) -> Trial:
        """A random mixture of the lowest fidelity, for as long as nothing is known."""
        points, fidelity, rows = options
        lowest = torch.nonzero(fidelity == fidelity.min()).flatten().tolist()
        pick = lowest[int(np.random.default_rng([self.seed, len(self.trials)]).integers(len(lowest)))]
        return self._add(points[pick].numpy(), fidelity=float(fidelity[pick]), candidate=rows[pick])

    def _score(self, process: Surrogate, points: torch.Tensor, fidelity: torch.Tensor) -> torch.Tensor:
        _, var_m, mean_t, var_t, covariance = process.pairs(points, fidelity)
        best = self._best_target()
        if bool((fidelity == 1).all()) and (self.acquisition != "mes" or best is None):
            return mean_t if best is None else expected_improvement(mean_t, var_t, best)
        targets = self._target_points(self.space.constraints)
        mean, cov = process.posterior(targets, torch.ones(len(targets), dtype=torch.float64))
        maxima = sample_maxima(mean, cov, self.num_maxima, seed=self.seed * 100_003 + len(self.trials))
        if self.acquisition == "mes":
            return max_value_entropy(mean_t, var_t, maxima)
        gain = multi_fidelity_entropy(var_m, mean_t, var_t, covariance, maxima)
        return gain / torch.tensor([self.levels[float(level)] for level in fidelity], dtype=torch.float64)

    def _best_target(self) -> float | None:
        table = self.table
        if table is None or not (table.fidelity == 1).any():
            return None
        return float((self.objective.sign * self.objective.values(table))[table.fidelity == 1].max())

    def _spent(self, level: float) -> float:
        return sum(
            self._cost(trial, self._runs.get(trial.trial_id)) for trial in self.trials if trial.fidelity == level
        )

    def _cost(self, trial: Trial, run: Run | None) -> float:
        return self.levels[trial.fidelity] if run is None or run.cost is None else run.cost

    def _affordable(self) -> list[float]:
        """Fidelities of the next trial: smaller ones while the screening is paid for, then the target."""
        left = self.budget - self.spent + 1e-9
        screened = sum(self._spent(level) for level in self.levels if level != 1.0)
        screening = (1 - self.target_share) * self.budget - screened + 1e-9
        if self.acquisition == "mf_mes" and self._spent(1.0) == 0:
            lower = [level for level, cost in self.levels.items() if level != 1.0 and cost <= min(left, screening)]
            if any(self._unused(level)[1] for level in lower):
                return lower
        return [1.0] if self.levels[1.0] <= left else []

    def _allowed(self, level: float) -> npt.NDArray[np.int64]:
        """Rows of the pool of a level that obey the bounds; of a smaller one, those that the target can run too."""
        if self.pools is None:
            return np.zeros(0, dtype=np.int64)
        lower, upper = self.space.constraints.bounds(self.space.domains)
        pool = self.pools[level]
        inside = ((pool >= lower - 1e-9) & (pool <= upper + 1e-9)).all(axis=1)
        targets = {row.tobytes() for row in np.round(self.pools[1.0], 6)}
        shared = inside & np.array([row.tobytes() in targets for row in np.round(pool, 6)])
        return np.flatnonzero(shared if shared.any() else inside)

    def _unused(self, level: float) -> tuple[FloatArray, list[int | None]]:
        """Mixtures of a level that were not asked for, with their rows of the pool; without one, fresh candidates."""
        if self.pools is None:
            draws = self.space.sample(self.num_candidates, [self.seed, len(self.trials)])
            return draws, [None] * len(draws)
        used = {trial.candidate for trial in self.trials if trial.fidelity == level}
        rows = [int(row) for row in self._allowed_rows[level] if row not in used]
        return self.pools[level][rows], [*rows]

    def _options(self, levels: Sequence[float]) -> tuple[torch.Tensor, torch.Tensor, list[int | None]]:
        """Mixtures, fidelities and pool rows of the trials that could come next."""
        parts = [self._unused(level) for level in levels]
        points = np.concatenate([mixtures for mixtures, _ in parts])
        fidelity = np.repeat(np.array(levels), [len(rows) for _, rows in parts])
        return torch.as_tensor(points), torch.as_tensor(fidelity), [row for _, rows in parts for row in rows]

    def _target_points(self, constraints: Constraints) -> torch.Tensor:
        if self.space.pool is None:
            return torch.as_tensor(self.space.sample(self.num_candidates, [self.seed, len(self.trials)], constraints))
        lower, upper = constraints.bounds(self.space.domains)
        inside = ((self.space.pool >= lower - 1e-9) & (self.space.pool <= upper + 1e-9)).all(axis=1)
        return torch.as_tensor(self.space.pool[inside])

    def _fit(self, pending: Sequence[Trial] = ()) -> Surrogate:
        """The surrogate of all runs, in the order of telling, with pending trials at their posterior means."""
        trials = {trial.trial_id: trial for trial in self.trials}
        told = [(trials[run.trial_id], run) for run in self._runs.values()]
        earlier = self.earlier
        x = [trial.weights for trial, _ in told]
        level = [trial.fidelity for trial, _ in told]
        y = [self.objective.sign * self._value(run) for _, run in told]
        if earlier is not None:
            x = [*map(tuple, earlier.weights.tolist()), *x]
            level = [*earlier.fidelity.tolist(), *level]
            y = [*(self.objective.sign * self.objective.values(earlier)).tolist(), *y]
        known = tuple(sorted({*level, *self.levels}))
        process = fit_surrogate(self.surrogate, np.array(x), np.array(level), np.array(y), levels=known)
        if pending:
            points = torch.tensor([trial.weights for trial in pending], dtype=torch.float64)
            fidelity = torch.tensor([trial.fidelity for trial in pending], dtype=torch.float64)
            process = process.condition(points, fidelity, process.posterior(points, fidelity)[0])
        return process


def _pools(pool: Any, levels: Mapping[float, float]) -> dict[float, FloatArray] | None:
    if pool is None:
        return None
    if not isinstance(pool, Mapping):
        return {level: np.asarray(pool, dtype=np.float64) for level in levels}
    if set(pool) != set(levels):
        raise ValueError(
            f"pool has fidelities {sorted(pool)}, fidelities has {sorted(levels)}; they must agree: correct it"
        )
    return {level: np.asarray(pool[level], dtype=np.float64) for level in levels}
