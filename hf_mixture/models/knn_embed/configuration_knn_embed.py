"""Configuration of kNN-Embed."""

from __future__ import annotations

from typing import Literal

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig


# Smallest value of each size.
_LEAST = {
    "num_users": 1,
    "num_items": 1,
    "embedding_size": 1,
    "num_clusters": 1,
    "num_neighbours": 1,
    "max_components": 1,
}


@strict
class KnnEmbedConfig(PreTrainedConfig):
    """What makes a kNN-Embed model: embeddings of users and items, clusters of items, and mixtures over them.

    Args:
        num_users: Number of users, at least 1; their ids count from 0.
        num_items: Number of items, at least 1; their ids count from 0.
        embedding_size: d, size of an embedding.
        loss: `"twhin"` (logistic, negatives weighted), `"sampled_softmax"` or `"bpr"`.
        negative_weight: Weight of the negatives in the loss `"twhin"`, above 0.
        embedding_penalty: Weight of the mean squared length of the embeddings of a batch in the loss, at least 0.
        translation: Whether users are moved by one learned vector, u + r, as TwHIN does for each relation.
        num_clusters: m, number of clusters of items that `fit_mixture` makes where it is not given clusters.
        smoothing: `"none"`, `"global"` (with the mixture of all users) or `"knn"` (with the nearest users).
        pool: With `"knn"`: the `"mean"` of the mixtures of the neighbours, or their pooled `"counts"`.
        num_neighbours: k, number of nearest users.
        smoothing_weight: Lambda, weight of the others, from 0 to 1. Default: k / (k + 1).
        max_components: Largest number of clusters of a user.
        allocation: `"proportional"` to the weights, `"even"`, or `"pooled"` (the best of all clusters of the user).
        query: What searches a cluster: the embedding of the `"user"`, or the `"centroid"` of the user's items in it.
        cold_items: Whether items without training edges are put into the nearest cluster; otherwise they are never
            retrieved.
        initializer_range: Standard deviation of the first embeddings, at least 0.
        num_fitted_users: Users that there were at the fit, who can be neighbours of those that are added; set by
            `fit_mixture`. 0, as in models of earlier versions, is all that there are.
        num_fitted_clusters: Number of clusters there are; set by `fit_mixture`.
        num_mixture_entries: Number of weights of all mixtures; set by `fit_mixture`.
        num_history_entries: Number of training edges; set by `fit_mixture`.

    Example:
        >>> from hf_mixture import KnnEmbedConfig
        >>> KnnEmbedConfig(num_users=50, num_items=80, num_neighbours=4).lam
        0.8
    """

    model_type = "knn_embed"

    num_users: int = 1
    num_items: int = 1
    embedding_size: int = 100
    loss: Literal["twhin", "sampled_softmax", "bpr"] = "twhin"
    negative_weight: float = 10.0
    embedding_penalty: float = 0.0
    translation: bool = True
    num_clusters: int = 100
    smoothing: Literal["none", "global", "knn"] = "knn"
    pool: Literal["mean", "counts"] = "mean"
    num_neighbours: int = 10
    smoothing_weight: float | None = None
    max_components: int = 10
    allocation: Literal["proportional", "even", "pooled"] = "proportional"
    query: Literal["user", "centroid"] = "user"
    cold_items: bool = False
    initializer_range: float = 0.1
    num_fitted_users: int = 0
    num_fitted_clusters: int = 0
    num_mixture_entries: int = 0
    num_history_entries: int = 0

    def check_sizes(self) -> None:
        """Check what a model needs of its configuration.

        Raises:
            ValueError: If a value is out of its range.
        """
        for name, least in _LEAST.items():
            if getattr(self, name) < least:
                raise ValueError(f"{name}={getattr(self, name)} must be at least {least}; raise it")
        if not self.negative_weight > 0:
            raise ValueError(f"negative_weight={self.negative_weight} must be above 0; raise it")
        for name in ("embedding_penalty", "initializer_range"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 0; raise it")
        if self.smoothing_weight is not None and not 0 <= self.smoothing_weight <= 1:
            raise ValueError(f"smoothing_weight={self.smoothing_weight} must be from 0 to 1, or None for k / (k + 1)")

    @property
    def lam(self) -> float:
        """Lambda, the weight of the others in a smoothed mixture."""
        if self.smoothing_weight is not None:
            return self.smoothing_weight
        return self.num_neighbours / (self.num_neighbours + 1)
