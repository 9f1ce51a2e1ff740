"""Device meshes and placements that PyTorch has but does not promise."""

from __future__ import annotations

import functools
from typing import Any

from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import Placement
from torch.distributed.tensor.placement_types import _StridedShard


@functools.cache
def split_mesh(mesh: Any, num_ep: int, etp: int) -> DeviceMesh:
    """Split a mesh of ranks into expert parallelism and expert tensor parallelism, once for all layers.

    Only a mesh that is derived from the old one may be combined with its siblings, as fully sharded data parallelism
    of experts needs.

    Args:
        mesh: One dimension of ranks.
        num_ep: Ranks of expert parallelism.
        etp: Ranks of expert tensor parallelism; neighbours.

    Returns:
        The mesh [ep, etp].
    """
    split: DeviceMesh = mesh._unflatten(0, (num_ep, etp), ("ep", "etp"))
    return split


def strided_shard(dim: int, num_parts: int) -> Placement:
    """A placement in which each rank has its share of each of some parts of a dimension, as of gate and up."""
    return _StridedShard(dim, split_factor=num_parts)
