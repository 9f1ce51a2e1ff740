"""The experts module of a layer with copies of other ranks' experts behind its own, for the time of a call.

Its own experts are the rows of its parameters; or, where experts lie in any layer's parameters (a pool of slots), some
rows of several modules.

Letters: E experts, D ranks of the group.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from hf_mixture.moe.parallel.exchange import ExchangePlan, Fetch, gather_copies


class ExpertCopies:
    """Fetches copies into an experts module, early where it can.

    Args:
        experts: The module; its parameters are those of this rank's experts.
        group: The process group.

    Attributes:
        rows: Where this layer's experts of this rank lie, in their order: modules, and rows of their parameters. None
            if they are all rows of this one's.
        gradient_scale: What gradients of this rank's experts are multiplied by.
        previous: That of the layer before, whose copies are fetched again while this layer's attention runs
            backwards; None for the first.
    """

    def __init__(self, experts: nn.Module, group: Any) -> None:
        self._experts: Any = experts
        self._group = group
        self.rows: list[tuple[ExpertCopies, list[int]]] | None = None
        self.gradient_scale = 1.0
        self._dtype: torch.dtype | None = None
        self._fetch: tuple[ExchangePlan, Fetch] | None = None
        self._dropped: weakref.ref[_Dropped] | None = None
        self.previous: ExpertCopies | None = None

    def prefetch(self, plan: ExchangePlan) -> None:
        """Begin to fetch the copies of the next call; all ranks must do so.

        Nothing is begun before the first call, which shows in which type the module computes, and where the owner
        itself is sharded, as its parameters are not together yet.

        Args:
            plan: What is exchanged; the next call must use the same.
        """
        own = self._own()
        if self._dtype is not None and own is not None:
            self._fetch = plan, Fetch(own, plan, self._group, dtype=self._dtype)

    def _own(self) -> list[Tensor] | None:
        """The parameters of this rank's experts outside of a call; None if they are sharded themselves."""
        own = self._working(self._experts._parameters)
        if own is None or self._dtype is None:
            return own
        return own if self.rows is None else [parameter.to(self._dtype) for parameter in own]

    def _working(self, parameters: Mapping[str, Any]) -> list[Tensor] | None:
        """The experts of this rank, from this layer's parameters and maybe others'; None if they are sharded."""
        found = []
        for name, mine in parameters.items():
            local = _local(mine)
            if local is None:
                return None
            parts = [local] if self.rows is None else [local[:0]]
            for other, rows in self.rows or []:
                part = local if other is self else _local(other._experts._parameters[name])
                if part is None:
                    return None
                parts.append(part[rows].to(local.dtype))
            found.append(parts[0] if self.rows is None else torch.cat(parts))
        return found

    @contextlib.contextmanager
    def in_place(self, plans: list[ExchangePlan], *, drop: bool) -> Iterator[None]:
        """Let the module have the copies behind its own experts.

        Args:
            plans: Exchanges, of which the first may have begun.
            drop: Whether to forget the copies after the forward pass, and fetch them again for the backward pass.
        """
        experts, own = self._experts, dict(self._experts._parameters)
        working = self._working(own)
        assert working is not None  # noqa: S101 - within a call parameters are together
        if self.gradient_scale != 1:
            working = [_ScaleGradient.apply(parameter, self.gradient_scale) for parameter in working]
        if torch.is_autocast_enabled(working[0].device.type):
            # Products would be computed in this type anyway: so half as much is sent.
            working = [parameter.to(torch.get_autocast_dtype(working[0].device.type)) for parameter in working]
        self._dtype = working[0].dtype
        begun, self._fetch = self._fetch, None
        parts = [working]
        # No rank sends anything in a plan without rounds.
        plans = [plan for plan in plans if plan.rounds]
        for number, plan in enumerate(plans):
            fetch = begun[1] if number == 0 and begun is not None and begun[0] is plan else None
            parts.append(
                gather_copies(working, plan, self._group, fetch=fetch, after_backward=self._start_previous)
                if number == 0
                else gather_copies(working, plan, self._group)
            )
        if not sum(len(part[0]) for part in parts):
            # A rank without experts runs one of zeros on no tokens, so that the exchanges of the backward pass run.
            parts.append([parameter.new_zeros(1, *parameter.shape[1:]) for parameter in working])
        whole = working if len(parts) == 1 else list(map(torch.cat, zip(*parts, strict=True)))
        matrices = dict(zip(own, whole, strict=True))
        num_experts = experts.num_experts
        try:
            for name, matrix in matrices.items():
                del experts._parameters[name]
                # A result of autograd, which the module would refuse to register where it looks like a parameter.
                vars(experts)[name] = matrix
            experts.num_experts = sum(len(part[0]) for part in parts)
            with self._dropping(matrices, working, plans) if drop and plans else contextlib.nullcontext():
                yield
        finally:
            experts.num_experts = num_experts
            for name, mine in own.items():
                vars(experts).pop(name, None)
                experts._parameters[name] = mine

    def _start_previous(self) -> None:
        """Fetch what the layer before has dropped, as the backward pass comes to it next."""
        if self.previous is None or self.previous._dropped is None:
            return
        dropped, own = self.previous._dropped(), self.previous._own()
        if dropped is not None and own is not None:
            dropped.start(own, self.previous._dtype)

    @contextlib.contextmanager
    def _dropping(
        self, matrices: dict[str, Tensor], working: list[Tensor], plans: list[ExchangePlan]
    ) -> Iterator[None]:
        """Let autograd forget the matrices with the copies in them, and fetch them again when it needs them."""
        if not torch.is_grad_enabled():
            yield
            return
        dropped = _Dropped(working, list(matrices), plans, self._group)
        self._dropped = weakref.ref(dropped)
        names = {matrix.untyped_storage().data_ptr(): name for name, matrix in matrices.items()}

        def pack(tensor: Tensor) -> Any:
            name = names.get(tensor.untyped_storage().data_ptr())
            return tensor if name is None else _View(dropped, name, tensor)

        with torch.autograd.graph.saved_tensors_hooks(
            pack, lambda kept: kept.get() if isinstance(kept, _View) else kept
        ):
            yield


