"""What every searcher takes and gives: trials out, runs in, a result at the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from hf_mixture.data.search.ranks import FloatArray


if TYPE_CHECKING:
    from hf_mixture.data.mixture import Mixture, Unit
    from hf_mixture.data.search.constraints import Constraints
    from hf_mixture.data.search.table import RunTable
    from hf_mixture.data.source import Source

Direction = Literal["minimize", "maximize"]


@dataclass(frozen=True)
class Objective:
    """What to optimise: one metric or a weighted sum of metrics, and in which direction.

    Args:
        metric: Name of a metric, or weights by metric name for a weighted sum.
        direction: `"minimize"` for losses, `"maximize"` for accuracies. There is no default: a regression on
            accuracies that keeps the smallest predictions picks the worst mixtures.

    Raises:
        ValueError: The direction is neither of the two, or `metric` is empty.

    Example:
        ```python
        >>> from hf_mixture.data.search import Objective
        >>> Objective({"arc": 0.5, "piqa": 0.5}, "maximize").name
        '0.5*arc + 0.5*piqa'

        ```
    """

    metric: str | Mapping[str, float]
    direction: Direction

    def __post_init__(self) -> None:
        if self.direction not in ("minimize", "maximize"):
            raise ValueError(
                f"direction={self.direction!r} is not one of ['minimize', 'maximize']; "
                "say whether smaller or larger values of the objective are better"
            )
        if not self.metric:
            raise ValueError(f"metric={self.metric!r} is empty; name the metric to optimise")

    @property
    def name(self) -> str:
        """The metric, or the weighted sum as text."""
        if isinstance(self.metric, str):
            return self.metric
        return " + ".join(f"{weight:g}*{name}" for name, weight in self.metric.items())

    @property
    def sign(self) -> float:
        """1 when larger is better, -1 when smaller is better."""
        return 1.0 if self.direction == "maximize" else -1.0

    def values(self, table: RunTable) -> FloatArray:
        """Return the objective of the runs of a table.

        Args:
            table: The runs.

        Returns:
            Values of shape (n,).

        Raises:
            ValueError: The table lacks a metric.
        """
        parts = {self.metric: 1.0} if isinstance(self.metric, str) else self.metric
        for name in parts:
            if name not in table.metrics:
                raise ValueError(
                    f"objective: the table has no metric {name!r}; it has {list(table.metrics)}: choose one of them"
                )
        return np.sum([weight * table.metrics[name] for name, weight in parts.items()], axis=0, dtype=np.float64)


@dataclass(frozen=True)
class Trial:
    """One mixture that a searcher wants measured.

    Args:
        trial_id: Unique id; the finished run is told under the same id.
        domains: Names of the domains.
        weights: Share of each domain, sum 1.
        fidelity: Size of the run as a fraction of the target, in (0, 1]. Default: 1.
        candidate: Row of the pool that it was taken from, or None.
    """

    trial_id: str
    domains: tuple[str, ...]
    weights: tuple[float, ...]
    fidelity: float = 1.0
    candidate: int | None = None

    def mixture(self, *, unit: Unit, seed: int = 0) -> Mixture:
        """The trial as a `Mixture`, ready for `interleave_datasets`."""
        from hf_mixture.data.mixture import Mixture

        weights = dict(zip(self.domains, self.weights, strict=True))
        return Mixture(weights, unit=unit, seed=seed, name=self.trial_id, normalise=True)


@dataclass(frozen=True)
class Run:
    """One finished run.

    Args:
        trial_id: Id of the trial that was run.
        metrics: Finite values by metric name, with at least those of the objective.
        cost: What it cost, in units of one target run, > 0. Default: the cost of its fidelity.
    """

    trial_id: str
    metrics: Mapping[str, float]
    cost: float | None = None


@dataclass(frozen=True)
class SearchResult:
    """A proposed mixture, with what is known about how good it is.

    Args:
        method: Name of the searcher.
        domains: Names of the domains.
        weights: Proposed share of each domain, sum 1.
        objective: What was optimised, as text.
        direction: `"minimize"` or `"maximize"`.
        predicted: Predicted value of the objective at `weights`, or None for a rule that predicts nothing.
        uncertainty: One standard deviation of the error of `predicted`, or None.
        rho: Spearman correlation of predictions and values on rows held out of the fit, in [-1, 1], or None.
        num_rows: Number of runs that the prediction rests on.
        table_sha256: Hash of the table of those runs, or None.
        predictor: Kind and settings of the predictor, or None.
        incumbent: Best run measured at the target fidelity: id, weights, value; or None.
        comparison: Predicted value of other mixtures, by name: natural, stratified.
        parameters: Settings of the method.
        constraints: Bounds that the proposal obeys.
        warnings: What a reader must know before trusting the result.
    """

    method: str
    domains: tuple[str, ...]
    weights: tuple[float, ...]
    objective: str
    direction: Direction
    predicted: float | None = None
    uncertainty: float | None = None
    rho: float | None = None
    num_rows: int = 0
    table_sha256: str | None = None
    predictor: Mapping[str, Any] | None = None
    incumbent: Mapping[str, Any] | None = None
    comparison: Mapping[str, float] = field(default_factory=dict)
    parameters: Mapping[str, Any] = field(default_factory=dict)
    constraints: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    def provenance(self) -> dict[str, Any]:
        """How the weights were found, as the `provenance` of `mixture.json`."""
        return {
            "method": self.method,
            "parameters": dict(self.parameters),
            "table": {"sha256": self.table_sha256, "rows": self.num_rows} if self.table_sha256 else None,
            "objective": self.objective,
            "direction": self.direction,
            "predictor": None
            if self.predictor is None
            else {**self.predictor, "rho": self.rho, "rows": self.num_rows},
            "predicted": self.predicted,
            "uncertainty": self.uncertainty,
            "incumbent": None if self.incumbent is None else dict(self.incumbent),
            "comparison": dict(self.comparison),
            "constraints": dict(self.constraints),
            "warnings": list(self.warnings),
        }

    def to_mixture(
        self,
        *,
        unit: Unit,
        seed: int = 0,
        name: str | None = None,
        sources: Mapping[str, Source] | None = None,
    ) -> Mixture:
        """The proposal as a `Mixture` that carries its provenance.

        Args:
            unit: What the shares count: "examples", "tokens" or "bytes"; the unit that the runs were mixed in.
            seed: Seed of the order. Default: 0.
            name: Name of the recipe. Default: none.
            sources: Where rows come from, by name, for any of the domains.
        """
        from hf_mixture.data.mixture import Mixture

        return Mixture(
            dict(zip(self.domains, self.weights, strict=True)),
            unit=unit,
            seed=seed,
            name=name,
            sources=sources,
            metadata={"provenance": self.provenance()},
            normalise=True,
        )


class Searcher(Protocol):
    """A search over mixtures: `ask` for trials, run them anywhere, `tell` the runs, `propose` a mixture."""

    @property
    def done(self) -> bool:
        """Whether the search wants no further runs."""

    def ask(self, num: int = 1) -> list[Trial]:
        """Up to `num` trials to run next; none when the search is done or waits for pending runs."""

    def tell(self, runs: Sequence[Run]) -> None:
        """Report finished runs, in any order."""

    def propose(self, constraints: Constraints | None = None) -> SearchResult:
        """The best mixture that the runs so far suggest."""

    def state_dict(self) -> dict[str, Any]:
        """Everything that was asked and told, as plain JSON values."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict`: the next asks are those of the uninterrupted search."""
