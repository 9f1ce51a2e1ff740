"""The trajectories of a MixER run."""

from __future__ import annotations

from typing import Any

from hf_mixture.training.mixer.recipe import CollectionSpec, MixerRecipe


def load_collection(recipe: MixerRecipe, name: str) -> Any:
    """Simulate a collection, or read it from the cache.

    Args:
        recipe: The recipe.
        name: Name of the collection.

    Returns:
        The splits, as `load_dynamics` gives them.
    """
    from hf_mixture.models.mixer.dynamics import load_dynamics

    spec = recipe.collections[name]
    return load_dynamics(name, seed=recipe.data_seed, num_train=spec.num_train, num_test=spec.num_test)


def trained_times(spec: CollectionSpec, num_times: int) -> slice:
    """The times that training sees.

    Args:
        spec: The collection.
        num_times: Number of times of a trajectory.

    Returns:
        Their places.
    """
    return slice(0, max(2, round(spec.trained_share * num_times)), spec.every)


def training_batch_rows(spec: CollectionSpec, data: Any) -> list[dict[str, Any]]:
    """The rows of training, as tensors, without the times that training does not see.

    Args:
        spec: The collection.
        data: A split.

    Returns:
        One row for each trajectory.
    """
    import torch

    rows = []
    for row in data:
        seen = trained_times(spec, len(row["times"]))
        rows.append(
            {
                "initial_state": torch.tensor(row["initial_state"]),
                "times": torch.tensor(row["times"])[seen],
                "labels": torch.tensor(row["labels"])[seen],
                "env_ids": torch.tensor(row["env_ids"]),
            }
        )
    return rows


def families_of(data: Any) -> list[str]:
    """The family of each environment; two groups of the same equation that do not adjoin count as two.

    Args:
        data: A split.

    Returns:
        Names, by environment.
    """
    names: dict[int, str] = dict(zip(data["env_ids"], data["family"], strict=True))
    families: list[str] = []
    used: dict[str, int] = {}
    for place, environment in enumerate(sorted(names)):
        name = names[environment]
        if place == 0 or name != names[environment - 1]:
            used[name] = used.get(name, 0) + 1
        families.append(name if used[name] == 1 else f"{name}_{used[name]}")
    return families
