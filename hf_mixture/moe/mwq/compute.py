"""Running experts with nested planes, each token at the width that is chosen for it.

Letters: E experts, T tokens, K experts of a token, H hidden size, N widths, S = T K places.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from hf_mixture.moe.mwq.planes import NestedPlanes, add_level_, base_weight, row_tiles


ExpertPlanes = tuple[NestedPlanes, NestedPlanes]


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


def choose_levels(experts: Any, hidden: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> tuple[Tensor, Tensor]:
    """The place of the width [T, K] of each place, and the weights [T, K] with the gradient of the choice in them."""
    if experts.mwq_policy is None:
        level = experts.mwq_widths.index(experts.mwq_width)
        return torch.full_like(top_k_index, level), top_k_weights
    levels, weights = experts.mwq_policy(hidden, top_k_index, top_k_weights)
    return levels, weights


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
    levels, weights = choose_levels(experts, hidden, top_k_index, top_k_weights)
    places = sort_places(top_k_index, levels, experts.num_experts, len(experts.mwq_widths))
    return run_groups(experts, hidden, weights, places, _in_memory(experts, places.groups))


def _in_memory(experts: Any, groups: Iterable[Group]) -> Iterator[tuple[Group, ExpertPlanes]]:
    up, down = (experts.planes_of(name) for name in experts.weight_names())
    for group in groups:
        yield group, (_expert(up, group.expert), _expert(down, group.expert))


def _expert(planes: NestedPlanes, expert: int) -> NestedPlanes:
    return planes.of([tensor[expert] for tensor in planes.tensors()])


def run_groups(
    experts: Any,
    hidden: Tensor,
    top_k_weights: Tensor,
    places: Places,
    groups: Iterable[tuple[Group, ExpertPlanes]],
) -> Tensor:
    """Run groups of places in any order; the result does not depend on it.

    Args:
        experts: The module.
        hidden: [T, H].
        top_k_weights: [T, K].
        places: The places of the call.
        groups: Each group once, with the planes of its expert up to its width at least.

    Returns:
        [T, H].
    """
    num_places = top_k_weights.shape[-1]
    scratch = (Scratch(), Scratch())
    starts, outputs = [], []
    for group, planes in groups:
        tokens = places.order[group.start : group.stop] // num_places
        starts.append(places.order[group.start : group.stop])
        outputs.append(_run_expert(experts, hidden[tokens], group, planes, scratch))
    result = hidden.new_zeros(top_k_weights.numel(), hidden.shape[-1])
    if outputs:
        # Each place is written once, and the sum over the places of a token has one order.
        result = result.index_copy(0, torch.cat(starts), torch.cat(outputs).to(hidden.dtype))
    weighted = result.view(*top_k_weights.shape, -1) * top_k_weights.unsqueeze(-1).to(result.dtype)
    return weighted.sum(dim=1).to(hidden.dtype)


def _run_expert(
    experts: Any, tokens: Tensor, group: Group, planes: ExpertPlanes, scratch: tuple[Scratch, Scratch]
) -> Tensor:
    up, down = experts.weight_names()
    key = (group.expert, group.level)
    inner = nested_linear(tokens, planes[0], key, scratch[0])
    inner = inner if not experts.has_bias else inner + getattr(experts, f"{up}_bias")[group.expert]
    inner = experts._apply_gate(inner) if experts.has_gate else experts.act_fn(inner)
    outer = nested_linear(inner, planes[1], key, scratch[1])
    outer = outer if not experts.has_bias else outer + getattr(experts, f"{down}_bias")[group.expert]
    return experts.post_expert_norm(outer) if experts.has_post_expert_norm else outer


class Scratch:
    """One dequantised matrix that grows by a level at a time, in memory that is allocated once for a call.

    A higher width of the same expert adds its levels to what is there, which gives the same bits as starting anew.
    """

    def __init__(self) -> None:
        self._weight: Tensor | None = None
        self._holds: tuple[int, int] | None = None

    def weight(self, planes: NestedPlanes, key: tuple[int, int], dtype: torch.dtype) -> Tensor:
        """The matrix [R, C] of an expert at a level; valid until the next call.

        Args:
            planes: Planes of the expert, up to the level at least.
            key: The expert and the level.
            dtype: Type of the result.
        """
        rows, columns = planes.base.shape[-2], 8 * planes.base.shape[-1]
        if self._weight is None:
            self._weight = torch.empty(rows, columns, device=planes.base.device)
        expert, level = key
        done = self._holds[1] if self._holds is not None and self._holds[0] == expert else -1
        done = done if done <= level else -1
        for start, stop in row_tiles(self._weight):
            target, tile = self._weight[start:stop], planes.rows(start, stop)
            if done < 0:
                target.copy_(base_weight(tile.base, tile.offset, tile.scales[0]))
            for step in range(max(done, 0), level):
                add_level_(target, tile.signs[step], tile.scales[step + 1])
        self._holds = key
        return self._weight.to(dtype)


def nested_linear(tokens: Tensor, planes: NestedPlanes, key: tuple[int, int], scratch: Scratch) -> Tensor:
    """tokens [n, C] times the matrix of an expert at a level, transposed: [n, R].

    Autograd keeps the planes, not the matrix: it is made again in the backward pass.
    """
    result: Tensor = _NestedLinear.apply(tokens, planes, key, scratch)
    return result


class _NestedLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tokens: Tensor, planes: NestedPlanes, key: tuple[int, int], scratch: Scratch) -> Tensor:
        ctx.planes = planes.at(planes.widths[key[1]])
        return nn.functional.linear(tokens, scratch.weight(planes, key, tokens.dtype))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:  # type: ignore[override]
        return gradient @ ctx.planes.dequantise(dtype=gradient.dtype), None, None, None


