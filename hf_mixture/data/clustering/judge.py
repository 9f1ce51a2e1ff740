"""Whether a split shows two clusters: the tests, each with a score that is above 0 when it does.

Letters: n rows, d columns, N number of observations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from hf_mixture.data.clustering.dip import critical_dip, dip
from hf_mixture.data.clustering.gaussian import (
    Evidence,
    Moments,
    TwoGaussians,
    constrained,
    evidence,
    log_density,
    moments_of,
)
from hf_mixture.data.clustering.preparation import axes_of
from hf_mixture.data.clustering.rows import BoolArray, Rows
from hf_mixture.data.clustering.split import Split, split_rows


TESTS = ("bic", "cross_fit", "dip", "stability")
# A dip of the projected rows below this is no gap worth a split, however many rows make it significant.
MIN_DIP = 0.01


@dataclass(frozen=True)
class Rule:
    """How splits are made and judged.

    Args:
        families: Covariance families; one that accepts is enough. `"auto"` is full where N >= 5 d, else diag.
        tests: All must accept.
        ridge: Added to the diagonals of covariances.
        em_steps: Steps of EM from the partition; None is to convergence.
        min_agreement: Least agreement of mixture and partition, and of the halves in the test of stability.
        margin: Least gain in log-likelihood per row of the test by cross-fitting.
        axis_ties: As in `split_rows`.
    """

    families: tuple[str, ...]
    tests: tuple[str, ...]
    ridge: float
    em_steps: int | None = 1
    min_agreement: float = 0.9
    margin: float = 0.0
    axis_ties: str = "stop"


class Verdict(NamedTuple):
    """The smallest score of the tests and the test that refused, if any; gain and agreement where BIC was asked."""

    score: float
    refused_by: str | None
    gain: float | None = None
    agreement: float | None = None


def judge(rows: Rows, second: BoolArray, whole: Moments, sides: Sequence[Moments], rule: Rule) -> Verdict:
    """Judge a partition of rows in two.

    Args:
        rows: The rows, in canonical order.
        second: Whether each row is on the second side; shape (n,).
        whole: Moments of all rows.
        sides: Moments of the two sides.
        rule: Tests and their settings.

    Returns:
        The verdict of all tests together; later tests are not asked once one refuses.
    """
    score, found = np.inf, Evidence(np.nan, np.nan)
    asked = False
    for test in rule.tests:
        reason: str = test
        match test:
            case "bic":
                found, asked = _bic(rows, second, whole, sides, rule), True
                agrees = found.agreement >= rule.min_agreement
                value = found.gain if agrees else -1.0
                reason = "bic" if found.gain <= 0 else "agreement"
            case "cross_fit":
                value = cross_fit_gain(rows, second, rule) - rule.margin
            case "dip":
                height = dip(rows.points @ (sides[1].mean - sides[0].mean), rows.weights)
                value = height - max(critical_dip(whole.weight), MIN_DIP)
            case _:
                value = stability(rows, second, rule) - rule.min_agreement
        score = min(score, value)
        # Stability is met at its bound, the others are beaten above it.
        if value < 0 or (value == 0 and test != "stability"):
            break
    else:
        reason = ""
    return Verdict(float(score), reason or None, *(found if asked else (None, None)))


def _families(rule: Rule, weight: float, d: int) -> list[str]:
    return [("full" if weight >= 5 * d else "diag") if family == "auto" else family for family in rule.families]


def _bic(rows: Rows, second: BoolArray, whole: Moments, sides: Sequence[Moments], rule: Rule) -> Evidence:
    """The evidence of the family that speaks most for the partition: agreement first, then gain."""
    found = [
        evidence(rows, second, whole, sides, family=family, ridge=rule.ridge, em_steps=rule.em_steps)
        for family in _families(rule, whole.weight, rows.points.shape[1])
    ]
    return max(found, key=lambda one: (one.agreement >= rule.min_agreement, one.gain))


def cross_fit_gain(rows: Rows, second: BoolArray, rule: Rule) -> float:
    """Gain in log-likelihood per row of two Gaussians over one, on rows that they were not fitted to.

    The even and the odd rows are fitted and scored in turn; the smaller gain counts, of the family with the larger.
    """
    halves = [np.arange(start, len(rows), 2) for start in (0, 1)]
    gains = []
    for family in _families(rule, rows.total, rows.points.shape[1]):
        gain = np.inf
        for ours, theirs in (halves, halves[::-1]):
            part, side = rows.take(ours), second[ours]
            if side.all() or not side.any():
                return -np.inf
            whole = moments_of(part)
            axes, _ = axes_of(whole.covariance)
            sides = [moments_of(part.take(~side)), moments_of(part.take(side))]
            two = TwoGaussians(part, sides, family=family, axes=axes, ridge=rule.ridge, em_steps=rule.em_steps)
            other = rows.take(theirs)
            joint = two.log_joint(other)
            one = log_density(other, whole.mean, constrained(family, [whole], axes, rule.ridge)[0])
            difference = np.logaddexp(joint[:, 0], joint[:, 1]) - one
            gain = min(gain, float(other.weights @ difference / other.total))
        gains.append(gain)
    return max(gains)


def stability(rows: Rows, second: BoolArray, rule: Rule) -> float:
    """Share of rows on the side where the split of the other half of the rows puts them; the smaller of two halves."""
    halves = [np.arange(start, len(rows), 2) for start in (0, 1)]
    smallest = 1.0
    for ours, theirs in (halves, halves[::-1]):
        part, other = rows.take(ours), rows.take(theirs)
        split = split_rows(part, moments_of(part), axis_ties=rule.axis_ties)
        if not isinstance(split, Split):
            return 0.0
        there = (other.points - split.midpoint) @ split.normal > 0
        share = float(other.weights @ (there == second[theirs]) / other.total)
        smallest = min(smallest, max(share, 1 - share))
    return smallest
