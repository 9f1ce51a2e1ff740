"""`ep_implementation="folded"`: token dispatch to experts of which each may be split over ranks (Parallel Folding).

Forward: all-to-all over expert parallelism, all-gather over expert tensor parallelism, the experts with their share
of the inner columns, reduce-scatter, all-to-all back (arXiv 2504.14960). Stock transformers has the first and last
of these.

Letters: T tokens, K experts of a token, E experts, H hidden size; ep ranks of expert parallelism, etp of expert
tensor parallelism: rank e * etp + t of the group that transformers knows as `ep` holds share t of the experts of e.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Placement, Replicate, Shard, distribute_tensor
from transformers.distributed.expert_parallel import EPImplementation

from hf_mixture._compat.collectives import exchange_rows
from hf_mixture._compat.meshes import split_mesh, strided_shard
from hf_mixture.moe.parallel.dispatch import combine, gather_shared_batch, run_experts, slice_shared_batch


class Packed(NamedTuple):
    """Rows to send to experts.

    Args:
        rows: By expert [rows, H].
        counts: Rows for each expert [E].
        pairs: Place of each row among the T x K pairs of token and expert [P].
        lies: Where among the rows that of each pair is [P]; None where rows and pairs are in the same order.
    """

    rows: Tensor
    counts: Tensor
    pairs: Tensor
    lies: Tensor | None = None


class FoldedEP(EPImplementation):
    """Dispatch of tokens for one layer.

    Args:
        experts: The experts module, sharded by expert over all ranks of `ep_mesh` but not loaded yet.
        ep_mesh: The ep x etp ranks over which experts are spread.
        tp_mesh: The ranks that hold the same batch.
        etp: Ranks that share an expert. Default: 1.

    Raises:
        ValueError: If etp does not divide the ranks or the inner columns.
        TypeError: If the experts have biases, which cannot be split.
    """

    def __init__(self, experts: nn.Module, ep_mesh: Any, tp_mesh: Any, *, etp: int = 1) -> None:
        if ep_mesh.size() % etp:
            raise ValueError(
                f"etp={etp} does not divide the {ep_mesh.size()} ranks of ep_size; ep_size is ep x etp, so give a "
                "multiple of etp, or FoldingPlan(...).to_distributed_config()"
            )
        self.etp, self.num_ep = etp, ep_mesh.size() // etp
        self.ep_group: Any = ep_mesh.get_group()
        self.etp_group: Any = None
        if etp > 1:
            mesh = split_mesh(ep_mesh, self.num_ep, etp)
            split_experts(experts, mesh)
            self.ep_group, self.etp_group = mesh.get_group("ep"), mesh.get_group("etp")
        super().__init__(experts, ep_mesh, tp_mesh)
        self.num_experts = self.num_local_experts * self.num_ep
        self.ep_rank, self.etp_rank = divmod(ep_mesh.get_local_rank(), etp)

    def __call__(self, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
        num_tokens = len(hidden_states)
        mine = slice_shared_batch((hidden_states, top_k_index, top_k_weights), self.tp_mesh)
        return gather_shared_batch(self._dispatch(*mine), self.tp_mesh, num_tokens)

    def _dispatch(self, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
        packed = self._pack(hidden_states, top_k_index, top_k_weights)
        counts = self._share_counts(packed.counts)
        # The one point of a layer at which the host waits for the device.
        sizes = counts.sum(-1).tolist()
        send = sizes[self.ep_rank][self.etp_rank]
        # Rows that each rank with share t gets from each ep rank.
        received = [[sizes[source][share][self.ep_rank] for source in range(self.num_ep)] for share in range(self.etp)]
        tokens = exchange_rows(packed.rows, receive=received[self.etp_rank], send=send, group=self.ep_group)
        totals = [sum(of_share) for of_share in received]
        if self.etp > 1:
            tokens = self._all_gather(tokens, totals)
        of_rank = counts[:, :, self.ep_rank].transpose(0, 1).flatten()
        places = torch.arange(self.num_local_experts, device=tokens.device).repeat(self.etp * self.num_ep)
        places = places.repeat_interleave(of_rank, output_size=sum(totals)).unsqueeze(-1)
        output = run_experts(self.experts_forward, tokens, places)
        if self.etp > 1:
            output = self._reduce_scatter(output, totals)
        output = exchange_rows(output, receive=send, send=received[self.etp_rank], group=self.ep_group)
        if packed.lies is not None:
            output = output[packed.lies]
        return combine(output, packed.pairs, top_k_weights)

    def _pack(self, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Packed:
        """The rows to send: here those of all pairs."""
        expert_ids = top_k_index.flatten()
        pairs = torch.argsort(expert_ids, stable=True)
        counts = torch.bincount(expert_ids, minlength=self.num_experts)
        return Packed(hidden_states[pairs // top_k_index.shape[-1]], counts, pairs)

    def _share_counts(self, counts: Tensor) -> Tensor:
        """Pairs that every rank sends to every expert [ep, etp, ep, E / ep]."""
        everyone = counts.new_empty(self.num_ep * self.etp * self.num_experts)
        dist.all_gather_single(everyone, counts, group=self.ep_mesh.get_group())
        return everyone.view(self.num_ep, self.etp, self.num_ep, -1)

    def _all_gather(self, tokens: Tensor, totals: list[int]) -> Tensor:
        """The rows of all shares; backwards, their gradients are summed where they came from."""
        own = len(tokens)
        return exchange_rows(tokens.repeat(self.etp, 1), receive=totals, send=[own] * self.etp, group=self.etp_group)

    def _reduce_scatter(self, output: Tensor, totals: list[int]) -> Tensor:
        """Sums of what all shares gave for this rank's rows, in the order of the shares."""
        own = totals[self.etp_rank]
        parts = exchange_rows(output, receive=[own] * self.etp, send=totals, group=self.etp_group)
        return parts.view(self.etp, own, -1).sum(dim=0)


