"""Tensors that a model has under several names, and routers that share theirs with another.

DiffusionGemma, for one, runs the same layers in an encoder and in a decoder: each has router modules of its own, and
their weights and experts are one and the same.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from hf_mixture.moe.anatomy.router import MoeRouter


def tied_names(model: nn.Module) -> dict[str, tuple[str, ...]]:
    """Find the parameters and buffers that are one tensor under several names.

    Args:
        model: The model without wrappers.

    Returns:
        For each such name all names of the tensor, in the order of the model.

    Example:
        >>> from torch import nn
        >>> from hf_mixture.moe.anatomy.ties import tied_names
        >>> model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
        >>> model[1].weight = model[0].weight
        >>> tied_names(model)
        {'0.weight': ('0.weight', '1.weight'), '1.weight': ('0.weight', '1.weight')}
    """
    names: dict[int, list[str]] = {}
    for found in (model.named_parameters(remove_duplicate=False), model.named_buffers(remove_duplicate=False)):
        for name, tensor in found:
            names.setdefault(id(tensor), []).append(name)
    return {name: tuple(alike) for alike in names.values() if len(alike) > 1 for name in alike}


def tied_routers(routers: Sequence[MoeRouter]) -> dict[str, str]:
    """Find routers whose gate or experts are those of an earlier router.

    Args:
        routers: The routers of a model, in its order.

    Returns:
        For the path of each such router the path of the first one that it shares tensors with.
    """
    owners: dict[int, str] = {}
    tied: dict[str, str] = {}
    for router in routers:
        parts = [*router.module.parameters(), *(() if router.experts is None else router.experts.parameters())]
        for part in parts:
            owner = owners.setdefault(id(part), router.path)
            if owner != router.path:
                tied.setdefault(router.path, owner)
    return tied
