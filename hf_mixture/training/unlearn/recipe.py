"""The recipe of an unlearning run: what `hf-mixture unlearn` reads, checks and saves next to its output."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from hf_mixture.training.commands import check_command
from hf_mixture.training.recipe import PlainRecipe
from hf_mixture.training.resolve import check_folder_names, check_least, check_seeds, recipe_values
from hf_mixture.training.strict import build, check_names


KINDS = ("users", "items", "interactions")
DATA = ("movielens", "npz", "synthetic")
# What the data decide.
_OF_THE_DATA = ("num_users", "num_items", "num_edges", "modality_sizes")


@dataclass(frozen=True, kw_only=True)
class DataSpec:
    """The interactions and modality vectors.

    Args:
        name: `"movielens"`, MovieLens-100K from the installed wheel of RecBole, with genres; `"npz"`, a file of
            arrays; or `"synthetic"`.
        path: The file of `"npz"`.
        num_users: Users of `"synthetic"`. Default: 120.
        num_items: Items of `"synthetic"`. Default: 80.
    """

    name: str
    path: str | None = None
    num_users: int = 120
    num_items: int = 80


@dataclass(frozen=True, kw_only=True)
class BackboneSpec:
    """A recommender, and how it is trained before and after a request.

    Args:
        num_steps: Optimizer steps of the original; a retrained model has as many passes over its interactions.
        learning_rate: Of Adam, in training. Default: 5e-3.
        batch_size: Pairs of a step. Default: 2048.
        model: Fields of `MultiModalRecommenderConfig`.
    """

    num_steps: int
    learning_rate: float = 5e-3
    batch_size: int = 2048
    model: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class RequestSpec:
    """What is asked for: a random share of things of one kind.

    Args:
        kind: `"users"`, `"items"` or `"interactions"`.
        share: Share of those that training has, above 0 and below 1.
        backbones: Names of the backbones that are asked. Default: all.
        seeds: Seeds. Default: those of the recipe.
    """

    kind: str
    share: float
    backbones: list[str] = field(default_factory=list)
    seeds: list[int] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class GridSpec:
    """What is tried on validation with the first seed.

    Args:
        weights: Retain weights of each schedule, which names an arm; the forget weight is the rest to 1. Default: 0.5,
            0.75 and 0.9 of `"sum"`.
        ascent_weights: Those of gradient ascent with a retain term. Default: 0.5 and 0.9.
        steps_share: Steps of an arm over those of the retrained model. Default: 0.1.
        learning_rate: Of Adam, in unlearning. Default: 5e-3.
        forget_batch: Forgotten pairs of a step. Default: 256.
        check_steps: Steps between two looks at the stop level in `"two_phase"`. Default: 5.
        utility_kept: Least validation recall of a setting that can be chosen, over that of the original. Default:
            0.97.
    """

    weights: dict[str, list[float]] = field(default_factory=lambda: {"sum": [0.5, 0.75, 0.9]})
    ascent_weights: list[float] = field(default_factory=lambda: [0.5, 0.9])
    steps_share: float = 0.1
    learning_rate: float = 5e-3
    forget_batch: int = 256
    check_steps: int = 5
    utility_kept: float = 0.97


@dataclass(frozen=True, kw_only=True)
class UnlearnRecipe(PlainRecipe):
    """One run: recommenders are asked to forget in several ways, and are compared with retrained ones.

    Args:
        name: Name of the run.
        output_dir: Where everything is written.
        data: The data.
        backbones: Recommenders, by name; the model of the first one, asked the first request, gets a card.
        requests: Requests, by name.
        grid: What is tried.
        num_shards: Numbers of shards of sharded retraining. Default: 4.
        num_sequential: Parts in which the first backbone is asked the first request, one after another; 0 for not at
            all. Default: 3.
        seeds: Seeds of models and requests. Default: 0.
        data_seed: Seed of the split where the data have none. Default: 0.
        k: Length of the lists. Default: 20.
        description: One paragraph for report and card.
    """

    name: str
    output_dir: str
    data: DataSpec
    backbones: dict[str, BackboneSpec]
    requests: dict[str, RequestSpec]
    grid: GridSpec = field(default_factory=GridSpec)
    num_shards: list[int] = field(default_factory=lambda: [4])
    num_sequential: int = 3
    seeds: list[int] = field(default_factory=lambda: [0])
    data_seed: int = 0
    k: int = 20
    description: str = ""

    @property
    def cases(self) -> list[tuple[str, str]]:
        """Backbone and request of each comparison, in order."""
        return [
            (backbone, name)
            for backbone in self.backbones
            for name, request in self.requests.items()
            if backbone in (request.backbones or self.backbones)
        ]

    def seeds_of(self, request: str) -> list[int]:
        """Seeds of a request, the first of which chooses the settings.

        Args:
            request: Its name.

        Returns:
            The seeds.
        """
        return self.requests[request].seeds or self.seeds


def resolve_unlearn(text: str, *, overrides: Sequence[tuple[str, Any]] = (), smoke: bool = False) -> UnlearnRecipe:
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
    values = recipe_values(text, overrides=overrides, smoke=smoke)
    check_command(values, "unlearn")
    recipe = build(UnlearnRecipe, values, "")
    check_folder_names("backbones", recipe.backbones)
    check_folder_names("requests", recipe.requests)
    check_names([recipe.data.name], DATA, "the data (data.name)")
    if (recipe.data.name == "npz") != (recipe.data.path is not None):
        raise ValueError(f"data.path is {recipe.data.path!r}; data of the name 'npz' need one, and only they")
    check_seeds(recipe.seeds)
    check_least({"data_seed": (recipe.data_seed, 0), "k": (recipe.k, 1), "num_sequential": (recipe.num_sequential, 0)})
    check_least({"num_shards": (min(recipe.num_shards, default=2), 2)})
    for name, request in recipe.requests.items():
        check_names([request.kind], KINDS, f"the kinds of requests (requests.{name}.kind)")
        check_names(request.backbones, recipe.backbones, f"requests.{name}.backbones")
        if not 0 < request.share < 1:
            raise ValueError(f"requests.{name}.share is {request.share}; it must be above 0 and below 1")
        if request.seeds:
            check_seeds(request.seeds)
    _check_backbones(recipe)
    _check_grid(recipe)
    return recipe


def _check_backbones(recipe: UnlearnRecipe) -> None:
    from hf_mixture.models.mm_recommender.configuration_mm_recommender import MultiModalRecommenderConfig

    known = {item.name for item in dataclasses.fields(MultiModalRecommenderConfig)} - set(_OF_THE_DATA)
    for name, backbone in recipe.backbones.items():
        where = f"backbones.{name}"
        check_least({f"{where}.{key}": (getattr(backbone, key), 1) for key in ("num_steps", "batch_size")})
        check_names(backbone.model, known, f"{where}.model")
        try:
            MultiModalRecommenderConfig(**backbone.model).check_sizes()
        except (TypeError, ValueError) as error:
            raise ValueError(f"{where}.model: {error}") from None
        if backbone.batch_size % recipe.grid.forget_batch:
            raise ValueError(
                f"{where}.batch_size={backbone.batch_size} must be a multiple of grid.forget_batch="
                f"{recipe.grid.forget_batch}; change one of them"
            )


def _check_grid(recipe: UnlearnRecipe) -> None:
    from hf_mixture.models.mm_recommender.options import SCHEDULES

    grid = recipe.grid
    check_names(grid.weights, SCHEDULES, "the schedules (grid.weights)")
    for where, weights in (
        ("grid.ascent_weights", grid.ascent_weights),
        *((f"grid.weights.{schedule}", weights) for schedule, weights in grid.weights.items()),
    ):
        if not weights or any(not 0 <= weight <= 1 for weight in weights):
            raise ValueError(f"{where} is {weights}; give at least one weight, each from 0 to 1")
    check_least({f"grid.{name}": (getattr(grid, name), 1) for name in ("forget_batch", "check_steps")})
    for name in ("steps_share", "learning_rate", "utility_kept"):
        if not getattr(grid, name) > 0:
            raise ValueError(f"grid.{name} is {getattr(grid, name)}; it must be above 0")
