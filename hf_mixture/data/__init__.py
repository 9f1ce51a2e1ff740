"""Mixtures of data: what to mix (`Mixture`), the plan, and the datasets made from it.

The names below resolve on first use, so that importing this package imports nothing heavy.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from hf_mixture.data.domains import load_domain as load_domain
    from hf_mixture.data.domains import load_domains as load_domains
    from hf_mixture.data.domains import split_by_domain as split_by_domain
    from hf_mixture.data.installed import installed_packages as installed_packages
    from hf_mixture.data.interleave import interleave_datasets as interleave_datasets
    from hf_mixture.data.mixture import Mixture as Mixture
    from hf_mixture.data.source import Source as Source

_MODULES = {
    "Mixture": "mixture",
    "Source": "source",
    "installed_packages": "installed",
    "interleave_datasets": "interleave",
    "load_domain": "domains",
    "load_domains": "domains",
    "split_by_domain": "domains",
}

__all__ = sorted(_MODULES)  # noqa: PLE0605 - the names come from one table


def __getattr__(name: str) -> Any:
    module = _MODULES.get(name)
    if module is None:
        raise AttributeError(f"module 'hf_mixture.data' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"hf_mixture.data.{module}"), name)
    globals()[name] = value
    return value
