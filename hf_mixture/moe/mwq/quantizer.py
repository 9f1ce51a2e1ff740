"""`MwqHfQuantizer`: nested quantisation as a quantisation method of transformers.

What it does is imported when the first model asks for it, so that registering it costs nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers.quantizers.base import HfQuantizer

from hf_mixture.moe.mwq.config import MwqConfig


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
        if given := self.quantization_config.get_loading_attributes():
            raise ValueError(
                f"{next(iter(given))} says how to read a quantised model, and this one is not; leave it out"
            )

    def update_attn_implementation(self, config: Any) -> Any:
        # The last moment before the files are looked up.
        if self.pre_quantized:
            from hf_mixture.moe.mwq.files import index_name

            config.transformers_weights = index_name(self.quantization_config.widths[-1])
        return config

    def _process_model_before_weight_loading(
        self, model: PreTrainedModel, checkpoint_files: Any = None, **kwargs: Any
    ) -> PreTrainedModel:
        from hf_mixture.moe.mwq.loading import prepare

        files = [Path(file) for file in checkpoint_files or ()]
        prepare(model, self.quantization_config, files, pre_quantized=self.pre_quantized)
        return model

    def _process_model_after_weight_loading(self, model: PreTrainedModel, **kwargs: Any) -> PreTrainedModel:
        from hf_mixture.moe.mwq.loading import finish

        return finish(model, self.quantization_config)

    def update_parallel_plan(self, model: PreTrainedModel, plan: dict[str, str]) -> None:
        from hf_mixture.moe.mwq.loading import plan_of_planes

        plan_of_planes(plan, self.quantization_config, pre_quantized=self.pre_quantized)

    def param_needs_quantization(self, model: PreTrainedModel, param_name: str, **kwargs: Any) -> bool:
        from hf_mixture.moe.mwq.loading import is_quantised_weight

        return is_quantised_weight(model, param_name)

    def get_quantize_ops(self) -> Any:
        from hf_mixture.moe.mwq.loading import MwqQuantize

        return MwqQuantize(self.quantization_config)

    def is_serializable(self) -> bool:
        return True

    @property
    def is_trainable(self) -> bool:
        """Adapters train on top."""
        return True

    @property
    def is_qat_trainable(self) -> bool:
        """The Trainer refuses quantised models of which nothing can be trained; bit routers can."""
        return (self.quantization_config.bit_policy or {}).get("kind") == "router"

    def _dequantize(self, model: PreTrainedModel, dtype: torch.dtype | None = None) -> PreTrainedModel:
        from hf_mixture.moe.mwq.loading import dequantise

        return dequantise(model, model.dtype if dtype is None else dtype)


def attach_quantizer(model: PreTrainedModel, config: MwqConfig) -> None:
    """Mark a model whose weights are planes as quantised, as loading it would."""
    quantizer = MwqHfQuantizer(config, pre_quantized=False)
    model.hf_quantizer = quantizer
    model.is_quantized = True
    model.quantization_method = config.quant_method
    quantizer.postprocess_model(model)


def mwq_offload(experts: Any, hidden_states: Any, top_k_index: Any, top_k_weights: Any) -> Any:
    """The experts implementation `"mwq_offload"` of transformers: experts whose planes stay on disk.

    Args:
        experts: Nested experts of a model that was loaded with this implementation.
        hidden_states: [T, H].
        top_k_index: [T, K].
        top_k_weights: [T, K].

    Returns:
        [T, H].

    Raises:
        TypeError: If the experts are not nested, or in memory.
    """
    runtime = getattr(experts, "mwq_runtime", None)
    if runtime is None:
        raise TypeError(
            f"{type(experts).__name__} has no planes on disk; load a model that was saved with MwqConfig with "
            'from_pretrained(folder, experts_implementation="mwq_offload")'
        )
    return runtime.run(experts, hidden_states, top_k_index, top_k_weights)
