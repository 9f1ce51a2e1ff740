"""Keys and values computed under other edits must not be continued: a check in the forward of the model."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from hf_mixture._compat.caches import CACHE_NAME, given_cache, returned_cache


_MARK = "_hf_mixture_edition"
_editions = itertools.count(1)


class CacheGuard:
    """Hooks that refuse a cache which another set of edits, or none, has filled.

    They see the cache of keys and values that the model of transformers is called with, outside compiled code.
    """

    def __init__(self) -> None:
        self.edition = next(_editions)

    def install(self, model: nn.Module) -> None:
        """Watch the forward of a model."""
        model.register_forward_pre_hook(self.before, with_kwargs=True)
        model.register_forward_hook(self.after)

    def renew(self) -> None:
        """Refuse the caches that were filled until now."""
        self.edition = next(_editions)

    def before(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Refuse a cache of another edition; an empty one becomes part of this."""
        cache = given_cache(kwargs)
        if cache is None or torch.compiler.is_compiling() or not hasattr(cache, "get_seq_length"):
            return
        if getattr(cache, _MARK, None) == self.edition:
            return
        # Also one that was filled before, and emptied with `reset`.
        if int(cache.get_seq_length()) == 0:
            setattr(cache, _MARK, self.edition)
        else:
            raise ValueError(
                f"{CACHE_NAME} was filled under other expert edits than the present ones, and would mix the two; "
                "start with an empty cache"
            )

    def after(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """Mark a cache that the model made itself."""
        cache = returned_cache(output)
        if hasattr(cache, "get_seq_length") and not torch.compiler.is_compiling():
            setattr(cache, _MARK, self.edition)
