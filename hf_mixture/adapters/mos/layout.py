"""Which module draws from which pool: the grouping of targets and the rules a group must obey.

Pure functions on names and shapes, so that every wrong setting is found before a model is changed. Letters as in
`shards.py`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hf_mixture._compat.peft import get_pattern_key
from hf_mixture.adapters.mos.config import MosConfig
from hf_mixture.adapters.mos.shards import check_ranks, draw_indices


@dataclass(frozen=True, kw_only=True)
class Target:
    """One weight that an adapter changes.

    Args:
        name: Path of the module, or of the parameter, inside the base model.
        in_features: Input width.
        out_features: Output width.
        num_experts: Expert matrices stacked in a 3-D parameter; `None` for a module.
    """

    name: str
    in_features: int
    out_features: int
    num_experts: int | None = None


@dataclass(frozen=True, kw_only=True)
class Slot:
    """The place of one target in its pool group.

    Args:
        target: The target.
        group: Name of the group.
        position: Position of the target (of its first expert) among the `num_modules` matrices of the group.
        num_modules: L, the matrices that share the pools.
        rank: r of this target.
    """

    target: Target
    group: str
    position: int
    num_modules: int
    rank: int


def plan_layout(config: MosConfig, targets: Iterable[Target]) -> dict[str, Slot]:
    """Assign every target to its pool group and check that the configuration fits all groups.

    Args:
        config: The adapter's configuration.
        targets: All weights the adapter changes, in any order.

    Returns:
        The slot of each target, by target name.

    Raises:
        ValueError: A dimension is not divisible by `num_shards`, a group is unknown or mixes shapes, or a rank is
            infeasible.

    Example:
        >>> targets = [Target(name=f"layers.{i}.q_proj", in_features=8, out_features=8) for i in range(16)]
        >>> slot = plan_layout(MosConfig(), targets)["layers.10.q_proj"]
        >>> slot.group, slot.position, slot.num_modules
        ('q_proj_8x8', 10, 16)
    """
    ordered = sorted(targets, key=lambda target: natural_key(target.name))
    _check_divisible(config, ordered)
    groups: dict[str, list[Target]] = {}
    for target in ordered:
        groups.setdefault(_group_of(config, target), []).append(target)
    _check_groups(config, groups)

    layout: dict[str, Slot] = {}
    for group, members in groups.items():
        num_modules = sum(member.num_experts or 1 for member in members)
        position = 0
        for member in members:
            layout[member.name] = Slot(
                target=member,
                group=group,
                position=position,
                num_modules=num_modules,
                rank=rank_of(config, member.name),
            )
            position += member.num_experts or 1
    # The smallest group is the most constrained one: the remedy that its message names also serves the others.
    for slot in sorted(layout.values(), key=lambda slot: slot.num_modules):
        check_ranks(
            group=slot.group,
            rank=slot.rank,
            equivalent_rank=config.equivalent_rank,
            private_rank=config.private_rank,
            num_modules=slot.num_modules,
            subset_selection=config.subset_selection,
        )
    return layout


def draw_slot(config: MosConfig, slot: Slot) -> Tensor:
    """Draw the shard indices of one target.

    Args:
        config: The adapter's configuration.
        slot: The target's place in its group.

    Returns:
        Integer indices on the CPU, A's first: (2, r * l) for a module, (2, experts, r * l) for a 3-D parameter.
    """
    pairs = [
        torch.stack(
            draw_indices(
                group=slot.group,
                position=position,
                rank=slot.rank,
                equivalent_rank=config.equivalent_rank,
                private_rank=config.private_rank,
                num_modules=slot.num_modules,
                num_shards=config.num_shards,
                seed=config.index_seed,
                subset_selection=config.subset_selection,
                pair_dissociation=config.pair_dissociation,
            )
        )
        for position in range(slot.position, slot.position + (slot.target.num_experts or 1))
    ]
    return pairs[0] if slot.target.num_experts is None else torch.stack(pairs, dim=1)


def rank_of(config: MosConfig, name: str) -> int:
    """Rank r of the target called `name`: the first matching entry of `rank_pattern`, else `r`."""
    return config.rank_pattern.get(get_pattern_key(list(config.rank_pattern), name), config.r)


def natural_key(name: str) -> list[str | int]:
    """Sort key under which `layers.10` comes after `layers.9`."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]


def module_type(target: Target) -> str:
    """Type of a target: its leaf name, list positions left out; an expert parameter keeps the name of its module."""
    parts = [part for part in target.name.split(".") if not part.isdecimal()]
    return "_".join(parts[-2:] if target.num_experts is not None else parts[-1:]) or "module"


def _group_of(config: MosConfig, target: Target) -> str:
    if isinstance(config.pool_by, dict):
        pattern = get_pattern_key(list(config.pool_by), target.name)
        if pattern not in config.pool_by:
            raise ValueError(
                f"pool_by={config.pool_by!r} gives no group for the targeted {target.name!r}; every target needs "
                "one. Remedy: add a pattern that matches the end of its name, or leave it out of target_modules."
            )
        return config.pool_by[pattern]
    if config.pool_by == "module_type":
        return module_type(target)
    return f"{module_type(target)}_{target.in_features}x{target.out_features}"


def _check_groups(config: MosConfig, groups: dict[str, list[Target]]) -> None:
    if isinstance(config.pool_by, dict):
        unknown = sorted(set(config.pool_by.values()) - set(groups))
        if unknown and groups:
            raise ValueError(
                f"pool_by={config.pool_by!r} names the group {unknown[0]!r}, but its patterns match none of the "
                f"{sum(map(len, groups.values()))} targeted modules (for example "
                f"{next(iter(groups.values()))[0].name!r}). Remedy: correct the pattern or remove the entry."
            )
    for group, members in groups.items():
        first = members[0]
        for other in members[1:]:
            if (first.in_features, first.out_features) != (other.in_features, other.out_features):
                raise ValueError(
                    f"pool_by={config.pool_by!r} puts {first.name!r} ({first.in_features} to {first.out_features} "
                    f"features) and {other.name!r} ({other.in_features} to {other.out_features}) into one group "
                    f"{group!r}; modules that share a pool need equal dimensions. "
                    "Remedy: pool_by='module_type+shape', or separate groups in the mapping."
                )


def _check_divisible(config: MosConfig, targets: Sequence[Target]) -> None:
    for target in targets:
        for side in ("in_features", "out_features"):
            size = getattr(target, side)
            if size % config.num_shards:
                common = math.gcd(*(size for each in targets for size in (each.in_features, each.out_features)))
                divisors = (count for count in range(1, common + 1) if common % count == 0)
                nearest = min(divisors, key=lambda count: (abs(count - config.num_shards), count))
                raise ValueError(
                    f"num_shards={config.num_shards} does not divide {side}={size} of {target.name!r}; shards of a "
                    f"vector have equal width. Remedy: num_shards={nearest}, the nearest value that divides the "
                    "dimensions of all targeted modules, or leave this module out with exclude_modules."
                )
