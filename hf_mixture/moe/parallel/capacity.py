"""`ep_implementation="capacity"`: token dispatch in which each expert takes only so many tokens and drops the others.

Letters: T tokens, K experts of a token, E experts, C tokens that an expert takes from a rank, H hidden size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from hf_mixture.moe.parallel.dispatch import gather_shared_batch, slice_shared_batch
from hf_mixture.moe.parallel.folded import FoldedEP, Packed


Policy = Literal["probs", "position"]
Scope = Literal["sub_sequence", "sequence"]


@dataclass(frozen=True, kw_only=True)
class CapacityOptions:
    r"""What `ep_implementation="capacity"` drops: all but $C = \lceil T K / E \cdot f \rceil$ tokens of an expert.

    A token that is dropped by an expert gets nothing from it; the weights of its other experts stay as they are. That
    is equation 4 of MoE Parallel Folding (arXiv 2504.14960), and what Megatron-Core does.

    Args:
        factor: Capacity of an expert over its fair share of tokens. Default: 1. At E / K nothing is ever dropped.
        policy: Which tokens stay: those with the largest routing weights (`"probs"`, the default), or the first ones
            (`"position"`). Among equals the first.
        pad: Whether every expert gets exactly C rows, filled up with zeros, so that all matrix products of a step are
            of one shape. Default: False.
        scope: Among which tokens the choice is made: those that this rank sends (`"sub_sequence"`, the default, so
            that what is dropped depends on how many ranks share a batch), or all tokens of the batch that
            tensor-parallel ranks share (`"sequence"`).

    Raises:
        ValueError: If a value is out of range.

    Example:
        >>> from hf_mixture import CapacityOptions
        >>> CapacityOptions(factor=1.25).capacity(num_pairs=4096, num_experts=8)
        640
    """

    factor: float = 1.0
    policy: Policy = "probs"
    pad: bool = False
    scope: Scope = "sub_sequence"

    def __post_init__(self) -> None:
        if not (isinstance(self.factor, int | float) and 0 < self.factor < math.inf):
            raise ValueError(f"factor={self.factor!r} is not a positive number; 1.0 to 2.0 are usual")
        for name, known in (("policy", get_args(Policy)), ("scope", get_args(Scope))):
            if getattr(self, name) not in known:
                raise ValueError(f"{name}={getattr(self, name)!r} is none of {', '.join(map(repr, known))}")

    def capacity(self, num_pairs: int, num_experts: int) -> int:
        """C: what each expert takes.

        Args:
            num_pairs: Pairs of token and expert, T K.
            num_experts: E.

        Returns:
            Pairs.
        """
        return math.ceil(num_pairs / num_experts * self.factor)


class CapacityEP(FoldedEP):
    """Dispatch of tokens for one layer, with dropping.

    Attributes:
        options: What is dropped; `set_capacity_options` changes it.
        capacity: C of the last call.
        num_pairs: Pairs of token and expert since the options were set.
        num_dropped: Those of them that were dropped.
    """

    def __init__(self, experts: nn.Module, ep_mesh: Any, tp_mesh: Any, *, etp: int = 1) -> None:
        super().__init__(experts, ep_mesh, tp_mesh, etp=etp)
        self.use_options(CapacityOptions())
        module: Any = experts
        module.capacity = self

    def use_options(self, options: CapacityOptions) -> None:
        """Change what is dropped, and begin to count anew."""
        self.options = options
        self.num_pairs, self.num_dropped = 0, 0

    def __call__(self, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
        if self.options.scope == "sub_sequence":
            return super().__call__(hidden_states, top_k_index, top_k_weights)
        kept = self._keep(top_k_index, top_k_weights)
        # What is dropped goes to no expert: the number behind the last one.
        top_k_index = torch.where(kept, top_k_index, self.num_experts)
        num_tokens = len(hidden_states)
        mine = slice_shared_batch((hidden_states, top_k_index, top_k_weights), self.tp_mesh)
        return gather_shared_batch(self._dispatch(*mine), self.tp_mesh, num_tokens)

    def _keep(self, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
        self.capacity = self.options.capacity(top_k_index.numel(), self.num_experts)
        weights = top_k_weights if self.options.policy == "probs" else None
        kept = keep_capacity(top_k_index, weights, self.capacity, self.num_experts)
        self.num_pairs += kept.numel()
        self.num_dropped += kept.numel() - int(kept.sum())
        return kept

    def _pack(self, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Packed:
        sub_sequence = self.options.scope == "sub_sequence"
        kept = self._keep(top_k_index, top_k_weights) if sub_sequence else top_k_index < self.num_experts
        expert_ids = top_k_index.flatten()
        pairs = torch.argsort(expert_ids, stable=True)
        pairs = pairs[kept.flatten()[pairs]]
        counts = torch.bincount(expert_ids[pairs], minlength=self.num_experts)
        rows = hidden_states[pairs // top_k_index.shape[-1]]
        if not self.options.pad:
            return Packed(rows, counts, pairs)
        # Over a whole sequence, all that an expert takes may come from this rank.
        before = counts.cumsum(0) - counts
        lies = (
            expert_ids[pairs] * self.capacity
            + torch.arange(len(pairs), device=pairs.device)
            - before[expert_ids[pairs]]
        )
        padded = rows.new_zeros(self.num_experts * self.capacity, rows.shape[-1]).index_copy(0, lies, rows)
        return Packed(padded, torch.full_like(counts, self.capacity), pairs, lies)


def keep_capacity(top_k_index: Tensor, top_k_weights: Tensor | None, capacity: int, num_experts: int) -> Tensor:
    """Choose the pairs of token and expert that experts of limited capacity take.

    Args:
        top_k_index: Experts of each token [T, K].
        top_k_weights: Their routing weights [T, K]: the largest stay, the first among equals. None for the first ones.
        capacity: C.
        num_experts: E.

    Returns:
        Whether a pair stays [T, K].
    """
    ids = top_k_index.flatten()
    preferred = torch.arange(len(ids), device=ids.device)
    if top_k_weights is not None:
        preferred = torch.argsort(top_k_weights.flatten(), descending=True, stable=True)
    order = preferred[torch.argsort(ids[preferred], stable=True)]
    counts = torch.bincount(ids, minlength=num_experts)
    place = torch.arange(len(ids), device=ids.device) - (counts.cumsum(0) - counts)[ids[order]]
    kept = torch.empty(len(ids), dtype=torch.bool, device=ids.device)
    kept[order] = place < capacity
    return kept.view_as(top_k_index)


def set_capacity_options(model: nn.Module, options: CapacityOptions) -> None:
    """Change what the layers of a model drop.

    Args:
        model: A model that was loaded with `ep_implementation="capacity"`.
        options: What to drop.

    Raises:
        ValueError: If the model was loaded in another way.

    Example:
        >>> from torch import nn
        >>> from hf_mixture import CapacityOptions, set_capacity_options
        >>> set_capacity_options(nn.Linear(1, 1), CapacityOptions(factor=1.5))
        Traceback (most recent call last):
        ValueError: this model has no layer with ep_implementation="capacity"; load it with ...
    """
    for layer in capacity_layers(model):
        layer.use_options(options)


def dropped_share(model: nn.Module) -> float:
    """Share of the pairs of token and expert of this rank that were dropped since the options were set.

    Args:
        model: A model that was loaded with `ep_implementation="capacity"`.

    Returns:
        Between 0 and 1.

    Raises:
        ValueError: If the model was loaded in another way.

    Example:
        >>> from torch import nn
        >>> from hf_mixture import dropped_share
        >>> dropped_share(nn.Linear(1, 1))
        Traceback (most recent call last):
        ValueError: this model has no layer with ep_implementation="capacity"; load it with ...
    """
    layers = capacity_layers(model)
    return sum(layer.num_dropped for layer in layers) / max(sum(layer.num_pairs for layer in layers), 1)


def capacity_layers(model: nn.Module) -> list[CapacityEP]:
    """The implementations of the layers of a model, in their order.

    Raises:
        ValueError: If there are none.
    """
    found: list[Any] = [getattr(module, "capacity", None) for module in model.modules()]
    layers = [layer for layer in found if isinstance(layer, CapacityEP)]
    if not layers:
        raise ValueError(
            'this model has no layer with ep_implementation="capacity"; load it with '
            'distributed_config=DistributedConfig(ep_size=..., ep_implementation="capacity")'
        )
    return layers
