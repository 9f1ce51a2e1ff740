"""A router that predicts the score of each expert by ridge regression.

Letters: q queries, F features of an embedding, M experts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hf_mixture._extras import require
from hf_mixture.models.mixture_of_thoughts.routing.queries import (
    FloatArray,
    check_embeddings,
    check_queries,
)


@dataclass(frozen=True, eq=False)
class LinearRouter:
    """Predicts scores as a linear function of the embedding.

    Args:
        coefficients: Matrix [F, M].
        intercepts: Of each expert [M].
        alpha: Penalty that was chosen.
    """

    coefficients: FloatArray
    intercepts: FloatArray
    alpha: float

    def __call__(self, embeddings: npt.ArrayLike) -> FloatArray:
        """Scores [q, M] of embeddings [q, F]."""
        return check_embeddings(embeddings, len(self.coefficients)) @ self.coefficients + self.intercepts


def fit_linear_router(
    embeddings: npt.ArrayLike,
    scores: npt.ArrayLike,
    *,
    weights: npt.ArrayLike | None = None,
    alphas: Sequence[float] = (0.01, 0.1, 1.0, 10.0, 100.0, 1000.0),
) -> LinearRouter:
    """Regress the scores of all experts on the embeddings, with an L2 penalty chosen by leave-one-out validation.

    Args:
        embeddings: Sentence embeddings [q, F].
        scores: Score of each expert on each query [q, M].
        weights: Weight of each query [q]; None: all alike.
        alphas: Penalties to choose from, above 0.

    Returns:
        The router.

    Raises:
        ValueError: If the arrays do not fit, or there is no positive penalty.
        ImportError: If scikit-learn is missing.

    Example:
        >>> from hf_mixture.models.mixture_of_thoughts.routing import fit_linear_router
        >>> router = fit_linear_router([[0.0], [1.0], [2.0], [3.0]], [[3, 0], [2, 1], [1, 2], [0, 3]], alphas=[1e-6])
        >>> router([[0.5], [2.5]]).round(3).tolist()
        [[2.5, 0.5], [0.5, 2.5]]
    """
    features, values, shares = check_queries(embeddings, scores, weights)
    if not len(alphas) or not all(alpha > 0 for alpha in alphas):
        raise ValueError(f"alphas={alphas} must be numbers above 0, at least one")
    linear_model = require("sklearn.linear_model", used_for="fit_linear_router")
    ridge = linear_model.RidgeCV(alphas=list(alphas)).fit(features, values, sample_weight=shares)
    intercepts = np.broadcast_to(ridge.intercept_, (values.shape[1],)).astype(np.float64)
    return LinearRouter(ridge.coef_.reshape(values.shape[1], -1).T, intercepts, float(ridge.alpha_))
