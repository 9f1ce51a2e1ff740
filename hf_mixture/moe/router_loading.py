"""Restoring the routers of the registry in models that are loaded: what `import hf_mixture` registers.

The registry itself is imported when the first model asks for it.
"""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedModel

from hf_mixture._compat.model_init import before_weights, initialise_own_modules


# The key of a model configuration that names a router.
CONFIG_KEY = "moe_router"


def register_router_loading() -> None:
    """Restore the routers of the registry in every model whose configuration names one. Idempotent."""
    before_weights(_restore)
    initialise_own_modules()


def _restore(model: PreTrainedModel) -> None:
    if _names_a_router(model.config):
        from hf_mixture.moe.routers.persist import restore_routers

        restore_routers(model)


def _names_a_router(config: Any) -> bool:
    """Whether a configuration, or one inside it, names a router."""
    if getattr(config, CONFIG_KEY, None) is not None:
        return True
    return any(_names_a_router(getattr(config, name, None)) for name in getattr(config, "sub_configs", ()))
