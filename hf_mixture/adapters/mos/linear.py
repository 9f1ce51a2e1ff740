"""MoS on linear layers.

Letters in names: R rank, I input and O output width.
"""

from __future__ import annotations

import math
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from hf_mixture._compat.peft import quantization_extra_repr
from hf_mixture.adapters.mos.bank import MosBank
from hf_mixture.adapters.mos.config import MosConfig
from hf_mixture.adapters.mos.layer import MosLayer
from hf_mixture.adapters.mos.layout import Slot


class Linear(MosLayer):
    """A linear layer, quantised or not, or a `Conv1D` of transformers with MoS adapters.

    Args:
        base_layer: The layer to adapt.
        bank: The bank of the base model.
        adapter_name: Name of the first adapter.
        slot: The layer's place in its pool group.
        config: Configuration of that adapter.
        quantization_kwargs: What PEFT's quantisation backends need from the model.
    """

    def __init__(
        self,
        base_layer: nn.Module,
        bank: MosBank,
        adapter_name: str,
        slot: Slot,
        config: MosConfig,
        **quantization_kwargs: Any,
    ) -> None:
        super().__init__(base_layer, bank, **quantization_kwargs)
        self.in_features = slot.target.in_features
        self.out_features = slot.target.out_features
        self.fan_in_fan_out = isinstance(self.get_base_layer(), Conv1D)
        self._active_adapter = adapter_name
        self.update_layer(adapter_name, slot, config)

    def get_delta_weight(self, adapter: str) -> Tensor:
        """The dense update (mos_alpha / r) B A.

        Args:
            adapter: Name of the adapter.

        Returns:
            Tensor in the layout of the base weight: (out, in), or (in, out) for `Conv1D`.
        """
        a_RI, b_RO = self.factors(adapter)
        dtype = a_RI.dtype
        if a_RI.device.type == "cpu":
            # Half-precision matrix products are slow on CPUs, or missing.
            a_RI, b_RO = a_RI.float(), b_RO.float()
        delta_OI = (b_RO.T @ a_RI) * self.scaling[adapter]
        return (delta_OI.T if self.fan_in_fan_out else delta_OI).to(dtype)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Run the base layer and add the updates of the active adapters.

        Args:
            x: Input of shape (..., in).
            *args: Passed on to the base layer.
            **kwargs: Passed on too, except `adapter_names`, which names one adapter for each row of the batch.

        Returns:
            Output of shape (..., out) in the type that the base layer returns.
        """
        adapter_names = kwargs.pop("adapter_names", None)
        self._check_adapter_names(x, adapter_names)
        if self.disable_adapters and self.merged:
            self.unmerge()
        result = self.base_layer(x, *args, **kwargs)
        if self.disable_adapters or self.merged:
            return result
        dtype = result.dtype
        if self.quantization_backend is not None:
            result = self.quantization_backend.maybe_clone_base_result(result)
        if adapter_names is not None:
            return self._add_row_by_row(result, x, adapter_names)
        for adapter in self.active_adapters:
            if adapter in self.mos_dropout:
                result = result + self._update(x, adapter)
        return result.to(dtype)

    def _update(self, x: Tensor, adapter: str) -> Tensor:
        a_RI, b_RO = self.factors(adapter)
        x = self.mos_dropout[adapter](self._cast_input_dtype(x, a_RI.dtype))
        # In the layout of LoRA's B: matrix products then round as LoRA's do, in the backward pass too.
        b_OR = b_RO.T.contiguous()
        scaling = self.scaling[adapter]
        if math.frexp(scaling)[0] == 0.5:
            # A power of two commutes with rounding: scaling the r columns gives the bits of scaling the output.
            return F.linear(F.linear(x, a_RI) * scaling, b_OR)
        return F.linear(F.linear(x, a_RI), b_OR) * scaling

    def _add_row_by_row(self, result: Tensor, x: Tensor, adapter_names: list[str]) -> Tensor:
        result = result.clone()
        for adapter in set(adapter_names) & set(self.mos_dropout):
            rows = [row for row, name in enumerate(adapter_names) if name == adapter]
            result[rows] += self._update(x[rows], adapter).to(result.dtype)
        return result

    def _check_adapter_names(self, x: Tensor, adapter_names: list[str] | None) -> None:
        if adapter_names is None:
            return
        if len(x) != len(adapter_names):
            raise ValueError(
                "Length of `adapter_names` should be the same as the number of inputs, but got "
                f"{len(adapter_names)} and {len(x)} respectively."
            )
        if self.merged:
            raise ValueError(
                f"adapter_names cannot be used while {self.merged_adapters} are merged into the base weights. "
                "Remedy: call unmerge_adapter first."
            )

    def __repr__(self) -> str:
        """Prefixed with the method, as PEFT does."""
        return "mos." + super().__repr__()

    def extra_repr(self) -> str:
        """The quantisation backend, if any."""
        return quantization_extra_repr(self)
