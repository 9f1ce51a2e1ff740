"""From a table to a proposed mixture: fit, sample, rank, average the best.

Letters: n runs, K domains.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hf_mixture.data.search.constraints import Constraints, project
from hf_mixture.data.search.predictors import Fitted, Kind, choose, kinds
from hf_mixture.data.search.predictors.base import Model, finite
from hf_mixture.data.search.protocol import Objective, SearchResult
from hf_mixture.data.search.ranks import FloatArray
from hf_mixture.data.search.simplex import check_prior
from hf_mixture.data.search.table import RunTable


LOW_RHO = 0.5
CANDIDATE_STRENGTHS = (1.0, 4.0, 16.0, 64.0)


@dataclass(frozen=True)
class Space:
    """Where a search looks: the domains, their natural shares, the bounds, and a finite pool when there is one.

    Args:
        domains: Names of the K domains.
        prior: Natural shares of shape (K,), sum 1.
        constraints: Bounds on the shares.
        pool: Mixtures of shape (p, K), the only ones that can be run; or None for the whole simplex.
    """

    domains: tuple[str, ...]
    prior: FloatArray
    constraints: Constraints
    pool: FloatArray | None = None

    @classmethod
    def build(
        cls,
        domains: Sequence[str],
        prior: Any = None,
        constraints: Constraints | None = None,
        pool: Any = None,
    ) -> Space:
        """Validate and fill in: equal shares, no bounds, no pool.

        Raises:
            ValueError: The prior or the pool does not fit the domains, or the bounds admit no mixture.
        """
        names = tuple(domains)
        if prior is not None and hasattr(prior, "keys"):
            if set(prior) != set(names):
                raise ValueError(
                    f"prior names {sorted(prior)}, the domains are {sorted(names)}; they must agree: correct it"
                )
            prior = [prior[name] for name in names]
        shares = check_prior(np.ones(len(names)) if prior is None else prior)
        if len(shares) != len(names):
            raise ValueError(
                f"prior has {len(shares)} shares for {len(names)} domains; it needs one for each: correct it"
            )
        limits = constraints or Constraints()
        limits.bounds(names)
        rows = None if pool is None else np.asarray(pool, dtype=np.float64)
        if rows is not None and (rows.ndim != 2 or rows.shape[1] != len(names) or not len(rows)):
            raise ValueError(f"pool has shape {rows.shape}; it must hold mixtures of {len(names)} domains: correct it")
        return cls(names, shares, limits, rows)

    def sample(self, num: int, seed: Sequence[int], constraints: Constraints | None = None) -> FloatArray:
        """Draw mixtures inside the bounds: Dir(s * q) for strengths s from sparse to nearly natural.

        Args:
            num: Number of mixtures.
            seed: Seed of the generator.
            constraints: Bounds to use in place of the space's own.

        Returns:
            Mixtures of shape (num, K).
        """
        rng = np.random.default_rng(list(seed))
        alive = self.prior > 0
        sizes = [len(part) for part in np.array_split(np.arange(num), len(CANDIDATE_STRENGTHS))]
        mixtures = np.zeros((num, len(self.domains)))
        mixtures[:, alive] = np.concatenate(
            [
                rng.dirichlet(np.maximum(strength * self.prior[alive], 1e-3), size)
                for strength, size in zip(CANDIDATE_STRENGTHS, sizes, strict=True)
            ]
        )
        return project(mixtures, *(constraints or self.constraints).bounds(self.domains))


def target_rows(table: RunTable) -> tuple[RunTable, tuple[str, ...]]:
    """The rows of the highest fidelity, and a warning when others are left out."""
    top = table.fidelity == table.fidelity.max()
    if top.all():
        return table, ()
    note = f"{int((~top).sum())} runs below fidelity {table.fidelity.max():g} are not used by this method"
    return table.select(top), (note,)


def fit_table(
    table: RunTable, objective: Objective, predictor: str | Kind | Sequence[str | Kind], *, seed: int = 0
) -> Fitted:
    """Choose a predictor by its held-out ranking of the table's rows, and fit it on all of them.

    Args:
        table: Runs of one fidelity.
        objective: What to predict.
        predictor: `"auto"`, or one or several kinds.
        seed: Seed of the folds.

    Raises:
        ValueError: The table has fewer rows than any of the kinds can use.
    """
    values = objective.values(table)
    return choose(kinds(predictor, len(table), positive=bool((values > 0).all())), table.weights, values, seed=seed)


def fit_ranker(
    table: RunTable, objective: Objective, predictor: str | Kind | Sequence[str | Kind], *, seed: int = 0
) -> Model:
    """Fit a predictor only to rank candidates: as `fit_table`, but a single kind skips the held-out folds."""
    values = objective.values(table)
    listed = kinds(predictor, len(table), positive=bool((values > 0).all()))
    if len(listed) > 1 or len(table) < listed[0].min_rows(len(table.domains)):
        return fit_table(table, objective, listed, seed=seed)
    return listed[0].fit(table.weights, values)


def best_mixture(fitted: Fitted, candidates: FloatArray, sign: float, *, top: int, pooled: bool) -> FloatArray:
    """Average the best candidates, or take the best one of a pool.

    Args:
        fitted: The predictor.
        candidates: Mixtures of shape (m, K).
        sign: 1 to maximise, -1 to minimise.
        top: Number of candidates to average.
        pooled: Whether only candidates themselves may be proposed.

    Returns:
        A mixture of shape (K,). When the average is predicted to be worse than each of the averaged (their optima
        lie apart), the best candidate.
    """
    scores = sign * fitted.predict(candidates)
    order = np.argsort(-scores, kind="stable")[:top]
    best = candidates[order[0]]
    if pooled:
        return best
    mean = candidates[order].mean(axis=0)
    mean = mean / mean.sum()
    return mean if sign * fitted.predict(mean[None])[0] >= scores[order[-1]] else best


def incumbent(table: RunTable, objective: Objective, constraints: Constraints) -> dict[str, Any] | None:
    """The best run at fidelity 1 whose mixture obeys the bounds, or None."""
    lower, upper = constraints.bounds(table.domains)
    fits = ((table.weights >= lower - 1e-9) & (table.weights <= upper + 1e-9)).all(axis=1) & (table.fidelity == 1)
    if not fits.any():
        return None
    values = objective.values(table)
    row = int(np.argmax(np.where(fits, objective.sign * values, -np.inf)))
    return {
        "run_id": table.run_ids[row],
        "value": float(values[row]),
        "weights": dict(zip(table.domains, (float(share) for share in table.weights[row]), strict=True)),
    }


def direction_warnings(objective: Objective) -> tuple[str, ...]:
    """A warning when the name of the objective contradicts its direction."""
    name = objective.name.lower()
    loss = any(word in name for word in ("loss", "perplexity", "ppl", "error"))
    gain = any(word in name for word in ("acc", "score", "f1", "exact_match"))
    if (loss and not gain and objective.direction == "maximize") or (
        gain and not loss and objective.direction == "minimize"
    ):
        return (f"the objective {objective.name!r} is set to {objective.direction}, which its name contradicts",)
    return ()


def propose(
    method: str,
    table: RunTable,
    objective: Objective,
    space: Space,
    *,
    predictor: str | Kind | Sequence[str | Kind] = "auto",
    constraints: Constraints | None = None,
    candidates: FloatArray | None = None,
    num_candidates: int = 100_000,
    top: int = 128,
    seed: int = 0,
    parameters: dict[str, Any] | None = None,
    fitted: Fitted | None = None,
) -> SearchResult:
    """Fit a predictor on a table and propose the mixture that it likes best.

    Args:
        method: Name for the record.
        table: Finished runs; those of the highest fidelity are used.
        objective: What to optimise.
        space: Domains, prior, bounds, pool.
        predictor: `"auto"`, or one or several kinds.
        constraints: Bounds to use in place of the space's own.
        candidates: Mixtures of shape (m, K) to choose among. Default: the pool, or a sample of the bounds.
        num_candidates: Size of that sample. Default: 100,000.
        top: Number of best candidates that are averaged. Default: 128.
        seed: Seed of folds and sample.
        parameters: Settings for the record.
        fitted: A predictor that is fitted already.

    Returns:
        The result, with warnings where the evidence is thin.

    Raises:
        ValueError: The table and the space have different domains, or rows are too few.
    """
    if table.domains != space.domains:
        raise ValueError(
            f"the table has domains {table.domains}, the search {space.domains}; they must agree: rename them"
        )
    limits = constraints or space.constraints
    rows, warnings = target_rows(table)
    fitted = fitted or fit_table(rows, objective, predictor, seed=seed)
    pooled = space.pool is not None
    if candidates is None:
        candidates = _inside(space.pool, limits, space.domains) if space.pool is not None else None
    if candidates is None:
        candidates = space.sample(num_candidates, [seed, num_candidates], limits)
    weights = best_mixture(fitted, candidates, objective.sign, top=top, pooled=pooled)
    probes = {"natural": space.prior, "stratified": np.full(len(space.domains), 1 / len(space.domains))}
    rho = fitted.score.rho
    if math.isnan(rho) or rho < LOW_RHO:
        warnings += (
            f"held-out rank correlation is {rho:.3f}: the predictor hardly ranks mixtures, the proposal is a guess",
        )
    return SearchResult(
        method=method,
        domains=space.domains,
        weights=tuple(float(share) for share in weights),
        objective=objective.name,
        direction=objective.direction,
        predicted=float(fitted.predict(weights[None])[0]),
        uncertainty=float(fitted.deviation(weights[None])[0]),
        rho=finite(rho),
        num_rows=len(rows),
        table_sha256=rows.sha256,
        predictor=fitted.describe(),
        incumbent=incumbent(rows, objective, limits),
        comparison={name: float(fitted.predict(probe[None])[0]) for name, probe in probes.items()},
        parameters={"seed": seed, "top": top, "candidates": len(candidates), **(parameters or {})},
        constraints=limits.to_dict(),
        warnings=warnings + direction_warnings(objective),
    )


def _inside(pool: FloatArray, constraints: Constraints, domains: tuple[str, ...]) -> FloatArray:
    lower, upper = constraints.bounds(domains)
    rows = pool[((pool >= lower - 1e-9) & (pool <= upper + 1e-9)).all(axis=1)]
    if not len(rows):
        raise ValueError(
            f"none of the {len(pool)} mixtures of the pool obeys the constraints {constraints.to_dict()}: "
            "widen them, or search without a pool"
        )
    return rows
