"""Experts modules of transformers with nested planes in the place of their weights.

Letters: E experts, T tokens, K experts of a token, H hidden size, R rows and C columns of an expert matrix.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, nn
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

from hf_mixture.moe.mwq.bit_policy import BitPolicy
from hf_mixture.moe.mwq.compute import run_experts
from hf_mixture.moe.mwq.module import NestedModule, empty_planes, plane_names, set_planes


class NestedExperts(NestedModule):
    """Experts of which each token is computed at a width of its own.

    Attributes:
        mwq_policy (`BitPolicy | None`): What chooses the widths; None for `mwq_width` for all.
        mwq_runtime (`OffloadRuntime | None`): What reads the planes from disk; None where they are in memory.
        mwq_layer (`int`): Place among the experts modules of the model, where they are on disk.
    """

    mwq_policy: BitPolicy | None
    mwq_runtime: Any
    mwq_layer: int
    mwq_stock_class: type[nn.Module]
    config: Any
    num_experts: int

    def matrices(self) -> tuple[str, ...]:
        return matrix_names(self)

    def forward(self, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
        """Run the experts that are chosen, each token at its width.

        Args:
            hidden_states: [T, H].
            top_k_index: Experts of each token [T, K]; E for none.
            top_k_weights: Their weights [T, K].

        Returns:
            [T, H].
        """
        if self.mwq_runtime is not None or self.config._experts_implementation == "mwq_offload":
            offload = ALL_EXPERTS_FUNCTIONS["mwq_offload"]
            result: Tensor = offload(self, hidden_states, top_k_index, top_k_weights)
            return result
        return run_experts(self, hidden_states, top_k_index, top_k_weights)

    def __reduce_ex__(self, protocol: Any) -> Any:
        # The class is made for one stock class and has no name that pickle could look up.
        reduced: Any = super().__reduce_ex__(protocol)
        return (_empty_experts, (type(self).mwq_stock_class,), *reduced[2:])


def _empty_experts(stock: type[nn.Module]) -> nn.Module:
    made = nested_class(stock)  # type: ignore[arg-type]
    return made.__new__(made)


def matrix_names(experts: Any) -> tuple[str, str]:
    """Names of the matrices of stock or nested experts: up, with the gate in it where there is one, and down."""
    return ("gate_up_proj" if experts.has_gate else "up_proj"), "down_proj"


@functools.cache
def nested_class(stock: type[nn.Module]) -> type[nn.Module]:
    """The class of experts of a stock class with nested planes."""
    return type(stock.__name__, (NestedExperts, stock), {"__module__": stock.__module__, "mwq_stock_class": stock})


def weight_shape(experts: Any, name: str) -> tuple[int, ...]:
    """Shape [E, R, C] of a stock expert matrix, outputs before inputs however the family stores it."""
    shape = tuple(getattr(experts, name).shape)
    return (shape[0], shape[2], shape[1]) if experts.is_transposed else shape


def make_nested_experts(experts: Any, widths: tuple[int, ...], group_size: int) -> None:
    """Turn stock experts into nested ones, without values; their weights stay until they are dropped.

    Args:
        experts: Experts that run through the experts interface of transformers.
        widths: Bits of each level.
        group_size: Columns of a group.
    """
    shapes = {name: weight_shape(experts, name) for name in matrix_names(experts)}
    device = getattr(experts, next(iter(shapes))).device
    experts.__class__ = nested_class(type(experts))  # type: ignore[arg-type]
    experts.mwq_widths, experts.mwq_width = widths, widths[-1]
    experts.mwq_policy = experts.mwq_runtime = None
    # The stock initialiser of these modules knows their stock weights only.
    experts._is_hf_initialized = True
    for name, shape in shapes.items():
        set_planes(experts, name, empty_planes(shape, widths, group_size, device))


def make_stock_experts(experts: Any, dtype: torch.dtype) -> None:
    """Turn nested experts into stock ones with the weights of the last width.

    Args:
        experts: Nested experts.
        dtype: Type of the weights.
    """
    for name in experts.matrices():
        weight = experts.planes_of(name).dequantise(dtype=dtype)
        weight = weight.transpose(-1, -2).contiguous() if experts.is_transposed else weight
        for tensor_name in plane_names(name, experts.mwq_widths):
            del experts._parameters[tensor_name]
        experts.register_parameter(name, nn.Parameter(weight, requires_grad=False))
    for name in ("mwq_widths", "mwq_width", "mwq_policy", "mwq_runtime"):
        delattr(experts, name)
    experts.__class__ = type(experts).mwq_stock_class
