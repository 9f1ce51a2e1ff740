"""The private calls of torch that the package relies on."""

from __future__ import annotations

import torch
from torch.utils.checkpoint import checkpoint

from hf_mixture._compat.torch import current_graph_task, in_functorch_transform, share_hooks


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


def test_shared_hooks_run_on_both_modules_and_end_together():
    old, new = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    seen = []
    first = old.register_forward_hook(lambda *_: seen.append("forward"))
    old.register_full_backward_hook(lambda *_: seen.append("backward"))
    share_hooks(old, new)
    second = new.register_forward_pre_hook(lambda *_, **__: seen.append("before"), with_kwargs=True)
    for module in (old, new):
        module(torch.ones(1, 2, requires_grad=True)).sum().backward()
    assert seen == ["before", "forward", "backward"] * 2
    first.remove()
    second.remove()
    new(torch.ones(1, 2, requires_grad=True)).sum().backward()
    assert seen == ["before", "forward", "backward"] * 2 + ["backward"]
