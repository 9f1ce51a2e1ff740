"""The small runs that a search learns from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hf_mixture.training.search.data import SearchData
from hf_mixture.training.search.recipe import SearchRecipe


def make_runner(recipe: SearchRecipe, data: SearchData, folder: Path) -> Any:
    """Build what trains and scores the proxies of a recipe."""
    raise NotImplementedError
