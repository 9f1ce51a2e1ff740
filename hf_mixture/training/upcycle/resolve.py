"""From the text of an upcycling recipe to a checked `UpcycleRecipe`: every rule that needs no data."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from hf_mixture.training.commands import check_command
from hf_mixture.training.recipe import source_of
from hf_mixture.training.resolve import (
    OWNED_ARGUMENTS,
    check_arguments,
    check_folder_names,
    check_least,
    check_model_config,
    check_seeds,
    check_training_arguments,
    recipe_values,
)
from hf_mixture.training.strict import build, check_names
from hf_mixture.training.upcycle.recipe import RouterSpec, UpcycleRecipe


DENSE = "dense"
# The seed of a run is that of the recipe, or one of `seeds`.
OWNED = OWNED_ARGUMENTS | {"seed", "data_seed"}


def resolve_upcycle(text: str, *, overrides: Sequence[tuple[str, Any]] = (), smoke: bool = False) -> UpcycleRecipe:
    """Read an upcycling recipe; what is given later wins: the file, its `smoke` section, `overrides`.

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
    check_command(values, "upcycle")
    recipe = build(UpcycleRecipe, values, "")
    check_folder_names("domains", recipe.domains)
    for name, source in recipe.domains.items():
        source_of(name, source)
    check_names(recipe.mixture.weights, recipe.domains, "mixture.weights")
    recipe.data_recipe().mixture("adapt")
    _check_numbers(recipe)
    if (recipe.tokenizer.from_pretrained is None) == (recipe.tokenizer.train_bpe is None):
        raise ValueError("tokenizer needs exactly one of from_pretrained and train_bpe")
    check_model_config(recipe.dense, "dense")
    for stage in ("pretrain", "continued"):
        check_training_arguments(getattr(recipe, stage), f"{stage}", OWNED)
    _check_routers(recipe)
    return recipe


def _check_numbers(recipe: UpcycleRecipe) -> None:
    limits: dict[str, tuple[float, float]] = {"block_size": (recipe.block_size, 2), "seed": (recipe.seed, 0)}
    if recipe.document_bytes is not None:
        limits["document_bytes"] = (recipe.document_bytes, 1)
    if recipe.tokenizer.train_bpe is not None:
        # The 256 bytes and the separator.
        limits["tokenizer.train_bpe.vocab_size"] = (recipe.tokenizer.train_bpe.vocab_size, 257)
    limits |= {f"evaluation.{name}": (value, 1) for name, value in dataclasses.asdict(recipe.evaluation).items()}
    limits |= {f"upcycle.{name}": (getattr(recipe.upcycle, name), 1) for name in ("num_experts", "top_k")}
    limits |= {"upcycle.granularity": (recipe.upcycle.granularity, 1), "upcycle.noise": (recipe.upcycle.noise, 0)}
    check_least(limits)
    check_seeds(recipe.seeds)
    inits = ("random", "orthogonal", "grouped") if recipe.upcycle.granularity > 1 else ("random", "orthogonal")
    check_names([recipe.upcycle.router_init], inits, "upcycle.router_init")


def _check_routers(recipe: UpcycleRecipe) -> None:
    from hf_mixture.moe.routers import router_info

    check_folder_names("routers", recipe.routers)
    if DENSE in recipe.routers:
        raise ValueError(f"a router is called {DENSE!r}, as the row of the dense model is; choose another name")
    for name, spec in recipe.routers.items():
        where = f"routers.{name}"
        try:
            info = router_info(spec.router)
            info.resolve(spec.options)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None
        if not info.causal:
            raise ValueError(
                f"{where}: the choice of the router {info.name!r} for a token depends on later tokens, and the model "
                "predicts next tokens; choose a causal router, as hf-mixture list --routers names them"
            )
        _check_balance(where, spec)


def _check_balance(where: str, spec: RouterSpec) -> None:
    if spec.losses:
        from hf_mixture.moe.routers.loss_callback import RouterLoss

        check_arguments(f"{where}.losses", spec.losses, RouterLoss)
    if spec.bias is not None:
        from hf_mixture.moe.routers.balance import LossFreeBalanceCallback

        check_arguments(f"{where}.bias", spec.bias, LossFreeBalanceCallback)
