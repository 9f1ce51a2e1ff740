"""What a model must not carry when its routers or experts are changed, because it would not see the change."""

from __future__ import annotations

from torch import nn


# Set by torch.compile, by Module.compile, and by generate where it compiles.
_COMPILED = ("_orig_mod", "_compiled_call_impl", "_compiled_call")


class BoundToRouter:
    """A forward hook that computes with the router it was made for, so that this router must stay in its place."""


def check_not_bound(router: nn.Module, path: str) -> None:
    """Check that a router may leave its place.

    Args:
        router: The router.
        path: Its path.

    Raises:
        ValueError: If edits of experts are bound to it.
    """
    hooks = (getattr(hook, "__self__", hook) for hook in router._forward_hooks.values())
    if any(isinstance(hook, BoundToRouter) for hook in hooks):
        raise ValueError(
            f"the experts of {path} are tuned by a patch that is bound to this router; undo it with "
            "untune_experts(model), and tune the experts again afterwards"
        )


def check_not_compiled(model: nn.Module, reason: str) -> None:
    """Check that no part of a model runs compiled code.

    Args:
        model: The model.
        reason: What goes wrong otherwise, and the remedy.

    Raises:
        ValueError: If a part is compiled.
    """
    for module in model.modules():
        if any(getattr(module, name, None) is not None for name in _COMPILED):
            raise ValueError(f"{type(module).__name__} is compiled, {reason}")
