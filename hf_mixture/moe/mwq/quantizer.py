"""`MwqHfQuantizer`: how transformers quantises a model to nested planes while it loads it, and loads a quantised one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers.core_model_loading import ConversionOps
from transformers.quantizers.base import HfQuantizer

from hf_mixture._compat.saving import replace_save_pretrained, restore_save_pretrained
from hf_mixture.moe.mwq.budget import attach_policy
from hf_mixture.moe.mwq.cache import ExpertCache
from hf_mixture.moe.mwq.config import MwqConfig
from hf_mixture.moe.mwq.files import PLANE_NAME, check_checksums, index_name, is_plane_file, save_nested
from hf_mixture.moe.mwq.linear import NestedLinear
from hf_mixture.moe.mwq.module import NestedModule, drop_planes, drop_weight, plane_names
from hf_mixture.moe.mwq.offload import attach_runtime
from hf_mixture.moe.mwq.quantise import quantise_matrix
from hf_mixture.moe.mwq.targets import (
    find_targets,
    make_nested,
    make_stock,
    nested_modules,
    oriented,
    refuse_on_disk,
    weights_of,
)


if TYPE_CHECKING:
    from transformers import PreTrainedModel


class MwqHfQuantizer(HfQuantizer):
    """Nested quantisation as a quantisation method of transformers, `"mwq"`."""

    quantization_config: MwqConfig
    requires_calibration = False

    def __init__(self, quantization_config: MwqConfig, **kwargs: Any) -> None:
        super().__init__(quantization_config, **kwargs)
        if self.pre_quantized:
            dequantize = quantization_config.dequantize
            self.quantization_config = quantization_config.at_width(quantization_config.max_width)
            self.quantization_config.dequantize = dequantize

    def validate_environment(self, *args: Any, device_map: Any = None, **kwargs: Any) -> None:
        if self.pre_quantized:
            return
        if isinstance(device_map, dict) and "disk" in device_map.values():
            raise ValueError(
                'device_map places modules on "disk" while the model is being quantised; quantise it first, save it, '
                'and load the saved folder with experts_implementation="mwq_offload" to keep its experts on disk'
            )
        if self.quantization_config.max_width is not None or self.quantization_config.dequantize:
            raise ValueError(
                "max_width and dequantize say how to read a quantised model, and this one is not; leave them out"
            )

    def update_attn_implementation(self, config: Any) -> Any:
        # The last moment before the files are looked up.
        if self.pre_quantized:
            config.transformers_weights = index_name(self.quantization_config.widths[-1])
        return config

    def _process_model_before_weight_loading(
        self, model: PreTrainedModel, checkpoint_files: Any = None, **kwargs: Any
    ) -> PreTrainedModel:
        config = self.quantization_config
        targets = find_targets(model, config)
        experts = {path: module for path, module in targets.items() if not isinstance(module, nn.Linear)}
        on_disk = any(module.config._experts_implementation == "mwq_offload" for module in experts.values())
        if on_disk and not self.pre_quantized:
            raise ValueError(
                'experts_implementation="mwq_offload" reads the planes of a quantised model, and this one is not; '
                "quantise it, save it, and load the saved folder"
            )
        for path, module in targets.items():
            make_nested(module, config)
            if path in experts:
                # Some blocks draw the weights of their experts themselves.
                model.get_submodule(path.rpartition(".")[0])._is_hf_initialized = True
            if self.pre_quantized:
                for name in weights_of(module):
                    drop_weight(module, name)
                if config.bit_policy is not None and path in experts:
                    attach_policy(module, config.bit_policy)
            if on_disk and path in experts:
                drop_planes(module)
        files = [Path(file) for file in checkpoint_files or ()]
        if on_disk:
            model._keys_to_ignore_on_load_unexpected = {*(model._keys_to_ignore_on_load_unexpected or ()), PLANE_NAME}
            attach_runtime(model, [file for file in files if is_plane_file(file)], ExpertCache(config.expert_budget))
        elif self.pre_quantized:
            check_checksums([file for file in files if is_plane_file(file)])
        return model

    def _process_model_after_weight_loading(self, model: PreTrainedModel, **kwargs: Any) -> PreTrainedModel:
        for path, module in nested_modules(model).items():
            if left := [name for name in module.matrices() if name in module._parameters]:
                raise ValueError(
                    f"the checkpoint has no weights for {path}.{left[0]}; quantise a complete checkpoint"
                )
            for name in module.all_plane_names() & set(module._parameters):
                getattr(module, name).requires_grad_(False)
        if self.quantization_config.dequantize:
            return self._dequantize(model)
        replace_save_pretrained(model, save_nested)
        return model

    def update_parallel_plan(self, model: PreTrainedModel, plan: dict[str, str]) -> None:
        """Shard the planes of an expert as its weights are sharded."""
        widths = self.quantization_config.widths
        for key, style in list(plan.items()):
            if style == "grouped_gemm":
                plan.update(dict.fromkeys(plane_names(key, widths), style))
                if self.pre_quantized:
                    del plan[key]

    def param_needs_quantization(self, model: PreTrainedModel, param_name: str, **kwargs: Any) -> bool:
        path, _, name = param_name.rpartition(".")
        module = model.get_submodule(path)
        return isinstance(module, NestedModule) and name in module.matrices()

    def get_quantize_ops(self) -> ConversionOps:
        return MwqQuantize(self.quantization_config)

    def is_serializable(self) -> bool:
        return True

    @property
    def is_trainable(self) -> bool:
        return True

    @property
    def is_qat_trainable(self) -> bool:
        # The Trainer refuses quantised models that nothing can be trained of.
        return (self.quantization_config.bit_policy or {}).get("kind") == "router"

    def _dequantize(self, model: PreTrainedModel, dtype: torch.dtype | None = None) -> PreTrainedModel:
        refuse_on_disk(model, "be turned into ordinary weights")
        for module in nested_modules(model).values():
            make_stock(module, model.dtype if dtype is None else dtype)
        restore_save_pretrained(model)
        return model


class MwqQuantize(ConversionOps):
    """Turns the weights of all experts of one matrix into nested planes while a model is loaded.

    Args:
        config: How to quantise.
    """

    def __init__(self, config: MwqConfig) -> None:
        self.config = config

    @torch.no_grad()
    def convert(
        self,
        input_dict: dict[str, Any],
        *,
        full_layer_name: str,
        model: nn.Module,
        missing_keys: set[str] | None = None,
        **kwargs: Any,
    ) -> dict[str, Tensor]:
        converted: dict[str, Tensor] = {}
        for key, value in input_dict.items():
            # A family may make the experts of several modules out of one list; then the keys are full names.
            full_name = full_layer_name if len(input_dict) == 1 else key
            weight: Tensor = value[0] if isinstance(value, list) else value
            path, _, name = full_name.rpartition(".")
            experts = model.get_submodule(path)
            planes = quantise_matrix(full_name, oriented(experts, weight), self.config)
            drop_weight(experts, name)
            if missing_keys is not None:
                missing_keys.discard(full_name)
            names = plane_names(full_name, planes.widths)
            converted.update(zip(names, planes.tensors(), strict=True))
        return converted


def attach_quantizer(model: PreTrainedModel, config: MwqConfig) -> None:
    """Mark a model whose experts are nested as quantised, as loading it would."""
    quantizer = MwqHfQuantizer(config, pre_quantized=False)
    model.hf_quantizer = quantizer
    model.is_quantized = True
    model.quantization_method = config.quant_method
    quantizer.postprocess_model(model)
