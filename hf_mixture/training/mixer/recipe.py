"""The recipe of a MixER run: what `hf-mixture mixer` reads, checks and saves next to its output."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from hf_mixture.training.commands import check_command
from hf_mixture.training.recipe import PlainRecipe
from hf_mixture.training.resolve import (
    OWNED_ARGUMENTS,
    check_arguments,
    check_folder_names,
    check_least,
    check_seeds,
    check_training_arguments,
    recipe_values,
)
from hf_mixture.training.strict import build, check_names


# What the data decide.
_OF_THE_DATA = ("num_envs", "state_size")


@dataclass(frozen=True, kw_only=True)
class CollectionSpec:
    """A collection of environments, and what of it is learned from.

    Args:
        trained_share: Share of the times of a trajectory that training sees, from its beginning. Default: all.
        every: Training sees every n-th of these times. Default: 1.
        num_train: Trajectories of an environment in training. Default: as published.
        num_test: Trajectories of an environment in the tests. Default: as published.
        candidates: Names of the systems that are trained on it. Default: all.
        seeds: Seeds of the models. Default: those of the recipe.
    """

    trained_share: float = 1.0
    every: int = 1
    num_train: int | None = None
    num_test: int | None = None
    candidates: list[str] = field(default_factory=list)
    seeds: list[int] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class AdaptationSpec:
    """How contexts of new environments are fitted.

    Args:
        num_steps: Optimizer steps. Default: 300.
        learning_rate: Learning rate. Default: 0.01.
    """

    num_steps: int = 300
    learning_rate: float = 0.01


@dataclass(frozen=True, kw_only=True)
class MixerRecipe(PlainRecipe):
    """One run: several systems learn the same trajectories with the same budget, and are compared on new ones.

    Args:
        name: Name of the run.
        output_dir: Where everything is written.
        collections: Collections of environments, by name; the first one is the comparison.
        candidates: Fields of `MixerConfig` of each system, by name; they win over `model`.
        publish: The system whose model of the first collection and seed gets a card.
        training: Fields of `TrainingArguments`; `max_steps` is required.
        model: Fields of `MixerConfig` that all systems have.
        schedule: Fields of `MixerSchedule`.
        adaptation: How contexts of new environments are fitted.
        seeds: Seeds of the models. Default: 0.
        data_seed: Seed of the initial states. Default: 0.
        description: One paragraph for report and card.
    """

    name: str
    output_dir: str
    collections: dict[str, CollectionSpec]
    candidates: dict[str, dict[str, Any]]
    publish: str
    training: dict[str, Any]
    model: dict[str, Any] = field(default_factory=dict)
    schedule: dict[str, Any] = field(default_factory=dict)
    adaptation: AdaptationSpec = field(default_factory=AdaptationSpec)
    seeds: list[int] = field(default_factory=lambda: [0])
    data_seed: int = 0
    description: str = ""

    @property
    def runs(self) -> list[tuple[str, str, int]]:
        """Collection, system and seed of each model, in the order of training."""
        return [
            (name, system, seed)
            for name, spec in self.collections.items()
            for seed in spec.seeds or self.seeds
            for system in spec.candidates or self.candidates
        ]


def resolve_mixer(text: str, *, overrides: Sequence[tuple[str, Any]] = (), smoke: bool = False) -> MixerRecipe:
    """Read a recipe; what is given later wins: the file, its `smoke` section, `overrides`.

    Args:
        text: The YAML text.
        overrides: Pairs of key path and value.
        smoke: Whether to apply the `smoke` section.

    Returns:
        The checked recipe.

    Raises:
        ValueError: If a key is unknown, a value has the wrong type or breaks a rule.
    """
    from hf_mixture.models.mixer.configuration_mixer import MixerConfig
    from hf_mixture.models.mixer.dynamics import NAMES
    from hf_mixture.models.mixer.trainer import MixerSchedule

    values = recipe_values(text, overrides=overrides, smoke=smoke)
    check_command(values, "mixer")
    recipe = build(MixerRecipe, values, "")
    check_folder_names("collections", recipe.collections)
    check_folder_names("candidates", recipe.candidates)
    check_names(recipe.collections, [name for name in NAMES if name != "dysts"], "collections")
    check_names([recipe.publish], recipe.candidates, "the candidates (publish)")
    check_seeds(recipe.seeds)
    for name, spec in recipe.collections.items():
        where = f"collections.{name}"
        check_names(spec.candidates, recipe.candidates, f"{where}.candidates")
        check_least({f"{where}.{key}": (getattr(spec, key), 1) for key in ("every", "num_train", "num_test")})
        if not 0 < spec.trained_share <= 1:
            raise ValueError(f"{where}.trained_share is {spec.trained_share}; it must be above 0 and at most 1")
        if spec.seeds:
            check_seeds(spec.seeds)
    first = next(iter(recipe.collections.values()))
    if first.candidates and recipe.publish not in first.candidates:
        raise ValueError(f"publish={recipe.publish!r} is no candidate of the first collection; name one")
    known = {item.name for item in dataclasses.fields(MixerConfig)} - set(_OF_THE_DATA)
    for where, fields in (("model", recipe.model), *((f"candidates.{k}", v) for k, v in recipe.candidates.items())):
        check_names(fields, known, where)
    for name, fields in recipe.candidates.items():
        try:
            MixerConfig(**{**recipe.model, **fields, "num_envs": 1000}).check_sizes()
        except (TypeError, ValueError) as error:
            raise ValueError(f"candidates.{name}: {error}") from None
    check_arguments("schedule", recipe.schedule, MixerSchedule)
    check_training_arguments(recipe.training, "training", OWNED_ARGUMENTS - {"save_strategy"})
    check_least({"adaptation.num_steps": (recipe.adaptation.num_steps, 1), "data_seed": (recipe.data_seed, 0)})
    if not recipe.adaptation.learning_rate > 0:
        raise ValueError(f"adaptation.learning_rate is {recipe.adaptation.learning_rate}; it must be above 0")
    return recipe
