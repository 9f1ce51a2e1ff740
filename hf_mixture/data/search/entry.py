"""`search_mixture`: from a table of runs, or from something that runs them, to a mixture."""

from __future__ import annotations

import inspect
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hf_mixture.data.search.admire import AdmireSearch
from hf_mixture.data.search.baselines import GridSearch, RandomSearch, natural, stratified
from hf_mixture.data.search.climb import ClimbSearch
from hf_mixture.data.search.constraints import Constraints
from hf_mixture.data.search.dml import DMLSearch
from hf_mixture.data.search.loop import Evaluate, run_search
from hf_mixture.data.search.naming import read_domains
from hf_mixture.data.search.proposal import Space
from hf_mixture.data.search.protocol import Direction, Objective, SearchResult
from hf_mixture.data.search.regmix import RegMixSearch
from hf_mixture.data.search.session import SearchSession
from hf_mixture.data.search.table import RunTable


if TYPE_CHECKING:
    from hf_mixture.data.mixture import Mixture, Unit

logger = logging.getLogger(__name__)

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
    domains: Sequence[str] | Mapping[str, Any] | RunTable | None = None,
    *,
    objective: str | Mapping[str, float],
    direction: Direction,
    unit: Unit,
    name: str | None = None,
    **settings: Any,
) -> Mixture:
    """Search the mixture of domains that is best for an objective.

    Args:
        method: `"regmix"`, `"climb"`, `"admire"`, `"dml"`, `"random"`, `"grid"`, or a rule that needs no runs:
            `"natural"`, `"stratified"`, `"temperature"`.
        domains: Names of the domains; or by name their sizes, `Source`s that record them, `TokenPack`s or data sets,
            whose sizes give the natural shares; or a table of runs. Default: the domains of `table`.
        objective: Name of a metric, or weights by metric name.
        direction: `"minimize"` or `"maximize"`.
        unit: What the shares count: "examples", "tokens" or "bytes"; the unit that the runs are mixed in.
        name: Name of the mixture. Default: none.
        settings: Further arguments of `search_result` (`table`, `evaluate`, `prior`, `constraints`, `folder`,
            `batch_size`) and settings of the method, as for its class.

    Returns:
        The mixture, with the sources of `domains`. Its metadata holds how it was found: predicted value, uncertainty,
        held-out rank correlation, best run, hash of the table, bounds, and warnings, which are logged too.

    Raises:
        ValueError: The method is unknown, a setting is, or there is neither a table nor `evaluate`.

    Example:
        ```python
        >>> from hf_mixture.data.search import RunTable, search_mixture
        >>> weights = [[0.1 * i, 1 - 0.1 * i] for i in range(11)]
        >>> table = RunTable(range(11), ["wiki", "code"], weights, {"loss": [3 - 0.1 * i for i in range(11)]})
        >>> mixture = search_mixture(
        ...     "regmix", table, objective="loss", direction="minimize", unit="tokens", predictor="ridge"
        ... )
        >>> mixture.weights["wiki"] > 0.9, round(mixture.metadata["provenance"]["predicted"], 1)
        (True, 2.0)

        ```
    """
    found = search_result(method, domains, objective=objective, direction=direction, unit=unit, **settings)
    for warning in found.warnings:
        logger.warning("%s: %s", method, warning)
    known = None if domains is None else read_domains(domains, unit=unit, need_sizes=False)
    return found.to_mixture(unit=unit, name=name, sources=None if known is None else known.sources)


def search_result(
    method: str,
    domains: Sequence[str] | Mapping[str, Any] | RunTable | None = None,
    *,
    objective: str | Mapping[str, float],
    direction: Direction,
    unit: Unit | None = None,
    table: RunTable | None = None,
    evaluate: Evaluate | None = None,
    prior: Any = None,
    constraints: Constraints | None = None,
    folder: str | os.PathLike[str] | None = None,
    batch_size: int | None = None,
    **settings: Any,
) -> SearchResult:
    """Search as `search_mixture` does, and return the result with its evidence.

    Args:
        method: As for `search_mixture`.
        domains: As for `search_mixture`.
        objective: Name of a metric, or weights by metric name.
        direction: `"minimize"` or `"maximize"`.
        unit: What sizes in `domains` count; needed where they are not plain numbers.
        table: Finished runs to learn from.
        evaluate: Runs a trial and returns its metrics, or a `ProxyRunner` or `ProxySwarm`. Default: no run is made,
            the table is all there is.
        prior: Natural shares, by name or in the order of the domains. Default: from the sizes, else equal.
        constraints: Caps, floors and fixed shares.
        folder: Where the state is kept, as for `run_search`. Default: nowhere.
        batch_size: Most trials that are asked at once, as for `run_search`.
        settings: Further settings of the method, as for its class.

    Returns:
        The result; `result.to_mixture(unit=...)` is the `Mixture` with its provenance.

    Raises:
        ValueError: As for `search_mixture`.

    Example:
        ```python
        >>> from hf_mixture.data.search import search_result
        >>> result = search_result("natural", {"wiki": 900, "code": 100}, objective="loss", direction="minimize")
        >>> result.weights
        (0.9, 0.1)

        ```
    """
    goal = Objective(objective, direction)
    if isinstance(domains, RunTable):
        if table is not None:
            raise ValueError("domains is a table and table is given too; pass one of the two")
        table = domains
    named = table if domains is None else domains
    if named is None:
        raise ValueError("domains and table are both missing; name the domains, or pass a table that does")
    known = read_domains(named, unit=unit, need_sizes=prior is None)
    shares = known.sizes if prior is None else prior
    if method in RULES:
        _check_settings(method, settings, ["temperature"] if method == "temperature" else [])
        return _rule(method, Space.build(known.names, shares, constraints), goal, **settings)
    if method not in SEARCHES:
        raise ValueError(f"method={method!r} is not one of {[*SEARCHES, *RULES]}; choose one of them")
    build = SEARCHES[method]
    _check_settings(method, settings, list(inspect.signature(build).parameters))
    if table is None and evaluate is None:
        raise ValueError("table and evaluate are both missing; pass finished runs, or something that runs trials")
    search = build(known.names, goal, prior=shares, constraints=constraints, table=table, **settings)
    if evaluate is not None:
        run_search(search, evaluate, folder=folder, batch_size=batch_size)
    return search.propose()


def _check_settings(method: str, settings: Mapping[str, Any], accepted: Sequence[str]) -> None:
    """Raise where a setting is not one of the method."""
    if unknown := sorted(set(settings) - set(accepted)):
        raise ValueError(f"{method!r} has no settings {unknown}; it has {accepted}: correct the names")


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
