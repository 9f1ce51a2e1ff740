"""Private calls of torch."""

from __future__ import annotations

import torch
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
