"""Experts modules of transformers with nested planes in the place of their weights.

Letters: E experts, T tokens, K experts of a token, H hidden size, R rows and C columns of an expert matrix.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, nn
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

from hf_mixture.moe.mwq.compute import run_experts
from hf_mixture.moe.mwq.planes import NestedPlanes


class NestedExperts:
    """What experts with nested planes have beside their stock class: the second base of their class."""

    mwq_widths: tuple[int, ...]
    mwq_width: int
    mwq_policy: nn.Module | None
    mwq_runtime: Any
    mwq_layer: int
    config: Any

    def weight_names(self) -> tuple[str, str]:
        """Names of the two matrices: up, with the gate in it where there is one, and down."""
        return matrix_names(self)

    def planes_of(self, name: str) -> NestedPlanes:
        """The planes of all experts of one matrix."""
        return NestedPlanes(
            base=getattr(self, f"{name}_base"),
            offset=getattr(self, f"{name}_offset"),
            scales=tuple(getattr(self, f"{name}_scale_{width}") for width in self.mwq_widths),
            signs=tuple(getattr(self, f"{name}_sign_{width}") for width in self.mwq_widths[1:]),
            widths=self.mwq_widths,
        )

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

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        """Move the planes with the module, and keep their types: scales are float16 whatever the model computes in."""
        types = {name: tensor.dtype for name, tensor in self._parameters.items() if name in self.mwq_names()}  # type: ignore[attr-defined]
        kept = {name: self._parameters.pop(name) for name in types}  # type: ignore[attr-defined]
        super()._apply(fn, recurse)  # type: ignore[misc]
        for name, tensor in kept.items():
            moved = fn(tensor.data)
            moved = moved if moved.dtype == types[name] else tensor.data.to(moved.device)
            self._parameters[name] = nn.Parameter(moved, requires_grad=False)  # type: ignore[attr-defined]
        return self

    def mwq_names(self) -> set[str]:
        """Names of the tensors of the planes."""
        return {name for weight in self.weight_names() for name in plane_names(weight, self.mwq_widths)}


def matrix_names(experts: Any) -> tuple[str, str]:
    """Names of the matrices of stock or nested experts: up, with the gate in it where there is one, and down."""
    return ("gate_up_proj" if experts.has_gate else "up_proj"), "down_proj"


def plane_names(weight: str, widths: tuple[int, ...]) -> list[str]:
    """Names of the tensors of the planes of a weight, in the order of `NestedPlanes.tensors`."""
    scales = [f"{weight}_scale_{width}" for width in widths]
    return [f"{weight}_base", f"{weight}_offset", *scales, *(f"{weight}_sign_{width}" for width in widths[1:])]


def empty_planes(
    shape: tuple[int, ...], widths: tuple[int, ...], group_size: int, device: torch.device | str
) -> NestedPlanes:
    """Planes without values for a weight [..., R, C]."""
    *lead, rows, columns = shape

    def empty(dtype: torch.dtype, *sizes: int) -> Tensor:
        return torch.empty(*lead, *sizes, dtype=dtype, device=device)

    num_groups = columns // group_size
    return NestedPlanes(
        base=empty(torch.uint8, widths[0], rows, columns // 8),
        offset=empty(torch.float16, rows, num_groups),
        scales=tuple(empty(torch.float16, rows, num_groups) for _ in widths),
        signs=tuple(empty(torch.uint8, rows, columns // 8) for _ in widths[1:]),
        widths=widths,
    )


@functools.cache
def nested_class(stock: type[nn.Module]) -> type[nn.Module]:
    """The class of experts of a stock class with nested planes."""
    return type(stock.__name__, (NestedExperts, stock), {"__module__": stock.__module__, "mwq_stock_class": stock})


def weight_shape(experts: nn.Module, name: str) -> tuple[int, ...]:
    """Shape [E, R, C] of a stock expert matrix, outputs before inputs however the family stores it."""
    shape = tuple(getattr(experts, name).shape)
    return (shape[0], shape[2], shape[1]) if experts.is_transposed else shape


def make_nested(experts: nn.Module, widths: tuple[int, ...], group_size: int) -> None:
    """Turn stock experts into nested ones, without values; their weights stay until `drop_weights`.

    Args:
        experts: Experts that run through the experts interface of transformers.
        widths: Bits of each level.
        group_size: Columns of a group.
    """
    shapes = {name: weight_shape(experts, name) for name in matrix_names(experts)}
    device = getattr(experts, next(iter(shapes))).device
    experts.__class__ = nested_class(type(experts))
    experts.mwq_widths, experts.mwq_width = widths, widths[-1]
    experts.mwq_policy = experts.mwq_runtime = None
    # The stock initialiser of these modules knows their stock weights only.
    experts._is_hf_initialized = True
    for name, shape in shapes.items():
        set_planes(experts, name, empty_planes(shape, widths, group_size, device))


def set_planes(experts: nn.Module, name: str, planes: NestedPlanes) -> None:
    """Put planes into the place of a matrix."""
    for tensor_name, tensor in zip(plane_names(name, planes.widths), planes.tensors(), strict=True):
        experts.register_parameter(tensor_name, nn.Parameter(tensor, requires_grad=False))


def drop_weight(experts: nn.Module, name: str) -> None:
    """Remove a stock matrix."""
    experts._parameters.pop(name, None)


def drop_planes(experts: nn.Module) -> None:
    """Remove the planes, for experts that read them from disk."""
    for name in experts.mwq_names():
        del experts._parameters[name]


def make_stock(experts: nn.Module, dtype: torch.dtype) -> None:
    """Turn nested experts into stock ones with the weights of the last width.

    Args:
        experts: Nested experts.
        dtype: Type of the weights.
    """
    for name in experts.weight_names():
        planes = experts.planes_of(name)
        weight = planes.dequantise(dtype=dtype)
        weight = weight.transpose(-1, -2).contiguous() if experts.is_transposed else weight
        for tensor_name in plane_names(name, planes.widths):
            del experts._parameters[tensor_name]
        experts.register_parameter(name, nn.Parameter(weight, requires_grad=False))
    for name in ("mwq_widths", "mwq_width", "mwq_policy", "mwq_runtime"):
        delattr(experts, name)
    experts.__class__ = type(experts).mwq_stock_class
