"""Sparse all-gather of expert parameters and sparse reduce-scatter of their gradients, as one autograd function.

Letters: E experts of a layer, D ranks of the group.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

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


def exchange_plan(holders: Holders, owners: Counts, rank: int) -> ExchangePlan:
    """Work out what a rank sends and receives.

    Args:
        holders: Who holds what, owners included [E, D].
        owners: [E]; a rank's experts are neighbours.
        rank: The rank in the group.

    Returns:
        Its plan.
    """
    num_ranks = holders.shape[1]
    mine = (owners == rank).nonzero()[0].tolist()
    place = {expert: number for number, expert in enumerate(mine)}
    send = [[place[e] for e in mine if holders[e, other] and other != rank] for other in range(num_ranks)]
    copies = [expert for expert in range(len(owners)) if holders[expert, rank] and owners[expert] != rank]
    receive = [[expert for expert in copies if owners[expert] == other] for other in range(num_ranks)]
    return ExchangePlan(send, receive)


def gather_copies(parameters: list[Tensor], plan: ExchangePlan, group: Any) -> list[Tensor]:
    """Get the copies of a step, a sparse all-gather; backwards a sparse reduce-scatter sends gradients to the owners.

    One message carries all parameters of an expert. Owners add gradients in the order of the ranks, so that sums do
    not depend on arrival. All ranks of the group must call it, also those that get nothing.

    Args:
        parameters: Parameters of this rank's experts, each [E / D, ...].
        plan: Its plan.
        group: The process group.

    Returns:
        The copies of each parameter [copies, ...].
    """
    copies: tuple[Tensor, ...] = _SparseAllGather.apply(plan, group, *parameters)
    return list(copies)


class _SparseAllGather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, plan: ExchangePlan, group: Any, *parameters: Tensor) -> tuple[Tensor, ...]:
        ctx.plan, ctx.group = plan, group
        ctx.shapes = [parameter.shape for parameter in parameters]
        index = torch.tensor([place for places in plan.send for place in places], device=parameters[0].device)
        message = torch.cat([parameter[index.long()].flatten(1) for parameter in parameters], dim=1)
        received = message.new_empty(plan.num_received, message.shape[1])
        dist.all_to_all_single(received, message, list(map(len, plan.receive)), list(map(len, plan.send)), group=group)
        return _unpack(received, ctx.shapes)

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
        return (None, None, *_unpack(sums, ctx.shapes))


def _unpack(rows: Tensor, shapes: list[torch.Size]) -> tuple[Tensor, ...]:
    widths = [shape[1:].numel() for shape in shapes]
    return tuple(
        part.reshape(len(rows), *shape[1:]) for part, shape in zip(rows.split(widths, dim=1), shapes, strict=True)
    )
