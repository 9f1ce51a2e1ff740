"""From the text of a D2MoE recipe to a checked `MwqRecipe`: every rule that needs no data."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from hf_mixture.training.commands import check_command
from hf_mixture.training.mwq.recipe import MwqRecipe
from hf_mixture.training.recipe import source_of
from hf_mixture.training.resolve import (
    OWNED_ARGUMENTS,
    check_folder_names,
    check_least,
    check_model_config,
    check_training_arguments,
    recipe_values,
)
from hf_mixture.training.strict import build, check_names


OWNED = OWNED_ARGUMENTS | {"seed", "data_seed"}


def resolve_mwq(text: str, *, overrides: Sequence[tuple[str, Any]] = (), smoke: bool = False) -> MwqRecipe:
    """Read a D2MoE recipe; what is given later wins: the file, its `smoke` section, `overrides`.

    Args:
        text: The YAML text. Its top-level key `smoke` maps key paths to the values of a run of seconds.
        overrides: Pairs of key path and value.
        smoke: Whether to apply the `smoke` section.

    Returns:
        The checked recipe.

    Raises:
        ValueError: If a key is unknown, a value has the wrong type or breaks a rule.
    """
    from hf_mixture.moe.mwq.config import MwqConfig

    values = recipe_values(text, overrides=overrides, smoke=smoke)
    check_command(values, "mwq run")
    recipe = build(MwqRecipe, values, "")
    check_folder_names("domains", recipe.domains)
    for name, source in recipe.domains.items():
        source_of(name, source)
    check_names(recipe.mixture.weights, recipe.domains, "mixture.weights")
    recipe.data_recipe().mixture("adapt")
    if (recipe.tokenizer.from_pretrained is None) == (recipe.tokenizer.train_bpe is None):
        raise ValueError("tokenizer needs exactly one of from_pretrained and train_bpe")
    check_model_config(recipe.model, "model")
    check_training_arguments(recipe.pretrain, "pretrain", OWNED)
    check_training_arguments(recipe.bit_routers.training_arguments, "bit_routers.training_arguments", OWNED)
    _check_numbers(recipe)
    try:
        MwqConfig(recipe.planes.widths, recipe.planes.group_size)
    except ValueError as error:
        raise ValueError(f"planes: {error}") from None
    return recipe


def _check_numbers(recipe: MwqRecipe) -> None:
    limits: dict[str, tuple[float, float]] = {
        "block_size": (recipe.block_size, 2),
        "seed": (recipe.seed, 0),
        "load_balance": (recipe.load_balance, 0),
    }
    if recipe.document_bytes is not None:
        limits["document_bytes"] = (recipe.document_bytes, 1)
    if recipe.tokenizer.train_bpe is not None:
        # The 256 bytes and the separator.
        limits["tokenizer.train_bpe.vocab_size"] = (recipe.tokenizer.train_bpe.vocab_size, 257)
    limits |= {f"evaluation.{name}": (value, 1) for name, value in dataclasses.asdict(recipe.evaluation).items()}
    limits |= {f"speed.{name}": (getattr(recipe.speed, name), 1) for name in ("prompt_tokens", "new_tokens")}
    # Medians of rounds.
    limits["speed.rounds"] = (recipe.speed.rounds, 2)
    check_least(limits)
    for name in ("budget", "tight_budget"):
        value = getattr(recipe.speed, name)
        if not 0 < value <= 1:
            raise ValueError(f"speed.{name} is {value}; it is a part of all experts at 8 bits, above 0 and at most 1")
    spec = recipe.bit_routers
    if not spec.alphas or any(not 0 <= alpha < float("inf") for alpha in spec.alphas):
        raise ValueError(f"bit_routers.alphas is {spec.alphas}; give one or more numbers >= 0")
    if len(set(spec.alphas)) < len(spec.alphas):
        raise ValueError(f"bit_routers.alphas is {spec.alphas}; name each price once")
    first, last = recipe.planes.widths[0], recipe.planes.widths[-1]
    if not first <= spec.average_bits <= last:
        raise ValueError(f"bit_routers.average_bits is {spec.average_bits}; it lies between {first} and {last}")
