"""How the loaders of accelerate treat a dataset that is split among the processes already."""

from __future__ import annotations

import sys
from typing import Any


def splits_among_processes(loader: Any) -> bool:
    """Whether an object of accelerate gives each process a part of what its dataset gives."""
    from accelerate import PartialState
    from accelerate.data_loader import DataLoaderDispatcher, IterableDatasetShard

    if isinstance(loader, IterableDatasetShard):
        return int(loader.num_processes) > 1
    return isinstance(loader, DataLoaderDispatcher) and int(PartialState().num_processes) > 1


def is_called_by_splitting_loader(depth: int) -> bool:
    """Whether the function `depth` frames up was called by such an object.

    A dataset cannot tell accelerate that it is split already; its loaders call `set_epoch` of the dataset before they
    read it, in the main process.
    """
    caller = sys._getframe(depth + 1)
    if caller.f_globals.get("__name__") != "accelerate.data_loader":
        return False
    return splits_among_processes(caller.f_locals.get("self"))
