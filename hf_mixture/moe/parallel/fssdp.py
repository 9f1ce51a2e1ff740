"""`ep_implementation="fssdp"`: expert parallelism that copies the busy experts of each step (Hecate).

Every expert has one owner, as in stock expert parallelism. For a step, the busiest experts are also copied to other
ranks; a token goes to a copy on its own rank, else in its node, else anywhere; backwards, the gradients of the copies
go to the owner, and the copies are gone (arXiv 2502.02581). Which experts are busy is predicted from the last steps,
so that all ranks plan the same without asking the routers of this step.

Letters: T tokens, K experts of a token, E experts, D ranks of the expert-parallel group, H hidden size.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from transformers.distributed.expert_parallel import EPImplementation

from hf_mixture._compat.collectives import exchange_rows
from hf_mixture.moe.parallel.copies import ExpertCopies
from hf_mixture.moe.parallel.dispatch import combine, gather_shared_batch, run_experts, slice_shared_batch
from hf_mixture.moe.parallel.exchange import ExchangePlan, exchange_plan, experts_of
from hf_mixture.moe.parallel.placement import Cluster, Counts, Holders, calibrate, materialise


@dataclass(frozen=True, kw_only=True)
class FssdpOptions:
    """What `ep_implementation="fssdp"` may copy.

    Args:
        num_busy: Busiest experts of a layer that may be copied. Default: all.
        num_slots: Copies that a rank has room for, in each layer. Default: 2.
        window: Optimizer steps whose token counts are the prediction. Default: 5, as in the paper.
        ranks_per_node: Ranks of a node, which share fast links. Default: all.
        rematerialise: Whether copies are dropped after the forward pass and fetched again for the backward pass: the
            memory of one layer's copies, for half as much again to send. Default: False, as in the paper. Gradient
            checkpointing fetches them again by itself.
        prefetch: Whether copies are fetched while attention computes. Default: True.
        calibrate: Whether free slots are filled when the routers have decided, where that pays. Default: False.
        copy_tokens: For `calibrate`: tokens that a rank computes, forward and backward, while it receives an expert
            and returns its gradient. Default: 1000, about that of an H100 with links of 50 GB/s.
        reshard_interval: Optimizer steps after which experts get new owners. Default: never; the paper has 100.
        pool: Whether a rank may then own any number of a layer's experts, as long as all ranks own as many over all
            layers, as in the paper; an expert may then lie in the parameters of another layer until a checkpoint.
            Default: False, as many of each layer.

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
    prefetch: bool = True
    calibrate: bool = False
    copy_tokens: float = 1000.0
    reshard_interval: int | None = None
    pool: bool = False

    def __post_init__(self) -> None:
        least = {"num_busy": 0, "num_slots": 0, "window": 1, "ranks_per_node": 1, "reshard_interval": 1}
        for name, smallest in least.items():
            value = getattr(self, name)
            if value is not None and (type(value) is not int or value < smallest):
                raise ValueError(f"{name}={value!r} is not a whole number of at least {smallest}")
        if not self.copy_tokens >= 0:
            raise ValueError(f"copy_tokens={self.copy_tokens!r} is not a number of at least 0")


class _Arrangement(NamedTuple):
    """What follows from who holds what.

    Args:
        holders: [E, D].
        exchanges: What this rank sends and receives.
        targets: For tokens of this rank: the eligible ranks of each expert [E, D].
        num_targets: How many these are [E].
        places: Where each expert is among those that this rank holds [E]; -1 for others.
    """

    holders: Holders
    exchanges: list[ExchangePlan]
    targets: Tensor
    num_targets: Tensor
    places: Tensor


