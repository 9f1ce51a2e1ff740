"""Names of the parts of a run, and the paths that it is about."""

from __future__ import annotations

from typing import Any

from hf_mixture.training.supernets.recipe import SuperNetsRecipe


PUBLISHED = "published"


def alone_part(index: int, seed: int) -> str:
    """Name of the part that trains one path alone."""
    return f"alone-{index}-{seed}"


def search_part(name: str, seed: int) -> str:
    """Name of the part that searches in one way."""
    return f"{name}-{seed}"


def paths_of_recipe(recipe: SuperNetsRecipe) -> list[Any]:
    """All paths of the search space, in order."""
    from hf_mixture.models.pooling_supernet.configuration_pooling_resnet import PoolingResNetConfig
    from hf_mixture.models.pooling_supernet.paths import enumerate_paths

    return enumerate_paths(PoolingResNetConfig(**recipe.network).num_layers, recipe.num_scales)
