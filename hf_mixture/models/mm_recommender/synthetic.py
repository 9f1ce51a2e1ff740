"""A small generated catalogue: tastes that modality vectors show in part."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from hf_mixture.models.mm_recommender.configuration_mm_recommender import MultiModalRecommenderConfig
from hf_mixture.models.mm_recommender.interactions import Interactions
from hf_mixture.models.mm_recommender.modeling_mm_recommender import MultiModalRecommender


@dataclass(frozen=True, kw_only=True, eq=False)
class RecommendationData:
    """Interactions in three parts, and modality vectors.

    Args:
        train: For training.
        validation: For choices.
        test: For the table.
        features: Vectors of all items by modality [I, size].
    """

    train: Interactions
    validation: Interactions
    test: Interactions
    features: dict[str, torch.Tensor]


def synthetic_interactions(
    *, num_users: int = 60, num_items: int = 40, num_tastes: int = 4, per_user: int = 8, seed: int = 0
) -> RecommendationData:
    """Draw users who mostly take items of their own taste, and vectors that show an item's taste with noise.

    Args:
        num_users: Number of users. Default: 60.
        num_items: Number of items, above `per_user` + 2. Default: 40.
        num_tastes: Number of tastes. Default: 4.
        per_user: Training interactions of a user; one more is for validation and one for the test. Default: 8.
        seed: Seed of everything. Default: 0.

    Returns:
        The data, with the modalities `image` (8 numbers) and `audio` (4).

    Example:
        >>> from hf_mixture.models.mm_recommender.synthetic import synthetic_interactions
        >>> data = synthetic_interactions(num_users=5)
        >>> len(data.train), len(data.test)
        (40, 5)
    """
    generator = np.random.default_rng(seed)
    tastes, kinds = generator.integers(num_tastes, size=num_users), generator.integers(num_tastes, size=num_items)
    # The items with the highest keys are a draw without replacement; one's own taste is 12 times as likely.
    weights = np.where(tastes[:, None] == kinds[None], 12.0, 1.0)
    drawn = (np.log(generator.random(weights.shape)) / weights).argsort(axis=1)[:, ::-1]
    parts = []
    for first, last in ((0, per_user), (per_user, per_user + 1), (per_user + 1, per_user + 2)):
        items = drawn[:, first:last]
        users = np.repeat(np.arange(num_users), items.shape[1])
        parts.append(Interactions.of(users, items.reshape(-1), num_users=num_users, num_items=num_items))
    features = {}
    for name, size in (("image", 8), ("audio", 4)):
        centres = generator.normal(size=(num_tastes, size))
        vectors = centres[kinds] + 0.5 * generator.normal(size=(num_items, size))
        features[name] = torch.from_numpy(vectors).float()
    return RecommendationData(train=parts[0], validation=parts[1], test=parts[2], features=features)


def synthetic_recommender(
    *, backbone: Any = "vbpr", seed: int = 0, **sizes: int
) -> tuple[MultiModalRecommender, RecommendationData]:
    """A model for generated interactions, with their vectors and graph, not trained.

    Args:
        backbone: As in the configuration. Default: `"vbpr"`.
        seed: Seed of model and data. Default: 0.
        sizes: Arguments of `synthetic_interactions`.

    Returns:
        Model and data.
    """
    data = synthetic_interactions(seed=seed, **sizes)
    torch.manual_seed(seed)
    model = MultiModalRecommender(
        MultiModalRecommenderConfig(
            num_users=data.train.num_users,
            num_items=data.train.num_items,
            modality_sizes={name: vectors.shape[1] for name, vectors in data.features.items()},
            backbone=backbone,
            embedding_size=8,
        )
    )
    model.set_features(data.features)
    model.set_graph(torch.from_numpy(data.train.users), torch.from_numpy(data.train.items))
    return model, data