def split_experts(experts: nn.Module, mesh: Any) -> None:
    """Lay the parameters of experts out over expert and expert tensor parallelism, before they are loaded.

    The gate and the up half of a fused matrix are split each for itself, so that the halves of a rank fit.

    Args:
        experts: The experts module of a model of transformers, sharded by expert over all ranks of the mesh.
        mesh: Ranks [ep, etp].

    Raises:
        ValueError: If the inner columns do not divide over etp.
        TypeError: If the experts have biases.
    """
    module: Any = experts
    num_ep, etp = mesh.shape
    if getattr(module, "has_bias", False):
        raise TypeError(
            f"{type(experts).__name__} has biases, which expert tensor parallelism would add once for each share; "
            'use etp=1, or ep_implementation="all_to_all"'
        )
    transposed, concatenated = getattr(module, "is_transposed", False), getattr(module, "is_concatenated", True)
    parameters: dict[str, Any] = dict(experts.named_parameters(recurse=False))
    for name, parameter in parameters.items():
        inner = 2 if (name == "down_proj") != transposed else 1
        fused = name == "gate_up_proj"
        columns = parameter.shape[inner] // (2 if fused else 1)
        if columns % etp:
            raise ValueError(f"etp={etp} does not divide the {columns} inner columns of {type(experts).__name__}")
        placement: Placement = strided_shard(inner, 2) if fused and concatenated else Shard(inner)
        # Only the shape counts: values come with the checkpoint.
        whole = torch.empty(parameter.shape, dtype=parameter.dtype, device="meta")
        sharded: DTensor = distribute_tensor(whole, mesh, [Shard(0), placement], src_data_rank=None)
        module._parameters[name] = nn.Parameter(sharded, requires_grad=parameter.requires_grad)
    first = next(iter(parameters.values()))
    module.num_experts = first.shape[0] // num_ep
    module.register_state_dict_post_hook(_join_shares)
    module.register_load_state_dict_pre_hook(_split_shares)


def _join_shares(module: Any, state: dict[str, Any], prefix: str, metadata: Any) -> None:
    """Give matrices of gate and up whole in a state dict: PyTorch cannot gather two strided shards at once."""
    name = f"{prefix}gate_up_proj"
    # Before it is loaded, a model is asked how its parameters are laid out.
    if isinstance(state.get(name), DTensor) and not state[name].is_meta:
        state[name] = state[name].redistribute(placements=[*state[name].placements[:-1], Replicate()])


def _split_shares(module: Any, state: dict[str, Any], prefix: str, *ignored: Any) -> None:
    """Undo `_join_shares`."""
    name = f"{prefix}gate_up_proj"
    if isinstance(state.get(name), DTensor):
        state[name] = state[name].redistribute(placements=module.gate_up_proj.placements)
