"""Running experts with nested planes, each token at the width that is chosen for it.

Letters: E experts, T tokens, K experts of a token, H hidden size, N widths, S = T K places, R rows and C columns of a
matrix.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from hf_mixture.moe.mwq.bit_policy import Choice
from hf_mixture.moe.mwq.planes import NestedPlanes, Workspace, row_tiles


# The tensors of one level of one matrix: base, offset and scale, or sign and scale.
LevelTensors = tuple[Tensor, ...]


class Group(NamedTuple):
    """The places of one expert at one width.

    Args:
        expert: The expert.
        level: Place of the width among the widths.
        start: First of its places in the sorted places.
        stop: The place after the last.
    """

    expert: int
    level: int
    start: int
    stop: int


class Places(NamedTuple):
    """The places of a call, sorted by expert and width.

    Args:
        order: For each sorted place, its place in [T, K] flattened; places without an expert are left out.
        groups: The groups, by expert and width.
    """

    order: Tensor
    groups: list[Group]


class Step(NamedTuple):
    """What to do next: add levels to the matrices at hand, and then run tokens, if there are some at this width.

    Args:
        expert: The expert.
        first: The level of the first of `levels`; with 0 the matrices are begun anew.
        levels: Tensors of the matrices up and down, for each level.
        group: The tokens to run; None for none.
    """

    expert: int
    first: int
    levels: list[tuple[LevelTensors, LevelTensors]]
    group: Group | None


def sort_places(top_k_index: Tensor, levels: Tensor, num_experts: int, num_levels: int) -> Places:
    """Group the places of a call by expert and width.

    Args:
        top_k_index: Experts [T, K]; E for none.
        levels: Place of the width of each [T, K]; -1 where the token skips the expert.
        num_experts: E.
        num_levels: N.

    Returns:
        The places.
    """
    none = num_experts * num_levels
    keys = torch.where(levels >= 0, top_k_index * num_levels + levels, none).flatten().clamp(max=none)
    counts = torch.bincount(keys, minlength=none + 1).tolist()
    order = keys.argsort(stable=True)[: sum(counts[:none])]
    groups, start = [], 0
    for key, count in enumerate(counts[:none]):
        if count:
            groups.append(Group(key // num_levels, key % num_levels, start, start + count))
            start += count
    return Places(order, groups)


def choose(experts: Any, hidden: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Choice:
    """The width of each place: that of the policy, or the one that is set for all."""
    if experts.mwq_policy is None:
        level = experts.mwq_widths.index(experts.mwq_width)
        return Choice(top_k_index, torch.full_like(top_k_index, level), top_k_weights)
    choice: Choice = experts.mwq_policy(hidden, top_k_index, top_k_weights)
    return choice


def run_experts(experts: Any, hidden: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
    """Run nested experts whose planes are in memory.

    Args:
        experts: The module.
        hidden: [T, H].
        top_k_index: [T, K].
        top_k_weights: [T, K].

    Returns:
        [T, H].
    """
    index, levels, weights = choose(experts, hidden, top_k_index, top_k_weights)
    places = sort_places(index, levels, experts.num_experts, len(experts.mwq_widths))
    up, down = (experts.planes_of(name) for name in experts.matrices())
    return run_steps(experts, hidden, weights, places, _steps(up, down, places.groups), planes=(up, down))


def _steps(up: NestedPlanes, down: NestedPlanes, groups: Iterable[Group]) -> Iterator[Step]:
    before: Group | None = None
    for group in groups:
        first = before.level + 1 if before is not None and before.expert == group.expert else 0
        levels = [
            (level_tensors(up, level, group.expert), level_tensors(down, level, group.expert))
            for level in range(first, group.level + 1)
        ]
        yield Step(group.expert, first, levels, group)
        before = group


def level_tensors(planes: NestedPlanes, level: int, expert: int) -> LevelTensors:
    """The tensors of a level of one expert of planes [E, ...]."""
    if level == 0:
        return planes.base[expert], planes.offset[expert], planes.scales[0][expert]
    return planes.signs[level - 1][expert], planes.scales[level][expert]


def run_steps(
    experts: Any,
    hidden: Tensor,
    top_k_weights: Tensor,
    places: Places,
    steps: Iterable[Step],
    *,
    planes: tuple[NestedPlanes, NestedPlanes] | None = None,
) -> Tensor:
    """Run all groups of a call, in the order of the steps; the result does not depend on it.

    Args:
        experts: The module.
        hidden: [T, H].
        top_k_weights: [T, K].
        places: The places of the call.
        steps: Steps that name each group once.
        planes: All planes, for the backward pass; without them there is none.

    Returns:
        [T, H].
    """
    num_places = top_k_weights.shape[-1]
    up, down = Scratch(), Scratch()
    order, outputs = [], []
    for step in steps:
        up.add(step.first, [level[0] for level in step.levels])
        down.add(step.first, [level[1] for level in step.levels])
        if step.group is not None:
            where = places.order[step.group.start : step.group.stop]
            order.append(where)
            outputs.append(_run_expert(experts, hidden[where // num_places], step.group, (up, down), planes))
    result = hidden.new_zeros(top_k_weights.numel(), hidden.shape[-1])
    if outputs:
        # Each place is written once, and the places of a token are summed in one order.
        result = result.index_copy(0, torch.cat(order), torch.cat(outputs).to(hidden.dtype))
    weighted = result.view(*top_k_weights.shape, -1) * top_k_weights.unsqueeze(-1)
    return weighted.sum(dim=1).to(hidden.dtype)


class Scratch:
    """One matrix [R, C] at a width, which grows level by level in memory that is allocated once for a call.

    The additions have one order, so the matrix has the same bits wherever its levels come from.
    """

    def __init__(self) -> None:
        self._weight: Tensor | None = None
        self._other_type: Tensor | None = None
        self._workspace: Workspace | None = None

    def add(self, first: int, levels: Sequence[LevelTensors]) -> None:
        """Add levels to the matrix.

        Args:
            first: The level of the first of them; with 0 the matrix is begun anew.
            levels: The tensors of each level, in ascending order.
        """
        packed = levels[0][0]
        if self._weight is None or self._workspace is None:
            self._weight = torch.empty(packed.shape[-2], 8 * packed.shape[-1], device=packed.device)
            self._workspace = Workspace(packed.device)
        for start, stop in row_tiles(self._weight):
            tile = self._weight[start:stop]
            for level, tensors in enumerate(levels, first):
                rows = [tensor.narrow(-2, start, stop - start) for tensor in tensors]
                if level == 0:
                    self._workspace.set_base_(tile, *rows)
                else:
                    self._workspace.add_level_(tile, *rows)

    def weight(self, dtype: torch.dtype) -> Tensor:
        """The matrix, until the next call."""
        assert self._weight is not None  # noqa: S101 - the first step of an expert begins it
        if dtype == self._weight.dtype:
            return self._weight
        if self._other_type is None:
            self._other_type = torch.empty_like(self._weight, dtype=dtype)
        return self._other_type.copy_(self._weight)


def _run_expert(
    experts: Any,
    tokens: Tensor,
    group: Group,
    scratch: tuple[Scratch, Scratch],
    planes: tuple[NestedPlanes, NestedPlanes] | None,
) -> Tensor:
    up_name, down_name = experts.matrices()
    inner = _linear(tokens, scratch[0], group, None if planes is None else planes[0])
    inner = inner + getattr(experts, f"{up_name}_bias")[group.expert] if experts.has_bias else inner
    inner = experts._apply_gate(inner) if experts.has_gate else experts.act_fn(inner)
    outer = _linear(inner, scratch[1], group, None if planes is None else planes[1])
    outer = outer + getattr(experts, f"{down_name}_bias")[group.expert] if experts.has_bias else outer
    return experts.post_expert_norm(outer) if experts.has_post_expert_norm else outer


def _linear(tokens: Tensor, scratch: Scratch, group: Group, planes: NestedPlanes | None) -> Tensor:
    if planes is None:
        return nn.functional.linear(tokens, scratch.weight(tokens.dtype))
    result: Tensor = _NestedLinear.apply(tokens, scratch, planes, group)
    return result


class _NestedLinear(torch.autograd.Function):
    """tokens [n, C] times a matrix, transposed. The matrix is not kept: the backward pass makes it again."""

    @staticmethod
    def forward(ctx: Any, tokens: Tensor, scratch: Scratch, planes: NestedPlanes, group: Group) -> Tensor:
        ctx.planes, ctx.group = planes, group
        return nn.functional.linear(tokens, scratch.weight(tokens.dtype))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        scratch = Scratch()
        scratch.add(0, [level_tensors(ctx.planes, level, ctx.group.expert) for level in range(ctx.group.level + 1)])
        return gradient @ scratch.weight(gradient.dtype), None, None, None
