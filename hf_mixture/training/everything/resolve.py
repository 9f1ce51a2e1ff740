"""From the text of a recipe through all rooms to a checked `EverythingRecipe`: every rule that needs no data."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from hf_mixture.training.commands import check_command
from hf_mixture.training.everything.links import curation_of, planes_of, search_of, spread_of, train_of
from hf_mixture.training.everything.recipe import EverythingRecipe
from hf_mixture.training.resolve import check_arguments, check_least, recipe_values
from hf_mixture.training.search.methods import ONLINE
from hf_mixture.training.strict import build


if TYPE_CHECKING:
    from hf_mixture.moe.mwq.config import MwqConfig
    from hf_mixture.training.recipe import Recipe
    from hf_mixture.training.spread.recipe import SpreadRecipe


def resolve_everything(
    text: str, *, overrides: Sequence[tuple[str, Any]] = (), smoke: bool = False
) -> EverythingRecipe:
    """Read a recipe through all rooms; what is given later wins: the file, its `smoke` section, `overrides`.

    Args:
        text: The YAML text. Its top-level key `smoke` maps key paths to the values of a run of seconds.
        overrides: Pairs of key path and value.
        smoke: Whether to apply the `smoke` section.

    Returns:
        The checked recipe.

    Raises:
        ValueError: If a key is unknown, a value has the wrong type or breaks a rule, in any of the parts.
    """
    from hf_mixture.data.clustering.ppp import ProbabilisticPartition
    from hf_mixture.moe.mote.edit import OFF_MODES

    values = recipe_values(text, overrides=overrides, smoke=smoke)
    check_command(values, "everything")
    recipe = build(EverythingRecipe, values, "")
    least = {"size": 1, "max_chars": 1, "min_rows": 1}
    limits: dict[str, tuple[float | None, float]] = {
        **{f"clusters.{name}": (getattr(recipe.clusters, name), bound) for name, bound in least.items()},
        **{f"edits.{name}": (getattr(recipe.edits, name), 1) for name in ("num_off", "num_prompts", "prompt_chars")},
        **{f"evaluation.{name}": (value, 1) for name, value in dataclasses.asdict(recipe.evaluation).items()},
    }
    check_least(limits)
    if not 0 < recipe.clusters.min_share <= 0.5:
        raise ValueError(f"clusters.min_share is {recipe.clusters.min_share}; it must lie in (0, 0.5]")
    check_arguments("clusters.partition", recipe.clusters.partition, ProbabilisticPartition)
    if recipe.edits.mode not in OFF_MODES:
        raise ValueError(f"edits.mode is {recipe.edits.mode!r}; choose one of {', '.join(OFF_MODES)}")
    if recipe.hub is not None and re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", recipe.hub) is None:
        raise ValueError(f"hub is {recipe.hub!r}; give OWNER/NAME, or leave it out")
    _check_parts(recipe)
    return recipe


def _check_parts(recipe: EverythingRecipe) -> None:
    """Check every part, with two domains in the place of those that clustering is going to find."""
    domains = {"cluster_0": "cluster_0", "cluster_1": "cluster_1"}
    weights = dict.fromkeys(domains, 0.5)
    curation_of(recipe)
    search = search_of(recipe, domains)
    if search.method.name in ONLINE:
        raise ValueError(
            f"search.method.name is {search.method.name!r}, which changes the mixture during one run; name it in "
            "spread.online, and here a method with proxies, for example regmix"
        )
    spread = spread_of(recipe, domains, weights)
    planes = planes_of(recipe)
    train = train_of(recipe, domains, weights, "base")
    if len(train.adapters) != 1 or None in train.adapters.values():
        raise ValueError(f"train.adapters has {list(train.adapters)}; give one adapter, with its peft_type")
    [(name, adapter)] = train.adapters.items()
    if adapter.get("target_parameters"):
        raise ValueError(
            f"train.adapters.{name} has target_parameters, and the experts that they name are planes by then; give "
            "target_modules alone"
        )
    _check_model(recipe, spread, planes, train)


def _check_model(recipe: EverythingRecipe, spread: SpreadRecipe, planes: MwqConfig, train: Recipe) -> None:
    """Check planes, adapter and edits against the sparse model, without its weights."""
    import torch
    from transformers import AutoModelForCausalLM

    from hf_mixture.moe.anatomy import find_routers
    from hf_mixture.moe.mwq.targets import find_targets
    from hf_mixture.training.models import config_of
    from hf_mixture.training.plan import num_trainable
    from hf_mixture.training.spread.plan import check_layouts

    config = config_of(spread.model, vocab_size=257, separator=0, block_size=recipe.block_size)
    check_layouts(spread.systems, config, "spread.systems")
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    try:
        find_targets(model, planes)
    except ValueError as error:
        raise ValueError(f"quantise: {error}") from None
    for name, adapter in train.adapters.items():
        try:
            num_trainable(model, name, adapter)
        except ValueError as error:
            raise ValueError(f"train: {error}") from None
    num_experts = sum(router.num_experts for router in find_routers(model))
    if recipe.edits.num_off >= num_experts:
        raise ValueError(f"edits.num_off is {recipe.edits.num_off}, of {num_experts} experts; lower it")
