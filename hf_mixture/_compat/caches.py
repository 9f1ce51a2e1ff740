"""The name of the keys and values of earlier tokens: `past_key_values`, and `cache` from transformers 5.24 on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from transformers.modeling_outputs import BaseModelOutputWithPast


CACHE_NAMES = ("cache", "past_key_values")
# What the installed transformers calls it in the arguments and outputs of its models.
CACHE_NAME = next(name for name in CACHE_NAMES if name in {field.name for field in fields(BaseModelOutputWithPast)})


def given_cache(inputs: Mapping[str, Any]) -> Any:
    """Return the cache that a model was called with, under either name: new versions still accept the old one.

    Args:
        inputs: Arguments of the call by name.

    Returns:
        The cache, or None.
    """
    return next((inputs[name] for name in CACHE_NAMES if inputs.get(name) is not None), None)


def returned_cache(output: Any) -> Any:
    """Return the cache in an output of a model.

    Args:
        output: What the model returned.

    Returns:
        The cache, or None.
    """
    return getattr(output, CACHE_NAME, None)
