"""The methods that a recipe may name: searches over proxies, and callbacks that change the mixture during one run."""

from __future__ import annotations

import inspect
from typing import Any


# Name of a method -> its callback in hf_mixture.data.online.
ONLINE = {"aioli": "AioliCallback"}


def online_callback(name: str) -> Any:
    """Return the callback class of an online method."""
    from hf_mixture.data import online

    return getattr(online, ONLINE[name])


def online_settings(name: str) -> list[str]:
    """Return the names of the settings of an online method that a recipe may give."""
    given = ("self", "seed", "validation")
    return [item for item in inspect.signature(online_callback(name)).parameters if item not in given]
