"""New owners for the experts of a model that trains: parameters and optimizer state move (Hecate, section 4.3).

Every rank owns as many experts of each layer as before, so that the layers stay sharded tensors. Checkpoints know
only the stock order of experts: owners are put back before one is written.

Letters: L layers, E experts of a layer, D ranks of the expert-parallel group.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from hf_mixture.moe.parallel.fssdp import FssdpEP, fssdp_layers
from hf_mixture.moe.parallel.placement import Counts, shard


def reshard_experts(model: nn.Module, optimizer: torch.optim.Optimizer) -> bool:
    """Give the experts the owners that the loads of the last steps suggest (algorithm 2). All ranks must call it.

    Args:
        model: A model that was loaded with `ep_implementation="fssdp"`.
        optimizer: Its optimizer, between two steps.

    Returns:
        Whether any expert has moved.

    Raises:
        ValueError: If the model was loaded in another way, or experts are sharded over several ranks each.
    """
    layers = fssdp_layers(model)
    loads = np.stack([layer.loads for layer in layers])
    first = layers[0]
    owners = shard(loads, first.cluster, num_busy=first.options.num_slots, equal_layers=True)
    return place_experts(layers, [_slots_of(layer, of) for layer, of in zip(layers, owners, strict=True)], optimizer)


def restore_experts(model: nn.Module, optimizer: torch.optim.Optimizer) -> bool:
    """Put all experts back into the stock order, as for a checkpoint. All ranks must call it.

    Args:
        model: A model that was loaded with `ep_implementation="fssdp"`.
        optimizer: Its optimizer, between two steps.

    Returns:
        Whether any expert has moved.

    Raises:
        ValueError: If the model was loaded in another way.
    """
    layers = fssdp_layers(model)
    return place_experts(layers, [np.arange(layer.num_experts) for layer in layers], optimizer)


def place_experts(layers: list[FssdpEP], slots: list[Counts], optimizer: torch.optim.Optimizer) -> bool:
    """Move experts, with their optimizer state, to given places. All ranks must call it.

    Args:
        layers: The layers of a model.
        slots: For each, the new place of each expert among those of all ranks [E].
        optimizer: The optimizer.

    Returns:
        Whether any expert has moved.

    Raises:
        ValueError: If experts are sharded over several ranks each.
    """
    moving = [(layer, new) for layer, new in zip(layers, slots, strict=True) if (layer.slots != new).any()]
    for layer, _ in moving:
        for parameter in layer.experts.parameters():
            if len(_rows(parameter)) != layer.num_local_experts:
                raise ValueError(
                    "reshard_interval needs experts that lie whole on one rank each; use ep_size=fsdp_size*tp_size, "
                    "or reshard_interval=None"
                )
    for layer, new in moving:
        for parameter in layer.experts.parameters():
            states: dict[str, Any] = optimizer.state.get(parameter, {})
            same = [state for state in states.values() if isinstance(state, Tensor) and state.shape == parameter.shape]
            for tensor in (parameter, *same):
                _move(_rows(tensor), layer, new)
        layer.use_slots(new)
    return bool(moving)


def _slots_of(layer: FssdpEP, owners: Counts) -> Counts:
    """Places for given owners; an expert that stays with its owner keeps its place."""
    slots = np.where(layer.owners == owners, layer.slots, -1)
    free = sorted(set(range(layer.num_experts)) - set(slots.tolist()))
    for expert in (slots < 0).nonzero()[0]:
        slot = next(slot for slot in free if slot // layer.num_local_experts == owners[expert])
        free.remove(slot)
        slots[expert] = slot
    return slots


@torch.no_grad()
def _move(rows: Tensor, layer: FssdpEP, new: Counts) -> None:
    """Exchange the experts of one tensor, in place [E / D, ...]."""
    per_rank, rank = layer.num_local_experts, layer.rank
    in_order = np.argsort(new)
    sent = [
        [int(layer.slots[e] % per_rank) for e in in_order[to * per_rank :][:per_rank] if layer.owners[e] == rank]
        for to in range(layer.num_ranks)
    ]
    mine = in_order[rank * per_rank :][:per_rank]
    source = layer.owners[mine]
    message = rows[[place for places in sent for place in places]].flatten(1)
    received = torch.empty_like(rows).flatten(1)
    receive_sizes = [int((source == other).sum()) for other in range(layer.num_ranks)]
    dist.all_to_all_single(received, message, receive_sizes, list(map(len, sent)), group=layer.group)
    rows[np.argsort(source, kind="stable").tolist()] = received.view(rows.shape)


def _rows(tensor: Any) -> Tensor:
    """What this rank has of a tensor."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor
