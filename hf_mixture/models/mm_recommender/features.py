"""Modality vectors of items: joined, normalised, and filled where an item has none.

Letters: I items, F feature size, M modalities.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor


if TYPE_CHECKING:
    from hf_mixture.models.mm_recommender.configuration_mm_recommender import MultiModalRecommenderConfig


def join_features(
    config: MultiModalRecommenderConfig, features: Mapping[str, Tensor], has_modality: Mapping[str, Tensor] | None
) -> tuple[Tensor, Tensor]:
    """Check the vectors of all modalities, L2-normalise them and put them side by side.

    Args:
        config: The configuration.
        features: Vectors by modality [I, size].
        has_modality: Flags by modality [I]. Default: whether a vector has a number but zero.

    Returns:
        Features [I, F], zero where an item lacks a modality, and flags [I, M].

    Raises:
        ValueError: If a modality is missing or unknown, or a shape or a value does not fit.
    """
    if set(features) != set(config.modality_sizes):
        raise ValueError(
            f"features has the modalities {sorted(features)}; the configuration names {sorted(config.modality_sizes)}"
        )
    columns, flags = [], []
    for name, size in config.modality_sizes.items():
        vectors = torch.as_tensor(features[name], dtype=torch.float32)
        if vectors.shape != (config.num_items, size):
            raise ValueError(
                f"features[{name!r}] has the shape {tuple(vectors.shape)}; it must be ({config.num_items}, {size})"
            )
        if not vectors.isfinite().all():
            raise ValueError(f"features[{name!r}] has values that are not finite; mark missing vectors by zeros")
        present = vectors.any(dim=1)
        if has_modality is not None:
            present &= torch.as_tensor(has_modality[name], dtype=torch.bool)
        columns.append(torch.nn.functional.normalize(vectors) * present[:, None])
        flags.append(present)
    return torch.cat(columns, dim=1), torch.stack(flags, dim=1)


def fill_missing(config: MultiModalRecommenderConfig, features: Tensor, has_modality: Tensor) -> Tensor:
    """Give items without a modality the mean vector of the items that have it.

    Args:
        config: The configuration.
        features: [I, F].
        has_modality: [I, M].

    Returns:
        Features [I, F]; zero in a modality that no item has.

    Example:
        >>> import torch
        >>> from hf_mixture import MultiModalRecommenderConfig
        >>> from hf_mixture.models.mm_recommender.features import fill_missing
        >>> config = MultiModalRecommenderConfig(num_items=3, modality_sizes={"image": 1})
        >>> fill_missing(config, torch.tensor([[1.0], [3.0], [9.0]]), torch.tensor([[True], [True], [False]])).tolist()
        [[1.0], [3.0], [2.0]]
    """
    filled = features.clone()
    for column, name in enumerate(config.modality_sizes):
        place, there = config.modality_slice(name), has_modality[:, column]
        mean = features[there, place].sum(dim=0) / there.sum().clamp(min=1)
        filled[:, place] = features[:, place].where(there[:, None], mean)
    return filled
