"""Experts as people name them: `LAYER:EXPERT`."""

from __future__ import annotations

from collections.abc import Sequence

from hf_mixture.moe.anatomy import MoeRouter
from hf_mixture.moe.mote.edit import ExpertEdit, Op


def expert_edit(routers: Sequence[MoeRouter], place: str, op: Op) -> ExpertEdit:
    """Make the edit of the expert at a place of a model.

    Args:
        routers: The routers of the model.
        place: `"LAYER:EXPERT"`, where LAYER is the index of a layer or the path of a router.
        op: `"off"` or `"on"`.

    Returns:
        The edit.

    Raises:
        ValueError: If the place is no such pair, or not one router of the model lies there.

    Example:
        >>> from types import SimpleNamespace
        >>> from hf_mixture.moe.mote.places import expert_edit
        >>> router = SimpleNamespace(path="model.layers.3.mlp.gate", layer=3, num_experts=8)
        >>> expert_edit([router], "3:5", "off").module
        'model.layers.3.mlp.gate'
    """
    layer, _, expert = place.rpartition(":")
    if not layer or not expert.isdecimal():
        raise ValueError(f"{place!r} is not LAYER:EXPERT, such as 3:17")
    found = [router for router in routers if layer in (router.path, str(router.layer))]
    if len(found) == 1:
        return ExpertEdit(found[0].path, int(expert), op, layer=found[0].layer)
    if found:
        paths = ", ".join(router.path for router in found)
        raise ValueError(f"{place!r}: layer {layer} has {len(found)} routers; name one by its path: {paths}")
    places = ", ".join(router.path if router.layer is None else str(router.layer) for router in routers)
    raise ValueError(f"{place!r}: no router in layer {layer}; the layers with experts are {places}")
