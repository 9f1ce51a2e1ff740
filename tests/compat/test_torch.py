"""The private calls of torch that the package relies on."""

from __future__ import annotations

import torch
from torch.utils.checkpoint import checkpoint

from hf_mixture._compat.torch import current_graph_task, in_functorch_transform


def test_graph_tasks_have_their_own_numbers():
    seen = []

    def watch(grad):
        seen.append(current_graph_task())

    def block(x):
        y = x * 2
        if y.requires_grad:  # not so in the first forward of reentrant checkpointing
            y.register_hook(watch)
        return y * 3

    x = torch.ones(2, requires_grad=True)
    inner = checkpoint(block, x, use_reentrant=True)
    outer = block(x)
    (inner + outer).sum().backward()
    block(x).sum().backward()
    assert current_graph_task() == -1
    assert len(seen) == len(set(seen)) == 3
    assert min(seen) >= 0


def test_transforms_are_seen():
    inside = []

    def function(x):
        inside.append(in_functorch_transform())
        return x.sum()

    torch.func.vmap(function)(torch.ones(2, 2))
    torch.func.grad(function)(torch.ones(2))
    assert inside == [True, True]
    assert not in_functorch_transform()
