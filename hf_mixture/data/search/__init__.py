"""Search of data mixtures: from a table of small runs to the mixture of the large one.

Searchers share one protocol: `ask` for trials, `tell` finished runs, `propose` a mixture. `search_mixture` is the one
call, for a table of runs or for proxies that are yet to run. LightGBM, BoTorch and scikit-learn are optional and
imported on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from hf_mixture.data.search.admire import AdmireSearch as AdmireSearch
    from hf_mixture.data.search.baselines import GridSearch as GridSearch
    from hf_mixture.data.search.baselines import RandomSearch as RandomSearch
    from hf_mixture.data.search.climb import ClimbSearch as ClimbSearch
    from hf_mixture.data.search.constraints import Constraints as Constraints
    from hf_mixture.data.search.dml import DMLSearch as DMLSearch
    from hf_mixture.data.search.entry import search_mixture as search_mixture
    from hf_mixture.data.search.entry import search_result as search_result
    from hf_mixture.data.search.loop import run_search as run_search
    from hf_mixture.data.search.protocol import Objective as Objective
    from hf_mixture.data.search.protocol import Run as Run
    from hf_mixture.data.search.protocol import Searcher as Searcher
    from hf_mixture.data.search.protocol import SearchResult as SearchResult
    from hf_mixture.data.search.protocol import Trial as Trial
    from hf_mixture.data.search.regmix import RegMixSearch as RegMixSearch
    from hf_mixture.data.search.table import RunTable as RunTable

_HOMES = {
    "AdmireSearch": "admire",
    "ClimbSearch": "climb",
    "Constraints": "constraints",
    "DMLSearch": "dml",
    "GridSearch": "baselines",
    "Objective": "protocol",
    "RandomSearch": "baselines",
    "RegMixSearch": "regmix",
    "Run": "protocol",
    "RunTable": "table",
    "SearchResult": "protocol",
    "Searcher": "protocol",
    "Trial": "protocol",
    "run_search": "loop",
    "search_mixture": "entry",
    "search_result": "entry",
}

__all__ = sorted(_HOMES)  # noqa: PLE0605 - the names come from one table


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
