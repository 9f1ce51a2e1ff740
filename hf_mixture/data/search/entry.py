"""`search_mixture`: from a table of runs, or from a function that runs them, to a mixture."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hf_mixture.data.search.admire import AdmireSearch
from hf_mixture.data.search.baselines import GridSearch, RandomSearch, natural, stratified
from hf_mixture.data.search.climb import ClimbSearch
from hf_mixture.data.search.constraints import Constraints
from hf_mixture.data.search.dml import DMLSearch
from hf_mixture.data.search.proposal import Space
from hf_mixture.data.search.protocol import Direction, Objective, Run, SearchResult, Trial
from hf_mixture.data.search.regmix import RegMixSearch
from hf_mixture.data.search.session import SearchSession
from hf_mixture.data.search.table import RunTable


SEARCHES: dict[str, Callable[..., SearchSession]] = {
    "regmix": RegMixSearch,
    "climb": ClimbSearch,
    "admire": AdmireSearch,
    "dml": DMLSearch,
    "random": RandomSearch,
    "grid": GridSearch,
}
"""Every search that runs trials, by name."""

RULES = ("natural", "stratified", "temperature")
"""Rules that need no runs."""


def search_mixture(
    method: str,
    domains: Sequence[str] | None = None,
    *,
    objective: str | Mapping[str, float],
    direction: Direction,
    table: RunTable | None = None,
    evaluate: Callable[[Trial], Mapping[str, float]] | None = None,
    prior: Any = None,
    constraints: Constraints | None = None,
    **settings: Any,
) -> SearchResult:
    """Search the mixture of domains that is best for an objective.

    Args:
        method: `"regmix"`, `"climb"`, `"admire"`, `"dml"`, `"random"`, `"grid"`, or a rule that needs no runs:
            `"natural"`, `"stratified"`, `"temperature"`.
        domains: Names of the domains. Default: those of the table.
        objective: Name of a metric, or weights by metric name.
        direction: `"minimize"` or `"maximize"`.
        table: Finished runs to learn from.
        evaluate: Runs a trial and returns its metrics. Default: no run is made, the table is all there is.
        prior: Natural shares, by name or in the order of the domains. Default: equal.
        constraints: Caps, floors and fixed shares.
        settings: Further settings of the method, as for its class.

    Returns:
        The result; `result.to_mixture(unit=...)` is the `Mixture` with its provenance.

    Raises:
        ValueError: The method is unknown, a setting is, or there is neither a table nor `evaluate`.

    Example:
        ```python
        >>> from hf_mixture.data.search import RunTable, search_mixture
        >>> weights = [[0.1 * i, 1 - 0.1 * i] for i in range(11)]
        >>> table = RunTable(range(11), ["wiki", "code"], weights, {"loss": [3 - 0.1 * i for i in range(11)]})
        >>> result = search_mixture("regmix", objective="loss", direction="minimize", table=table, predictor="ridge")
        >>> result.to_mixture(unit="tokens").weights["wiki"] > 0.9
        True

        ```
    """
    goal = Objective(objective, direction)
    if domains is None and table is None:
        raise ValueError("domains and table are both missing; name the domains, or pass a table that does")
    names = table.domains if table is not None and domains is None else tuple(domains or ())
    if method in RULES:
        return _rule(method, Space.build(names, prior, constraints), goal, **settings)
    if method not in SEARCHES:
        raise ValueError(f"method={method!r} is not one of {[*SEARCHES, *RULES]}; choose one of them")
    build = SEARCHES[method]
    known = list(inspect.signature(build).parameters)
    unknown = sorted(set(settings) - set(known))
    if unknown:
        raise ValueError(f"{method!r} has no settings {unknown}; it has {known}: correct the names")
    if table is None and evaluate is None:
        raise ValueError("table and evaluate are both missing; pass finished runs, or a function that runs trials")
    search = build(names, goal, prior=prior, constraints=constraints, table=table, **settings)
    if evaluate is not None:
        run_search(search, evaluate)
    return search.propose()


def run_search(search: SearchSession, evaluate: Callable[[Trial], Mapping[str, float]]) -> None:
    """Ask, evaluate and tell, one trial at a time, until the search is done.

    Args:
        search: The search.
        evaluate: Runs a trial and returns its metrics.
    """
    from tqdm import tqdm

    with tqdm(desc=f"{search.method} runs", unit="run") as bar:
        while trials := [*search.pending, *([] if search.pending else search.ask(1))]:
            for trial in trials:
                search.tell(Run(trial.trial_id, evaluate(trial)))
                bar.update()


def _rule(method: str, space: Space, objective: Objective, *, temperature: float = 1.0) -> SearchResult:
    weights = stratified(space) if method == "stratified" else natural(space, temperature=temperature)
    return SearchResult(
        method=method,
        domains=space.domains,
        weights=tuple(float(share) for share in weights),
        objective=objective.name,
        direction=objective.direction,
        parameters={"temperature": temperature} if method == "temperature" else {},
        constraints=space.constraints.to_dict(),
    )
