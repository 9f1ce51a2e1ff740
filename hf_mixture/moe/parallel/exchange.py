"""Sparse all-gather of expert parameters and sparse reduce-scatter of their gradients, as one autograd function.

Letters: E experts of a layer, D ranks of the group.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from hf_mixture.moe.parallel.placement import Counts, Holders


@dataclass(frozen=True)
class ExchangePlan:
    """What one rank sends and receives so that every rank gets the copies it is to hold.

    Args:
        send: For each rank, the places among this rank's experts that it gets.
        receive: For each rank, the experts that come from it.
    """

    send: list[list[int]]
    receive: list[list[int]]

    @property
    def num_received(self) -> int:
        """Copies that this rank gets."""
        return sum(map(len, self.receive))

    @property
    def num_sent(self) -> int:
        """Copies that this rank sends."""
        return sum(map(len, self.send))

    @property
    def received(self) -> list[int]:
        """The experts of the copies, in the order in which they lie."""
        return [expert for experts in self.receive for expert in experts]


def exchange_plan(copies: Holders, owners: Counts, rank: int, *, slots: Counts | None = None) -> ExchangePlan:
    """Work out what a rank sends and receives.

    Args:
        copies: Who gets a copy of what; owners do not count [E, D].
        owners: [E].
        rank: The rank in the group.
        slots: What an owner's experts are ordered by [E]. Default: their numbers.

    Returns:
        Its plan.
    """
    num_experts, num_ranks = copies.shape
    mine = experts_of(rank, owners, np.arange(num_experts) if slots is None else slots)
    place = {expert: number for number, expert in enumerate(mine)}
    send = [[place[e] for e in sorted(mine) if copies[e, other] and other != rank] for other in range(num_ranks)]
    wanted = [expert for expert in range(num_experts) if copies[expert, rank] and owners[expert] != rank]
    receive = [[expert for expert in wanted if owners[expert] == other] for other in range(num_ranks)]
    return ExchangePlan(send, receive)


def experts_of(rank: int, owners: Counts, slots: Counts) -> list[int]:
    """The experts that a rank owns, in the order in which they lie there."""
    mine = (owners == rank).nonzero()[0]
    ordered: list[int] = mine[np.argsort(slots[mine])].tolist()
    return ordered


class Fetch:
    """Copies on their way.

    Args:
        parameters: Parameters of this rank's experts, each [E / D, ...].
        plan: What is exchanged.
        group: The process group; all its ranks must do the same.
        dtype: Type in which they are sent. Default: that of the parameters.
    """

    def __init__(
        self, parameters: list[Tensor], plan: ExchangePlan, group: Any, *, dtype: torch.dtype | None = None
    ) -> None:
        self._shapes = [parameter.shape for parameter in parameters]
        index = torch.tensor([place for places in plan.send for place in places], device=parameters[0].device).long()
        # The message must live as long as it is being sent.
        message = torch.cat([parameter.detach()[index].flatten(1) for parameter in parameters], dim=1)
        self._message = message.to(dtype or message.dtype)
        self._received = self._message.new_empty(plan.num_received, self._message.shape[1])
        sizes = list(map(len, plan.receive)), list(map(len, plan.send))
        self._work = dist.all_to_all_single(self._received, self._message, *sizes, group=group, async_op=True)

    def wait(self) -> tuple[Tensor, ...]:
        """The copies of each parameter [copies, ...], when they have arrived."""
        self._work.wait()
        return _unpack(self._received, self._shapes)


def gather_copies(
    parameters: list[Tensor],
    plan: ExchangePlan,
    group: Any,
    *,
    fetch: Fetch | None = None,
    after_backward: Callable[[], None] | None = None,
) -> list[Tensor]:
    """Get the copies of a step, a sparse all-gather; backwards a sparse reduce-scatter sends gradients to the owners.

    One message carries all parameters of an expert. Owners add gradients in the order of the ranks, so that sums do
    not depend on arrival. All ranks of the group must call it, also those that get nothing.

    Args:
        parameters: Parameters of this rank's experts, each [E / D, ...].
        plan: Its plan.
        group: The process group.
        fetch: The exchange, if it has begun already. Default: it begins now.
        after_backward: Called when the gradients have been exchanged.

    Returns:
        The copies of each parameter [copies, ...].
    """
    copies: tuple[Tensor, ...] = _SparseAllGather.apply(plan, group, fetch, after_backward, *parameters)
    return list(copies)


class _SparseAllGather(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        plan: ExchangePlan,
        group: Any,
        fetch: Fetch | None,
        after_backward: Callable[[], None] | None,
        *parameters: Tensor,
    ) -> tuple[Tensor, ...]:
        ctx.plan, ctx.group, ctx.after_backward = plan, group, after_backward
        ctx.shapes = [parameter.shape for parameter in parameters]
        return (fetch or Fetch(list(parameters), plan, group)).wait()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        plan: ExchangePlan = ctx.plan
        message = torch.cat([gradient.flatten(1) for gradient in gradients], dim=1).contiguous()
        received = message.new_empty(plan.num_sent, message.shape[1])
        dist.all_to_all_single(
            received, message, list(map(len, plan.send)), list(map(len, plan.receive)), group=ctx.group
        )
        sums = received.new_zeros(ctx.shapes[0][0], message.shape[1])
        start = 0
        for places in plan.send:
            index = torch.tensor(places, dtype=torch.long, device=sums.device)
            sums.index_add_(0, index, received[start : start + len(places)])
            start += len(places)
        if ctx.after_backward is not None:
            ctx.after_backward()
        return (None, None, None, None, *_unpack(sums, ctx.shapes))


def _unpack(rows: Tensor, shapes: list[torch.Size]) -> tuple[Tensor, ...]:
    widths = [shape[1:].numel() for shape in shapes]
    return tuple(
        part.reshape(len(rows), *shape[1:]) for part, shape in zip(rows.split(widths, dim=1), shapes, strict=True)
    )
