"""Building routers for a model and putting them in their places.

Letters: H hidden, E experts.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from hf_mixture._compat.experts import padding_problem
from hf_mixture._compat.torch import share_hooks
from hf_mixture.moe.anatomy import MoeRouter, UnsupportedRouterError, check_not_bound
from hf_mixture.moe.routers.base import RegistryRouter, RouterShape, router_class
from hf_mixture.moe.routers.context import RouterContext, contexts_of
from hf_mixture.moe.routers.registry import RouterInfo


def check_replaceable(router: MoeRouter) -> None:
    """Check that a router of the registry can do the work of a router.

    Args:
        router: The router of a model.

    Raises:
        UnsupportedRouterError: If its block expects more than the contract of transformers, with the reason.
        ValueError: If it is wrapped, sharded or without storage, or edits of experts are bound to it.
    """
    kind = _stock_class(router.module)

    def refuse(reason: str) -> UnsupportedRouterError:
        return UnsupportedRouterError(f"{kind.__name__} at {router.path} cannot be replaced: {reason}")

    if router.layout != "uniform":
        raise refuse(f"it does not return logits, weights and indices alone (layout {router.layout!r})")
    if router.num_choices != router.num_experts:
        raise refuse(f"its block has {router.num_choices - router.num_experts} choices that are no experts")
    # A selection bias that the block keeps and passes is part of what is replaced.
    passed = list(inspect.signature(kind.forward).parameters)[1:]
    more = [name for name in passed if name != "hidden_states" and not name.endswith("bias")]
    if more:
        raise refuse(f"its block also passes {', '.join(more)}")
    if getattr(router.block, router.path.rpartition(".")[2], None) is not router.module:
        raise ValueError(f"{router.path} is wrapped, as by PEFT; replace the routers of the bare model first")
    check_not_bound(router.module, router.path)
    if isinstance(router.module, RegistryRouter):
        return
    if router.weight is None or router.weight_module is not router.module:
        raise refuse("its gate is a module inside it, with parameters of its own")
    if router.weight.shape[0] != router.num_experts:
        raise refuse(f"its weight has {router.weight.shape[0]} rows for {router.num_experts} experts")
    if isinstance(router.weight, DTensor):
        raise ValueError(f"{router.path} is sharded; replace the routers before the model is distributed")


def build_router(info: RouterInfo, options: Mapping[str, Any], stock: MoeRouter) -> RegistryRouter:
    """Build the router that takes the place of another, on its device and in its type, without values.

    Args:
        info: Entry of the registry.
        options: A value for every option.
        stock: The router to replace.

    Returns:
        The new router.

    Raises:
        ValueError: If an option has a value that it cannot have here.
        UnsupportedRouterError: If the entry cannot work in this block, or tokens may get fewer than K experts, and
            the experts cannot deal with that.
    """
    reference = next(stock.module.parameters(), next(stock.block.parameters()))
    with torch.device(reference.device):
        router = router_class(info.name, _stock_class(stock.module))(_shape_of(stock), **options)
    router.to(reference.dtype).train(stock.module.training)
    router.options = dict(options)
    if (problem := router.block_problem(stock)) is not None:
        raise UnsupportedRouterError(f"the router {info.name!r} cannot work at {stock.path}: {problem}")
    if router.pads and (problem := padding_problem(stock.experts)) is not None:
        raise UnsupportedRouterError(
            f"the router {info.name!r} gives some tokens fewer experts than others, and at {stock.path} {problem}"
        )
    return router


def put(block: nn.Module, path: str, router: nn.Module) -> None:
    """Put a router in the place of another, hooks included.

    Args:
        block: The module around it.
        path: Path of the router.
        router: The new router.
    """
    name = path.rpartition(".")[2]
    before = getattr(block, name)
    share_hooks(before, router)
    if hasattr(before, "_hf_hook") and not hasattr(router, "_hf_hook"):
        from accelerate.hooks import add_hook_to_module

        add_hook_to_module(router, before._hf_hook)
    setattr(block, name, router)


def owners_of(model: nn.Module, routers: Sequence[MoeRouter]) -> list[PreTrainedModel]:
    """The innermost models around routers; their configurations describe them.

    Args:
        model: The model, wrapped or not.
        routers: Its routers.

    Returns:
        One model for each router.
    """
    owners: dict[int, PreTrainedModel] = {}
    for candidate in model.modules():
        if isinstance(candidate, PreTrainedModel):
            owners.update((id(module), candidate) for module in candidate.modules())
    return [owners[id(router.module)] for router in routers]


def attach_contexts(model: nn.Module, routers: Sequence[RegistryRouter], keys: tuple[str, ...]) -> list[Any]:
    """Give routers one context, which every model around them fills.

    Args:
        model: The model, wrapped or not.
        routers: Its new routers.
        keys: Keys of the batch they read.

    Returns:
        Handles; the `remove` of each detaches one model.
    """
    if not keys:
        return []
    context = RouterContext(keys)
    for router in routers:
        router.context = context
    handles: list[Any] = []
    for candidate in model.modules():
        if isinstance(candidate, PreTrainedModel) and context in contexts_of(candidate):
            handles += context.attach(candidate)
    return handles


def _shape_of(router: MoeRouter) -> RouterShape:
    if isinstance(router.module, RegistryRouter):
        return router.module.shape
    assert router.weight is not None  # noqa: S101 - `check_replaceable` has asked
    return RouterShape(
        num_experts=router.num_experts,
        hidden_size=router.weight.shape[1],
        top_k=router.top_k,
        layer=router.layer or 0,
    )


def _stock_class(module: nn.Module) -> type[nn.Module]:
    return module.stock_class if isinstance(module, RegistryRouter) else type(module)