class _Dropped:
    """The matrices of a layer with their copies, fetched once more, and dropped with the last view of them.

    Args:
        own: Parameters of this rank's experts.
        names: Their names.
        plans: What was exchanged.
        group: The process group.
    """

    def __init__(self, own: list[Tensor], names: list[str], plans: list[ExchangePlan], group: Any) -> None:
        self._own, self._names, self._plans, self._group = own, names, plans, group
        self._fetches: list[Fetch] = []
        self._matrices: dict[str, Tensor] = {}

    def start(self, own: list[Tensor], dtype: torch.dtype | None = None) -> None:
        """Begin to fetch, if that has not begun; on all ranks of the group.

        Args:
            own: Parameters of this rank's experts, as those of the forward pass may be gone.
            dtype: Type in which they are sent. Default: that of the parameters.
        """
        if not self._fetches:
            self._fetches = [Fetch(own, plan, self._group, dtype=dtype) for plan in self._plans]

    def matrix(self, name: str) -> Tensor:
        """A matrix; the first call waits for all."""
        if not self._matrices:
            self.start(self._own)
            parts = [tuple(parameter.detach() for parameter in self._own), *(fetch.wait() for fetch in self._fetches)]
            self._matrices = dict(zip(self._names, map(torch.cat, zip(*parts, strict=True)), strict=True))
        return self._matrices[name]


class _View:
    """A tensor of a matrix, without its memory."""

    def __init__(self, dropped: _Dropped, name: str, tensor: Tensor) -> None:
        self._dropped, self._name = dropped, name
        self._layout = tensor.size(), tensor.stride(), tensor.storage_offset()

    def get(self) -> Tensor:
        """The tensor, made again."""
        return self._dropped.matrix(self._name).as_strided(*self._layout)


class _ScaleGradient(torch.autograd.Function):
    """A tensor whose gradient is multiplied by a number."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, scale: float) -> Tensor:
        ctx.scale = scale
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return gradients[0] * ctx.scale, None


def _local(parameter: Any) -> Tensor | None:
    """The parameter of this rank's experts; None if fully sharded data parallelism has taken it apart."""
    if not isinstance(parameter, DTensor):
        return parameter if isinstance(parameter, Tensor) else None
    sharded = parameter.device_mesh.size() // parameter.device_mesh.size(-1)
    return parameter.to_local() if sharded == 1 else None
