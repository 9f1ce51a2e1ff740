"""What every search is compared with: rules that need no runs, random search, and a grid.

Letters: K domains, q natural shares.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from hf_mixture.data.search.constraints import Constraints, project
from hf_mixture.data.search.dml import lattice
from hf_mixture.data.search.families import DesignedSearch
from hf_mixture.data.search.proposal import Space, incumbent
from hf_mixture.data.search.protocol import Objective, SearchResult
from hf_mixture.data.search.ranks import FloatArray
from hf_mixture.data.search.simplex import dirichlet
from hf_mixture.data.search.table import RunTable


def natural(space: Space, *, temperature: float = 1.0) -> FloatArray:
    """Shares proportional to q^T, scaled into the bounds: T = 1 is natural sampling, T = 0 equal shares.

    Args:
        space: Domains, prior, bounds.
        temperature: The exponent T, >= 0. Default: 1.

    Returns:
        A mixture of shape (K,).

    Raises:
        ValueError: `temperature` is negative.

    Example:
        ```python
        >>> from hf_mixture.data.search.baselines import natural
        >>> from hf_mixture.data.search.proposal import Space, incumbent
        >>> natural(Space.build(["a", "b"], [0.9, 0.1]), temperature=0.5).round(3).tolist()
        [0.75, 0.25]

        ```
    """
    if not temperature >= 0:
        raise ValueError(f"temperature={temperature!r} must be a number >= 0; 1 keeps the natural shares")
    shares = np.where(
        space.prior > 0, np.power(space.prior, temperature, where=space.prior > 0, out=np.zeros_like(space.prior)), 0
    )
    return project(shares[None] / shares.sum(), *space.constraints.bounds(space.domains))[0]


def stratified(space: Space) -> FloatArray:
    """Equal shares, scaled into the bounds; a mixture of shape (K,)."""
    equal = np.full((1, len(space.domains)), 1 / len(space.domains))
    return project(equal, *space.constraints.bounds(space.domains))[0]


class MeasuredSearch(DesignedSearch):
    """A search whose proposal is the best run it has seen: no model, no prediction."""

    def propose(self, constraints: Constraints | None = None) -> SearchResult:
        """The best mixture that was run.

        Args:
            constraints: Bounds to use in place of the search's own.

        Raises:
            ValueError: No run at fidelity 1 inside the bounds was told.
        """
        limits = constraints or self.space.constraints
        table = self.table
        best = None if table is None else incumbent(table, self.objective, limits)
        if table is None or best is None:
            raise ValueError("no run at fidelity 1 inside the bounds was told; tell finished runs first")
        return SearchResult(
            method=self.method,
            domains=self.space.domains,
            weights=tuple(best["weights"].values()),
            objective=self.objective.name,
            direction=self.objective.direction,
            num_rows=len(table),
            table_sha256=table.sha256,
            incumbent=best,
            parameters={"seed": self.seed},
            constraints=limits.to_dict(),
        )


class RandomSearch(MeasuredSearch):
    """Random mixtures, of a pool without repetition or of Dir(K q); the proposal is the best run.

    Args:
        domains: Names of the K domains.
        objective: What to optimise.
        prior: Natural shares. Default: equal.
        num_runs: Number of trials. Default: 64.
        pool: Mixtures of shape (p, K), the only ones that can be run. Default: the whole simplex.
        constraints: Bounds on the shares.
        table: Earlier runs.
        seed: Seed. Default: 0.
    """

    method = "random"

    def __init__(
        self,
        domains: Sequence[str],
        objective: Objective,
        *,
        prior: Any = None,
        num_runs: int = 64,
        pool: Any = None,
        constraints: Constraints | None = None,
        table: RunTable | None = None,
        seed: int = 0,
    ) -> None:
        space = Space.build(domains, prior, constraints, pool)
        self.num_runs = num_runs if space.pool is None else min(num_runs, len(space.pool))
        if space.pool is not None:
            order = np.random.default_rng(seed).permutation(len(space.pool))
            self.rows = [int(row) for row in order[: self.num_runs]]
        super().__init__(space, objective, table=table, seed=seed, settings={"num_runs": num_runs})

    def _design(self) -> FloatArray:
        if self.space.pool is not None:
            return self.space.pool[self.rows]
        draws = dirichlet(self.space.prior, self.num_runs, seed=self.seed)
        return project(draws, *self.space.constraints.bounds(self.space.domains))


class GridSearch(MeasuredSearch):
    """Every mixture of a lattice inside the bounds; the proposal is the best run.

    Args:
        domains: Names of the K domains.
        objective: What to optimise.
        prior: Natural shares. Default: equal.
        steps: The lattice holds multiples of 1 / `steps`. Default: 4.
        constraints: Bounds on the shares.
        table: Earlier runs.
    """

    method = "grid"

    def __init__(
        self,
        domains: Sequence[str],
        objective: Objective,
        *,
        prior: Any = None,
        steps: int = 4,
        constraints: Constraints | None = None,
        table: RunTable | None = None,
    ) -> None:
        space = Space.build(domains, prior, constraints)
        self._points = lattice(space, steps, space.constraints, 0)
        self.num_runs = len(self._points)
        super().__init__(space, objective, table=table, seed=0, settings={"steps": steps})

    def _design(self) -> FloatArray:
        return self._points
