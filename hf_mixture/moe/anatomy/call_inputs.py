"""What a model was called with, as its forward hooks see it."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel


def called_model(model: nn.Module) -> nn.Module:
    """Return the model inside wrappers, which is called in any case: `generate` of PEFT calls no other.

    Args:
        model: A model of transformers, bare or wrapped.

    Returns:
        The outermost model of transformers; the module itself where there is none.
    """
    return next((module for module in model.modules() if isinstance(module, PreTrainedModel)), model)


def named_inputs(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Give positional arguments of a forward their names.

    Args:
        model: The model that was called.
        args: Positional arguments.
        kwargs: Keyword arguments.

    Returns:
        All arguments by name.
    """
    return {**(inspect.signature(model.forward).bind_partial(*args).arguments if args else {}), **kwargs}


def padding_mask_of(inputs: Mapping[str, Any]) -> Tensor | None:
    """Return the padding mask of a call.

    Args:
        inputs: Arguments by name.

    Returns:
        The mask [batch, positions], 0 at padding; None where there is none.

    Raises:
        ValueError: If the mask has another form, from which padding cannot be told.
    """
    mask = inputs.get("attention_mask")
    if mask is not None and not (isinstance(mask, Tensor) and mask.dim() == 2):
        form = f"of shape {list(mask.shape)}" if isinstance(mask, Tensor) else type(mask).__name__
        raise ValueError(
            f"attention_mask {form} does not say which tokens are padding; pass the mask [batch, positions] with 1 at "
            "tokens and 0 at padding, and generate without a static cache, for which transformers makes another mask"
        )
    return mask
