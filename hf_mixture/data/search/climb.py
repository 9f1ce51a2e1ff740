"""CLIMB's search (arXiv 2504.13161): RegMix in rounds, each drawn where the last predictor is best.

Letters: K domains (clusters), N best candidates, M trials of a round.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from hf_mixture.data.search.constraints import Constraints, project
from hf_mixture.data.search.families import PredictedSearch, describe_predictor
from hf_mixture.data.search.predictors import Kind
from hf_mixture.data.search.proposal import Space, fit_ranker, target_rows
from hf_mixture.data.search.protocol import Objective, Trial
from hf_mixture.data.search.ranks import FloatArray
from hf_mixture.data.search.simplex import dirichlet
from hf_mixture.data.search.table import RunTable


class ClimbSearch(PredictedSearch):
    """Rounds of trials: the first at random, each later one among the best predicted mixtures not yet run.

    A round of M trials is drawn at random from the `breadth` * M best of the candidates, which keeps it diverse. Each
    round waits for the runs of the rounds before it.

    Args:
        domains: Names of the K domains.
        objective: What to optimise.
        prior: Natural (token) shares, by name or of shape (K,). Default: equal.
        rounds: Number of trials of each round. Default: (64, 32, 16).
        predictor: `"auto"`, or one or several kinds.
        breadth: N / M, >= 1. Default: 2.
        num_candidates: Number of mixtures that are ranked when there is no pool. Default: 20,000.
        pool: Mixtures of shape (p, K), the only ones that can be run. Default: the whole simplex.
        constraints: Bounds on the shares, of trials and proposal.
        table: Earlier runs to learn from.
        seed: Seed. Default: 0.

    Raises:
        ValueError: The pool is smaller than the rounds, or a round or `breadth` is below 1.

    Example:
        ```python
        >>> from hf_mixture.data.search import ClimbSearch, Objective, Run
        >>> search = ClimbSearch(["a", "b", "c"], Objective("acc", "maximize"), rounds=(16, 8), predictor="ridge")
        >>> while trials := search.ask(24):
        ...     search.tell([Run(trial.trial_id, {"acc": trial.weights[2]}) for trial in trials])
        >>> len(search.trials), search.propose().weights[2] > 0.9
        (24, True)

        ```
    """

    method = "climb"
    recorded = ("rounds", "breadth")

    def __init__(
        self,
        domains: Sequence[str],
        objective: Objective,
        *,
        prior: Any = None,
        rounds: Sequence[int] = (64, 32, 16),
        predictor: str | Kind | Sequence[str | Kind] = "auto",
        breadth: float = 2.0,
        num_candidates: int = 20_000,
        pool: Any = None,
        constraints: Constraints | None = None,
        table: RunTable | None = None,
        seed: int = 0,
    ) -> None:
        if not rounds or min(rounds) < 1 or breadth < 1:
            raise ValueError(f"rounds={tuple(rounds)} and breadth={breadth!r} must all be at least 1: correct them")
        space = Space.build(domains, prior, constraints, pool)
        if space.pool is not None and len(space.pool) < sum(rounds):
            raise ValueError(
                f"the pool has {len(space.pool)} mixtures for {sum(rounds)} trials: add some or run fewer"
            )
        settings = {
            "rounds": list(rounds),
            "breadth": breadth,
            "predictor": describe_predictor(predictor),
            "num_candidates": num_candidates,
        }
        super().__init__(space, objective, table=table, seed=seed, settings=settings)
        self.rounds, self.predictor, self.breadth = tuple(rounds), predictor, breadth
        self.num_candidates = num_candidates
        self._plans: dict[int, list[tuple[FloatArray, int | None]]] = {}

    @property
    def done(self) -> bool:
        """Whether all rounds were asked and told."""
        return len(self.trials) >= sum(self.rounds) and not self.pending

    @property
    def batch_size(self) -> int:
        """A whole round."""
        return max(self.rounds)

    def _suggest(self, num: int) -> list[Trial]:
        trials: list[Trial] = []
        ends = np.cumsum(self.rounds)
        while len(trials) < num and len(self.trials) < ends[-1]:
            index = int(np.searchsorted(ends, len(self.trials), side="right"))
            start = int(ends[index]) - self.rounds[index]
            waiting = {trial.trial_id for trial in self.pending}
            if any(trial.trial_id in waiting for trial in self.trials[:start]):
                break
            if index not in self._plans:
                self._plans[index] = self._plan(index, start)
            weights, candidate = self._plans[index][len(self.trials) - start]
            trials.append(self._add(weights, candidate=candidate))
        return trials

    def _plan(self, index: int, start: int) -> list[tuple[FloatArray, int | None]]:
        """Mixtures of one round, from the runs of the rounds before it alone."""
        size, space = self.rounds[index], self.space
        rng = np.random.default_rng([self.seed, index])
        past = self.trials[:start]
        if space.pool is not None:
            used = {trial.candidate for trial in past}
            lower, upper = space.constraints.bounds(space.domains)
            inside = ((space.pool >= lower - 1e-9) & (space.pool <= upper + 1e-9)).all(axis=1)
            free = np.array([row for row in np.flatnonzero(inside) if row not in used])
            candidates, rows = space.pool[free], [int(row) for row in free]
        elif start == 0 and self.earlier is None:
            draws = dirichlet(space.prior, size, seed=[self.seed, index])
            return [(weights, None) for weights in project(draws, *space.constraints.bounds(space.domains))]
        else:
            candidates, rows = space.sample(self.num_candidates, [self.seed, index]), None
        table = self._table_of(past)
        if table is None:
            picks = rng.permutation(len(candidates))[:size]
        else:
            model = fit_ranker(target_rows(table)[0], self.objective, self.predictor, seed=self.seed)
            order = np.argsort(-self.objective.sign * model.predict(candidates), kind="stable")
            picks = rng.permutation(order[: int(self.breadth * size)])[:size]
        return [(candidates[pick], None if rows is None else rows[pick]) for pick in picks]
