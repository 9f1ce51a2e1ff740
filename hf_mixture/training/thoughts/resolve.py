"""From the text of a recipe of thoughts to a checked `ThoughtsRecipe`: every rule that needs no data."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from hf_mixture.training.commands import check_command
from hf_mixture.training.recipe import source_of
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
from hf_mixture.training.thoughts.recipe import ExpertSpec, ThoughtsRecipe


# The seed of a run is that of the recipe, or one of `seeds`.
OWNED = OWNED_ARGUMENTS | {"seed", "data_seed"}
# Documents are read as text and scored in bits per byte, at every `eval_steps`.
OWNED_OF_TUNE = OWNED | {"eval_strategy", "learning_rate", "prediction_loss_only", "remove_unused_columns"}
# What the experts decide.
OWNED_OF_THOUGHTS = frozenset({"experts", "references", "prompt_encoder", "prompt_encoder_reference"})
# The rank is what makes the control as large as the mixture.
OWNED_OF_LORA = frozenset({"r", "lora_alpha", "peft_type", "task_type", "rank_pattern", "alpha_pattern"})


def resolve_thoughts(text: str, *, overrides: Sequence[tuple[str, Any]] = (), smoke: bool = False) -> ThoughtsRecipe:
    """Read a recipe of thoughts; what is given later wins: the file, its `smoke` section, `overrides`.

    Args:
        text: The YAML text. Its top-level key `smoke` maps key paths to the values of a run of seconds.
        overrides: Pairs of key path and value.
        smoke: Whether to apply the `smoke` section.

    Returns:
        The checked recipe.

    Raises:
        ValueError: If a key is unknown, a value has the wrong type or breaks a rule.
    """
    values = recipe_values(text, overrides=overrides, smoke=smoke)
    check_command(values, "thoughts")
    recipe = build(ThoughtsRecipe, values, "")
    check_folder_names("domains", recipe.domains)
    for name, source in recipe.domains.items():
        source_of(name, source)
    _check_numbers(recipe)
    _check_documents(recipe)
    check_folder_names("experts", recipe.experts)
    if len(recipe.experts) < 2:
        raise ValueError(f"experts has only {next(iter(recipe.experts))!r}; a mixture needs at least two")
    for name, expert in recipe.experts.items():
        _check_expert(recipe, name, expert)
    if recipe.new_experts and recipe.pretrain is None:
        raise ValueError(f"experts.{recipe.new_experts[0]} is new and the recipe has no 'pretrain'; add it")
    if recipe.pretrain is not None:
        check_training_arguments(recipe.pretrain, "pretrain", OWNED)
    check_training_arguments(recipe.tune, "tune", OWNED_OF_TUNE)
    _check_thoughts(recipe)
    _check_lora(recipe)
    return recipe


def _check_numbers(recipe: ThoughtsRecipe) -> None:
    limits = {"block_size": (recipe.block_size, 2), "seed": (recipe.seed, 0)}
    if recipe.document_bytes is not None:
        limits["document_bytes"] = (recipe.document_bytes, 1)
    counts = {name: value for name, value in dataclasses.asdict(recipe.documents).items() if name != "kinds"}
    limits |= {f"documents.{name}": (value, 1) for name, value in counts.items()}
    limits |= {f"evaluation.{name}": (value, 1) for name, value in dataclasses.asdict(recipe.evaluation).items()}
    check_least(limits)
    check_seeds(recipe.seeds)
    if not recipe.learning_rates or min(recipe.learning_rates) <= 0:
        raise ValueError(f"learning_rates is {recipe.learning_rates}; give at least one rate, all above 0")


def _check_documents(recipe: ThoughtsRecipe) -> None:
    documents = recipe.documents
    check_folder_names("documents.kinds", documents.kinds)
    for kind, domains in documents.kinds.items():
        if not domains:
            raise ValueError(f"documents.kinds.{kind} is empty; name the domains that take turns")
        check_names(domains, recipe.domains, f"documents.kinds.{kind}")
    if documents.prompt_segments >= documents.num_segments:
        raise ValueError(
            f"documents.prompt_segments is {documents.prompt_segments}; it must be below num_segments, "
            f"{documents.num_segments}, so that something is left to predict"
        )


def _check_expert(recipe: ThoughtsRecipe, name: str, expert: ExpertSpec) -> None:
    where = f"experts.{name}"
    if (expert.from_pretrained is None) == (expert.from_config is None):
        raise ValueError(f"{where} needs exactly one of from_pretrained and from_config")
    if expert.from_config is None:
        if expert.mixture is not None or expert.tokenizer.train_bpe or expert.tokenizer.from_pretrained:
            raise ValueError(f"{where} is pretrained and has its own tokenizer; remove mixture and tokenizer")
        return
    if expert.revision is not None:
        raise ValueError(f"{where}.revision is {expert.revision!r}, but a new model has none; remove it")
    check_model_config(expert.from_config, f"{where}.from_config")
    if (expert.tokenizer.from_pretrained is None) == (expert.tokenizer.train_bpe is None):
        raise ValueError(f"{where}.tokenizer needs exactly one of from_pretrained and train_bpe")
    if expert.tokenizer.train_bpe is not None and expert.tokenizer.train_bpe.vocab_size < 257:
        size = expert.tokenizer.train_bpe.vocab_size
        raise ValueError(f"{where}.tokenizer.train_bpe.vocab_size is {size}; it must be at least 257")
    if expert.mixture is None:
        raise ValueError(f"{where} is new and has no 'mixture' to be trained on; add it")
    check_names(expert.mixture.weights, recipe.domains, f"{where}.mixture.weights")
    recipe.expert_recipe(name).mixture("adapt")


def _check_thoughts(recipe: ThoughtsRecipe) -> None:
    from hf_mixture.models.mixture_of_thoughts.configuration_mixture_of_thoughts import MixtureOfThoughtsConfig

    known = set(MixtureOfThoughtsConfig.__annotations__)
    for name in recipe.thoughts:
        if name in OWNED_OF_THOUGHTS:
            raise ValueError(f"thoughts has {name!r}, which the experts decide; remove it")
    check_names(recipe.thoughts, known - OWNED_OF_THOUGHTS, "thoughts")
    active = recipe.thoughts.get("num_active_experts", len(recipe.experts))
    if not isinstance(active, int) or not 2 <= active <= len(recipe.experts):
        raise ValueError(
            f"thoughts.num_active_experts is {active!r}; it must be from 2 to {len(recipe.experts)}, the number of "
            "experts: the control with 1 is trained anyhow"
        )


def _check_lora(recipe: ThoughtsRecipe) -> None:
    from peft import LoraConfig

    for name in recipe.lora:
        if name in OWNED_OF_LORA:
            raise ValueError(f"lora has {name!r}, which the size of the mixture decides; remove it")
    check_names(recipe.lora, {item.name for item in dataclasses.fields(LoraConfig)} - OWNED_OF_LORA, "lora")
