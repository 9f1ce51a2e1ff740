"""The hooks of a patch on one router, and how they are found again in a model.

Each holds its own masks and no state of a forward pass beyond it, can be copied and pickled with the model, and keeps
out of the state dict.

Letters: T tokens, C classes that the selection ranks, K chosen.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from hf_mixture.moe.anatomy import BoundToRouter, MoeRouter
from hf_mixture.moe.anatomy.call_inputs import called_model
from hf_mixture.moe.mote.cache_guard import CacheGuard
from hf_mixture.moe.mote.interceptor import InterceptedForward
from hf_mixture.moe.mote.masks import RouterMasks
from hf_mixture.moe.mote.modes import choose, reweigh


class RouterHook(BoundToRouter):
    """A forward hook that routes again by the explicit rule, or changes weights, in the output of a router.

    Args:
        router: The router.
        masks: The edits.
        by_rule: Whether edits of the selection are done here; elsewhere `InterceptedForward` does them.
    """

    def __init__(self, router: MoeRouter, masks: RouterMasks, *, by_rule: bool) -> None:
        # Only what routing needs: a copy of the router alone must not bring its experts along.
        self.router = replace(router, block=router.module, experts=None)
        self.masks, self.by_rule = masks, by_rule

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        masks = self.masks
        chooses = self.by_rule and masks.chooses
        if not (chooses or masks.reweighs):
            return None
        logits, weights, indices = self.router.read(output)
        masks.follow(logits.device)
        if chooses:
            weights, indices = choose(self.router, logits, masks)
        if masks.reweighs:
            weights = reweigh(weights, indices, masks)
        return self.router.replace(output, weights=weights, indices=indices)

    def __deepcopy__(self, memo: dict[int, Any]) -> RouterHook:
        return _copied(self, memo)


class BlockHook(BoundToRouter):
    """The same for a router whose block makes the choice: reads logits, and rewrites the arguments of the experts.

    Args:
        router: The router; its experts are called as `experts(hidden, indices, weights)`.
        masks: The edits.
        by_rule: Whether edits of the selection are done here.
    """

    def __init__(self, router: MoeRouter, masks: RouterMasks, *, by_rule: bool) -> None:
        self.router = replace(router, block=router.module, experts=None)
        self.masks, self.by_rule = masks, by_rule
        self.logits: Tensor | None = None

    def at_router(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        """Keep the logits for the experts of the same block."""
        self.logits = output

    def at_experts(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        """Put other indices and weights in the arguments."""
        masks, logits = self.masks, self.logits
        chooses = self.by_rule and masks.chooses
        self.logits = None
        if logits is None or not (chooses or masks.reweighs):
            return None
        hidden, indices, weights, *rest = args
        masks.follow(logits.device)
        if chooses:
            weights, indices = choose(self.router, logits, masks)
        if masks.reweighs:
            weights = reweigh(weights, indices, masks)
        return (hidden, indices, weights.to(args[2].dtype), *rest)

    def __deepcopy__(self, memo: dict[int, Any]) -> BlockHook:
        return _copied(self, memo)


def _copied(hook: Any, memo: dict[int, Any]) -> Any:
    """Copy a hook for a copied model, or keep to the owner of the bias where that is not copied with the router."""
    import copy

    twin = object.__new__(type(hook))
    memo[id(hook)] = twin
    bias = hook.router.bias
    inside = bias is None or id(bias.module) in memo or bias.module in set(hook.router.module.modules())
    if not inside:
        memo[id(bias.module)] = bias.module
    for name, value in hook.__dict__.items():
        setattr(twin, name, copy.deepcopy(value, memo))
    if not inside:
        del memo[id(bias.module)]
    return twin


def patch_router(router: MoeRouter, *, intercept: bool) -> RouterMasks:
    """Hook one router.

    Args:
        router: The router.
        intercept: Whether its selection is edited inside its own code.

    Returns:
        The masks that the hooks obey.
    """
    weight = router.weight
    device = None if weight is None or weight.device == torch.device("meta") else weight.device
    masks = RouterMasks(router.num_choices, device)
    # First in the row, so that whoever observes the router sees the edited choice.
    if router.layout == "logits_only":
        hook = BlockHook(router, masks, by_rule=not intercept)
        assert router.experts is not None  # noqa: S101 - such a block exists only around experts
        router.module.register_forward_hook(hook.at_router, prepend=True)
        router.experts.register_forward_pre_hook(hook.at_experts, prepend=True)
    else:
        router.module.register_forward_hook(RouterHook(router, masks, by_rule=not intercept), prepend=True)
    if intercept:
        chooser = router.block if router.layout == "logits_only" else router.module
        InterceptedForward(chooser, router.path, masks).install()
    return masks


def _owner(hook: Any) -> Any:
    """The object of which a hook is a method, or the hook itself."""
    return getattr(hook, "__self__", hook)


def patches_of(model: nn.Module) -> Iterator[tuple[str, RouterMasks]]:
    """Find the patches of a model.

    Args:
        model: The model.

    Yields:
        Path of a router and its masks, once for each router module that has them.
    """
    for module in model.modules():
        for hook in module._forward_hooks.values():
            owner = _owner(hook)
            if isinstance(owner, RouterHook | BlockHook):
                yield owner.router.path, owner.masks


def guard_caches(model: nn.Module) -> None:
    """Refuse, from now on, the key-value caches that were filled until now.

    Args:
        model: The model.
    """
    hooks = [hook for module in model.modules() for hook in module._forward_pre_hooks.values()]
    guards = [owner for owner in map(_owner, hooks) if isinstance(owner, CacheGuard)]
    for guard in guards:
        guard.renew()
    if not guards:
        CacheGuard().install(called_model(model))


def remove_patches(model: nn.Module) -> None:
    """Take all hooks of patches off a model.

    Args:
        model: The model.
    """
    ours = (RouterHook, BlockHook, CacheGuard)
    for module in model.modules():
        for hooks in (module._forward_hooks, module._forward_pre_hooks):
            for key, hook in list(hooks.items()):
                if isinstance(_owner(hook), ours):
                    del hooks[key]
                    getattr(module, "_forward_pre_hooks_with_kwargs", {}).pop(key, None)
        # Under another attribute where a later wrapper, such as that of accelerate, has set it aside.
        for name, value in list(vars(module).items()):
            if isinstance(value, InterceptedForward):
                value.remove(name)
