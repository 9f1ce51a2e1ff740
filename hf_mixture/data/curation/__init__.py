"""Curation with provenance: the licence, the tier, the site and the wishes behind each document of a data set.

The names below resolve on first use, so that importing this package imports nothing heavy.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from hf_mixture.data.curation.curated import CuratedDataset as CuratedDataset
    from hf_mixture.data.curation.pipeline import curate as curate
    from hf_mixture.data.curation.recipe import CurationRecipe as CurationRecipe

_MODULES = {"CuratedDataset": "curated", "CurationRecipe": "recipe", "curate": "pipeline"}

__all__ = sorted(_MODULES)  # noqa: PLE0605 - the names come from one table


def __getattr__(name: str) -> Any:
    module = _MODULES.get(name)
    if module is None:
        raise AttributeError(f"module 'hf_mixture.data.curation' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"hf_mixture.data.curation.{module}"), name)
    globals()[name] = value
    return value
