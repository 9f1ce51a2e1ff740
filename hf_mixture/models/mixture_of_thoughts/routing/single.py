"""The router that always asks the same expert.

Letters: q queries, F features of an embedding, M experts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hf_mixture.models.mixture_of_thoughts.routing.queries import FloatArray, check_embeddings, check_queries


@dataclass(frozen=True, eq=False)
class SingleRouter:
    """Gives every query the same scores.

    Args:
        means: Mean score of each expert [M].
        num_features: F.
    """

    means: FloatArray
    num_features: int

    def __call__(self, embeddings: npt.ArrayLike) -> FloatArray:
        """Scores [q, M] of embeddings [q, F]."""
        return np.tile(self.means, (len(check_embeddings(embeddings, self.num_features)), 1))


def fit_best_single(
    embeddings: npt.ArrayLike, scores: npt.ArrayLike, *, weights: npt.ArrayLike | None = None
) -> SingleRouter:
    """Find the expert with the best mean score: what every router has to beat.

    Args:
        embeddings: Sentence embeddings [q, F].
        scores: Score of each expert on each query [q, M].
        weights: Weight of each query [q]; None: all alike.

    Returns:
        A router that always chooses this expert.

    Raises:
        ValueError: If the arrays do not fit.

    Example:
        >>> from hf_mixture.models.mixture_of_thoughts.routing import fit_best_single
        >>> router = fit_best_single([[0.0], [1.0]], [[1, 0], [1, 1]])
        >>> router([[0.5]]).tolist()
        [[1.0, 0.5]]
    """
    features, values, shares = check_queries(embeddings, scores, weights)
    return SingleRouter(shares @ values / len(values), features.shape[1])
