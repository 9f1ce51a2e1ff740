"""The dry run of a plan: what each source gives to the stream, exactly, before anything is read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hf_mixture.data.plan import MixturePlan


@dataclass(frozen=True)
class SourceReport:
    """What one source gives to a stream.

    Args:
        name: Name of the source.
        rows: Its number of rows; None when the plan does not know it.
        draws: How many of the stream's rows come from it.
        share: Its part of the stream, in the unit of the plan.
        wanted: The part that the weights ask for: their mean along the stream, before any cap.
        epochs: Passes over the source, `draws` over `rows`; None when the rows are not known.
        max_epochs: Its cap, or None.
        overflow: What happens at the cap, or None.
    """

    name: str
    rows: int | None
    draws: int
    share: float
    wanted: float
    epochs: float | None
    max_epochs: float | None
    overflow: str | None


@dataclass(frozen=True)
class PlanReport:
    """What a stream holds; `str(report)` is a table.

    Args:
        num_examples: Rows of the stream.
        sources: One report for each source, in the order of the plan.
    """

    num_examples: int
    sources: tuple[SourceReport, ...]

    def __str__(self) -> str:
        header = ["source", "rows", "draws", "share", "wanted", "epochs", "cap"]
        table = [header, *(_cells(source) for source in self.sources)]
        widths = [max(len(row[column]) for row in table) for column in range(len(header))]
        lines = [
            "  ".join(
                [
                    row[0].ljust(widths[0]),
                    *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)),
                ]
            ).rstrip()
            for row in table
        ]
        return "\n".join(lines)


def plan_report(plan: MixturePlan, names: Sequence[str] | None = None) -> PlanReport:
    """Count what a plan will draw; no data are needed, for a plan can be built from numbers of rows alone.

    Args:
        plan: A plan with an end.
        names: Names of its sources. Default: those that the plan was built with.

    Returns:
        The report. Its draws are those of the stream, to the row.

    Raises:
        ValueError: The plan has no end, or there is not one name for each source.

    Example:
        ```python
        >>> from hf_mixture.data.plan import MixturePlan
        >>> from hf_mixture.data.plan_report import plan_report
        >>> plan = MixturePlan.build([0.75, 0.25], sizes=[400, 10], num_examples=200)
        >>> print(plan_report(plan, ["wiki", "code"]))
        source  rows  draws   share  wanted  epochs  cap
        wiki     400    150  75.00%  75.00%   0.375    -
        code      10     50  25.00%  25.00%       5    -

        ```
    """
    names = plan.names if names is None else tuple(names)
    if len(names) != len(plan.names):
        raise ValueError(f"{len(names)} names for the {len(plan.names)} sources of the plan; give one for each")
    counts = plan.counts
    mass = np.array([plan.mass(source, count) for source, count in enumerate(counts.tolist())], dtype=np.float64)
    wanted = plan.mean_weights()
    total = mass.sum()
    sources = []
    for i, name in enumerate(names):
        rows = None if plan.sizes is None else plan.sizes[i]
        policy = plan.policies[i]
        sources.append(
            SourceReport(
                name=name,
                rows=rows,
                draws=int(counts[i]),
                share=float(mass[i] / total),
                wanted=float(wanted[i]),
                epochs=int(counts[i]) / rows if rows else None,
                max_epochs=policy.max_epochs,
                overflow=None if policy.max_epochs is None else policy.overflow,
            )
        )
    return PlanReport(len(plan), tuple(sources))


def _cells(source: SourceReport) -> list[str]:
    cap = "-" if source.max_epochs is None else f"{source.max_epochs:g} ({source.overflow})"
    return [
        source.name,
        "?" if source.rows is None else str(source.rows),
        str(source.draws),
        f"{source.share:.2%}",
        f"{source.wanted:.2%}",
        "?" if source.epochs is None else f"{source.epochs:.4g}",
        cap,
    ]
