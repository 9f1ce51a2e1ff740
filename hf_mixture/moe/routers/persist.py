"""Routers of the registry in saved models: a key of the configuration, and what restores them.

`replace_routers` writes `config.moe_router = {"format": 1, "name": ..., "options": {...}}` into the configuration of
the model that owns the routers, the text part of a composite one. Every way to construct a model from such a
configuration then replaces its routers before weights are drawn or loaded, so that stock `save_pretrained` and
`from_pretrained` are all that is needed.
"""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedModel

from hf_mixture._compat.experts import skip_padding
from hf_mixture._compat.model_init import keep_float32
from hf_mixture.moe.anatomy import UnsupportedRouterError, find_routers
from hf_mixture.moe.router_loading import CONFIG_KEY
from hf_mixture.moe.routers.base import RegistryRouter
from hf_mixture.moe.routers.context import contexts_of
from hf_mixture.moe.routers.place import attach_contexts, build_router, check_replaceable, put
from hf_mixture.moe.routers.registry import router_info


_FORMAT = 1


def write_spec(config: Any, name: str, options: dict[str, Any]) -> None:
    """Note a router in a configuration.

    Args:
        config: Configuration of the model that owns the routers.
        name: Name of the router.
        options: A JSON value for every option.
    """
    setattr(config, CONFIG_KEY, {"format": _FORMAT, "name": name, "options": options})


def read_spec(config: Any) -> tuple[str, dict[str, Any]] | None:
    """Read what a configuration says about routers.

    Args:
        config: Configuration of a model.

    Returns:
        Name and options, or None if it says nothing.

    Raises:
        ValueError: If it says something else than this version writes.
    """
    spec = getattr(config, CONFIG_KEY, None)
    if spec is None:
        return None
    known = isinstance(spec, dict) and set(spec) == {"format", "name", "options"}
    if not known or not isinstance(spec["name"], str) or not isinstance(spec["options"], dict):
        raise ValueError(
            f"config.{CONFIG_KEY}={spec!r} must be {{'format': {_FORMAT}, 'name': ..., 'options': {{...}}}}; let "
            "replace_routers write it"
        )
    if spec["format"] != _FORMAT:
        raise ValueError(
            f"config.{CONFIG_KEY} has format {spec['format']!r}, and this version of hf_mixture reads {_FORMAT}; "
            "install the version that wrote it"
        )
    return spec["name"], spec["options"]


def restore_routers(model: PreTrainedModel) -> None:
    """Replace the routers of a model that is being constructed as its configuration says.

    Args:
        model: A model with all its modules, on any device, "meta" included.

    Raises:
        ValueError: If the configuration names an unknown router or options it cannot have.
        UnsupportedRouterError: If the model has no routers, or routers that cannot be replaced, or expert parallelism
            that does not suit the new ones.
    """
    _restore(model)
    _check_spread(model)


def _restore(model: PreTrainedModel) -> None:
    # The models inside this one have restored their routers, and only need to be told of its batches.
    for context in contexts_of(model):
        context.attach(model)
    spec = read_spec(model.config)
    if spec is None:
        return
    info = router_info(spec[0])
    options = info.resolve(spec[1])
    stock = [router for router in find_routers(model) if not isinstance(router.module, RegistryRouter)]
    for router in stock:
        check_replaceable(router)
    new = [build_router(info, options, router) for router in stock]
    for old, made in zip(stock, new, strict=True):
        put(old.block, old.path, made)
        made.connect(old)
        if made.pads and old.experts is not None:
            skip_padding(old.experts)
        keep_float32(model, made.float32_tensors)
    attach_contexts(model, new, info.context)


def _check_spread(model: PreTrainedModel) -> None:
    """Refuse expert parallelism that takes the index E, no expert, for one."""
    spread: Any = getattr(model.config, "distributed_config", None)
    # The experts of a rank skip the choices that are not theirs, and so those that are none.
    if getattr(spread, "ep_size", 1) == 1 or spread.ep_implementation == "all_reduce":
        return
    for module in model.modules():
        if isinstance(module, RegistryRouter) and module.pads:
            raise UnsupportedRouterError(
                f"the router {module.info.name!r} gives some tokens fewer experts than others, and expert parallelism "
                f"(ep_size={spread.ep_size}, ep_implementation={spread.ep_implementation!r}) sends every choice to an "
                "expert; load the model without ep_size, or with ep_implementation='all_reduce' and tp_size=ep_size"
            )
