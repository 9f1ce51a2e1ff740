"""How well routers choose: on the queries of several tasks, beside every expert alone, chance and the oracle.

Letters: q queries, F features of an embedding, M experts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from hf_mixture.models.mixture_of_thoughts.routing.queries import FloatArray, Router, check_queries


class Estimate(NamedTuple):
    """What cross-validation expects of a router.

    Args:
        mean: Mean over the tasks of the mean score of what is chosen.
        standard_error: Of this mean, from the spread of the queries inside each task.
    """

    mean: float
    standard_error: float


def evaluate_query_routers(
    routers: Mapping[str, Router],
    tasks: Mapping[str, tuple[npt.ArrayLike, npt.ArrayLike]],
    *,
    expert_names: Sequence[str] | None = None,
) -> list[dict[str, Any]]:
    """Tabulate the mean score of what routers choose, for each task and for the mean of the tasks.

    Args:
        routers: Functions from embeddings [q, F] to scores of the experts [q, M], by name.
        tasks: For each task the embeddings of its queries [q, F] and the scores of the experts on them [q, M].
        expert_names: Names of the experts [M]; their numbers by default.

    Returns:
        Rows with `router`, a column for each task, and `mean`, in the unit of the scores. First each expert alone,
        then `random`, the expectation of a choice by chance, then `oracle`, the best expert for each query, then the
        routers.

    Raises:
        ValueError: If there is no task, arrays do not fit, or a name is used twice.

    Example:
        >>> from hf_mixture.models.mixture_of_thoughts.routing import evaluate_query_routers, fit_best_single
        >>> embeddings, scores = [[0.0], [1.0], [2.0], [3.0]], [[1, 0], [1, 0], [1, 0], [0, 1]]
        >>> routers = {"best single": fit_best_single(embeddings, scores)}
        >>> for row in evaluate_query_routers(routers, {"words": (embeddings, scores)}):
        ...     print(row["router"], row["words"], row["mean"])
        expert 0 0.75 0.75
        expert 1 0.25 0.25
        random 0.5 0.5
        oracle 1.0 1.0
        best single 0.75 0.75
    """
    if not tasks:
        raise ValueError("tasks is empty; give the embeddings and scores of at least one task")
    if {"router", "mean"} & set(tasks):
        raise ValueError("tasks must not be named 'router' or 'mean', which are columns of the table; rename the task")
    queries = {task: check_queries(*pair)[:2] for task, pair in tasks.items()}
    counts = {task: scores.shape[1] for task, (_, scores) in queries.items()}
    num_experts = next(iter(counts.values()))
    if set(counts.values()) != {num_experts}:
        raise ValueError(f"tasks must have scores of the same experts; the numbers of experts are {counts}")
    names = [f"expert {index}" for index in range(num_experts)] if expert_names is None else list(expert_names)
    if len(names) != num_experts:
        raise ValueError(f"expert_names has {len(names)} entries for {num_experts} experts; give one for each")
    labels = [*names, "random", "oracle", *routers]
    if len(set(labels)) != len(labels):
        twice = sorted({label for label in labels if labels.count(label) > 1})
        raise ValueError(f"the names {', '.join(map(repr, twice))} are used twice; rename those experts or routers")
    columns = {}
    for task, (embeddings, scores) in queries.items():
        chosen = [_chosen_scores(name, router, embeddings, scores).mean() for name, router in routers.items()]
        columns[task] = [*scores.mean(0), scores.mean(), scores.max(1).mean(), *chosen]
    return [
        {
            "router": label,
            **{task: float(column[row]) for task, column in columns.items()},
            "mean": float(np.mean([column[row] for column in columns.values()])),
        }
        for row, label in enumerate(labels)
    ]


def cross_validate_router(
    fit: Callable[[FloatArray, FloatArray, npt.NDArray[Any]], Router],
    embeddings: npt.ArrayLike,
    scores: npt.ArrayLike,
    tasks: Sequence[str] | npt.NDArray[Any],
    *,
    num_folds: int = 5,
    seed: int = 0,
) -> Estimate:
    """Estimate from training queries alone how well a way to fit routers will do, to choose its settings by.

    Settings within one standard error of the best cannot be told apart: take the simplest of them.

    Args:
        fit: Function from embeddings, scores and tasks of some queries to a router.
        embeddings: Sentence embeddings [q, F].
        scores: Score of each expert on each query [q, M].
        tasks: Task of each query [q].
        num_folds: Parts that the queries of each task are divided into, from 2 to the number of queries of the
            smallest task.
        seed: Seed of the division.

    Returns:
        Mean over the tasks of the mean score of what the router chooses for queries that it was not fitted on, and its
        standard error.

    Raises:
        ValueError: If the arrays do not fit, or there are too many folds.

    Example:
        >>> from hf_mixture.models.mixture_of_thoughts.routing import cross_validate_router, fit_cluster_router
        >>> embeddings, scores = [[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]] * 4, [[1, 0], [0, 1], [0, 1]] * 4
        >>> for num_clusters in (1, 2):
        ...     def fit(embeddings, scores, tasks):
        ...         return fit_cluster_router(embeddings, scores, num_clusters=num_clusters)
        ...     print(round(cross_validate_router(fit, embeddings, scores, ["words"] * 12).mean, 3))
        0.667
        1.0
    """
    features, values, _ = check_queries(embeddings, scores)
    labels = np.asarray(tasks)
    if labels.shape != (len(values),):
        raise ValueError(f"tasks of shape {labels.shape} must name the task of each of the {len(values)} queries")
    names, counts = np.unique(labels, return_counts=True)
    if not 2 <= num_folds <= counts.min():
        smallest = str(names[counts.argmin()])
        raise ValueError(
            f"num_folds={num_folds} must be from 2 to {counts.min()}, the number of queries of {smallest!r}"
        )
    generator = np.random.default_rng(seed)
    folds = np.empty(len(values), dtype=np.int64)
    for name in names:
        rows = generator.permutation(np.flatnonzero(labels == name))
        folds[rows] = np.arange(len(rows)) % num_folds
    chosen = np.empty(len(values))
    for fold in range(num_folds):
        kept, held_out = folds != fold, folds == fold
        router = fit(features[kept], values[kept], labels[kept])
        chosen[held_out] = _chosen_scores("fit", router, features[held_out], values[held_out])
    parts = [chosen[labels == name] for name in names]
    variance = sum(part.var(ddof=1) / len(part) for part in parts) / len(parts) ** 2
    return Estimate(float(np.mean([part.mean() for part in parts])), float(np.sqrt(variance)))


def _chosen_scores(name: str, router: Router, embeddings: FloatArray, scores: FloatArray) -> FloatArray:
    """Score of the expert that a router chooses for each query [q]."""
    predicted = np.asarray(router(embeddings))
    if predicted.shape != scores.shape:
        raise ValueError(
            f"the router {name!r} returned scores of shape {predicted.shape} for {scores.shape[0]} queries and "
            f"{scores.shape[1]} experts"
        )
    return np.take_along_axis(scores, predicted.argmax(-1)[:, None], axis=-1)[:, 0]
