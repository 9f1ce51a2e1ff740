"""The mixture with one Gaussian for each cluster: probabilities, and how separable clusters are.

Letters: n rows, k clusters, d axes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hf_mixture.data.clustering.gaussian import Moments, log_joint
from hf_mixture.data.clustering.rows import FloatArray, Rows


# Fewer rows per axis than this leave the covariance of a cluster to those of all clusters.
ROWS_PER_AXIS = 5


@dataclass(frozen=True, eq=False)
class JointMixture:
    """Gaussians of the clusters, in the space of the preparation.

    Args:
        weights: Shares of the clusters, of shape (k,).
        means: Array of shape (k, d).
        covariances: Array of shape (k, d, d).
    """

    weights: FloatArray
    means: FloatArray
    covariances: FloatArray

    def posterior(self, points: FloatArray) -> FloatArray:
        """Probability of each cluster at each row: (n, d) to (n, k)."""
        joint = log_joint(
            Rows(points, np.ones(len(points))), self.weights.tolist(), list(self.means), list(self.covariances)
        )
        joint -= joint.max(axis=1, keepdims=True)
        shares = np.exp(joint)
        return shares / shares.sum(axis=1, keepdims=True)


def joint_mixture(parts: Sequence[Moments], ridge: float) -> JointMixture:
    """Gaussians at the moments of clusters; small clusters take the pooled covariance within clusters.

    Args:
        parts: Moments of each cluster.
        ridge: Added to the diagonals.
    """
    d = len(parts[0].mean)
    total = sum(part.weight for part in parts)
    within = sum((part.weight / total * part.covariance for part in parts), start=np.zeros((d, d)))
    covariances = [part.covariance if part.weight >= ROWS_PER_AXIS * d else within for part in parts]
    return JointMixture(
        np.array([part.weight / total for part in parts]),
        np.stack([part.mean for part in parts]),
        np.stack(covariances) + ridge * np.eye(d),
    )
