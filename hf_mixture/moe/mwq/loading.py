"""What happens to a model while transformers quantises it, or loads a quantised one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers.core_model_loading import ConversionOps

from hf_mixture._compat.saving import replace_save_pretrained, restore_save_pretrained
from hf_mixture.moe.mwq.budget import attach_policy
from hf_mixture.moe.mwq.cache import ExpertCache
from hf_mixture.moe.mwq.config import MwqConfig
from hf_mixture.moe.mwq.files import PLANE_NAME, check_checksums, is_plane_file, save_nested
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


def prepare(model: PreTrainedModel, config: MwqConfig, files: Sequence[Path], *, pre_quantized: bool) -> None:
    """Replace what is quantised, before the weights are loaded.

    Args:
        model: The model, without values.
        config: How it is, or will be, quantised.
        files: Files of the checkpoint.
        pre_quantized: Whether the checkpoint is quantised.

    Raises:
        ValueError: If the model cannot be quantised, or a file is damaged.
    """
    targets = find_targets(model, config)
    experts = {path: module for path, module in targets.items() if not isinstance(module, nn.Linear)}
    configs: list[Any] = [module.config for module in experts.values()]
    on_disk = any(config._experts_implementation == "mwq_offload" for config in configs)
    if not pre_quantized:
        _check_unquantised(model, on_disk)
    for path, module in targets.items():
        make_nested(module, config)
        if not pre_quantized:
            continue
        for name in weights_of(module):
            drop_weight(module, name)
        if path in experts and config.bit_policy is not None:
            attach_policy(module, config.bit_policy)
        if path in experts and on_disk:
            drop_planes(module)
    for path in experts:
        # Some blocks draw the weights of their experts themselves.
        model.get_submodule(path.rpartition(".")[0])._is_hf_initialized = True
    if not pre_quantized:
        return
    plane_files = [file for file in files if is_plane_file(file)]
    if on_disk:
        model._keys_to_ignore_on_load_unexpected = {*(model._keys_to_ignore_on_load_unexpected or ()), PLANE_NAME}
        attach_runtime(model, plane_files, ExpertCache(config.expert_budget))
    check_checksums(plane_files, tuple(f"{path}." for path in experts) if on_disk else ())


def _check_unquantised(model: PreTrainedModel, on_disk: bool) -> None:
    if on_disk:
        raise ValueError(
            'experts_implementation="mwq_offload" reads the planes of a quantised model, and this one is not; '
            "quantise it, save it, and load the saved folder"
        )
    if getattr(model.config, "distributed_config", None) is not None:
        raise ValueError(
            "a model cannot be quantised while its weights are spread over processes by distributed_config; quantise "
            "it in one process, save it, and load the saved folder with distributed_config"
        )


def finish(model: PreTrainedModel, config: MwqConfig) -> PreTrainedModel:
    """Check that all planes are there, and let the model save itself, after the weights have been loaded."""
    for path, module in nested_modules(model).items():
        if left := [name for name in module.matrices() if name in module._parameters]:
            raise ValueError(f"the checkpoint has no weights for {path}.{left[0]}; quantise a complete checkpoint")
        for name in module.all_plane_names() & set(module._parameters):
            getattr(module, name).requires_grad_(False)
    if config.dequantize:
        return dequantise(model, model.dtype)
    replace_save_pretrained(model, save_nested)
    return model


def dequantise(model: PreTrainedModel, dtype: torch.dtype) -> PreTrainedModel:
    """Turn a quantised model into one of its stock class, with the weights of the last width."""
    refuse_on_disk(model, "be turned into ordinary weights")
    for module in nested_modules(model).values():
        make_stock(module, dtype)
    restore_save_pretrained(model)
    return model


def plan_of_planes(plan: dict[str, str], config: MwqConfig, *, pre_quantized: bool) -> None:
    """Shard the planes of an expert as its weights are sharded, in a plan of expert parallelism."""
    for key, style in list(plan.items()):
        if style == "grouped_gemm":
            plan.update(dict.fromkeys(plane_names(key, config.widths), style))
            if pre_quantized:
                del plan[key]


def is_quantised_weight(model: nn.Module, name: str) -> bool:
    """Whether a weight of a checkpoint is to be turned into planes."""
    path, _, weight = name.rpartition(".")
    module = model.get_submodule(path)
    return isinstance(module, NestedModule) and weight in module.matrices()


class MwqQuantize(ConversionOps):
    """Turns weights into nested planes while a model is loaded, all experts of a matrix at once.

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
            module = model.get_submodule(path)
            planes = quantise_matrix(full_name, oriented(module, weight), self.config)
            drop_weight(module, name)
            if missing_keys is not None:
                missing_keys.discard(full_name)
            names = plane_names(full_name, planes.widths)
            converted.update(zip(names, planes.tensors(), strict=True))
        return converted
