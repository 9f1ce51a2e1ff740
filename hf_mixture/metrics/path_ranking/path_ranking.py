"""How well the scores of a search rank what they stand for.

Letters: N candidates.
"""

from typing import Any

import datasets
import evaluate
import numpy as np
from numpy.typing import ArrayLike


_DESCRIPTION = """
How well scores, such as accuracies of paths in a SuperNet, rank candidates by what they truly reach, such as the
accuracy of each path trained alone: correlations of Pearson, Spearman (average ranks) and Kendall (tau-b), and what
the candidate with the best score truly reaches.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions (list of float): Score of each candidate, higher is better; at least two candidates.
    references (list of float): What each candidate truly reaches, higher is better.
Returns:
    pearson: Correlation of the numbers, from -1 to 1; None where one side is constant.
    spearman: Correlation of their ranks, equal numbers sharing the average rank; None where one side is constant.
    kendall: tau-b, which accounts for equal numbers; None where one side is constant.
    argmax: Place of the candidate with the best score, counted from 0; the first of equally good ones.
    reference_of_argmax: What it truly reaches.
    rank_of_argmax: Its true rank, 1 for the best; the smallest of equal ones.
    regret: What the best candidate truly reaches, less that.
Examples:
    >>> metric = evaluate.load("path_ranking")
    >>> found = metric.compute(predictions=[0.5, 0.7, 0.6], references=[0.80, 0.89, 0.90])
    >>> found["spearman"], found["argmax"], found["rank_of_argmax"]
    (0.5, 1, 2)
"""


def average_ranks(values: ArrayLike) -> Any:
    """Rank numbers from 1, the smallest first; equal ones share the average of their ranks.

    Args:
        values: The numbers [N].

    Returns:
        The ranks [N].
    """
    numbers = np.asarray(values, dtype=np.float64)
    below = (numbers[None, :] < numbers[:, None]).sum(axis=1)
    equal = (numbers[None, :] == numbers[:, None]).sum(axis=1)
    return below + (equal + 1) / 2


def correlation(first: ArrayLike, second: ArrayLike) -> float | None:
    """Pearson's correlation; None where one side is constant.

    Args:
        first: Numbers [N].
        second: Numbers [N].

    Returns:
        From -1 to 1.
    """
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if (a == a[0]).all() or (b == b[0]).all():
        return None
    a, b = a - a.mean(), b - b.mean()
    return float(np.clip(a @ b / np.sqrt((a @ a) * (b @ b)), -1, 1))


def kendall_tau_b(first: ArrayLike, second: ArrayLike) -> float | None:
    """Kendall's tau-b: concordant less discordant pairs over the geometric mean of the pairs that are no ties.

    Args:
        first: Numbers [N].
        second: Numbers [N].

    Returns:
        From -1 to 1; None where one side is constant.
    """
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    pairs = np.triu_indices(len(a), k=1)
    signs_a = np.sign(a[:, None] - a[None, :])[pairs]
    signs_b = np.sign(b[:, None] - b[None, :])[pairs]
    untied = np.count_nonzero(signs_a) * np.count_nonzero(signs_b)
    return float((signs_a * signs_b).sum() / np.sqrt(untied)) if untied else None


def ranking(predictions: ArrayLike, references: ArrayLike) -> dict[str, Any]:
    """Compute all results.

    Args:
        predictions: Scores [N].
        references: What is true [N].

    Returns:
        The results by name.

    Raises:
        ValueError: There are fewer than two candidates, or a number is not finite.
    """
    scores, truth = np.asarray(predictions, dtype=np.float64), np.asarray(references, dtype=np.float64)
    if len(scores) < 2:
        raise ValueError(f"predictions has {len(scores)} candidates; a ranking needs at least 2")
    for name, values in (("predictions", scores), ("references", truth)):
        if not np.isfinite(values).all():
            row = int(np.flatnonzero(~np.isfinite(values))[0])
            raise ValueError(f"row {row} of {name} is {values[row]}; give finite numbers")
    best = int(scores.argmax())
    return {
        "pearson": correlation(scores, truth),
        "spearman": correlation(average_ranks(scores), average_ranks(truth)),
        "kendall": kendall_tau_b(scores, truth),
        "argmax": best,
        "reference_of_argmax": float(truth[best]),
        "rank_of_argmax": int((truth > truth[best]).sum()) + 1,
        "regret": float(truth.max() - truth[best]),
    }


class PathRanking(evaluate.Metric):
    """Agreement of scores with what they rank."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation="",
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features(
                {"predictions": datasets.Value("float64"), "references": datasets.Value("float64")}
            ),
        )

    def _compute(self, predictions: list[float], references: list[float]) -> dict[str, Any]:
        return ranking(predictions, references)
