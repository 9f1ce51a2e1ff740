"""`ep_implementation="fssdp"`: expert parallelism that copies the busy experts of each step (Hecate).

Every expert has one owner, as in stock expert parallelism. For a step, the busiest experts are also copied to other
ranks; a token goes to a copy on its own rank, else in its node, else anywhere; backwards, the gradients of the copies
go to the owner, and the copies are gone (arXiv 2502.02581). Which experts are busy is predicted from the last steps,
so that all ranks plan the same without asking the routers of this step.

Letters: T tokens, K experts of a token, E experts, D ranks of the expert-parallel group, H hidden size.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from transformers import TrainerCallback
from transformers.distributed.expert_parallel import EPImplementation

from hf_mixture._compat.collectives import exchange_rows
from hf_mixture.moe.parallel.exchange import ExchangePlan, exchange_plan, gather_copies
from hf_mixture.moe.parallel.placement import Cluster, Holders, contiguous_owners, materialise


@dataclass(frozen=True, kw_only=True)
class FssdpOptions:
    """What `ep_implementation="fssdp"` may copy.

    Args:
        num_busy: Busiest experts of a layer that may be copied. Default: all.
        num_slots: Copies that a rank has room for, in each layer. Default: 2.
        window: Optimizer steps whose token counts are the prediction. Default: 5, as in the paper.
        ranks_per_node: Ranks of a node, which share fast links. Default: all.
        rematerialise: Whether copies are dropped after the forward pass and fetched again for the backward pass: the
            memory of one layer's copies, for half as much again to send. Default: False, as in the paper.

    Raises:
        ValueError: If a value is out of range.

    Example:
        >>> from hf_mixture import FssdpOptions
        >>> FssdpOptions(num_busy=16, num_slots=4, ranks_per_node=8).rematerialise
        False
    """

    num_busy: int | None = None
    num_slots: int = 2
    window: int = 5
    ranks_per_node: int | None = None
    rematerialise: bool = False

    def __post_init__(self) -> None:
        least = {"num_busy": 0, "num_slots": 0, "window": 1, "ranks_per_node": 1}
        for name, smallest in least.items():
            value = getattr(self, name)
            if value is not None and (type(value) is not int or value < smallest):
                raise ValueError(f"{name}={value!r} is not a whole number of at least {smallest}")


class FssdpEP(EPImplementation):
    """Fully sharded sparse data parallelism of the experts of one layer.

    Attributes:
        options: What may be copied; `set_fssdp_options` changes it.
        holders: Who holds what in this step [E, D].
    """

    def __init__(self, experts: nn.Module, ep_mesh: Any, tp_mesh: Any) -> None:
        super().__init__(experts, ep_mesh, tp_mesh)
        if tp_mesh.size() > 1:
            raise ValueError(
                f'ep_implementation="fssdp" runs without tensor parallelism, and tp_size={tp_mesh.size()}; use '
                'tp_size=1, or ep_implementation="all_to_all"'
            )
        self.experts = experts
        self.group = ep_mesh.get_group()
        self.rank, self.num_ranks = ep_mesh.get_local_rank(), ep_mesh.size()
        self.num_experts = self.num_local_experts * self.num_ranks
        self.owners = contiguous_owners(self.num_experts, self.num_ranks)
        self.window: deque[np.ndarray[Any, Any]] = deque()
        self.counts = torch.zeros(self.num_experts, dtype=torch.int64)
        self.use_options(FssdpOptions())
        experts.fssdp = self

    def use_options(self, options: FssdpOptions) -> None:
        """Change what may be copied; the window stays.

        Raises:
            ValueError: If the ranks do not fill nodes.
        """
        per_node = self.num_ranks if options.ranks_per_node is None else min(options.ranks_per_node, self.num_ranks)
        self.cluster = Cluster(self.num_ranks, per_node)
        self.options = options
        self.window = deque(self.window, maxlen=options.window)
        self._plan()

    def step(self) -> None:
        """End an optimizer step: put its counts into the window, and plan the next one. All ranks must call it."""
        counts = self.counts.to(self.ep_mesh.device_type)
        dist.all_reduce(counts, group=self.group)
        self.window.append(counts.cpu().numpy())
        self.counts = torch.zeros_like(self.counts)
        self._plan()

    def _plan(self) -> None:
        busy = self.num_experts if self.options.num_busy is None else self.options.num_busy
        loads = np.sum(self.window, axis=0) if self.window else np.zeros(self.num_experts, dtype=np.int64)
        self.use_holders(
            materialise(loads, self.owners, self.cluster, num_busy=busy, num_slots=self.options.num_slots)
        )

    def use_holders(self, holders: Holders) -> None:
        """Use a placement of copies until the next step.

        Args:
            holders: [E, D]; owners are among them, and all ranks use the same.
        """
        self.holders = holders
        self.exchange: ExchangePlan = exchange_plan(holders, self.owners, self.rank)
        self._targets, self._num_targets = _target_table(holders, self.cluster, self.rank)
        mine = (self.owners == self.rank).nonzero()[0].tolist()
        self._places = torch.full((self.num_experts,), -1)
        self._places[[*mine, *self.exchange.received]] = torch.arange(len(mine) + self.exchange.num_received)

    def __call__(self, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
        if torch.is_grad_enabled() and self.experts.training:
            self.counts += torch.bincount(top_k_index.flatten(), minlength=self.num_experts).cpu()
        device, num_top_k = hidden_states.device, top_k_index.shape[-1]
        expert_ids = top_k_index.reshape(-1)
        keys = self._choose_targets(expert_ids) * self.num_experts + expert_ids
        order = torch.argsort(keys, stable=True)
        send_counts = torch.bincount(keys, minlength=self.num_ranks * self.num_experts)
        send_counts = send_counts.view(self.num_ranks, self.num_experts)
        recv_counts = torch.empty_like(send_counts)
        dist.all_to_all_single(recv_counts, send_counts, group=self.group)
        send_sizes, recv_sizes = torch.stack([send_counts.sum(1), recv_counts.sum(1)]).tolist()
        rows = hidden_states[order // num_top_k]
        tokens = exchange_rows(rows, receive=recv_sizes, send=send_sizes, group=self.group)
        ids = torch.arange(self.num_experts, device=device).repeat(self.num_ranks)
        ids = ids.repeat_interleave(recv_counts.flatten(), output_size=sum(recv_sizes))
        places = self._places.to(device)[ids].unsqueeze(-1)
        own: list[Any] = list(self.experts._parameters.values())
        with self._with_copies() as matrices, self._dropping(matrices, own):
            output = self._run(tokens, places)
        received = exchange_rows(output, receive=send_sizes, send=recv_sizes, group=self.group)
        outputs = torch.empty_like(received)
        outputs[order] = received
        outputs = outputs.view(*top_k_weights.shape, -1)
        return (outputs * top_k_weights.unsqueeze(-1)).sum(dim=1)

    def _run(self, tokens: Tensor, places: Tensor) -> Tensor:
        """Run the experts, each row by one, with weight 1: the weights are applied where the tokens came from."""
        num_tokens = len(tokens)
        if not num_tokens:
            # A row of zeros keeps the backward exchange, and that of the copies, running on all ranks.
            tokens, places = tokens.sum(dim=0, keepdim=True), places.new_zeros(1, 1)
        weights = torch.ones_like(places, dtype=tokens.dtype)
        output: Tensor = self.experts_forward(tokens, places, weights)
        return output[:num_tokens]

    def _choose_targets(self, expert_ids: Tensor) -> Tensor:
        """The rank that each pair of token and expert goes to: in turn those that are eligible [T K]."""
        order = torch.argsort(expert_ids, stable=True)
        counts = torch.bincount(expert_ids, minlength=self.num_experts)
        first = (counts.cumsum(0) - counts)[expert_ids[order]]
        turn = torch.empty_like(expert_ids)
        # Ranks begin with different targets, so that few tokens of many ranks do not meet at one.
        turn[order] = torch.arange(len(order), device=expert_ids.device) - first + self.rank
        targets, number = self._targets.to(expert_ids.device), self._num_targets.to(expert_ids.device)
        return targets[expert_ids, turn % number[expert_ids]]

    @contextlib.contextmanager
    def _dropping(self, matrices: dict[str, Tensor], own: list[Tensor]) -> Iterator[None]:
        """Let autograd forget the matrices with the copies in them, and fetch them again when it needs them."""
        if not self.options.rematerialise or not torch.is_grad_enabled():
            yield
            return
        again = _Again(own, list(matrices), self.exchange, self.group)
        names = {matrix.untyped_storage().data_ptr(): name for name, matrix in matrices.items()}

        def pack(tensor: Tensor) -> Any:
            name = names.get(tensor.untyped_storage().data_ptr())
            return tensor if name is None else _View(again, name, tensor)

        with torch.autograd.graph.saved_tensors_hooks(
            pack, lambda kept: kept.get() if isinstance(kept, _View) else kept
        ):
            yield

    @contextlib.contextmanager
    def _with_copies(self) -> Iterator[dict[str, Tensor]]:
        """Let the experts module have the copies behind its own experts, in the matrices that are given."""
        experts: Any = self.experts
        own: dict[str, Any] = dict(experts._parameters)
        copies = gather_copies(list(own.values()), self.exchange, self.group)
        matrices = {name: torch.cat([mine, more]) for (name, mine), more in zip(own.items(), copies, strict=True)}
        num_experts = experts.num_experts
        try:
            for name, matrix in matrices.items():
                del experts._parameters[name]
                setattr(experts, name, matrix)
            experts.num_experts = num_experts + self.exchange.num_received
            yield matrices
        finally:
            experts.num_experts = num_experts
            for name, mine in own.items():
                vars(experts).pop(name, None)
                experts._parameters[name] = mine


class _Again:
    """The matrices of a layer with their copies, fetched once more, and dropped with the last view of them.

    Args:
        own: Parameters of this rank's experts.
        names: Their names.
        plan: What was exchanged.
        group: The process group.
    """

    def __init__(self, own: list[Tensor], names: list[str], plan: ExchangePlan, group: Any) -> None:
        self._own, self._names, self._plan, self._group = own, names, plan, group
        self._matrices: dict[str, Tensor] = {}

    def matrix(self, name: str) -> Tensor:
        """A matrix; the first call fetches all, on all ranks of the group."""
        if not self._matrices:
            with torch.no_grad():
                copies = gather_copies(self._own, self._plan, self._group)
                pairs = zip(self._names, self._own, copies, strict=True)
                self._matrices = {name: torch.cat([mine, more]) for name, mine, more in pairs}
        return self._matrices[name]


class _View:
    """A tensor of a matrix, without its memory."""

    def __init__(self, again: _Again, name: str, tensor: Tensor) -> None:
        self._again, self._name = again, name
        self._layout = tensor.size(), tensor.stride(), tensor.storage_offset()

    def get(self) -> Tensor:
        """The tensor, made again."""
        return self._again.matrix(self._name).as_strided(*self._layout)


class FssdpCallback(TrainerCallback):
    """Plans the copies of each optimizer step from the token counts of the last ones.

    Without it, and without calls of `fssdp_step`, nothing is ever copied: the group runs as stock expert parallelism.

    Args:
        options: What may be copied. Default: `FssdpOptions()`.

    Example:
        ```python
        # Under torchrun with 4 processes:
        spread = DistributedConfig(ep_size=4, fsdp_size=4, ep_implementation="fssdp")
        model = AutoModelForCausalLM.from_pretrained(folder, distributed_config=spread)
        Trainer(model, arguments, train_dataset=rows, callbacks=[FssdpCallback(FssdpOptions(num_slots=4))]).train()
        ```

        >>> from hf_mixture import FssdpCallback, FssdpOptions
        >>> FssdpCallback(FssdpOptions(num_slots=4)).options.window
        5
    """

    def __init__(self, options: FssdpOptions | None = None) -> None:
        self.options = options

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Set the options."""
        if self.options is not None:
            set_fssdp_options(model, self.options)

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Plan the next step."""
        fssdp_step(model)


def set_fssdp_options(model: nn.Module, options: FssdpOptions) -> None:
    """Change what the layers of a model may copy.

    Args:
        model: A model that was loaded with `ep_implementation="fssdp"`.
        options: What may be copied.

    Raises:
        ValueError: If the model was loaded in another way.
    """
    for layer in fssdp_layers(model):
        layer.use_options(options)


def fssdp_step(model: nn.Module) -> None:
    """End an optimizer step of a model that is trained without the Trainer. All ranks must call it.

    Args:
        model: A model that was loaded with `ep_implementation="fssdp"`.

    Raises:
        ValueError: If the model was loaded in another way.
    """
    for layer in fssdp_layers(model):
        layer.step()


def fssdp_layers(model: nn.Module) -> list[FssdpEP]:
    """The implementations of the layers of a model, in their order.

    Raises:
        ValueError: If there are none.
    """
    found: list[Any] = [getattr(module, "fssdp", None) for module in model.modules()]
    layers = [layer for layer in found if isinstance(layer, FssdpEP)]
    if not layers:
        raise ValueError(
            'this model has no layer with ep_implementation="fssdp"; load it with '
            'distributed_config=DistributedConfig(ep_size=..., ep_implementation="fssdp")'
        )
    return layers


def _target_table(holders: Holders, cluster: Cluster, rank: int) -> tuple[Tensor, Tensor]:
    """For tokens of a rank: the eligible ranks of each expert [E, D], and their number [E]."""
    num_experts, num_ranks = holders.shape
    near = np.arange(num_ranks) // cluster.devices_per_node == cluster.node_of(rank)
    table = np.zeros((num_experts, num_ranks), dtype=np.int64)
    number = np.ones(num_experts, dtype=np.int64)
    for expert, holds in enumerate(holders):
        eligible = [rank] if holds[rank] else (holds & near).nonzero()[0].tolist() or holds.nonzero()[0].tolist()
        table[expert, : len(eligible)] = eligible
        number[expert] = len(eligible)
    return torch.from_numpy(table), torch.from_numpy(number)
