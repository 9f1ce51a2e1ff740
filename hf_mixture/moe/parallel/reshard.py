"""New owners for the experts of a model that trains: parameters and optimizer state move (Hecate, section 4.3).

The parameters of the layers stay sharded tensors of the same shapes, whose rows are slots. A rank owns as many experts
of each layer as before, or, with a pool, as many of all layers together. Checkpoints know only the stock order of
experts: it is restored before one is written.

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

    Example:
        >>> from torch import nn
        >>> from hf_mixture import reshard_experts
        >>> reshard_experts(nn.Linear(1, 1), None)
        Traceback (most recent call last):
        ValueError: this model has no layer with ep_implementation="fssdp"; load it with ...
    """
    layers = fssdp_layers(model)
    loads = np.stack([layer.loads for layer in layers])
    options = layers[0].options
    owners = shard(loads, layers[0].cluster, num_busy=options.num_slots, equal_layers=not options.pool)
    return place_experts(layers, _slots_of(layers, owners), optimizer)


def restore_experts(model: nn.Module, optimizer: torch.optim.Optimizer) -> bool:
    """Put all experts back into the stock order, as for a checkpoint. All ranks must call it.

    Args:
        model: A model that was loaded with `ep_implementation="fssdp"`.
        optimizer: Its optimizer, between two steps.

    Returns:
        Whether any expert has moved.

    Raises:
        ValueError: If the model was loaded in another way.

    Example:
        >>> from torch import nn
        >>> from hf_mixture import restore_experts
        >>> restore_experts(nn.Linear(1, 1), None)
        Traceback (most recent call last):
        ValueError: this model has no layer with ep_implementation="fssdp"; load it with ...
    """
    layers = fssdp_layers(model)
    return place_experts(layers, [layer.stock_slots for layer in layers], optimizer)


def place_experts(layers: list[FssdpEP], slots: list[Counts], optimizer: torch.optim.Optimizer) -> bool:
    """Move experts, with their optimizer state, to given slots. All ranks must call it.

    Args:
        layers: The layers of a model.
        slots: For each, the new slot of each expert [E].
        optimizer: The optimizer.

    Returns:
        Whether any expert has moved.

    Raises:
        ValueError: If experts are sharded over several ranks each.
    """
    old = np.concatenate([layer.slots for layer in layers])
    new = np.concatenate(slots)
    if (old == new).all():
        return False
    for layer in layers:
        for parameter in layer.experts.parameters():
            if len(_rows(parameter)) != layer.num_local_experts:
                raise ValueError(
                    "reshard_interval needs experts that lie whole on one rank each; use ep_size=fsdp_size*tp_size, "
                    "or reshard_interval=None"
                )
    for name, parameter in layers[0].experts.named_parameters():
        parameters = [layer.experts.get_parameter(name) for layer in layers]
        states: list[dict[str, Any]] = [optimizer.state.get(parameter, {}) for parameter in parameters]
        same = [
            key for key, value in states[0].items() if isinstance(value, Tensor) and value.shape == parameter.shape
        ]
        for tensors in (parameters, *([state[key] for state in states] for key in same)):
            _move([_rows(tensor) for tensor in tensors], layers[0], old, new)
    for layer, of_layer in zip(layers, slots, strict=True):
        layer.use_slots(of_layer)
    return True


def _slots_of(layers: list[FssdpEP], owners: Counts) -> list[Counts]:
    """Slots for given owners; an expert that stays with its owner keeps its slot if it may."""
    pool, per_rank, num_layers = layers[0].options.pool, layers[0].num_local_experts, len(layers)
    slots = []
    for layer, wanted in zip(layers, owners, strict=True):
        own_layer = layer.slots // per_rank % num_layers == layer.index
        slots.append(np.where((layer.owners == wanted) & (own_layer | pool), layer.slots, -1))
    free = sorted(set(range(num_layers * layers[0].num_experts)) - set(np.concatenate(slots).tolist()))
    for layer, chosen in zip(layers, slots, strict=True):
        for expert in (chosen < 0).nonzero()[0]:
            of_rank = [slot for slot in free if slot // (num_layers * per_rank) == owners[layer.index, expert]]
            # Its own layer's parameters first: what lies there needs no gathering.
            slot = min(of_rank, key=lambda slot: (slot // per_rank % num_layers != layer.index, slot))
            free.remove(slot)
            chosen[expert] = slot
    return slots


@torch.no_grad()
def _move(rows: list[Tensor], layer: FssdpEP, old: Counts, new: Counts) -> None:
    """Exchange experts of one tensor of each layer, in place.

    Args:
        rows: What this rank has of the tensor of each layer, each [E / D, ...].
        layer: Any layer, for its sizes and ranks.
        old: Slots of all experts of all layers [L E].
        new: The slots that they get [L E].
    """
    per_rank = layer.num_local_experts
    of_rank = per_rank * len(rows)
    moved = (old != new).nonzero()[0]
    moved = moved[np.argsort(new[moved])]
    source, target = old[moved] // of_rank, new[moved] // of_rank

    def place(slot: int) -> tuple[int, int]:
        return divmod(slot % of_rank, per_rank)

    leaving = [moved[(source == layer.rank) & (target == other)] for other in range(layer.num_ranks)]
    arriving = [moved[(target == layer.rank) & (source == other)] for other in range(layer.num_ranks)]
    message = rows[0].new_empty(sum(map(len, leaving)), rows[0][0].numel())
    for number, slot in enumerate(int(old[expert]) for experts in leaving for expert in experts):
        module, row = place(slot)
        message[number] = rows[module][row].flatten()
    received = message.new_empty(sum(map(len, arriving)), message.shape[1])
    sizes = list(map(len, arriving)), list(map(len, leaving))
    dist.all_to_all_single(received, message, *sizes, group=layer.group)
    for number, slot in enumerate(int(new[expert]) for experts in arriving for expert in experts):
        module, row = place(slot)
        rows[module][row] = received[number].view_as(rows[module][row])


def _rows(tensor: Any) -> Tensor:
    """What this rank has of a tensor."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor
