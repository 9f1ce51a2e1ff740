"""MoS on parameters that no module of their own applies, such as the stacked 3-D weights of experts.

Letters: E experts, I input and O output width, R rank; a parameter is (E, O, I), or (E, I, O) where the module says
`is_transposed`. Every expert is a module of its pool group.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from hf_mixture.adapters.mos.bank import MosBank
from hf_mixture.adapters.mos.config import MosConfig
from hf_mixture.adapters.mos.layer import MosLayer
from hf_mixture.adapters.mos.layout import Slot


# PEFT finds an existing wrapper of a parameter by this class name and by `parameter_name`.
class ParamWrapper(MosLayer):
    """Wraps a module and adds MoS updates to one of its parameters whenever the module is called.

    Several parameters of a module are wrapped one inside the other.

    Args:
        base_layer: The module, or the wrapper of another of its parameters.
        bank: The bank of the base model.
        adapter_name: Name of the first adapter.
        slot: Place of the parameter in its pool group.
        config: Configuration of that adapter.
        parameter_name: Name of the parameter on the module.
    """

    def __init__(
        self,
        base_layer: nn.Module,
        bank: MosBank,
        adapter_name: str,
        slot: Slot,
        config: MosConfig,
        *,
        parameter_name: str,
    ) -> None:
        super().__init__(base_layer, bank)
        self.parameter_name = parameter_name
        self.in_features = slot.target.in_features
        self.out_features = slot.target.out_features
        self.num_experts = slot.target.num_experts
        parameter = self.get_parameter_to_adapt()
        self.transposed = parameter.dim() == 3 and bool(getattr(self.get_base_layer(), "is_transposed", False))
        self._active_adapter = adapter_name
        self.update_layer(adapter_name, slot, config)

    def get_parameter_to_adapt(self) -> Tensor:
        """The parameter of the wrapped module."""
        return getattr(self.get_base_layer(), self.parameter_name)

    def get_base_weight(self) -> Tensor:
        """The data of the wrapped parameter."""
        return self.get_parameter_to_adapt().data

    def set_base_weight(self, weight_data: Tensor) -> None:
        """Replace the data of the wrapped parameter."""
        self.get_parameter_to_adapt().data = weight_data

    def _adapted_device_and_dtype(self) -> tuple[torch.device | None, torch.dtype | None]:
        parameter = self.get_parameter_to_adapt()
        return parameter.device, parameter.dtype if parameter.dtype.is_floating_point else None

    def get_delta_weight(self, adapter: str) -> Tensor:
        """The dense update (mos_alpha / r) B A of every expert, in the layout of the parameter.

        Args:
            adapter: Name of the adapter.

        Returns:
            Tensor of the shape and type of the parameter.
        """
        parameter = self.get_parameter_to_adapt()
        return self._add_update(torch.zeros_like(parameter), adapter)

    def _add_update(self, weight: Tensor, adapter: str) -> Tensor:
        a_ERI, b_ERO = (factor.to(weight.device, weight.dtype) for factor in self.factors(adapter))
        left, right = (a_ERI, b_ERO) if self.transposed else (b_ERO, a_ERI)
        stacked = weight if weight.dim() == 3 else weight.unsqueeze(0)
        # Autocast would give the product, and with it the parameter, another type.
        with torch.autocast(weight.device.type, enabled=False):
            updated = torch.baddbmm(stacked, left.transpose(1, 2), right, alpha=self.scaling[adapter])
        return updated.view_as(weight)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Call the wrapped module with the updated parameter.

        Args:
            x: First input of the module.
            *args: Further inputs.
            **kwargs: Further inputs.

        Returns:
            The output of the module.

        Raises:
            ValueError: `adapter_names` is given: one weight serves all rows of a batch.
        """
        if kwargs.pop("adapter_names", None) is not None:
            raise ValueError(
                f"adapter_names cannot select adapters for the target parameter {self.parameter_name!r}, whose update "
                "is added to the weight of all rows. Remedy: run one batch per adapter with set_adapter."
            )
        if self.disable_adapters and self.merged:
            self.unmerge()
        adapters = [adapter for adapter in self.active_adapters if adapter in self.mos_dropout]
        if self.disable_adapters or self.merged or not adapters:
            return self.base_layer(x, *args, **kwargs)
        weight = self.get_parameter_to_adapt()
        for adapter in adapters:
            weight = self._add_update(weight, adapter)
        path = self.parameter_name
        inner = self.base_layer
        while isinstance(inner, ParamWrapper):
            path, inner = f"base_layer.{path}", inner.base_layer
        return functional_call(self.base_layer, {path: weight}, (x, *args), kwargs)

    def unload_and_optionally_merge_module(
        self, merge: bool, safe_merge: bool, adapter_names: list[str] | None
    ) -> nn.Module:
        """Unwrap the module, merging the updates of all its wrapped parameters if asked to."""
        module: nn.Module = self
        while isinstance(module, ParamWrapper):
            if merge:
                module.merge(safe_merge=safe_merge, adapter_names=adapter_names)
            module = module.base_layer
        return module

    def __repr__(self) -> str:
        """Prefixed with the method and with the parameter, which tells nested wrappers apart."""
        text = super().__repr__()
        start = text.find("(") + 1
        return f"mos.{text[:start]}\n  parameter_name={self.parameter_name!r},{text[start:]}"
