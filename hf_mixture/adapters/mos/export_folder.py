"""Export of a saved MoS adapter to a LoRA folder, without the weights of the base model."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import torch
from peft import inject_adapter_in_model, set_peft_model_state_dict
from torch import nn

from hf_mixture.adapters.mos.checkpoint import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    check_before_loading,
    check_folder,
    is_adapter_key,
    read_config,
)
from hf_mixture.adapters.mos.config import MosConfig
from hf_mixture.adapters.mos.export import export_lora, write_lora
from hf_mixture.adapters.mos.layer import MosLayer
from hf_mixture.adapters.mos.layout import draw_slot
from hf_mixture.hub.reading import read_tensors


_AUTO_CLASSES = {
    "CAUSAL_LM": "AutoModelForCausalLM",
    "SEQ_2_SEQ_LM": "AutoModelForSeq2SeqLM",
    "SEQ_CLS": "AutoModelForSequenceClassification",
    "TOKEN_CLS": "AutoModelForTokenClassification",
    "QUESTION_ANS": "AutoModelForQuestionAnswering",
    "FEATURE_EXTRACTION": "AutoModel",
}


def export_lora_folder(
    folder: str | os.PathLike[str], save_directory: str | os.PathLike[str], *, base_model: str | None = None
) -> Path:
    """Write a saved MoS adapter as the LoRA of rank r that computes the same.

    Of the base model only its configuration is read: the modules and their shapes decide where each shard goes, the
    weights do not. Modules that are saved in full are copied: they may have other sizes than in that configuration, as
    a head for other classes or an embedding of more tokens has.

    Args:
        folder: Folder of the MoS adapter.
        save_directory: Folder to write to; it must be new or empty.
        base_model: Hub id or folder of the base model. Defaults to the one that the adapter names.

    Returns:
        `save_directory`.

    Raises:
        ValueError: The folder holds no sound MoS adapter, its base model is not found, or `save_directory` is not
            empty. Nothing has been written.
    """
    folder, save_directory = Path(folder), Path(save_directory)
    if not (folder / CONFIG_FILE).is_file():
        raise ValueError(f"{folder} has no {CONFIG_FILE}; name the folder of a saved adapter")
    config = read_config(folder)
    if not isinstance(config, MosConfig):
        kind = getattr(config.peft_type, "value", "nameless")
        raise ValueError(f"{folder} holds a {kind} adapter; only MOS adapters can be exported exactly")
    if config.target_modules is None and not config.target_parameters:
        raise ValueError(
            f"{folder / CONFIG_FILE} has neither target_modules nor target_parameters, which a saved adapter has; "
            "restore it from an intact copy"
        )
    if save_directory.exists() and any(save_directory.iterdir()):
        raise ValueError(
            f"{save_directory} is not empty; name a new folder, so that no file of another adapter stays in it"
        )
    check_folder(folder)
    model = _skeleton(folder, config, base_model)
    check_before_loading(folder, model)
    tensors = read_tensors(folder / WEIGHTS_FILE)[1]
    adapter = {key: value for key, value in tensors.items() if is_adapter_key(key)}
    inject_adapter_in_model(dataclasses.replace(config, modules_to_save=None), model, low_cpu_mem_usage=True)
    set_peft_model_state_dict(model, adapter, low_cpu_mem_usage=True)
    if not config.save_indices:
        # The layers drew them, and lost them to the device of the skeleton.
        for layer in [module for module in model.modules() if isinstance(module, MosLayer)]:
            layer.mos_index.register_buffer("default", draw_slot(config, layer.slots["default"]), persistent=False)
    lora, exported = export_lora(model)
    lora.modules_to_save = config.modules_to_save
    write_lora(save_directory, lora, exported | {key: tensors[key] for key in tensors if key not in adapter})
    return save_directory


def _skeleton(folder: Path, config: MosConfig, base_model: str | None) -> nn.Module:
    """The base model on the meta device."""
    import transformers

    name = base_model or config.base_model_name_or_path
    if not name:
        raise ValueError(
            f"the adapter in {folder} does not name its base model; pass base_model, a Hub id or a folder"
        )
    try:
        # The revision of the configuration is one of the base model that it names.
        revision = None if base_model else config.revision
        base_config = transformers.AutoConfig.from_pretrained(name, revision=revision)
    except OSError as error:
        raise ValueError(
            f"the configuration of the base model {name} of {folder} cannot be read "
            f"({str(error).strip().splitlines()[0]}); pass base_model, a Hub id or a folder that holds config.json"
        ) from error
    class_name = _auto_class(base_config, config)
    auto_class = getattr(transformers, class_name, None)
    if auto_class is None:
        raise ValueError(
            f"the architecture {class_name} of the base model {name} is not one of transformers; load model and "
            "adapter in Python, and export with hf_mixture.export_lora"
        )
    with torch.device("meta"):
        return auto_class.from_config(base_config) if hasattr(auto_class, "from_config") else auto_class(base_config)


def _auto_class(base_config: Any, config: MosConfig) -> str:
    task = str(getattr(config.task_type, "value", config.task_type))
    architectures = base_config.architectures or ["AutoModel"]
    return _AUTO_CLASSES.get(task, architectures[0])
