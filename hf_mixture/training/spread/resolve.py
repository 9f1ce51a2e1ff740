"""From the text of a spread recipe to a checked `SpreadRecipe`: every rule that needs no data."""

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
    check_training_arguments,
    recipe_values,
)
from hf_mixture.training.search.methods import ONLINE, online_callback, online_settings
from hf_mixture.training.spread.recipe import SpreadRecipe, SystemSpec
from hf_mixture.training.strict import build, check_names


OWNED = OWNED_ARGUMENTS | {"seed", "data_seed", "logging_steps", "logging_strategy", "eval_strategy", "eval_steps"}
IMPLEMENTATIONS = ("all_to_all", "fssdp", "folded", "capacity")


def resolve_spread(text: str, *, overrides: Sequence[tuple[str, Any]] = (), smoke: bool = False) -> SpreadRecipe:
    """Read a spread recipe; what is given later wins: the file, its `smoke` section, `overrides`.

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
    check_command(values, "spread run")
    recipe = build(SpreadRecipe, values, "")
    check_folder_names("domains", recipe.domains)
    check_folder_names("systems", recipe.systems)
    for name, source in recipe.domains.items():
        source_of(name, source)
    check_names(recipe.mixture.weights, recipe.domains, "mixture.weights")
    recipe.data_recipe().mixture("adapt")
    if (recipe.tokenizer.from_pretrained is None) == (recipe.tokenizer.train_bpe is None):
        raise ValueError("tokenizer needs exactly one of from_pretrained and train_bpe")
    check_model_config(recipe.model, "model")
    check_training_arguments(recipe.pretrain, "pretrain", OWNED)
    limits: dict[str, tuple[float | None, float]] = {
        "block_size": (recipe.block_size, 2),
        "seed": (recipe.seed, 0),
        "tolerance": (recipe.tolerance, 0),
        "trace_every": (recipe.trace_every, 1),
    }
    limits |= {f"evaluation.{name}": (value, 1) for name, value in dataclasses.asdict(recipe.evaluation).items()}
    check_least(limits)
    _check_systems(recipe)
    _check_online(recipe)
    return recipe


def _check_online(recipe: SpreadRecipe) -> None:
    if recipe.online is None:
        return
    check_names([recipe.online.name], ONLINE, "the methods (online.name)")
    settings = recipe.online.settings
    check_names(settings, online_settings(recipe.online.name), f"online.settings of {recipe.online.name}")
    try:
        online_callback(recipe.online.name)(None, **settings)
    except (TypeError, ValueError) as error:
        raise ValueError(f"online.settings: {error}") from None
    if empty := [name for name in recipe.domains if not recipe.mixture.weights.get(name)]:
        raise ValueError(
            f"mixture.weights has no share of {empty[0]!r}, and {recipe.online.name} scales shares, which keeps 0 at "
            "0; give it one, or remove the domain"
        )


def _check_systems(recipe: SpreadRecipe) -> None:
    alone = [name for name, system in recipe.systems.items() if system.num_processes == 1]
    if len(alone) != 1:
        raise ValueError(f"systems has {len(alone)} with num_processes: 1; exactly one is what others are compared to")
    if recipe.publish not in recipe.systems:
        raise ValueError(f"publish is {recipe.publish!r}; name one of the systems, {', '.join(recipe.systems)}")
    batch = recipe.pretrain.get("per_device_train_batch_size", 8)
    for name, system in recipe.systems.items():
        where = f"systems.{name}"
        check_least({f"{where}.num_processes": (system.num_processes, 1), f"{where}.etp": (system.etp, 1)})
        if batch % system.num_processes:
            raise ValueError(
                f"{where}.num_processes is {system.num_processes}, which does not divide "
                f"pretrain.per_device_train_batch_size {batch}; all systems train on the same batches"
            )
        if system.ep_implementation not in IMPLEMENTATIONS:
            raise ValueError(
                f"{where}.ep_implementation is {system.ep_implementation!r}; known are {', '.join(IMPLEMENTATIONS)}"
            )
        if system.etp > 1 and system.ep_implementation not in ("folded", "capacity"):
            raise ValueError(f"{where}.etp is {system.etp}, which {system.ep_implementation} cannot do; use folded")
        options_of(system, where)


def options_of(system: SystemSpec, where: str) -> Any:
    """The options of a system, checked.

    Args:
        system: The system.
        where: Its place in the recipe, for messages.

    Returns:
        `FssdpOptions`, `CapacityOptions`, or None for implementations without options.

    Raises:
        ValueError: If there are options that the implementation does not have, or that are out of range.
    """
    from hf_mixture.moe.parallel.capacity import CapacityOptions
    from hf_mixture.moe.parallel.fssdp import FssdpOptions

    kind: Any = {"fssdp": FssdpOptions, "capacity": CapacityOptions}.get(system.ep_implementation)
    known = [] if kind is None else [item.name for item in dataclasses.fields(kind)]
    check_names(system.options, known, f"{where}.options")
    try:
        return None if kind is None else kind(**system.options)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}.options: {error}") from None
