"""The search itself: proxies, the searcher, and what it found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from hf_mixture.training.journal import Journal
from hf_mixture.training.search.data import SearchData
from hf_mixture.training.search.plan import RunPlan, SearchPlan
from hf_mixture.training.search.proxies import RecipeRunner
from hf_mixture.training.search.recipe import ProxyRunSpec, SearchRecipe
from hf_mixture.training.search.searcher import make_search


if TYPE_CHECKING:
    from hf_mixture.data.search import Constraints, SearchResult
    from hf_mixture.data.search.session import SearchSession
    from hf_mixture.data.search.table import RunTable


@dataclass(frozen=True, kw_only=True)
class Found:
    """A mixture, and how it was found.

    Args:
        shares: Share of each domain, sum 1.
        provenance: What `mixture.json` says about it.
        facts: What `results.json` says about the search.
        table: The finished proxy runs; None where there were none.
        predicted: Held-out predictions of the objective for the proxy runs of full size; None where nothing predicts.
        trace: Cost spent and value of the best proxy of full size, run by run.
    """

    shares: Mapping[str, float]
    provenance: Mapping[str, Any]
    facts: Mapping[str, Any]
    table: RunTable | None = None
    predicted: Sequence[float] | None = None
    trace: Sequence[tuple[float, float]] = ()


def find(
    recipe: SearchRecipe,
    data: SearchData,
    plan: SearchPlan,
    journal: Journal,
    *,
    prior: Mapping[str, float],
    bounds: Constraints,
) -> Found:
    """Search a mixture with proxies, or continue.

    Args:
        recipe: The recipe.
        data: The data.
        plan: The plan.
        journal: The journal of the run; its folder keeps the state of the search and the journal of the proxies.
        prior: Natural share of each domain.
        bounds: Bounds on the shares.

    Returns:
        What was found.
    """
    from hf_mixture.data.search import run_search

    print(f"\n== search: {recipe.method.name}, {plan.num_proxies}", flush=True)
    search = make_search(recipe, prior=prior, constraints=bounds)
    folder = journal.folder / "search"
    run_search(
        search,
        RecipeRunner(recipe, cast("ProxyRunSpec", recipe.proxy), data, folder),
        folder=folder,
        batch_size=recipe.method.batch,
    )
    result = search.propose()
    table, proxy = cast("RunTable", search.table), cast("RunPlan", plan.proxy)
    provenance = result.provenance()
    facts = {
        **provenance,
        "rho": result.rho,
        "num_runs": len(table),
        "parameters": proxy.parameters,
        "tokens": proxy.tokens,
        "trained_as": "one stacked model" if recipe.swarm else "separate runs of the stock Trainer",
        "trace": [list(point) for point in search.trace],
    }
    return Found(
        shares=dict(zip(result.domains, result.weights, strict=True)),
        provenance=provenance | {"prior": dict(prior), "proxies": _proxy_facts(facts)},
        facts=facts,
        table=table,
        predicted=_held_out(search, result),
        trace=search.trace,
    )


def _proxy_facts(facts: Mapping[str, Any]) -> dict[str, Any]:
    return {name: facts[name] for name in ("parameters", "tokens", "num_runs")}


def _held_out(search: SearchSession, result: SearchResult) -> list[float] | None:
    """Predictions of the chosen kind of predictor for the runs that its folds left out."""
    from hf_mixture.data.search.families import PredictedSearch
    from hf_mixture.data.search.proposal import fit_table, target_rows

    if not isinstance(search, PredictedSearch) or result.predictor is None:
        return None
    rows = target_rows(search.told_table)[0]
    fitted = fit_table(rows, search.objective, result.predictor["kind"], seed=search.seed)
    return [float(value) for value in fitted.score.predicted]
