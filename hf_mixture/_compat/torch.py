"""Private calls of torch."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel


def current_graph_task() -> int:
    """Number of the backward pass that runs on this thread.

    Every call of the autograd engine has its own number, also one made inside another (reentrant checkpointing).

    Returns:
        A number that this process never gives to another backward pass, or -1 outside of one.
    """
    return torch._C._current_graph_task_id()


def in_functorch_transform() -> bool:
    """Whether the call runs inside a transform of `torch.func` (vmap, grad, jvp, ...).

    Returns:
        True inside a transform.
    """
    return torch._C._are_functorch_transforms_active()


def ddp_in_forward() -> DistributedDataParallel | None:
    """The DDP module whose forward is running, the innermost one where they are nested.

    Returns:
        The module, or None outside of a DDP forward.
    """
    return DistributedDataParallel._get_active_ddp_module()


_HOOKS = (
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_backward_hooks",
    "_backward_pre_hooks",
)


def share_hooks(source: nn.Module, target: nn.Module) -> None:
    """Let a module run the forward and backward hooks of another, those registered later on either one included.

    Args:
        source: A module with hooks, such as those with which transformers records router logits.
        target: The module that takes its place; its own hooks are dropped.
    """
    for name in _HOOKS:
        setattr(target, name, getattr(source, name))
    # Some hooks change the way the module calls them; this is noted beside them.
    target._is_full_backward_hook = source._is_full_backward_hook
