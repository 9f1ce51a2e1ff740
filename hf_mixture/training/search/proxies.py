"""The small runs that a search learns from."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_mixture.training.search.data import SearchData
from hf_mixture.training.search.recipe import ProxyRunSpec, SearchRecipe


if TYPE_CHECKING:
    from hf_mixture.data.proxy import ProxySpec
    from hf_mixture.data.search import Run, Trial


class RecipeRunner:
    """Trains and scores the proxies of a recipe; finished ones are in the journal of the folder.

    Args:
        recipe: The recipe.
        proxy: Its `proxy`.
        data: The data of the search.
        folder: Where the journal of the proxies is kept.
    """

    def __init__(self, recipe: SearchRecipe, proxy: ProxyRunSpec, data: SearchData, folder: Path) -> None:
        from hf_mixture.data.proxy import ProxyRunner, ProxySwarm

        names = recipe.domain_names
        spec = proxy_spec(recipe, proxy, vocab_size=len(data.tokenizer()), separator=data.separator)
        build = ProxySwarm if recipe.swarm else ProxyRunner
        self.domains = names
        self.proxies = build(
            spec, data.blocks("train", names), data.blocks("validation", (*names, *recipe.targets)), folder=folder
        )

    def run(self, trials: Sequence[Trial]) -> list[Run]:
        """Run the trials; `loss/mean` is the mean over the domains, targets left out."""
        runs = []
        for run in self.proxies.run(trials):
            mean = float(np.mean([run.metrics[f"loss/{name}"] for name in self.domains]))
            runs.append(dataclasses.replace(run, metrics={**run.metrics, "loss/mean": mean}))
        return runs


def proxy_spec(recipe: SearchRecipe, proxy: ProxyRunSpec, *, vocab_size: int, separator: int) -> ProxySpec:
    """Build the proxy experiment of a recipe.

    Args:
        recipe: The recipe.
        proxy: Its `proxy`.
        vocab_size: Tokens of the tokenizer.
        separator: Id of the token between documents.

    Returns:
        The experiment.

    Raises:
        ValueError: If a value breaks its rule.
    """
    from hf_mixture.data.proxy import ProxySpec

    tokens: dict[str, Any] = {"vocab_size": vocab_size, "bos_token_id": separator, "eos_token_id": separator}
    model = {"max_position_embeddings": recipe.block_size, **proxy.model, **tokens, "pad_token_id": None}
    given = {item.name: getattr(proxy, item.name) for item in dataclasses.fields(proxy) if item.name != "model"}
    return ProxySpec(model=model, seed=recipe.seed, **given)
