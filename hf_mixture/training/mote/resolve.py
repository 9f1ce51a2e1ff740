"""From the text of a recipe of expert edits to a checked `MoteRecipe`: every rule that needs no data."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from hf_mixture.moe.mote.evaluation import MIN_DRAWS
from hf_mixture.moe.mote.resonance import STATISTICS
from hf_mixture.moe.mote.scorers import SCORERS
from hf_mixture.training.commands import check_command
from hf_mixture.training.mote.recipe import AFFINITIES, MoteRecipe
from hf_mixture.training.resolve import (
    OWNED_ARGUMENTS,
    check_arguments,
    check_least,
    check_model_config,
    check_seeds,
    check_training_arguments,
    recipe_values,
)
from hf_mixture.training.strict import build, check_names


# The seed of a run is one of `seeds`; there is no held-out loss: answers are compared.
OWNED = OWNED_ARGUMENTS | {"seed", "data_seed", "eval_strategy", "eval_steps"}
# What the words decide.
OWNED_OF_MODEL = frozenset({"bos_token_id", "eos_token_id", "pad_token_id"})
# Under these modes an expert can be switched off.
OFF_MODES = ("reroute", "zero_renorm", "zero", "logit_mask")


def resolve_mote(text: str, *, overrides: Sequence[tuple[str, Any]] = (), smoke: bool = False) -> MoteRecipe:
    """Read a recipe of expert edits; what is given later wins: the file, its `smoke` section, `overrides`.

    Args:
        text: The YAML text. Its top-level key `smoke` maps key paths to the values of a run of seconds.
        overrides: Pairs of key path and value.
        smoke: Whether to apply the `smoke` section.

    Returns:
        The checked recipe.

    Raises:
        ValueError: If a key is unknown, a value has the wrong type or breaks a rule.
    """
    from hf_mixture.moe.routers.loss_callback import RouterLoss

    values = recipe_values(text, overrides=overrides, smoke=smoke)
    check_command(values, "mote run")
    recipe = build(MoteRecipe, values, "")
    check_model_config(recipe.model, "model")
    for name in recipe.model:
        if name in OWNED_OF_MODEL:
            raise ValueError(f"model has {name!r}, which the tokenizer decides; remove it")
    for stage in ("pretrain", "finetune"):
        check_training_arguments(getattr(recipe, stage), stage, OWNED)
    if recipe.losses:
        check_arguments("losses", recipe.losses, RouterLoss)
    _check_numbers(recipe)
    _check_edits(recipe)
    check_names([recipe.scan.scorer], SCORERS, "scan.scorer")
    check_names([recipe.scan.statistic], STATISTICS, "scan.statistic")
    if recipe.chosen is not None:
        check_names([recipe.chosen.affinity], AFFINITIES, "chosen.affinity")
        if not 0 < recipe.chosen.coverage <= 1:
            raise ValueError(f"chosen.coverage is {recipe.chosen.coverage}; it is a share, in (0, 1]")
    return recipe


def _check_numbers(recipe: MoteRecipe) -> None:
    questions = recipe.questions
    counts = {name: value for name, value in dataclasses.asdict(questions).items() if name.startswith("num_")}
    limits = {f"questions.{name}": (value, 1) for name, value in counts.items()}
    limits |= {"batch_size": (recipe.batch_size, 1)}
    if recipe.scan.last_tokens is not None:
        limits["scan.last_tokens"] = (recipe.scan.last_tokens, 1)
    if recipe.chosen is not None:
        limits["chosen.num_experts"] = (recipe.chosen.num_experts, 1)
    check_least(limits)
    num_facts = questions.num_entities * questions.num_relations
    if questions.num_scanned >= num_facts:
        raise ValueError(
            f"questions.num_scanned is {questions.num_scanned}; it must be below the {num_facts} facts, so that some "
            "are left to measure the edits with"
        )
    check_seeds(recipe.seeds)
    if not recipe.trained or not all(recipe.trained):
        raise ValueError(f"trained is {recipe.trained}; give at least one part of the names of parameters")


def _check_edits(recipe: MoteRecipe) -> None:
    edits = recipe.edits
    for name in ("num_off", "num_on"):
        numbers = getattr(edits, name)
        if not numbers or min(numbers) < 1 or len(set(numbers)) < len(numbers):
            raise ValueError(
                f"edits.{name} is {numbers}; give at least one number of experts, each once, none below 1"
            )
    check_names(edits.modes, OFF_MODES, "edits.modes")
    if not edits.modes:
        raise ValueError(f"edits.modes is empty; name at least one of {', '.join(OFF_MODES)}")
    if edits.num_draws < MIN_DRAWS:
        raise ValueError(f"edits.num_draws is {edits.num_draws}; it must be at least {MIN_DRAWS}")
    # A constant weight would need a value.
    check_names([edits.force_weight], ("own", "max"), "edits.force_weight")
    if edits.baked not in edits.num_off:
        raise ValueError(f"edits.baked is {edits.baked}; it must be one of edits.num_off, {edits.num_off}")
