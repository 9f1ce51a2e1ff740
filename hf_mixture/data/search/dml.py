"""Data mixing laws (arXiv 2403.16952): fit y = c + exp(t0 + t . w), choose the best point of a lattice.

Letters: n runs, K domains.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from math import comb
from typing import Any

import numpy as np

from hf_mixture.data.search.constraints import Constraints, project
from hf_mixture.data.search.proposal import Space, propose
from hf_mixture.data.search.protocol import Objective, SearchResult, Trial
from hf_mixture.data.search.ranks import FloatArray
from hf_mixture.data.search.session import SearchSession
from hf_mixture.data.search.simplex import grid, latin, quantize
from hf_mixture.data.search.table import RunTable


class DMLSearch(SearchSession):
    """A few evenly spread trials, one law of K + 2 numbers, and the best point of a lattice of mixtures.

    Args:
        domains: Names of the K domains.
        objective: What to optimise.
        prior: Natural shares, by name or of shape (K,). Default: equal.
        num_runs: Number of trials. Default: 32.
        steps: The lattice holds multiples of 1 / `steps`. Default: 16.
        max_share: Largest share of a domain in the proposal. Default: 1.
        constraints: Further bounds, of trials and proposal.
        table: Finished runs to learn from.
        seed: Seed of the trials. Default: 0.

    Example:
        ```python
        >>> from hf_mixture.data.search import DMLSearch, Objective, Run
        >>> search = DMLSearch(["a", "b", "c"], Objective("loss", "minimize"), num_runs=20)
        >>> search.tell([Run(t.trial_id, {"loss": 2 + 2.0 ** -t.weights[1]}) for t in search.ask(20)])
        >>> search.propose().weights
        (0.0, 1.0, 0.0)

        ```
    """

    method = "dml"

    def __init__(
        self,
        domains: Sequence[str],
        objective: Objective,
        *,
        prior: Any = None,
        num_runs: int = 32,
        steps: int = 16,
        max_share: float = 1.0,
        constraints: Constraints | None = None,
        table: RunTable | None = None,
        seed: int = 0,
    ) -> None:
        limits = constraints or Constraints()
        caps = {name: min(max_share, limits.caps.get(name, 1.0)) for name in domains} if max_share < 1 else limits.caps
        space = Space.build(domains, prior, Constraints(limits.floors, caps, limits.fixed))
        super().__init__(
            space,
            objective,
            table=table,
            seed=seed,
            settings={"num_runs": num_runs, "steps": steps, "max_share": max_share},
        )
        self.num_runs, self.steps, self.max_share = num_runs, steps, max_share

    @cached_property
    def design(self) -> FloatArray:
        """The mixtures of all trials, of shape (num_runs, K)."""
        draws = latin(len(self.space.domains), self.num_runs, seed=self.seed)
        return project(draws, *self.space.constraints.bounds(self.space.domains))

    @property
    def done(self) -> bool:
        """Whether all trials were asked and told."""
        return len(self.trials) >= self.num_runs and not self.pending

    def _suggest(self, num: int) -> list[Trial]:
        start = len(self.trials)
        return [self._add(self.design[row]) for row in range(start, min(start + num, self.num_runs))]

    def propose(self, constraints: Constraints | None = None) -> SearchResult:
        """The lattice point that the law likes best; with many domains, the best of 200,000 random lattice points.

        Args:
            constraints: Bounds to use in place of the search's own.

        Raises:
            ValueError: There are fewer runs than the law can use, or no lattice point obeys the bounds.
        """
        table = self.table
        if table is None:
            raise ValueError("no run was told yet; tell finished runs, or pass table= to the search")
        limits = constraints or self.space.constraints
        points = lattice(self.space, self.steps, limits, self.seed)
        return propose(
            self.method,
            table,
            self.objective,
            self.space,
            predictor="law",
            constraints=limits,
            candidates=points,
            top=1,
            seed=self.seed,
            parameters={"steps": self.steps, "max_share": self.max_share},
        )


def lattice(space: Space, steps: int, constraints: Constraints, seed: int, *, max_points: int = 200_000) -> FloatArray:
    """Mixtures of multiples of 1 / `steps` inside the bounds: all of them, or a random sample when there are too many.

    Args:
        space: Domains and prior.
        steps: Number of steps from 0 to 1.
        constraints: Bounds.
        seed: Seed of the sample.
        max_points: Largest number of points. Default: 200,000.

    Returns:
        Mixtures of shape (m, K).

    Raises:
        ValueError: No point obeys the bounds.
    """
    num_domains = len(space.domains)
    if comb(steps + num_domains - 1, num_domains - 1) <= max_points:
        points = grid(num_domains, steps)
    else:
        draws = space.sample(max_points, [seed, steps], constraints)
        points = np.unique(quantize(draws, 1 / steps), axis=0)
    lower, upper = constraints.bounds(space.domains)
    points = points[((points >= lower - 1e-9) & (points <= upper + 1e-9)).all(axis=1)]
    if not len(points):
        raise ValueError(
            f"no mixture of multiples of 1/{steps} obeys the constraints {constraints.to_dict()}: use more steps"
        )
    return points
