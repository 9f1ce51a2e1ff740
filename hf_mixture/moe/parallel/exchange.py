"""Sparse all-gather of expert parameters and sparse reduce-scatter of their gradients, as one autograd function.

An owner does not send each copy itself: who has an expert passes it on, first to one rank of each node, then within
the nodes, each rank to one other in a round (binomial trees). Gradients come back the same way, and are added on it.

Letters: E experts of a layer, D ranks of the group.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from hf_mixture.moe.parallel.placement import Counts, Holders


@dataclass(frozen=True)
class Round:
    """What a rank sends and receives at once.

    Args:
        send: For each rank, places of what it gets: this rank's own experts, and behind them what it has received in
            earlier rounds.
        receive: For each rank, the experts that come from it.
    """

    send: list[list[int]]
    receive: list[list[int]]

    @property
    def sizes(self) -> tuple[list[int], list[int]]:
        """Numbers of experts that come from each rank, and that go to each."""
        return list(map(len, self.receive)), list(map(len, self.send))


@dataclass(frozen=True)
class ExchangePlan:
    """What one rank sends and receives so that every rank gets the copies it is to hold.

    Args:
        rounds: One after the other; as many on all ranks.
    """

    rounds: list[Round]

    @property
    def num_received(self) -> int:
        """Copies that this rank gets."""
        return len(self.received)

    @property
    def num_sent(self) -> int:
        """Copies that this rank sends, also of experts that it does not own."""
        return sum(len(places) for step in self.rounds for places in step.send)

    @property
    def received(self) -> list[int]:
        """The experts of the copies, in the order in which they lie."""
        return [expert for step in self.rounds for experts in step.receive for expert in experts]


def exchange_plan(
    copies: Holders, owners: Counts, rank: int, *, slots: Counts | None = None, ranks_per_node: int | None = None
) -> ExchangePlan:
    """Work out what a rank sends and receives.

    Args:
        copies: Who gets a copy of what; owners do not count [E, D].
        owners: [E].
        rank: The rank in the group.
        slots: What an owner's experts are ordered by [E]. Default: their numbers.
        ranks_per_node: Ranks that share fast links. Default: all.

    Returns:
        Its plan.
    """
    num_experts, num_ranks = copies.shape
    per_node = ranks_per_node or num_ranks
    across: list[tuple[int, int, int, int]] = []
    within: list[tuple[int, int, int, int]] = []
    for expert in range(num_experts):
        owner = int(owners[expert])
        nodes: dict[int, list[int]] = {owner // per_node: [owner]}
        for other in copies[expert].nonzero()[0].tolist():
            if other != owner:
                nodes.setdefault(other // per_node, []).append(other)
        across += [(*pair, expert) for pair in _tree([ranks[0] for ranks in nodes.values()])]
        within += [(*pair, expert) for ranks in nodes.values() for pair in _tree(ranks)]
    first = 1 + max((transfer[0] for transfer in across), default=-1)
    transfers = sorted([*across, *((first + number, *rest) for number, *rest in within)], key=lambda t: (t[0], t[3]))
    num_rounds = 1 + max((transfer[0] for transfer in transfers), default=-1)
    rounds = [Round([[] for _ in range(num_ranks)], [[] for _ in range(num_ranks)]) for _ in range(num_rounds)]
    mine = experts_of(rank, owners, np.arange(num_experts) if slots is None else slots)
    place = {expert: number for number, expert in enumerate(mine)}
    for number, step in enumerate(rounds):
        for _, source, target, expert in (transfer for transfer in transfers if transfer[0] == number):
            if source == rank:
                step.send[target].append(place[expert])
            if target == rank:
                step.receive[source].append(expert)
        for expert in (expert for experts in step.receive for expert in experts):
            place[expert] = len(place)
    return ExchangePlan(rounds)


def _tree(ranks: list[int]) -> Iterator[tuple[int, int, int]]:
    """Rounds, sources and targets by which what the first of some ranks has gets to all."""
    for number in range(1, len(ranks)):
        step = number.bit_length() - 1
        yield step, ranks[number - (1 << step)], ranks[number]


def experts_of(rank: int, owners: Counts, slots: Counts) -> list[int]:
    """The experts that a rank owns, in the order in which they lie there."""
    mine = (owners == rank).nonzero()[0]
    ordered: list[int] = mine[np.argsort(slots[mine])].tolist()
    return ordered


class Fetch:
    """Copies on their way.

    On GPUs all rounds run on a stream of their own. On CPUs the first has begun, and others begin when one waits.

    Args:
        parameters: Parameters of this rank's experts, each [own experts, ...].
        plan: What is exchanged.
        group: The process group; all its ranks must do the same.
        dtype: Type in which they are sent. Default: that of the parameters.
    """

    def __init__(
        self, parameters: list[Tensor], plan: ExchangePlan, group: Any, *, dtype: torch.dtype | None = None
    ) -> None:
        self._parameters = [parameter.detach() for parameter in parameters]
        self._plan, self._group = plan, group
        device = parameters[0].device
        width = sum(parameter.shape[1:].numel() for parameter in parameters)
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        if self._stream is not None:
            self._stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(self._stream):
            self._received = torch.empty(0, width, dtype=dtype or parameters[0].dtype, device=device)
            self._num_begun = 0
            self._pending: Any = None
            self._begin()
            while self._stream is not None and self._pending is not None:
                self._advance()

    def wait(self) -> tuple[Tensor, ...]:
        """The copies of each parameter [copies, ...], when they have arrived."""
        while self._pending is not None:
            self._advance()
        if self._stream is not None:
            current = torch.cuda.current_stream(self._received.device)
            current.wait_stream(self._stream)
            self._received.record_stream(current)
        return _unpack(self._received, [parameter.shape for parameter in self._parameters])

    def _begin(self) -> None:
        """Begin the next round, if there is one."""
        self._pending = None
        if self._num_begun == len(self._plan.rounds):
            return
        step = self._plan.rounds[self._num_begun]
        self._num_begun += 1
        # The message must live as long as it is being sent.
        message = self._message([place for places in step.send for place in places])
        received = message.new_empty(sum(step.sizes[0]), message.shape[1])
        work = dist.all_to_all_single(received, message, *step.sizes, group=self._group, async_op=True)
        self._pending = work, received, message

    def _advance(self) -> None:
        """End the round that has begun, and begin the next."""
        work, received, _ = self._pending
        work.wait()
        self._received = torch.cat([self._received, received])
        self._begin()

    def _message(self, places: list[int]) -> Tensor:
        """The experts at some places, own ones and received ones."""
        num_own = len(self._parameters[0])
        message = self._received.new_empty(len(places), self._received.shape[1])
        own = [number for number, place in enumerate(places) if place < num_own]
        passed_on = [number for number, place in enumerate(places) if place >= num_own]
        if own:
            rows = [parameter[[places[number] for number in own]].flatten(1) for parameter in self._parameters]
            message[own] = torch.cat(rows, dim=1).to(message.dtype)
        if passed_on:
            message[passed_on] = self._received[[places[number] - num_own for number in passed_on]]
        return message


def gather_copies(
    parameters: list[Tensor],
    plan: ExchangePlan,
    group: Any,
    *,
    fetch: Fetch | None = None,
    after_backward: Callable[[], None] | None = None,
) -> list[Tensor]:
    """Get the copies of a step, a sparse all-gather; backwards a sparse reduce-scatter sends gradients to the owners.

    One message carries all parameters of an expert. Gradients are added in the order of the rounds and ranks, so that
    sums do not depend on arrival. All ranks of the group must call it, also those that get nothing.

    Args:
        parameters: Parameters of this rank's experts, each [own experts, ...].
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
        copies = torch.cat([gradient.flatten(1) for gradient in gradients], dim=1)
        num_own = ctx.shapes[0][0]
        sums = torch.cat([copies.new_zeros(num_own, copies.shape[1]), copies])
        end = len(sums)
        for step in reversed(ctx.plan.rounds):
            arrived, left = step.sizes
            begin = end - sum(arrived)
            received = sums.new_empty(sum(left), sums.shape[1])
            dist.all_to_all_single(received, sums[begin:end].contiguous(), left, arrived, group=ctx.group)
            start = 0
            for places in step.send:
                index = torch.tensor(places, dtype=torch.long, device=sums.device)
                sums.index_add_(0, index, received[start : start + len(places)])
                start += len(places)
            end = begin
        if ctx.after_backward is not None:
            ctx.after_backward()
        return (None, None, None, None, *_unpack(sums[:num_own], ctx.shapes))


def _unpack(rows: Tensor, shapes: list[torch.Size]) -> tuple[Tensor, ...]:
    widths = [shape[1:].numel() for shape in shapes]
    return tuple(
        part.reshape(len(rows), *shape[1:]) for part, shape in zip(rows.split(widths, dim=1), shapes, strict=True)
    )
