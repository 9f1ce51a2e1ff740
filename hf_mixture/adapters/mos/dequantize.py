"""Merging into a quantised model without quantising again.

Writing merged 4-bit weights back into 4 bits rounds away updates that are smaller than a quantisation step, which is
most of them. Here every quantised layer first becomes an ordinary one.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from hf_mixture._compat.bitsandbytes import restore_4bit_layout
from hf_mixture._compat.peft import get_quantization_kwargs, resolve_quantization_backend


def dequantize_linear_layers(model: nn.Module, dtype: torch.dtype, *, progressbar: bool = False) -> None:
    """Replace all quantised linear layers by `nn.Linear`, and bring the rest of the model to the same type.

    Args:
        model: A model without adapters; changed in place.
        dtype: Floating-point type of the result.
        progressbar: Show a progress bar.
    """
    names = [name for name, module in model.named_modules() if _backend(module, model) is not None]
    for name in tqdm(names, desc="Dequantizing", disable=not progressbar):
        model.set_submodule(name, as_linear(model.get_submodule(name), model).to(dtype))
    _forget_quantization(model)
    model.to(dtype)


def as_linear(module: nn.Module, model: nn.Module) -> nn.Linear:
    """A quantised linear layer as an ordinary one in float32.

    Args:
        module: The quantised layer.
        model: The model it belongs to.

    Returns:
        The new layer.
    """
    restore_4bit_layout(module)
    weight = _backend(module, model).get_base_weight(module).float()
    out_features, in_features = weight.shape
    bias = getattr(module, "bias", None)
    linear = nn.Linear(in_features, out_features, bias=bias is not None, device="meta")
    linear.weight = nn.Parameter(weight, requires_grad=False)
    if bias is not None:
        linear.bias = nn.Parameter(bias.float(), requires_grad=False)
    return linear.train(module.training)


def _backend(module: nn.Module, model: nn.Module) -> Any:
    return resolve_quantization_backend(module, **get_quantization_kwargs(model))


def _forget_quantization(model: nn.Module) -> None:
    """Remove what makes transformers treat the model as quantised."""
    quantizer = getattr(model, "hf_quantizer", None)
    if quantizer is None:
        return
    quantizer.remove_quantization_config(model)
    for flag in ("is_loaded_in_4bit", "is_loaded_in_8bit"):
        if hasattr(model, flag):
            setattr(model, flag, False)
