"""Dense linear layers with nested planes in the place of their weight."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from hf_mixture.moe.mwq.module import NestedModule, drop_weight, empty_planes, plane_names, set_planes
from hf_mixture.moe.mwq.planes import NestedPlanes


class _PackedWeight(Tensor):
    """Bytes that can be looked at, but not taken for a weight."""

    @property
    def data(self) -> Tensor:  # type: ignore[override]
        raise TypeError(
            "the weight of this layer is held as nested planes, which an adapter cannot be merged into; call "
            "dequantize() on the base model first"
        )


class NestedLinear(NestedModule, nn.Linear):
    """A linear layer at one width for all tokens. Adapters of PEFT train on top of it."""

    weight_base: Tensor

    def matrices(self) -> tuple[str, ...]:
        return ("weight",)

    def __getattr__(self, name: str) -> Any:
        # Adapters look at the weight to learn where they belong, and find bytes as in other quantised layers.
        if name == "weight" and name not in self._parameters:
            return self.weight_base.as_subclass(_PackedWeight)
        return super().__getattr__(name)

    def forward(self, input: Tensor) -> Tensor:
        """Compute the layer: [..., C] to [..., R]."""
        planes = self.planes_of("weight").at(self.mwq_width)
        result: Tensor = _Linear.apply(input, planes)
        return result if self.bias is None else result + self.bias


class _Linear(torch.autograd.Function):
    """A product with the transposed weight, which the backward pass makes again."""

    @staticmethod
    def forward(ctx: Any, tokens: Tensor, planes: NestedPlanes) -> Tensor:
        ctx.planes = planes
        return nn.functional.linear(tokens, planes.dequantise(dtype=tokens.dtype))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return gradient @ ctx.planes.dequantise(dtype=gradient.dtype), None


def make_nested_linear(layer: Any, widths: tuple[int, ...], group_size: int) -> None:
    """Turn a linear layer into a nested one, without values; its weight stays until it is dropped."""
    planes = empty_planes(tuple(layer.weight.shape), widths, group_size, layer.weight.device)
    weight = layer._parameters.pop("weight")
    layer.__class__ = NestedLinear
    layer.mwq_widths, layer.mwq_width = widths, widths[-1]
    layer._is_hf_initialized = True
    layer.register_parameter("weight", weight)
    set_planes(layer, "weight", planes)


def make_stock_linear(layer: Any, dtype: torch.dtype) -> None:
    """Turn a nested linear layer into an ordinary one with the weight of the last width."""
    weight = layer.planes_of("weight").dequantise(dtype=dtype)
    for name in plane_names("weight", layer.mwq_widths):
        drop_weight(layer, name)
    del layer.mwq_widths, layer.mwq_width
    layer.__class__ = nn.Linear
    layer.register_parameter("weight", nn.Parameter(weight, requires_grad=False))
