"""Online mixing: weights that are chosen while the stock `Trainer` trains.

`MixingLawCallback` is the scheme (estimator, solver, rounds); the other callbacks are instances of it. The pure layer
(`effects`, `updates`, `solvers`) needs NumPy only.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from hf_mixture.data.online.aioli import AioliCallback as AioliCallback
    from hf_mixture.data.online.callback import MixingLawCallback as MixingLawCallback
    from hf_mixture.data.online.doge import DoGECallback as DoGECallback
    from hf_mixture.data.online.doremi import DoReMiCallback as DoReMiCallback
    from hf_mixture.data.online.effects import similarity as similarity
    from hf_mixture.data.online.history import plot_losses as plot_losses
    from hf_mixture.data.online.history import plot_weights as plot_weights
    from hf_mixture.data.online.history import read_history as read_history
    from hf_mixture.data.online.odm import ODMCallback as ODMCallback
    from hf_mixture.data.online.skillit import SkillItCallback as SkillItCallback

_HOMES = {
    "AioliCallback": "aioli",
    "DoGECallback": "doge",
    "DoReMiCallback": "doremi",
    "MixingLawCallback": "callback",
    "ODMCallback": "odm",
    "SkillItCallback": "skillit",
    "plot_losses": "history",
    "plot_weights": "history",
    "read_history": "history",
    "similarity": "effects",
}

__all__ = sorted(_HOMES)  # noqa: PLE0605 - the names come from one table


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
