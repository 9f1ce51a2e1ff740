"""What all routers are fitted on: sentence embeddings of queries, and how well each expert answered them.

Letters: q queries, F features of an embedding, M experts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt


FloatArray = npt.NDArray[np.float64]
# From embeddings [q, F] to a score for each expert [q, M].
Router = Callable[[npt.ArrayLike], FloatArray]


def check_embeddings(embeddings: npt.ArrayLike, num_features: int | None = None) -> FloatArray:
    """Bring embeddings into double precision.

    Args:
        embeddings: Array [q, F].
        num_features: F that a router was fitted on.

    Returns:
        The embeddings.

    Raises:
        ValueError: If they are no finite matrix, or of another width.
    """
    array = np.asarray(embeddings, dtype=np.float64)
    if array.ndim != 2 or not np.isfinite(array).all():
        raise ValueError(f"embeddings of shape {array.shape} must be a matrix [queries, features] of finite numbers")
    if num_features is not None and array.shape[1] != num_features:
        raise ValueError(
            f"embeddings has {array.shape[1]} features and the router was fitted on {num_features}; embed the queries "
            "with the same encoder"
        )
    return array


def check_queries(
    embeddings: npt.ArrayLike, scores: npt.ArrayLike, weights: npt.ArrayLike | None = None
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Check scored queries, and give each a weight.

    Args:
        embeddings: Array [q, F].
        scores: Score of each expert on each query [q, M]; higher is better.
        weights: Weight of each query [q]; None: all alike.

    Returns:
        Embeddings, scores, and weights of mean 1.

    Raises:
        ValueError: If shapes do not fit, a score is missing, or weights are negative or all 0.
    """
    features, values = check_embeddings(embeddings), np.asarray(scores, dtype=np.float64)
    if values.ndim != 2 or values.shape[0] != len(features) or not values.size:
        raise ValueError(
            f"scores of shape {values.shape} must be a matrix [queries, experts] with a row for each of the "
            f"{len(features)} embeddings"
        )
    if not np.isfinite(values).all():
        raise ValueError("scores must be finite: leave out queries that some expert has no score for")
    given = np.ones(len(features)) if weights is None else np.asarray(weights, dtype=np.float64)
    if given.shape != (len(features),) or not np.isfinite(given).all() or (given < 0).any() or not given.any():
        raise ValueError(f"weights of shape {given.shape} must be {len(features)} numbers of at least 0, not all 0")
    return features, values, given / given.mean()


def equal_task_weights(tasks: Sequence[str] | npt.NDArray[Any]) -> FloatArray:
    """Weigh queries so that each task has the same total weight, however many queries it has.

    Args:
        tasks: Task of each query [q].

    Returns:
        Weights of mean 1 [q].

    Raises:
        ValueError: If there are no queries.

    Example:
        >>> from hf_mixture.models.mixture_of_thoughts.routing import equal_task_weights
        >>> equal_task_weights(["code", "maths", "maths", "maths"]).round(3).tolist()
        [2.0, 0.667, 0.667, 0.667]
    """
    if not len(tasks):
        raise ValueError("tasks is empty; name the task of each query")
    _, places, counts = np.unique(np.asarray(tasks), return_inverse=True, return_counts=True)
    weights: FloatArray = len(tasks) / (len(counts) * counts[places])
    return weights
