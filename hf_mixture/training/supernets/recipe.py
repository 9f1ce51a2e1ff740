"""The recipe of a search for where to pool: what `hf-mixture supernets` reads, checks and saves next to its output."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from hf_mixture.training.commands import check_command
from hf_mixture.training.recipe import PlainRecipe
from hf_mixture.training.resolve import (
    OWNED_ARGUMENTS,
    check_folder_names,
    check_least,
    check_seeds,
    check_training_arguments,
    recipe_values,
)
from hf_mixture.training.strict import build, check_names


ASSIGNMENTS = ("balanced", "softmax", "uniform")
# Channels of the colours of images.
MODES = {"L": 1, "RGB": 3}


@dataclass(frozen=True, kw_only=True)
class ImageSpec:
    """The images.

    Args:
        name: `"digits"`, `"mnist"` or `"texture_shape"`, which need no download; otherwise what
            `datasets.load_dataset` takes: `"imagefolder"` or an id of the Hub.
        image_size: Pixels of a side; images are resized to it.
        options: Arguments of the set, or of `load_dataset`.
        image_column: Name of the images' column. Default: `"image"`.
        label_column: Name of the labels' column. Default: `"label"`.
        mode: Colours that images are converted to: `"L"` for 1 channel or `"RGB"` for 3. Default: as they are.
        num_validation: Images of `validation` that are cut from `train` where the set has no such split. Default:
            1000.
        num_test: The same for `test`. Default: 1000.
    """

    name: str
    image_size: int
    options: dict[str, Any] = field(default_factory=dict)
    image_column: str = "image"
    label_column: str = "label"
    mode: str | None = None
    num_validation: int = 1000
    num_test: int = 1000


@dataclass(frozen=True, kw_only=True)
class SearchSpec:
    """One way to search.

    Args:
        num_models: M, number of SuperNets.
        assignment: How a path finds its model: `"balanced"`, `"softmax"` or `"uniform"`. Default: `"balanced"`.
        max_temperature: tau at the end. Default: 100.
        max_steps: Optimizer steps. Default: those of `search`.
    """

    num_models: int
    assignment: str = "balanced"
    max_temperature: float = 100.0
    max_steps: int | None = None


@dataclass(frozen=True, kw_only=True)
class SuperNetsRecipe(PlainRecipe):
    """One run: every path trained alone, several searches, and how each of them ranks the paths.

    Args:
        name: Name of the run.
        output_dir: Where everything is written.
        images: The images.
        network: Fields of `PoolingResNetConfig` of all networks.
        searches: The searches, by name.
        publish: The search whose best path is trained once more, and published.
        search: Fields of `TrainingArguments` of a search; `max_steps` is required.
        alone: Those that differ when a path is trained alone; `max_steps` is required.
        published: Fields of `PoolingResNetConfig` that the published network has besides.
        num_scales: S, number of resolutions. Default: 3.
        validation_batch_size: Images that score a path after each step. Default: 64.
        seeds: Seeds of searches and networks. Default: 0.
        description: One paragraph for report and card.
    """

    name: str
    output_dir: str
    images: ImageSpec
    network: dict[str, Any]
    searches: dict[str, SearchSpec]
    publish: str
    search: dict[str, Any]
    alone: dict[str, Any]
    published: dict[str, Any] = field(default_factory=dict)
    num_scales: int = 3
    validation_batch_size: int = 64
    seeds: list[int] = field(default_factory=lambda: [0])
    description: str = ""

    @property
    def num_channels(self) -> int:
        """Channels of an image."""
        return int(self.network.get("num_channels", 3))

    def steps_of(self, search: str) -> int:
        """Optimizer steps of a search."""
        return int(self.searches[search].max_steps or self.search["max_steps"])


def resolve_supernets(text: str, *, overrides: Sequence[tuple[str, Any]] = (), smoke: bool = False) -> SuperNetsRecipe:
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
    check_command(values, "supernets")
    recipe = build(SuperNetsRecipe, values, "")
    check_folder_names("searches", recipe.searches)
    check_names([recipe.publish], recipe.searches, "the searches (publish)")
    check_seeds(recipe.seeds)
    _check_networks(recipe)
    for where, given in (("search", recipe.search), ("alone", recipe.alone)):
        check_training_arguments(given, where, OWNED_ARGUMENTS - {"train_sampling_strategy"})
    images = recipe.images
    if images.mode is not None:
        check_names([images.mode], MODES, "the modes (images.mode)")
        if MODES[images.mode] != recipe.num_channels:
            raise ValueError(
                f"images.mode={images.mode!r} has {MODES[images.mode]} channels and network.num_channels="
                f"{recipe.num_channels}; change one of them"
            )
    check_least(
        {
            "images.image_size": (images.image_size, 2 ** (recipe.num_scales - 1)),
            "images.num_validation": (images.num_validation, 1),
            "images.num_test": (images.num_test, 1),
            "validation_batch_size": (recipe.validation_batch_size, 1),
            **{f"searches.{name}.max_steps": (spec.max_steps, 1) for name, spec in recipe.searches.items()},
        }
    )
    return recipe


def _check_networks(recipe: SuperNetsRecipe) -> None:
    from hf_mixture.models.pooling_supernet.configuration_balanced_supernet import BalancedSuperNetConfig
    from hf_mixture.models.pooling_supernet.configuration_pooling_resnet import PoolingResNetConfig

    # The data decide the number of classes, and the search the path.
    known = {item.name for item in dataclasses.fields(PoolingResNetConfig)} - {"pooling_path"}
    for where, fields in (("network", recipe.network), ("published", recipe.published)):
        check_names(fields, known, where)
    try:
        PoolingResNetConfig(**recipe.network | recipe.published).check()
    except (TypeError, ValueError) as error:
        raise ValueError(f"network: {error}") from None
    for name, spec in recipe.searches.items():
        check_names([spec.assignment], ASSIGNMENTS, f"searches.{name}.assignment")
        try:
            BalancedSuperNetConfig(
                network_config=dict(recipe.network),
                num_scales=recipe.num_scales,
                num_models=spec.num_models,
                assignment=spec.assignment,
                max_temperature=spec.max_temperature,
            ).check()
        except (TypeError, ValueError) as error:
            raise ValueError(f"searches.{name}: {error}") from None
