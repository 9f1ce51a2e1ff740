"""From the text of a search recipe to a checked `SearchRecipe`: every rule that needs no data."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hf_mixture.data.source import Source
from hf_mixture.training.commands import check_command
from hf_mixture.training.recipe import TokenizerSpec, source_of
from hf_mixture.training.resolve import (
    OWNED_ARGUMENTS,
    check_folder_names,
    check_least,
    check_model_config,
    check_training_arguments,
    recipe_values,
)
from hf_mixture.training.search.methods import ONLINE, online_settings
from hf_mixture.training.search.proxies import proxy_spec
from hf_mixture.training.search.recipe import SearchRecipe
from hf_mixture.training.strict import build, check_names


BASELINES = ("natural", "stratified")
# The weights and the order of a run are drawn with the seed of the repetition, and nothing but its end is scored.
OWNED = OWNED_ARGUMENTS | {"data_seed", "eval_steps", "eval_strategy", "seed"}
# Arguments of a searcher that come from other sections of the recipe.
GIVEN = frozenset({"constraints", "domains", "objective", "pool", "prior", "seed", "table"})


def resolve_search(text: str, *, overrides: Sequence[tuple[str, Any]] = (), smoke: bool = False) -> SearchRecipe:
    """Read a search recipe; what is given later wins: the file, its `smoke` section, `overrides`.

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
    check_command(values, "mix search")
    recipe = build(SearchRecipe, values, "")
    check_folder_names("domains", recipe.domains)
    _check_sources(recipe)
    if shared := sorted(set(recipe.domain_names) & set(recipe.targets)):
        raise ValueError(f"targets has {shared[0]!r}, which is a domain; a domain is scored anyway: remove it")
    if recipe.targets:
        check_folder_names("targets", recipe.targets)
    if len(recipe.domain_names) < 2:
        raise ValueError(f"domains has only {list(recipe.domain_names)}; a mixture needs at least two: add one")
    _check_numbers(recipe)
    _check_tokenizer(recipe.tokenizer)
    _check_objective(recipe)
    _check_method(recipe)
    _check_comparison(recipe)
    return recipe


def _check_sources(recipe: SearchRecipe) -> None:
    for name, values in recipe.targets.items():
        source_of(name, values)
    names: dict[Source, str] = {}
    for name, values in recipe.domains.items():
        source = source_of(name, values)
        place = replace(source, path=str(Path(source.path)))
        if place in names:
            raise ValueError(
                f"domains {names[place]} and {name} are the same ({source.path}), so no run can tell their shares "
                "apart; remove one"
            )
        names[place] = name


def _check_numbers(recipe: SearchRecipe) -> None:
    limits: dict[str, tuple[Any, float]] = {"block_size": (recipe.block_size, 2), "seed": (recipe.seed, 0)}
    limits |= {name: (getattr(recipe, name), 1) for name in ("document_bytes", "train_bytes")}
    limits |= {f"evaluation.{name}": (value, 1) for name, value in dataclasses.asdict(recipe.evaluation).items()}
    limits["method.batch"] = (recipe.method.batch, 1)
    limits["constraints.budget"] = (recipe.constraints.budget, 1)
    if recipe.clusters is not None:
        names = {"num_clusters": 2, "num_domains": 2, "max_chars": 1, "size": 1}
        limits |= {f"clusters.{name}": (getattr(recipe.clusters, name), least) for name, least in names.items()}
    check_least(limits)
    if recipe.clusters is not None and recipe.clusters.num_domains > recipe.clusters.num_clusters:
        raise ValueError(
            f"clusters.num_domains is {recipe.clusters.num_domains}, more than clusters.num_clusters, "
            f"{recipe.clusters.num_clusters}; clusters only merge: lower it"
        )
    epochs = recipe.constraints.max_epochs
    if epochs is not None and not epochs > 0:
        raise ValueError(f"constraints.max_epochs is {epochs}; it must be above 0")


def _check_tokenizer(tokenizer: TokenizerSpec) -> None:
    if (tokenizer.from_pretrained is None) == (tokenizer.train_bpe is None):
        raise ValueError("tokenizer needs exactly one of from_pretrained and train_bpe")
    if tokenizer.train_bpe is not None and tokenizer.train_bpe.vocab_size < 257:
        raise ValueError(
            f"tokenizer.train_bpe.vocab_size is {tokenizer.train_bpe.vocab_size}; it must be at least 257: the 256 "
            "bytes and the separator"
        )


def _check_objective(recipe: SearchRecipe) -> None:
    from hf_mixture.data.search import Objective

    metric = recipe.objective.metric
    parts = [metric] if isinstance(metric, str) else metric
    if not isinstance(parts, list | dict) or not parts:
        raise ValueError(f"objective.metric is {metric!r}; give the name of a metric, or weights by name")
    check_names(parts, recipe.metrics, "objective.metric")
    Objective(metric, recipe.objective.direction)  # type: ignore[arg-type]


def _check_method(recipe: SearchRecipe) -> None:
    from hf_mixture.data.search import Constraints
    from hf_mixture.data.search.entry import SEARCHES

    name, bounds = recipe.method.name, recipe.constraints
    Constraints(bounds.floors, bounds.caps, bounds.fixed).bounds(recipe.domain_names)
    if name not in SEARCHES and name not in ONLINE:
        check_names([name], [*SEARCHES, *ONLINE], "the methods (method.name)")
    if name in ONLINE:
        known = set(online_settings(name))
        if recipe.objective.metric != "loss/mean" or recipe.objective.direction != "minimize":
            raise ValueError(
                f"{name} lowers the mean loss of the domains, and the objective is {recipe.objective.direction} "
                f"{recipe.objective.metric}; set objective: {{metric: loss/mean, direction: minimize}}"
            )
        if recipe.proxy is not None or recipe.swarm:
            raise ValueError(f"{name} changes the mixture during one run and needs no proxies; remove proxy and swarm")
        if bounds.caps or bounds.fixed or bounds.max_epochs is not None:
            raise ValueError(f"{name} knows only floors; remove caps, fixed and max_epochs from constraints")
    else:
        known = set(inspect.signature(SEARCHES[name]).parameters) - GIVEN
        if recipe.proxy is None:
            raise ValueError(f"the recipe has no 'proxy', the small runs that {name} learns from; add it")
        check_model_config(recipe.proxy.model, "proxy.model")
        try:
            proxy_spec(recipe, recipe.proxy, vocab_size=257, separator=0)
        except ValueError as error:
            raise ValueError(f"proxy: {error}") from None
    check_names(recipe.method.settings, known, f"method.settings of {name}")


def _check_comparison(recipe: SearchRecipe) -> None:
    comparison = recipe.comparison
    check_model_config(comparison.model, "comparison.model")
    check_training_arguments(comparison.training_arguments, "comparison.training_arguments", OWNED)
    check_names(comparison.baselines, BASELINES, "comparison.baselines")
    for field in ("baselines", "seeds"):
        values = getattr(comparison, field)
        if not values or len(set(values)) < len(values):
            raise ValueError(f"comparison.{field} is {values}; give at least one, each once")
    if min(comparison.seeds) < 0:
        raise ValueError(f"comparison.seeds is {comparison.seeds}; a seed is at least 0")
