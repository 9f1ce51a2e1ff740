"""Gathering rows of a pool many times, with one gradient buffer per pool and backward pass.

The backward of `index_select` allocates a gradient of the whole pool, mostly zeros, for every module that reads the
pool. `gather_rows` adds the gradients of all its calls into one buffer instead. All gathers of a pool hang on one
node of the autograd graph, the collector, which the engine runs once all of them have run:

    pool --> collector --> handle, a tensor without elements --> gather of module 0
                                                            \\-> gather of module 1 ...

A gather's backward adds into the buffer of the running backward pass; the collector then hands that buffer to the
pool as its gradient. The pool's gradient thus appears once, complete, where autograd expects it, so hooks, DDP, FSDP2,
`torch.autograd.grad`, gradient accumulation and higher derivatives need no special case.

Letters as in `shards.py`: n rows of width w in the pool, k rows gathered.
"""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from hf_mixture._compat.torch import current_graph_task, ddp_in_forward, in_functorch_transform


class _Collect(torch.autograd.Function):
    """The collector node: owns the link to the pool and returns the buffer that the gathers filled."""

    @staticmethod
    def forward(ctx: Any, pool: Tensor, buffers: dict[int, Tensor]) -> Tensor:
        ctx.buffers = buffers
        return pool.new_empty(0)

    @staticmethod
    def backward(ctx: Any, _: Tensor) -> tuple[Tensor, None]:
        return ctx.buffers.pop(current_graph_task()), None


class _Collector:
    """The handle on which the gathers of one pool hang, and their buffers by backward pass.

    A backward pass that fails leaves its buffer behind under a number that never comes again; it is freed with the
    graph.
    """

    def __init__(self, pool: Tensor) -> None:
        self.pool_id = id(pool)
        self.buffers: dict[int, Tensor] = {}
        self.handle = _Collect.apply(pool, self.buffers)


class _Gather(torch.autograd.Function):
    """Rows of a pool; the backward adds into the collector's buffer."""

    @staticmethod
    def forward(ctx: Any, handle: Tensor, pool: Tensor, index: Tensor, collector: _Collector) -> Tensor:
        ctx.save_for_backward(index)
        ctx.collector = collector
        ctx.shape = pool.shape
        ctx.is_recomputation = current_graph_task() >= 0
        return pool.index_select(0, index)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        if ctx.is_recomputation:
            _check_static_graph(ctx.collector.pool_id)
        (index,) = ctx.saved_tensors
        buffers, task = ctx.collector.buffers, current_graph_task()
        if task not in buffers:
            # From `grad` and not from the pool, so that it is batched when the engine runs under vmap.
            buffers[task] = grad.new_zeros(ctx.shape)
        buffers[task].index_add_(0, index, grad)
        # A tensor and not None: the engine orders the collector's stream after this one by it, and compiled autograd
        # cannot add None.
        return grad.new_empty(0), None, None, None


# The gathers of a graph keep their collector alive and the collector keeps its pool alive, so an entry lives as long
# as a graph that uses it and the id of its pool is not given to another tensor meanwhile.
_collectors: weakref.WeakValueDictionary[tuple[int, int], _Collector] = weakref.WeakValueDictionary()

# By the id of a pool, the DDP module that read it without recording a graph, as reentrant checkpointing does.
_ddp_of_pool: weakref.WeakValueDictionary[int, DistributedDataParallel] = weakref.WeakValueDictionary()


def _check_static_graph(pool_id: int) -> None:
    """Refuse reentrant checkpointing under a DDP that sends a parameter's first gradient of a step to the others.

    Reentrant checkpointing runs one backward pass per checkpointed segment, so a pool gets one gradient from each.
    All but the first would stay on their process, and the processes would drift apart without a word.
    """
    ddp = _ddp_of_pool.get(pool_id)
    if ddp is None or ddp.static_graph or all(id(parameter) != pool_id for parameter in ddp.parameters()):
        return
    raise ValueError(
        "DistributedDataParallel(static_graph=False) cannot train pools that several segments of reentrant activation "
        "checkpointing share: it would drop gradients. Remedy: use_reentrant=False (in the Trainer's "
        "activation_checkpointing_kwargs), or static_graph=True (the Trainer's ddp_static_graph)."
    )


def gather_rows(pool: Tensor, index: Tensor) -> Tensor:
    """Rows of a pool, like `pool.index_select(0, index)`, with a gradient that is gathered in one buffer.

    The buffer serves pools that are plain parameters. Everything else (a pool that needs no gradient, a computed
    tensor, a DTensor, a call under `torch.compile` or a `torch.func` transform) takes `index_select` itself.

    Args:
        pool: Tensor of shape (n, w).
        index: int32 or int64 tensor of shape (k,) on the device of the pool.

    Returns:
        Tensor of shape (k, w).

    Raises:
        ValueError: In the backward pass, when DDP would drop gradients of a pool (see the message).

    Example:
        >>> pool = torch.nn.Parameter(torch.arange(6.0).reshape(3, 2))
        >>> rows = [gather_rows(pool, torch.tensor(index)) for index in ([0, 2], [2, 1])]
        >>> (rows[0].sum() + 10 * rows[1].sum()).backward()
        >>> pool.grad
        tensor([[ 1.,  1.],
                [10., 10.],
                [11., 11.]])
    """
    if (
        torch.compiler.is_compiling()
        or in_functorch_transform()
        or type(pool) is not nn.Parameter
        or not pool.requires_grad
    ):
        return pool.index_select(0, index)
    if not torch.is_grad_enabled():
        if (ddp := ddp_in_forward()) is not None:
            _ddp_of_pool[id(pool)] = ddp
        return pool.index_select(0, index)
    # A node runs on the stream of its forward: with a collector per stream, no two streams write to one buffer.
    stream = 0 if pool.device.type == "cpu" else torch.accelerator.current_stream(pool.device).stream_id
    key = (id(pool), stream)
    collector = _collectors.get(key)
    if collector is None:
        collector = _collectors[key] = _Collector(pool)
    return _Gather.apply(collector.handle, pool.detach(), index, collector)
