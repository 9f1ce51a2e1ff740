"""Data mixing laws (arXiv 2403.16952): fit y = c + exp(t0 + t . w), choose the best point of a lattice.

Letters: n runs, K domains.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import comb
from typing import Any

import numpy as np

from hf_mixture.data.search.constraints import Constraints, project
from hf_mixture.data.search.families import DesignedSearch, PredictedSearch
from hf_mixture.data.search.proposal import Space
from hf_mixture.data.search.protocol import Objective
from hf_mixture.data.search.ranks import FloatArray
from hf_mixture.data.search.simplex import grid, latin, quantize
from hf_mixture.data.search.table import RunTable


class DMLSearch(DesignedSearch, PredictedSearch):
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
    predictor = "law"
    top = 1
    recorded = ("steps", "max_share")

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

    def _design(self) -> FloatArray:
        draws = latin(len(self.space.domains), self.num_runs, seed=self.seed)
        return project(draws, *self.space.constraints.bounds(self.space.domains))

    def _candidates(self, limits: Constraints) -> FloatArray:
        """The lattice; with many domains, 200,000 random points of it."""
        return lattice(self.space, self.steps, limits, self.seed)


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
