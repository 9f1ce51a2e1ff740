"""Methods that change the mixture during one run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hf_mixture.training.search.find import Found
from hf_mixture.training.search.recipe import SearchRecipe


def found_online(recipe: SearchRecipe, runs: Sequence[Mapping[str, Any]]) -> Found:
    """Average the shares that an online method chose, over rounds and seeds."""
    raise NotImplementedError
