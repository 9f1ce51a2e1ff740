"""The report of local optima: which distinct ones there are, and how many starts found each.

Letters: K classes, N people.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import Any

import numpy as np


# Two ends are one optimum when -2 log-likelihood and class probabilities agree this well. Kinks of a curve with a knot
# make clusters of optima that differ in the third decimal.
SAME_MINUS2LL = 0.02
SAME_PROBABILITY = 0.02


@dataclass(frozen=True, kw_only=True)
class StartRecord:
    """What became of one start.

    Args:
        index: Its number.
        ecm_log_likelihood: Log-likelihood after ECM.
        log_likelihood: Log-likelihood after polishing; None where it was dropped before.
        criterion: The gradient criterion at the end.
        num_pinned: Knots that lie on a kink.
        faults: What makes the end degenerate.
        state: `converged`, `not converged`, or why it was dropped or is degenerate.
    """

    index: int
    ecm_log_likelihood: float
    log_likelihood: float | None = None
    criterion: float | None = None
    num_pinned: int = 0
    faults: list[str] = field(default_factory=list)
    state: str = "dropped"

    @property
    def end(self) -> float:
        """Log-likelihood where the start ended; minus infinity where it was dropped."""
        return -np.inf if self.log_likelihood is None else self.log_likelihood


@dataclass(frozen=True, kw_only=True)
class OptimumGroup:
    """One distinct optimum.

    Args:
        minus2ll: -2 log-likelihood, the best of its starts.
        starts: The starts that ended there.
        shares: Size of each class, largest first.
        fault: What makes it degenerate, or `""`.
    """

    minus2ll: float
    starts: list[int]
    shares: list[float]
    fault: str = ""

    @property
    def hits(self) -> int:
        """Number of starts that ended there."""
        return len(self.starts)


def group_optima(records: list[StartRecord], posteriors: list[Any]) -> list[OptimumGroup]:
    """Group ends that are the same optimum.

    Args:
        records: Starts with a log-likelihood.
        posteriors: Class probabilities at their ends [K, N].

    Returns:
        The distinct optima, best first.
    """
    groups: list[tuple[list[StartRecord], Any]] = []
    for place in sorted(range(len(records)), key=lambda place: -records[place].end):
        record = records[place]
        for members, posterior in groups:
            near = 2 * (members[0].end - record.end) <= SAME_MINUS2LL
            if near and _distance(posterior, posteriors[place]) <= SAME_PROBABILITY:
                members.append(record)
                break
        else:
            groups.append(([record], posteriors[place]))
    return [
        OptimumGroup(
            minus2ll=-2 * members[0].end,
            starts=[member.index for member in members],
            shares=sorted((float(share) for share in posterior.mean(axis=1)), reverse=True),
            fault=members[0].faults[0] if members[0].faults else "",
        )
        for members, posterior in groups
    ]


def match_classes(first: Any, second: Any) -> list[int]:
    """The class of `second` that belongs to each class of `first`.

    Args:
        first: Numbers that describe each class, for example class probabilities [K, N] or standardised means [K, Q].
        second: The same of the other model.

    Returns:
        Places in `second`, so that the sum of absolute distances is least.

    Example:
        >>> from hf_mixture.models.trajectory_moe.optima import match_classes
        >>> match_classes([[0.0], [5.0]], [[5.1], [0.2]])
        [1, 0]
    """
    costs = np.abs(np.asarray(first)[:, None] - np.asarray(second)[None]).sum(axis=2)
    if len(costs) <= 7:
        orders = itertools.permutations(range(len(costs)))
        return list(min(orders, key=lambda order: sum(costs[a, b] for a, b in enumerate(order))))
    taken: list[int] = []
    for row in costs:
        taken.append(min((b for b in range(len(costs)) if b not in taken), key=lambda b: row[b]))
    return taken


def _distance(first: Any, second: Any) -> float:
    """Mean over people of half the summed difference of class probabilities, classes matched."""
    return float(np.abs(first - second[match_classes(first, second)]).sum(axis=0).mean() / 2)
