"""Exact export of a MoS adapter as LoRA: the same factors, written out per module."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model_state_dict
from torch import Tensor, nn

from hf_mixture.adapters.mos.checkpoint import FILE_PREFIX, WEIGHTS_FILE, is_adapter_key
from hf_mixture.adapters.mos.config import MosConfig
from hf_mixture.adapters.mos.layer import MosLayer
from hf_mixture.hub.atomic import write_tensors


@torch.no_grad()
def export_lora(
    model: nn.Module, adapter_name: str = "default", save_directory: str | os.PathLike[str] | None = None
) -> tuple[LoraConfig, dict[str, Tensor]]:
    """Write a MoS adapter as the LoRA of rank r that computes the same, without any decomposition.

    The result loads with stock PEFT in a process without this package, and in everything else that reads LoRA. It has
    `r / equivalent_rank` times the parameters of the MoS adapter.

    Args:
        model: A base model that holds the adapter, such as the one `AutoModelForCausalLM.from_pretrained(folder)`
            returns. `MosModel.to_lora` does the same for a PeftModel.
        adapter_name: Name of the adapter.
        save_directory: Folder to write `adapter_config.json` and `adapter_model.safetensors` to.

    Returns:
        The LoRA configuration and its state dict, with the keys that PEFT saves.

    Raises:
        ValueError: The model has no MoS adapter of that name.

    Example:
        >>> import torch
        >>> from peft import get_peft_model
        >>> from hf_mixture import MosConfig
        >>> base = torch.nn.Sequential(*(torch.nn.Linear(8, 8) for _ in range(16)))
        >>> model = get_peft_model(base, MosConfig(target_modules="all-linear"))
        >>> config, tensors = export_lora(model.get_base_model())
        >>> config.peft_type.value, config.r, tensors["base_model.model.3.lora_A.weight"].shape
        ('LORA', 16, torch.Size([16, 8]))
    """
    configs = getattr(model, "peft_config", {})
    config = configs.get(adapter_name)
    if not isinstance(config, MosConfig):
        raise ValueError(
            f"adapter_name={adapter_name!r} is not a MoS adapter of this model, which has {sorted(configs)}. "
            "Remedy: name one of its MoS adapters."
        )
    tensors = {
        f"{FILE_PREFIX}{key}": value.cpu().clone()
        for key, value in get_peft_model_state_dict(model, adapter_name=adapter_name).items()
        if not is_adapter_key(key)
    }
    for name, layer in model.named_modules():
        if isinstance(layer, MosLayer) and adapter_name in layer.mos_dropout:
            a_RI, b_OR = _flat_factors(layer, adapter_name)
            tensors[f"{FILE_PREFIX}{name}.lora_A.weight"] = a_RI.cpu().contiguous()
            tensors[f"{FILE_PREFIX}{name}.lora_B.weight"] = b_OR.cpu().contiguous()
    lora = _lora_config(config)
    if save_directory is not None:
        write_lora(save_directory, lora, tensors)
    return lora, tensors


def write_lora(folder: str | os.PathLike[str], config: LoraConfig, tensors: dict[str, Tensor]) -> None:
    """Write a LoRA as PEFT saves it.

    Args:
        folder: Folder to write to.
        config: Its configuration.
        tensors: Its state dict.
    """
    Path(folder).mkdir(parents=True, exist_ok=True)
    write_tensors(Path(folder, WEIGHTS_FILE), tensors, metadata={"format": "pt"})
    config.save_pretrained(str(folder))


def _flat_factors(layer: MosLayer, adapter_name: str) -> tuple[Tensor, Tensor]:
    """A (r, in) and B (out, r); for a stack of E experts in PEFT's layout, (E * r, in) and (out, r * E)."""
    a, b = layer.factors(adapter_name)
    if a.dim() == 2:
        return a, b.T
    return a.flatten(0, 1), b.permute(2, 1, 0).flatten(1)


def _lora_config(config: MosConfig) -> LoraConfig:
    shared = (
        "r",
        "target_modules",
        "exclude_modules",
        "target_parameters",
        "rank_pattern",
        "layers_to_transform",
        "layers_pattern",
        "modules_to_save",
        "fan_in_fan_out",
        "bias",
        "task_type",
        "base_model_name_or_path",
        "revision",
    )
    return LoraConfig(
        **{name: getattr(config, name) for name in shared},
        lora_alpha=config.mos_alpha,
        lora_dropout=config.mos_dropout,
        inference_mode=True,
    )
