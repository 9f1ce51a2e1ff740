"""The recipes of the parts: what a section says, and what the parts before it have made."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from hf_mixture.training.everything.recipe import EverythingRecipe
from hf_mixture.training.recipe import Recipe
from hf_mixture.training.resolve import resolve_recipe
from hf_mixture.training.search.recipe import SearchRecipe
from hf_mixture.training.search.resolve import resolve_search
from hf_mixture.training.spread.recipe import SpreadRecipe
from hf_mixture.training.spread.resolve import resolve_spread
from hf_mixture.training.strict import apply_override


if TYPE_CHECKING:
    from hf_mixture.data.curation.recipe import CurationRecipe
    from hf_mixture.moe.mwq.config import MwqConfig

# A token is a byte, in all parts: what one part makes, the next one reads.
TOKENIZER = {"train_bpe": {"vocab_size": 257}}
QUANTISED = "models/quantised"


def curation_of(recipe: EverythingRecipe) -> CurationRecipe:
    """The recipe of the curation."""
    from hf_mixture.data.curation.recipe import FORMAT, VERSION, CurationRecipe

    head = {"format": FORMAT, "version": VERSION, "name": recipe.name, "seed": recipe.seed}
    head["description"] = recipe.description
    return _made("curate", recipe.curate, head, CurationRecipe.from_dict)


def search_of(recipe: EverythingRecipe, domains: Mapping[str, str]) -> SearchRecipe:
    """The recipe of the search of a mixture.

    Args:
        recipe: The recipe.
        domains: Path of each domain.
    """
    floors = dict.fromkeys(domains, recipe.clusters.min_share)
    given = _shared(recipe, "search") | {"domains": dict(domains), "tokenizer": TOKENIZER}
    return _made("search", recipe.search, given | {"constraints.floors": floors}, _read(resolve_search))


def spread_of(recipe: EverythingRecipe, domains: Mapping[str, str], weights: Mapping[str, float]) -> SpreadRecipe:
    """The recipe of the training of the sparse model.

    Args:
        recipe: The recipe.
        domains: Path of each domain.
        weights: The shares that the training begins with.
    """
    given = _shared(recipe, "spread") | {"domains": dict(domains), "tokenizer": TOKENIZER}
    return _made("spread", recipe.spread, given | {"mixture": _mixture(weights)}, _read(resolve_spread))


def train_of(
    recipe: EverythingRecipe, domains: Mapping[str, str], weights: Mapping[str, float], base: str | Path
) -> Recipe:
    """The recipe of the training of the adapter.

    Args:
        recipe: The recipe.
        domains: Path of each domain.
        weights: Shares of the domains.
        base: Folder of the quantised model.
    """
    given = _shared(recipe, "train") | {"domains": dict(domains), "model": {"from_pretrained": str(base)}}
    return _made("train", recipe.train, given | {"adapt.mixture": _mixture(weights)}, _read(resolve_recipe))


def planes_of(recipe: EverythingRecipe, parts: str | None = None) -> MwqConfig:
    """How the sparse model is quantised.

    Args:
        recipe: The recipe.
        parts: Folder that keeps what is quantised, so that a run that was killed goes on.
    """
    from hf_mixture.moe.mwq.config import MwqConfig

    return _made("quantise", recipe.quantise, {"parts": parts}, lambda values: MwqConfig(**values))


def _shared(recipe: EverythingRecipe, part: str) -> dict[str, Any]:
    return {
        "name": f"{recipe.name}-{part}",
        "description": recipe.description,
        "output_dir": str(Path(recipe.output_dir, part)),
        "seed": recipe.seed,
        "block_size": recipe.block_size,
        "document_bytes": recipe.document_bytes,
        "evaluation": dataclasses.asdict(recipe.evaluation),
    }


def _mixture(weights: Mapping[str, float]) -> dict[str, Any]:
    return {"weights": dict(weights), "unit": "tokens"}


def _read(resolve: Callable[[str], Any]) -> Callable[[dict[str, Any]], Any]:
    return lambda values: resolve(yaml.safe_dump(values, sort_keys=False))


def _made(section: str, values: Mapping[str, Any], given: Mapping[str, Any], build: Callable[[Any], Any]) -> Any:
    """Build the recipe of a section, with what the run decides."""
    filled = copy.deepcopy(dict(values))
    for path, value in given.items():
        here: Any = values
        for key in path.split("."):
            here = here.get(key) if isinstance(here, Mapping) else None
        if here is not None:
            raise ValueError(f"{section} has {path!r}, which the run decides; remove it")
        apply_override(filled, path, value)
    try:
        return build(filled)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{section}: {error}") from None
