"""Gathering rows of a pool many times, with one gradient buffer per pool and backward pass.

The backward of `index_select` allocates a gradient of the whole pool, mostly zeros, for every module that reads the
pool. `gather_rows` adds the gradients of all its calls into one buffer instead. All gathers of a pool hang on one
node of the autograd graph, the collector, which the engine runs once all of them have run:

    pool --> collector --> handle (no elements) --> gather of module 0
      |                                     \\-----> gather of module 1 ...
      \\--- (only for higher derivatives) -------/

A gather's backward adds into the buffer of the running backward pass and sends nothing on; the collector then hands
that buffer to the pool as its gradient. The pool's gradient thus appears once, complete, where autograd expects it,
so hooks, DDP, FSDP2, `torch.autograd.grad` and gradient accumulation need no special case.

Letters as in `shards.py`: n rows of width w in the pool, k rows gathered.
"""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor, nn

from hf_mixture._compat.torch import current_graph_task, in_functorch_transform


class _Collect(torch.autograd.Function):
    """The collector node: owns the link to the pool and returns the buffer that the gathers filled."""

    @staticmethod
    def forward(ctx: Any, pool: Tensor, buffers: dict[int, Tensor]) -> Tensor:
        ctx.set_materialize_grads(False)
        ctx.buffers = buffers
        return pool.new_empty(0)

    @staticmethod
    def backward(ctx: Any, _: Tensor | None) -> tuple[Tensor | None, None]:  # type: ignore[override]
        return ctx.buffers.pop(current_graph_task(), None), None


class _Collector:
    """The handle on which the gathers of one pool hang, and their buffers by backward pass.

    A backward pass that fails leaves its buffer behind under a number that never comes again; it is freed with the
    graph.
    """

    def __init__(self, pool: Tensor) -> None:
        self.buffers: dict[int, Tensor] = {}
        self.handle = _Collect.apply(pool, self.buffers)


class _Gather(torch.autograd.Function):
    """Rows of a pool; the backward adds into the collector's buffer."""

    @staticmethod
    def forward(ctx: Any, pool: Tensor, _handle: Tensor, index: Tensor, collector: _Collector) -> Tensor:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(index)
        ctx.collector = collector
        ctx.shape = pool.shape
        return pool.index_select(0, index)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> tuple[Tensor | None, None, None, None]:  # type: ignore[override]
        if grad is None:
            return None, None, None, None
        (index,) = ctx.saved_tensors
        task = current_graph_task()
        if torch.is_grad_enabled() or task < 0:
            # Under create_graph, and in a backward that is traced rather than run by the engine, the gradient has to
            # be an ordinary value of the graph.
            return grad.new_zeros(ctx.shape).index_add(0, index, grad), None, None, None
        buffers = ctx.collector.buffers
        buffer = buffers.get(task)
        if buffer is None:
            # From `grad` and not from the pool, so that it is batched when the engine runs under vmap.
            buffer = buffers[task] = grad.new_zeros(ctx.shape)
        buffer.index_add_(0, index, grad)
        return None, None, None, None


# The gathers of a graph keep their collector alive and the collector keeps its pool alive, so an entry lives as long
# as a graph that uses it and the id of its pool is not given to another tensor meanwhile.
_collectors: weakref.WeakValueDictionary[tuple[int, int], _Collector] = weakref.WeakValueDictionary()


def gather_rows(pool: Tensor, index: Tensor) -> Tensor:
    """Rows of a pool, like `pool.index_select(0, index)`, with a gradient that is gathered in one buffer.

    The buffer serves pools that are plain parameters. Everything else (a pool that needs no gradient, a computed
    tensor, a DTensor, a call under `torch.compile` or a `torch.func` transform) takes `index_select` itself.

    Args:
        pool: Tensor of shape (n, w).
        index: int32 or int64 tensor of shape (k,) on the device of the pool.

    Returns:
        Tensor of shape (k, w).

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
        or not torch.is_grad_enabled()
        or type(pool) is not nn.Parameter
        or not pool.requires_grad
    ):
        return pool.index_select(0, index)
    # A node runs on the stream of its forward: with a collector per stream no two streams write to one buffer.
    stream = 0 if pool.device.type == "cpu" else torch.accelerator.current_stream(pool.device).stream_id
    key = (id(pool), stream)
    collector = _collectors.get(key)
    if collector is None:
        collector = _collectors[key] = _Collector(pool)
    return _Gather.apply(pool, collector.handle, index, collector)
