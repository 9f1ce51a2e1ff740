"""Scores of experts for a behaviour: the differential map of MoTE, and what others use in its place.

Letters: N experts of all routers, a tokens of a class that are routed to an expert, T its counted tokens.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from hf_mixture.moe.mote.resonance_maps import Floats, FtriSummary


Scorer = Callable[[FtriSummary, str], Floats]


def difference(summary: FtriSummary, target: str) -> Floats:
    """Score by `D = M_target - mean over the prompts of all other classes` (MoTE, arXiv 2502.11096).

    Args:
        summary: Maps of the classes.
        target: The class.

    Returns:
        Scores [N].
    """
    return summary.differential(target)


def risk_difference(summary: FtriSummary, target: str) -> Floats:
    """Score by `RD = a1 / T1 - a2 / T2` over the tokens of the target and of all others (SteerMoE, arXiv 2509.09660).

    Args:
        summary: Maps of the classes; only counts are read.
        target: The class.

    Returns:
        Scores [N] from -1 to 1.

    Raises:
        ValueError: If no token of the class, or of all others, was counted.
    """
    (mine, my_tokens), (rest, rest_tokens) = _two_sides(summary, target)
    risk: Floats = mine / my_tokens - rest / rest_tokens
    return risk


def npmi(summary: FtriSummary, target: str) -> Floats:
    """Score by the normalised pointwise mutual information of "expert chosen" and "token of the class".

    `log(p(a, c) / (p(a) p(c))) / -log p(a, c)` over all counted tokens (RICE, arXiv 2505.14681, where the class is the
    token `<think>`): 1 for experts that the tokens of the class alone choose, 0 for independence, -1 for experts that
    the class never chooses, and 0 for those that nobody chooses.

    Args:
        summary: Maps of the classes; only counts are read.
        target: The class.

    Returns:
        Scores [N] from -1 to 1.

    Raises:
        ValueError: If no token of the class, or of all others, was counted.
    """
    (mine, my_tokens), (rest, rest_tokens) = _two_sides(summary, target)
    total = my_tokens + rest_tokens
    joint, chosen, share = mine / total, (mine + rest) / total, my_tokens / total
    score = np.where(chosen > 0, -1.0, 0.0)
    seen = joint > 0
    score[seen] = np.log(joint[seen] / (chosen[seen] * share)) / -np.log(joint[seen])
    return score


def saliency(summary: FtriSummary, target: str) -> Floats:
    """Score by the mean of gate times output norm over the tokens of the class routed to an expert (REAP, 2510.13999).

    Args:
        summary: Maps of the classes, made with `statistic="norm"` and `normalise=False`.
        target: The class.

    Returns:
        Scores [N]; 0 for experts that were never chosen.

    Raises:
        ValueError: If the maps are of another statistic.
    """
    if summary.statistic != "norm" or summary.normalise:
        raise ValueError(
            f"the maps hold statistic={summary.statistic!r} with normalise={summary.normalise}; saliency needs "
            "FtriCollector(statistic='norm') and summarise(normalise=False)"
        )
    place = summary.place(target)
    sums, counts = summary.means[place] * summary.num_prompts[place], summary.counts[place]
    return np.divide(sums, counts, out=np.zeros_like(sums), where=counts > 0)


SCORERS: dict[str, Scorer] = {
    "difference": difference,
    "risk_difference": risk_difference,
    "npmi": npmi,
    "saliency": saliency,
}


def _two_sides(summary: FtriSummary, target: str) -> list[tuple[npt.NDArray[np.int64], int]]:
    """Routed tokens [N] and counted tokens of the class, and of all others."""
    own = np.arange(len(summary.classes)) == summary.place(target)
    sides = [(summary.counts[side].sum(axis=0), int(summary.num_tokens[side].sum())) for side in (own, ~own)]
    for name, (_, tokens) in zip((f"class {target!r}", f"all classes but {target!r}"), sides, strict=True):
        if tokens == 0:
            raise ValueError(f"no token of {name} was counted ({summary.positions}); choose other tokens")
    return sides
