"""Which ranks form a group: rank arithmetic, without any process group.

Dimensions of parallelism: tp tensor, cp context, dp data, pp pipeline, ep expert, etp expert tensor, edp expert data.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence


RankGroups = list[list[int]]


def rank_groups(sizes: Mapping[str, int], dimensions: Sequence[str]) -> RankGroups:
    """Split ranks into groups that differ only in some dimensions.

    Args:
        sizes: Size of each dimension, the first varying fastest with the rank.
        dimensions: The dimensions in which the ranks of a group differ.

    Returns:
        Groups of ranks, each ascending, in the order of their first ranks.

    Raises:
        ValueError: If a dimension is unknown.

    Example:
        >>> from hf_mixture.moe.parallel.groups import rank_groups
        >>> rank_groups({"tp": 2, "dp": 2, "pp": 2}, ["dp"])
        [[0, 2], [1, 3], [4, 6], [5, 7]]
    """
    if unknown := [name for name in dimensions if name not in sizes]:
        raise ValueError(f"{unknown[0]!r} is no dimension; the dimensions are {', '.join(sizes)}")
    strides, stride = {}, 1
    for name, size in sizes.items():
        strides[name] = stride
        stride *= size
    groups: dict[int, list[int]] = {}
    for rank in range(stride):
        # The rank of the group whose places in the dimensions are all 0.
        first = rank - sum(rank // strides[name] % sizes[name] * strides[name] for name in dimensions)
        groups.setdefault(first, []).append(rank)
    return [groups[first] for first in sorted(groups)]


def nodes_of(group: Sequence[int], gpus_per_node: int) -> set[int]:
    """The nodes that the ranks of a group lie on, with neighbouring ranks filling a node."""
    return {rank // gpus_per_node for rank in group}


def stays_in_node(groups: RankGroups, gpus_per_node: int) -> bool:
    """Whether all groups lie within one node each, so that they talk over its fast links."""
    return all(len(nodes_of(group, gpus_per_node)) == 1 for group in groups)


def divisors(number: int) -> list[int]:
    """All divisors, ascending."""
    small = [value for value in range(1, math.isqrt(number) + 1) if number % value == 0]
    return sorted({*small, *(number // value for value in small)})
