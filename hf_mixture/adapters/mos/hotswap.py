"""Replacing an adapter by another of the same shapes in place, without new modules and without recompilation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from hf_mixture.adapters.mos.bank import BANK_NAME, find_bank
from hf_mixture.adapters.mos.checkpoint import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    check_folder,
    check_tensors,
    expect_from_model,
    is_adapter_key,
    key_in_file,
    read_config,
    tensors_to_check,
)
from hf_mixture.adapters.mos.layer import MosLayer
from hf_mixture.adapters.mos.layout import draw_slot
from hf_mixture.hub.reading import read_tensors


# Settings that are constants of the forward pass, or that decide what a pool row means.
_FIXED = ("r", "rank_pattern", "equivalent_rank", "private_rank", "num_shards", "mos_alpha", "pool_by")
# Settings that the indices were drawn with: they go with the indices, which may be drawn again when a model is loaded.
_OF_INDICES = ("index_seed", "subset_selection", "pair_dissociation")


@torch.no_grad()
def hotswap_adapter(model: nn.Module, folder: str | Path, adapter_name: str = "default") -> None:
    """Copy the pools and indices of a saved adapter over those of a loaded one.

    A compiled model stays compiled: no tensor is replaced and no constant changes. Optimizer states are not touched.

    Args:
        model: A model with the adapter, or a PeftModel around it.
        folder: Local folder of the adapter to swap in; it must have the shapes and the scaling of the loaded one.
        adapter_name: Name of the adapter to overwrite.

    Raises:
        ValueError: The model has no such adapter or has it merged, the saved one differs in a setting or a shape, or
            one of them has modules that are saved in full; nothing was changed.

    Example:
        >>> import tempfile
        >>> from peft import get_peft_model
        >>> from hf_mixture import MosConfig, hotswap_adapter
        >>> base = nn.Sequential(*(nn.Linear(8, 8) for _ in range(16)))
        >>> model = get_peft_model(base, MosConfig(target_modules="all-linear"))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     model.save_pretrained(folder)
        ...     hotswap_adapter(model, folder)
    """
    found = find_bank(model)
    if found is None or adapter_name not in found[1]:
        raise ValueError(
            f"adapter_name={adapter_name!r} is not a MoS adapter of this model; a swap needs one to overwrite. "
            "Remedy: load the first adapter with load_adapter."
        )
    folder = Path(folder)
    check_folder(folder)
    peft_model: Any = model
    loaded, saved = peft_model.peft_config[adapter_name], read_config(folder)
    for setting in _FIXED:
        ours, theirs = getattr(loaded, setting), getattr(saved, setting)
        if ours != theirs:
            raise ValueError(
                f"{folder / CONFIG_FILE}: {setting}={theirs!r} differs from {ours!r} of the loaded adapter "
                f"{adapter_name!r}; a swap in place needs equal settings. Remedy: use load_adapter."
            )
    layers = {
        key_in_file(name): layer
        for name, layer in model.named_modules()
        if isinstance(layer, MosLayer) and adapter_name in layer.slots
    }
    merged = next((name for name, layer in layers.items() if adapter_name in layer.merged_adapters), None)
    if merged is not None:
        raise ValueError(
            f"adapter_name={adapter_name!r} is merged into the weight of {merged!r}, and without its pools it could "
            "not be taken out again. Remedy: call unmerge_adapter first."
        )
    tensors = {key_in_file(key): value for key, value in read_tensors(folder / WEIGHTS_FILE)[1].items()}
    in_full = [key for key in tensors if not is_adapter_key(key)] + list(loaded.modules_to_save or ())
    if in_full:
        raise ValueError(
            f"{in_full[0]!r} is saved in full with {folder} or with the loaded adapter {adapter_name!r}; a swap in "
            "place replaces pools and indices alone. Remedy: use load_adapter."
        )
    expectation = expect_from_model(model, adapter_name)
    if not saved.save_indices:
        tensors |= {f"{name}.mos_index": draw_slot(saved, layer.slots[adapter_name]) for name, layer in layers.items()}
    different = sorted(set(expectation.shapes) ^ set(tensors_to_check(tensors)[0]))
    if different:
        raise ValueError(
            f"{folder / WEIGHTS_FILE}: only one of this file and the loaded adapter {adapter_name!r} has a tensor "
            f"{different[0]!r}; they target different modules. Remedy: use load_adapter."
        )
    check_tensors(*tensors_to_check(tensors), expectation, source=str(folder / WEIGHTS_FILE))

    for key, pool in found[1][adapter_name].items():
        pool.copy_(tensors[f"{BANK_NAME}.{key}"])
    for name, layer in layers.items():
        layer.mos_index[adapter_name].copy_(tensors[f"{name}.mos_index"])
    for setting in _OF_INDICES:
        setattr(loaded, setting, getattr(saved, setting))
