"""Where experts come from, and proof that they are still the same."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm
from transformers import AutoModel, AutoModelForCausalLM, PreTrainedModel


def load_expert(expert: PreTrainedModel | str | os.PathLike[str], **kwargs: Any) -> PreTrainedModel:
    """Load an expert, unless it is one already.

    Args:
        expert: A model, or the folder or repository of one.
        kwargs: For `from_pretrained`.

    Returns:
        The model.
    """
    if isinstance(expert, PreTrainedModel):
        return expert
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(expert, **kwargs)
    return model


def reference_of(model: PreTrainedModel) -> dict[str, Any]:
    """Name, revision and fingerprint of a model.

    Args:
        model: A model, best one that `from_pretrained` has loaded.

    Returns:
        JSON values; the name is None for a model that was never loaded, type and fingerprint for a quantised one.
    """
    name = model.config._name_or_path or None
    local = name is not None and Path(name).exists()
    quantised = getattr(model, "is_quantized", False)
    return {
        "name": str(Path(name).resolve()) if name is not None and local else name,
        "revision": None if local else getattr(model.config, "_commit_hash", None),
        "subfolder": "",
        "dtype": None if quantised else str(model.dtype).removeprefix("torch."),
        "sha256": None if quantised else fingerprint(model),
    }


def load_reference(
    reference: Mapping[str, Any], folder: Path, *, causal: bool, verify: bool, **kwargs: Any
) -> PreTrainedModel:
    """Load the model that a reference names, and check that it is still the same.

    Args:
        reference: From `reference_of`, or with the sub-folder of a self-contained folder.
        folder: That folder.
        causal: Whether the model is an expert, and not the prompt encoder.
        verify: Whether to compare the fingerprint.
        kwargs: For `from_pretrained`. Default of `dtype`: that which the model had.

    Returns:
        The model.

    Raises:
        ValueError: If it cannot be found, or has changed.
    """
    auto = AutoModelForCausalLM if causal else AutoModel
    inside = folder / reference["subfolder"] if reference.get("subfolder") else None
    name = inside if inside is not None else reference.get("name")
    if name is None:
        raise ValueError(f"a reference of {folder} names no model; save the mixture with save_experts=True")
    revision = {} if inside is not None or reference.get("revision") is None else {"revision": reference["revision"]}
    dtype = reference.get("dtype")
    given = {"dtype", "torch_dtype"} & kwargs.keys()
    if dtype is not None and not given and "quantization_config" not in kwargs:
        kwargs["dtype"] = dtype
    try:
        model: PreTrainedModel = auto.from_pretrained(name, **revision, **kwargs)
    except OSError as error:
        raise ValueError(
            f"{name}, part of the mixture in {folder}, cannot be loaded: {str(error).splitlines()[0]}; restore it, "
            "or save the mixture with save_experts=True"
        ) from error
    expected = reference.get("sha256")
    if verify and expected is not None and not getattr(model, "is_quantized", False):
        found = fingerprint(model)
        if found != expected and given:
            # The numbers of another type are others: those of the same type are compared.
            others = {key: value for key, value in kwargs.items() if key not in {*given, "device_map"}}
            found = fingerprint(auto.from_pretrained(name, **revision, **others, dtype=dtype or "auto"))
        if found != expected:
            raise ValueError(
                f"{name} has changed since the mixture in {folder} was trained: its weights have the fingerprint "
                f"{found[:12]}, expected {expected[:12]}; restore it, or load with verify_experts=False"
            )
    return model


def fingerprint(model: PreTrainedModel) -> str:
    """SHA-256 of the names, types, shapes and bytes of all parameters and buffers that are saved.

    Args:
        model: Any model.

    Returns:
        64 hexadecimal digits.
    """
    digest = hashlib.sha256()
    state = sorted(model.state_dict().items())
    for name, tensor in tqdm(state, desc="fingerprint", leave=False, disable=len(state) < 100):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
