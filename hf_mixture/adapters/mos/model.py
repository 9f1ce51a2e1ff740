"""The MoS tuner: puts MoS layers into a base model and keeps PEFT's bookkeeping right for pools in the bank."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft import LoraConfig
from peft.tuners.trainable_tokens.layer import TrainableTokensLayer
from torch import Tensor, nn
from tqdm import tqdm
from transformers.pytorch_utils import Conv1D

from hf_mixture._compat.loading import forget_failed_adapter
from hf_mixture._compat.peft import (
    DEFAULT_TARGET_MODULES,
    UPCAST_DTYPES,
    BaseTuner,
    BaseTunerLayer,
    get_quantization_kwargs,
)
from hf_mixture._compat.sharding import is_spread
from hf_mixture.adapters.mos.bank import BANK_NAME, attach_bank, check_base, find_bank
from hf_mixture.adapters.mos.checkpoint import check_tensors, expect_from_model, tensors_to_check
from hf_mixture.adapters.mos.config import MosConfig
from hf_mixture.adapters.mos.dequantize import as_linear, dequantize_linear_layers
from hf_mixture.adapters.mos.export import export_lora
from hf_mixture.adapters.mos.layer import MosLayer
from hf_mixture.adapters.mos.layout import Slot, plan_layout
from hf_mixture.adapters.mos.linear import Linear
from hf_mixture.adapters.mos.mixed_batch import route_rows
from hf_mixture.adapters.mos.parameter import ParamWrapper
from hf_mixture.adapters.mos.targets import find_targets, is_target


class MosModel(BaseTuner):
    """Mixture of Shards adapters on a base model, https://arxiv.org/abs/2410.00938.

    Users reach it through `get_peft_model(model, MosConfig(...))`, the `from_pretrained` of peft and transformers, or
    `model.add_adapter`. The trainable pools live in one module at the root of the base model, `mos_bank`, and not on
    this tuner, so that all routes work, also those that keep no tuner object.

    Args:
        model: The model to adapt; its layers are replaced in place.
        config: Configuration of the adapter.
        adapter_name: Name of the adapter. Default: `"default"`.

    Example:
        >>> import torch
        >>> from peft import get_peft_model
        >>> from hf_mixture import MosConfig
        >>> base = torch.nn.Sequential(*(torch.nn.Linear(8, 8) for _ in range(16)))
        >>> model = get_peft_model(base, MosConfig(target_modules="all-linear"))
        >>> sum(p.numel() for p in model.parameters() if p.requires_grad) == 2 * 16 * (8 + 8)
        True
    """

    prefix = "mos_"
    tuner_layer_cls = MosLayer
    target_module_mapping = DEFAULT_TARGET_MODULES
    uses_shared_state = False

    def inject_adapter(
        self,
        model: nn.Module,
        adapter_name: str,
        autocast_adapter_dtype: bool = True,
        low_cpu_mem_usage: bool = False,
        state_dict: dict[str, Tensor] | None = None,
    ) -> None:
        """Create the layers and pools of an adapter.

        Args:
            model: The base model.
            adapter_name: Name of the adapter, a key of `peft_config`.
            autocast_adapter_dtype: As in PEFT.
            low_cpu_mem_usage: Create the pools on the meta device; the indices are real.
            state_dict: Checkpoint whose keys name the modules to adapt, in place of the configuration. One that was
                saved without indices names no modules, so the configuration selects them.
        """
        suffix = ".mos_index"
        self._named_modules = named = {
            key.removesuffix(suffix).removeprefix("_orig_mod.") for key in state_dict or () if key.endswith(suffix)
        }
        try:
            super().inject_adapter(
                model,
                adapter_name,
                autocast_adapter_dtype=autocast_adapter_dtype,
                low_cpu_mem_usage=low_cpu_mem_usage,
                state_dict=state_dict if named else None,
            )
        except (ValueError, TypeError):
            forget_failed_adapter(model, adapter_name)
            raise

    def _prepare_adapter_config(self, peft_config: MosConfig, model_config: dict[str, Any]) -> MosConfig:
        if peft_config.target_modules is None and peft_config.target_parameters:
            return peft_config
        return super()._prepare_adapter_config(peft_config, model_config)

    def _check_new_adapter_config(self, config: MosConfig) -> None:
        super()._check_new_adapter_config(config)
        for name, other in self.peft_config.items():
            ours, theirs = set(config.target_parameters or ()), set(other.target_parameters or ())
            if ours and theirs and ours != theirs:
                raise ValueError(
                    f"target_parameters={sorted(ours)} must equal those of adapter {name!r}, {sorted(theirs)}: the "
                    "wrappers of several parameters are nested in one order for all adapters."
                )

    def _prepare_model(self, peft_config: MosConfig, model: nn.Module) -> None:
        """Plan all pools before anything is changed; PEFT calls this at every injection."""
        check_base(model)
        _check_alone(model)
        _check_not_spread(model, peft_config)
        self._layout = plan_layout(peft_config, find_targets(peft_config, model, self._named_modules))
        if self._layout:
            # Not later: PEFT walks the modules of the model while it creates the layers.
            attach_bank(model)

    @staticmethod
    def _check_target_module_exists(peft_config: MosConfig, key: str) -> Any:
        return is_target(peft_config, key)

    def _create_and_replace(  # noqa: PLR0917 - the signature that PEFT calls
        self,
        peft_config: MosConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        *,
        parameter_name: str | None = None,
    ) -> None:
        slot = self._layout[current_key]
        if isinstance(target, MosLayer) and getattr(target, "parameter_name", None) == parameter_name:
            target.update_layer(adapter_name, slot, peft_config)
            return
        layer = self._create_new_module(peft_config, adapter_name, target, slot, parameter_name)
        if adapter_name not in self.active_adapters:
            layer.requires_grad_(False)
        self._replace_module(parent, target_name, layer, target)

    def _create_new_module(
        self, config: MosConfig, adapter_name: str, target: nn.Module, slot: Slot, parameter_name: str | None
    ) -> MosLayer:
        bank = self.model.get_submodule(BANK_NAME)
        if parameter_name is not None:
            return ParamWrapper(target, bank, adapter_name, slot, config, parameter_name=parameter_name)
        base = target.get_base_layer() if isinstance(target, BaseTunerLayer) else target
        transposed = isinstance(base, Conv1D)
        # Beside target parameters the setting would make a configuration that is refused, and the layer does without.
        if transposed != config.fan_in_fan_out and not config.target_parameters:
            warnings.warn(
                f"fan_in_fan_out is set to {config.fan_in_fan_out} but the target module is "
                f"`{'Conv1D' if transposed else 'torch.nn.Linear'}`. Setting fan_in_fan_out to {transposed}.",
                stacklevel=2,
            )
            config.fan_in_fan_out = transposed
        return Linear(target, bank, adapter_name, slot, config, **get_quantization_kwargs(self.model))

    def _replace_module(self, parent: nn.Module, child_name: str, new_module: nn.Module, child: nn.Module) -> None:
        if isinstance(child, ParamWrapper) and not isinstance(new_module, MosLayer):
            # PEFT would hand over `child.weight`, which a module with parameters of other names does not have.
            setattr(parent, child_name, new_module)
        else:
            super()._replace_module(parent, child_name, new_module, child)

    def _mark_only_adapters_as_trainable(self, model: nn.Module) -> None:
        """Freeze everything but the adapters; PEFT sees the bank as a part of the base model."""
        found = find_bank(model)
        flags = [(pool, pool.requires_grad) for pool in found[1].parameters()] if found else []
        super()._mark_only_adapters_as_trainable(model)
        for pool, requires_grad in flags:
            pool.requires_grad_(requires_grad)

    def _cast_adapter_dtype(self, adapter_name: str, autocast_adapter_dtype: bool = True) -> None:
        super()._cast_adapter_dtype(adapter_name, autocast_adapter_dtype)
        found = find_bank(self.model)
        if not autocast_adapter_dtype or found is None or adapter_name not in found[1]:
            return
        pools = found[1][adapter_name]
        low = {
            torch.float16,
            torch.bfloat16,
            *(getattr(torch, name) for name in UPCAST_DTYPES if hasattr(torch, name)),
        }
        for key, pool in list(pools.items()):
            if pool.dtype in low:
                pools[key] = nn.Parameter(pool.float(), requires_grad=pool.requires_grad)

    def _unload_and_optionally_merge(self, *args: Any, **kwargs: Any) -> nn.Module:
        model = super()._unload_and_optionally_merge(*args, **kwargs)
        if hasattr(model, BANK_NAME):
            delattr(model, BANK_NAME)
        return model

    def to_lora(
        self, adapter_name: str = "default", save_directory: str | os.PathLike[str] | None = None
    ) -> tuple[LoraConfig, dict[str, Tensor]]:
        """Export an adapter as the LoRA of rank r that computes the same; see `export_lora`.

        Args:
            adapter_name: Name of the adapter.
            save_directory: Folder to write the LoRA adapter to.

        Returns:
            The LoRA configuration and its state dict.
        """
        return export_lora(self.model, adapter_name, save_directory)

    def dequantize_merge_and_unload(
        self,
        dtype: torch.dtype = torch.bfloat16,
        *,
        progressbar: bool = False,
        safe_merge: bool = False,
        adapter_names: list[str] | None = None,
    ) -> nn.Module:
        """Turn a quantised base model into an ordinary one and merge adapters into it.

        `merge_and_unload` quantises the merged weights again, which loses most of an update in 4 bits.

        Args:
            dtype: Type of the merged model. W + D is computed in float32 and rounded to it once.
            progressbar: Show progress bars.
            safe_merge: Check for NaN and infinity before a weight is replaced.
            adapter_names: Adapters to merge. Defaults to the active ones.

        Returns:
            The merged model, without adapters and without quantisation.
        """
        layers = [layer for layer in self.model.modules() if isinstance(layer, MosLayer)]
        for layer in tqdm(layers, desc="Merging", disable=not progressbar):
            if layer.quantization_backend is not None:
                layer.base_layer = as_linear(layer.get_base_layer(), self.model)
                layer.quantization_backend = None
            layer.merge(safe_merge=safe_merge, adapter_names=adapter_names)
            layer.get_base_layer().to(dtype)
        model = self.unload()
        dequantize_linear_layers(model, dtype, progressbar=progressbar)
        return model

    def cache_factors(self, enabled: bool = True) -> None:
        """Keep the materialised factors of each layer between forward passes that compute no gradients.

        Costs `r / equivalent_rank` times the memory of the pools and saves the gathers. A cached factor is used only
        while its pools and indices are unchanged.

        Args:
            enabled: False stops caching and frees the factors.
        """
        for layer in self.model.modules():
            if isinstance(layer, MosLayer):
                layer.factor_cache = {} if enabled else None

    def _check_merge_allowed(self) -> None:
        super()._check_merge_allowed()
        backends = {layer.quantization_backend for layer in self.model.modules() if isinstance(layer, MosLayer)}
        if any(backend is not None and "4bit" in backend.backend_name for backend in backends):
            warnings.warn(
                "Merging into 4-bit weights quantises them again and loses most of the update. "
                "Remedy: dequantize_merge_and_unload().",
                stacklevel=3,
            )

    @contextmanager
    def _enable_peft_forward_hooks(self, *args: Any, **kwargs: Any) -> Iterator[None]:
        with route_rows(self.model, kwargs.get("adapter_names"), num_beams=kwargs.get("num_beams")):
            yield

    @classmethod
    def _get_adapter_state_dict(
        cls,
        model: nn.Module,
        config: MosConfig,
        adapter_name: str,
        state_dict: dict[str, Tensor],
        unwanted_adapter_names: list[str],
    ) -> dict[str, Tensor]:
        selected = super()._get_adapter_state_dict(model, config, adapter_name, state_dict, unwanted_adapter_names)
        found = find_bank(model)
        if found is not None:
            prefix = f"{found[0].removeprefix('_fsdp_wrapped_module.')}.{adapter_name}."
            selected |= {key: value for key, value in state_dict.items() if key.startswith(prefix)}
        return selected

    @classmethod
    def _remap_adapter_state_dict_for_load(
        cls, model: nn.Module, config: MosConfig, adapter_name: str, state_dict: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        shapes, indices = tensors_to_check(state_dict)
        check_tensors(shapes, indices, expect_from_model(model, adapter_name), source=f"adapter {adapter_name!r}")
        marker = f"{BANK_NAME}."
        renamed = {}
        for key, value in super()._remap_adapter_state_dict_for_load(model, config, adapter_name, state_dict).items():
            head, separator, tail = key.rpartition(marker)
            renamed[f"{head}{marker}{adapter_name}.{tail}" if separator else key] = value
        return renamed


def _check_alone(model: nn.Module) -> None:
    """Refuse a base model that has adapters of another type: one would be lost when both are saved and loaded.

    Raises:
        ValueError: If it has.
    """
    for module in model.modules():
        if isinstance(module, BaseTunerLayer) and not isinstance(module, MosLayer | TrainableTokensLayer):
            raise ValueError(
                f"the base model has adapters of another type ({type(module).__module__.split('.')[-2]}), and a saved "
                "adapter has one type. Remedy: merge_and_unload() the other adapter first."
            )


def _check_not_spread(model: nn.Module, config: MosConfig) -> None:
    """Refuse to train on a base model that is spread over processes: nothing adds up the gradients of the pools.

    Raises:
        ValueError: If the model is spread, and the adapter is to be trained or is about spread weights themselves.
    """
    if (config.inference_mode and not config.target_parameters) or not is_spread(model):
        return
    raise ValueError(
        "the weights of the base model are spread over processes, and gradients of an adapter would stay with each of "
        "them. Remedy: train it on a model that every process holds whole (DDP), or under FSDP that comes after "
        "get_peft_model."
    )
