"""Success, partial success or failure of an arm, by rules that are written down before any figure is seen.

q is the share of the way from the original to Gold that forget recall has left: (f - f_gold) / (f_original - f_gold).
v is test recall over Gold's, c steps over Gold's.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from hf_mixture.training.unlearn.arms import SIMPLER


MOST_Q, PARTIAL_Q, LEAST_V, MOST_C, MOST_AUC, NO_DIFFERENCE = 0.1, 0.4, 0.95, 0.10, 0.05, 0.01


def compare(measured: Mapping[str, Any], original: Mapping[str, Any], gold: Mapping[str, Any]) -> dict[str, float]:
    """The figures that verdicts are made of, for one seed.

    Args:
        measured: Measures of an arm, with `num_steps`.
        original: Measures of the original.
        gold: Measures of the retrained model, with `num_steps`.

    Returns:
        q, v, c, the difference of the AUCs, and forget and test recall over those of the original.

    Example:
        >>> from hf_mixture.training.unlearn.verdict import compare
        >>> levels = ("forget_recall", "test_recall", "membership_auc", "num_steps")
        >>> before, gold, arm = (
        ...     dict(zip(levels, values, strict=True))
        ...     for values in ((0.9, 0.04, 0.95, 0), (0.1, 0.04, 0.5, 100), (0.3, 0.038, 0.6, 10))
        ... )
        >>> {name: round(value, 3) for name, value in compare(arm, before, gold).items()}["q"]
        0.25
    """
    way = original["forget_recall"] - gold["forget_recall"]
    return {
        "q": (measured["forget_recall"] - gold["forget_recall"]) / way if way else 0.0,
        "v": _over(measured["test_recall"], gold["test_recall"]),
        "c": measured["num_steps"] / gold["num_steps"],
        "auc_difference": measured["membership_auc"] - gold["membership_auc"],
        "forget_ratio": _over(measured["forget_recall"], original["forget_recall"]),
        "test_ratio": _over(measured["test_recall"], original["test_recall"]),
    }


def verdict(
    name: str, seeds: Sequence[Mapping[str, float]], others: Mapping[str, Sequence[Mapping[str, float]]]
) -> str:
    """Judge an arm by all seeds.

    Args:
        name: The arm.
        seeds: Its figures, from `compare`, by seed.
        others: Those of every arm, by name.

    Returns:
        `"full"`, `"partial"` or `"failure"`; with `", over-forgets"` where it is clearly below Gold.
    """
    full = all(
        abs(s["q"]) <= MOST_Q and s["v"] >= LEAST_V and s["c"] <= MOST_C and abs(s["auc_difference"]) <= MOST_AUC
        for s in seeds
    )
    mean = _means(seeds)
    rivals = [_means(found) for other, found in others.items() if _family(other) in SIMPLER and other != name]
    # More utility than Gold's counts as Gold's, and a hundredth of it as nothing.
    better = all(
        abs(mean["q"]) < abs(rival["q"]) and min(mean["v"], 1.0) >= min(rival["v"], 1.0) - NO_DIFFERENCE
        for rival in rivals
    )
    partial = mean["q"] <= PARTIAL_Q and mean["v"] >= LEAST_V and mean["c"] <= MOST_C and better
    found = "full" if full else "partial" if partial else "failure"
    over = mean["q"] < -MOST_Q or mean["auc_difference"] < -MOST_AUC
    return found + ", over-forgets" * over


def reaches_target(seeds: Sequence[Mapping[str, float]]) -> bool:
    """Whether in every seed a quarter of the forget recall is left at most, in a fifth of Gold's steps at most.

    At least 95 % of the original's test recall must be left as well.

    Args:
        seeds: Figures of an arm by seed.
    """
    return all(s["forget_ratio"] <= 0.25 and s["test_ratio"] >= 0.95 and s["c"] <= 0.2 for s in seeds)


def as_good_and_simpler(
    chosen: Sequence[Mapping[str, float]], others: Mapping[str, Sequence[Mapping[str, float]]]
) -> list[str]:
    """Simpler ways that are at least as good as the chosen one at no higher cost, which must be said.

    Args:
        chosen: Figures of the chosen arm by seed.
        others: Those of every arm, by name.

    Returns:
        Their names.
    """
    ours = _means(chosen)
    found = []
    for name, seeds in others.items():
        if _family(name) not in SIMPLER and not name.startswith("sharded"):
            continue
        theirs = _means(seeds)
        nearer = abs(theirs["q"]) <= max(abs(ours["q"]), 0.01) and theirs["v"] >= ours["v"] - 1e-9
        nearer &= abs(theirs["auc_difference"]) <= abs(ours["auc_difference"]) + 1e-9
        if nearer and theirs["c"] <= ours["c"] + 1e-9:
            found.append(name)
    return found


def _family(arm: str) -> str:
    return arm.partition("@")[0]


def _means(seeds: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {key: statistics.fmean(seed[key] for seed in seeds) for key in seeds[0]}


def _over(first: float, second: float) -> float:
    return first / second if second else float(first == second)
