"""A router that asks the expert that did best on similar queries: k-means clusters, in the manner of Avengers.

Letters: q queries, F features of an embedding, M experts, C clusters, k nearest of them.
"""

from __future__ import annotations

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
class ClusterRouter:
    """Weighs the rankings of the experts in the clusters nearest to a query.

    Args:
        centres: Centres of the clusters [C, F].
        means: Mean score of each expert in each cluster [C, M].
        num_nearest: Number of clusters that are asked, k.
        beta: Sharpness of the weights of those clusters.
    """

    centres: FloatArray
    means: FloatArray
    num_nearest: int
    beta: float

    def __call__(self, embeddings: npt.ArrayLike) -> FloatArray:
        """Scores [q, M] of embeddings [q, F]."""
        features = _normalise(check_embeddings(embeddings, self.centres.shape[1]))
        # Half the squared distance between a vector of length 1 and a centre.
        distances = (1 + (self.centres**2).sum(-1)) / 2 - features @ self.centres.T
        nearest = np.argsort(distances, axis=-1, kind="stable")[:, : self.num_nearest]
        logits = -self.beta * np.take_along_axis(distances, nearest, axis=-1)
        shares = np.exp(logits - logits.max(-1, keepdims=True))
        shares /= shares.sum(-1, keepdims=True)
        order = np.argsort(-self.means, axis=-1, kind="stable")
        ranks = np.argsort(order, axis=-1, kind="stable")
        scores: FloatArray = np.einsum("qk,qkm->qm", shares, (1 / (ranks + 0.1))[nearest])
        return scores


def fit_cluster_router(
    embeddings: npt.ArrayLike,
    scores: npt.ArrayLike,
    *,
    weights: npt.ArrayLike | None = None,
    num_clusters: int = 64,
    num_nearest: int = 1,
    beta: float = 3.0,
    seed: int = 0,
) -> ClusterRouter:
    """Cluster queries by their embeddings, and rank the experts in each cluster (Avengers, arXiv 2505.19797).

    A query with the normalised embedding x gives expert m the score

        sum over the k nearest clusters c of softmax_c(-beta |x - c|² / 2) / (rank of m in c + 0.1)

    with ranks from 0. For centres of length 1 this is the published rule, which measures by 1 - c x; the square keeps
    a query with the cluster that k-means would give it. Scores that are probabilities of the right answer rank experts
    by their confidence; turn them into right or wrong first.

    Args:
        embeddings: Sentence embeddings [q, F]; scaled to length 1.
        scores: Score of each expert on each query [q, M].
        weights: Weight of each query in the clustering and in the means [q]; None: all alike.
        num_clusters: C, from 1 to q.
        num_nearest: k, from 1 to C.
        beta: Sharpness of the weights of the nearest clusters, above 0; without effect for k = 1.
        seed: Seed of k-means.

    Returns:
        The router.

    Raises:
        ValueError: If the arrays do not fit, or a number is out of its range.
        ImportError: If scikit-learn is missing.

    Example:
        >>> from hf_mixture.models.mixture_of_thoughts.routing import fit_cluster_router
        >>> embeddings = [[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9]]
        >>> router = fit_cluster_router(embeddings, [[1, 0], [1, 0], [0, 1], [0, 1]], num_clusters=2)
        >>> router([[0.8, 0.2], [0.3, 0.7]]).argmax(-1).tolist()
        [0, 1]
    """
    features, values, shares = check_queries(embeddings, scores, weights)
    if not 1 <= num_clusters <= len(features):
        raise ValueError(f"num_clusters={num_clusters} must be from 1 to {len(features)}, the number of queries")
    if not 1 <= num_nearest <= num_clusters:
        raise ValueError(f"num_nearest={num_nearest} must be from 1 to num_clusters={num_clusters}")
    if not beta > 0:
        raise ValueError(f"beta={beta} must be above 0")
    cluster = require("sklearn.cluster", used_for="fit_cluster_router")
    # Elkan's bounds need a second cluster; both algorithms find the same clusters.
    algorithm = "elkan" if num_clusters > 1 else "lloyd"
    kmeans = cluster.KMeans(num_clusters, n_init=1, max_iter=1000, algorithm=algorithm, random_state=seed)
    kmeans.fit(_normalise(features), sample_weight=shares)
    members = np.eye(num_clusters)[kmeans.labels_] * shares[:, None]
    totals = members.sum(0)
    # Fewer different queries than clusters, or queries without weight, leave clusters with nothing to rank by.
    used = totals > 0
    return ClusterRouter(
        kmeans.cluster_centers_[used].astype(np.float64),
        (members.T @ values)[used] / totals[used, None],
        min(num_nearest, int(used.sum())),
        beta,
    )


def _normalise(features: FloatArray) -> FloatArray:
    lengths = np.linalg.norm(features, axis=-1, keepdims=True)
    return features / np.where(lengths > 0, lengths, 1.0)