class FssdpEP(EPImplementation):
    """Fully sharded sparse data parallelism of the experts of one layer.

    Attributes:
        options: What may be copied; `set_fssdp_options` changes it.
        layers: All layers of the model; `slots` is about them, `index` is this one's number.
        slots: Where each expert lies [E]: slot (d L + l) n + r is row r of layer l's parameters on rank d, each rank
            having n rows in each of L layers.
        window: Token counts of the last steps, each [E].
        rank_loads: Tokens that each rank has computed in the last step [D].
    """

    def __init__(self, experts: nn.Module, ep_mesh: Any, tp_mesh: Any) -> None:
        super().__init__(experts, ep_mesh, tp_mesh)
        self.experts = experts
        self.group = ep_mesh.get_group()
        self.rank, self.num_ranks = ep_mesh.get_local_rank(), ep_mesh.size()
        self.num_experts = self.num_local_experts * self.num_ranks
        self.layers, self.index = [self], 0
        self.slots = self.stock_slots
        self.window: deque[Counts] = deque()
        self.copies = ExpertCopies(experts, self.group)
        # Tokens of this rank's batches for each expert, and then those that each rank has computed.
        self._counts = torch.zeros(self.num_experts + self.num_ranks, dtype=torch.int64, device=ep_mesh.device_type)
        self.rank_loads: Counts = np.zeros(self.num_ranks, dtype=np.int64)
        self._hooks: list[Any] = []
        self.use_options(FssdpOptions())
        module: Any = experts
        module.fssdp = self
        module.register_state_dict_post_hook(_refuse_other_order)
        module.register_load_state_dict_pre_hook(_take_stock_order)

    @property
    def owners(self) -> Counts:
        """The rank that owns each expert [E]."""
        return self.slots // (len(self.layers) * self.num_local_experts)

    @property
    def stock_slots(self) -> Counts:
        """Where each expert lies in stock expert parallelism [E]."""
        owners, rows = np.divmod(np.arange(self.num_experts), self.num_local_experts)
        return (owners * len(self.layers) + self.index) * self.num_local_experts + rows

    def join(self, layers: list[FssdpEP], index: int) -> None:
        """Take note of the other layers of the model.

        Args:
            layers: All layers, in their order.
            index: The number of this one.
        """
        if layers != self.layers:
            self.layers, self.index = layers, index
            self.use_slots(self.stock_slots)
        self.copies.previous = layers[index - 1].copies if index else None

    @property
    def holders(self) -> Holders:
        """Who holds what in this step, owners included [E, D]."""
        return self._arrangement.holders

    @property
    def exchange(self) -> ExchangePlan:
        """What this rank sends and receives in this step."""
        return self._arrangement.exchanges[0]

    def use_options(self, options: FssdpOptions) -> None:
        """Change what may be copied; the window stays.

        Raises:
            ValueError: If the ranks do not fill nodes.
        """
        per_node = self.num_ranks if options.ranks_per_node is None else min(options.ranks_per_node, self.num_ranks)
        self.cluster = Cluster(self.num_ranks, per_node)
        self.options = options
        self.window = deque(self.window, maxlen=options.window)
        self.plan()

    def step(self) -> None:
        """End an optimizer step: put its counts into the window, and plan the next one. All ranks must call it."""
        dist.all_reduce(self._counts, group=self.group)
        counts = self._counts.cpu().numpy()
        self.window.append(counts[: self.num_experts])
        self.rank_loads = counts[self.num_experts :]
        self._counts = torch.zeros_like(self._counts)
        self.plan()

    @property
    def loads(self) -> Counts:
        """Tokens of each expert in the window [E]."""
        return np.sum(self.window, axis=0) if self.window else np.zeros(self.num_experts, dtype=np.int64)

    @property
    def num_busy(self) -> int:
        """Experts that may be copied."""
        return self.num_experts if self.options.num_busy is None else self.options.num_busy

    def plan(self) -> None:
        """Choose the copies of the next step."""
        self.use_holders(
            materialise(
                self.loads, self.owners, self.cluster, num_busy=self.num_busy, num_slots=self.options.num_slots
            )
        )

    def use_holders(self, holders: Holders) -> None:
        """Use a placement of copies until the next step.

        Args:
            holders: [E, D]; owners are among them, and all ranks use the same.
        """
        self._arrangement = self._arrange(holders, [self._exchange(holders)])

    def _exchange(self, copies: Holders) -> ExchangePlan:
        near = self.cluster.devices_per_node
        return exchange_plan(copies, self.owners, self.rank, slots=self.slots, ranks_per_node=near)

    def _arrange(self, holders: Holders, exchanges: list[ExchangePlan]) -> _Arrangement:
        targets, num_targets = _target_table(holders, self.cluster, self.rank)
        mine = experts_of(self.rank, self.owners, self.slots)
        held = [*mine, *(expert for exchange in exchanges for expert in exchange.received)]
        places = torch.full((self.num_experts,), -1)
        places[held] = torch.arange(len(held))
        tables = (table.to(self._counts.device) for table in (targets, num_targets, places))
        return _Arrangement(holders, exchanges, *tables)

    def use_slots(self, slots: Counts) -> None:
        """Take note that the experts lie at other places now.

        Args:
            slots: Where each expert lies [E].
        """
        self.slots = slots
        rows: dict[int, list[int]] = {}
        for expert in experts_of(self.rank, self.owners, slots):
            layer, row = divmod(
                int(slots[expert]) % (len(self.layers) * self.num_local_experts), self.num_local_experts
            )
            rows.setdefault(layer, []).append(row)
        whole = {self.index: list(range(self.num_local_experts))}
        self.copies.rows = None if rows == whole else [(self.layers[layer].copies, rows[layer]) for layer in rows]
        self.plan()

    def average_gradients(self, num_batches: int) -> None:
        """Divide gradients by the number of batches here, and not in fully sharded data parallelism.

        That divides the gradients of this module's parameters, and experts may lie in another's; and it divides
        those in float64 and float16 twice where each expert has one rank (PyTorch 2.13).

        Args:
            num_batches: Ranks that see other tokens.
        """
        module: Any = self.experts
        if hasattr(module, "set_gradient_divide_factor"):
            module.set_gradient_divide_factor(1.0)
            self.copies.gradient_scale = 1.0 / num_batches

    def prefetch_before(self, decoder_layer: nn.Module) -> None:
        """Fetch the copies of each call when a module begins, its attention first."""
        hook = decoder_layer.register_forward_pre_hook(lambda *ignored: self.copies.prefetch(self.exchange))
        self._hooks.append(hook)

    def remove_prefetch(self) -> None:
        """Fetch the copies when they are needed."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def __call__(self, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
        num_tokens = len(hidden_states)
        mine = slice_shared_batch((hidden_states, top_k_index, top_k_weights), self.tp_mesh)
        return gather_shared_batch(self._dispatch(*mine), self.tp_mesh, num_tokens)

    def _dispatch(self, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
        expert_ids = top_k_index.flatten()
        counts = torch.bincount(expert_ids, minlength=self.num_experts)
        is_training = torch.is_grad_enabled() and self.experts.training
        if is_training:
            self._counts[: self.num_experts] += counts
        plan = self._calibrated(counts) if self.options.calibrate else self._arrangement
        keys = self._choose_targets(plan, expert_ids, counts) * self.num_experts + expert_ids
        pairs = torch.argsort(keys, stable=True)
        send_counts = torch.bincount(keys, minlength=self.num_ranks * self.num_experts)
        send_counts = send_counts.view(self.num_ranks, self.num_experts)
        recv_counts = torch.empty_like(send_counts)
        dist.all_to_all_single(recv_counts, send_counts, group=self.group)
        send_sizes, recv_sizes = torch.stack([send_counts.sum(1), recv_counts.sum(1)]).tolist()
        if is_training:
            self._counts[self.num_experts + self.rank] += sum(recv_sizes)
        rows = hidden_states[pairs // top_k_index.shape[-1]]
        tokens = exchange_rows(rows, receive=recv_sizes, send=send_sizes, group=self.group)
        ids = torch.arange(self.num_experts, device=rows.device).repeat(self.num_ranks)
        ids = ids.repeat_interleave(recv_counts.flatten(), output_size=sum(recv_sizes))
        with self.copies.in_place(plan.exchanges, drop=self.options.rematerialise):
            output = run_experts(self.experts_forward, tokens, plan.places[ids].unsqueeze(-1))
        output = exchange_rows(output, receive=send_sizes, send=recv_sizes, group=self.group)
        return combine(output, pairs, top_k_weights)

    def _calibrated(self, counts: Tensor) -> _Arrangement:
        """The arrangement of this call, when all ranks know what the routers have decided."""
        counts = counts.clone()
        dist.all_reduce(counts, group=self.group)
        slots = {"num_busy": self.num_busy, "num_slots": self.options.num_slots}
        loads, copy_tokens = counts.cpu().numpy(), self.options.copy_tokens
        holders = calibrate(loads, self.holders, self.owners, self.cluster, **slots, copy_tokens=copy_tokens)
        if holders is self.holders:
            return self._arrangement
        return self._arrange(holders, [self.exchange, self._exchange(holders & ~self.holders)])

    def _choose_targets(self, plan: _Arrangement, expert_ids: Tensor, counts: Tensor) -> Tensor:
        """The rank that each pair of token and expert goes to: in turn those that are eligible [T K]."""
        order = torch.argsort(expert_ids, stable=True)
        first = (counts.cumsum(0) - counts)[expert_ids[order]]
        turn = torch.empty_like(expert_ids)
        # Ranks begin with different targets, so that few tokens of many ranks do not meet at one.
        turn[order] = torch.arange(len(order), device=expert_ids.device) - first + self.rank
        return plan.targets[expert_ids, turn % plan.num_targets[expert_ids]]


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


def _refuse_other_order(module: Any, state: Any, prefix: str, metadata: Any) -> None:
    """Let no state dict have the experts in another order than the stock one."""
    layer: FssdpEP = module.fssdp
    if (layer.slots != layer.stock_slots).any():
        raise ValueError(
            f"the experts of {prefix.rstrip('.')} have other owners at this point of training, and so another order; "
            "call restore_experts(model, optimizer) on all ranks before the model is saved"
        )


def _take_stock_order(module: Any, *ignored: Any) -> None:
    """Note that what is loaded has the stock order."""
    layer: FssdpEP = module.fssdp
    layer.use_slots(layer.stock_slots)


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
