"""A mask channel for pretrained vision models: the first convolution takes four channels instead of three."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from hf_mixture.models.matsim.configuration_matsim import NUM_CHANNELS


def first_convolution(model: nn.Module) -> tuple[str, nn.Conv2d]:
    """Find the convolution that sees the image: of all with as many inputs as the first, the first one.

    Args:
        model: A vision model.

    Returns:
        Its name and the layer.

    Raises:
        TypeError: If the model has no convolution.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            return name, module
    raise TypeError(
        f"model is a {type(model).__name__} without a two-dimensional convolution; give a vision model whose first "
        "layer is a convolution or a patch embedding"
    )


def widen_patch_embedding(model: Any) -> Any:
    """Give a vision model a fourth input channel, for the mask; it then computes what it did before.

    The first convolution or patch embedding gets one more input channel with weights of zero; the weights of RGB and
    the bias are copied (arXiv 2212.00648). The model and its configuration are changed in place.

    Args:
        model: A vision model of transformers whose first convolution takes 3 channels.

    Returns:
        The model.

    Raises:
        TypeError: If the model has no convolution.
        ValueError: If its first convolution does not take 3 channels.

    Example:
        >>> from transformers import Dinov2Config, Dinov2Model
        >>> from hf_mixture import widen_patch_embedding
        >>> config = Dinov2Config(hidden_size=16, num_hidden_layers=1, num_attention_heads=2)
        >>> model = widen_patch_embedding(Dinov2Model(config))
        >>> model.config.num_channels, model.embeddings.patch_embeddings.projection.weight[:, 3].abs().max().item()
        (4, 0.0)
    """
    name, narrow = first_convolution(model)
    if narrow.in_channels != NUM_CHANNELS - 1 or narrow.groups != 1:
        raise ValueError(
            f"model.{name} takes {narrow.in_channels} channels in {narrow.groups} groups; only a first convolution of "
            f"{NUM_CHANNELS - 1} channels in one group can be widened"
        )
    wide = nn.Conv2d(
        NUM_CHANNELS,
        narrow.out_channels,
        narrow.kernel_size,  # type: ignore[arg-type]
        narrow.stride,  # type: ignore[arg-type]
        narrow.padding,  # type: ignore[arg-type]
        narrow.dilation,  # type: ignore[arg-type]
        bias=narrow.bias is not None,
        padding_mode=narrow.padding_mode,
        device=narrow.weight.device,
        dtype=narrow.weight.dtype,
    )
    with torch.no_grad():
        wide.weight.copy_(torch.cat([narrow.weight, torch.zeros_like(narrow.weight[:, :1])], dim=1))
        if narrow.bias is not None and wide.bias is not None:
            wide.bias.copy_(narrow.bias)
    wide.weight.requires_grad_(narrow.weight.requires_grad)
    model.set_submodule(name, wide)
    model.config.num_channels = NUM_CHANNELS
    # Patch embeddings of transformers compare their input with a copy of this number.
    for module in model.modules():
        if getattr(module, "num_channels", None) == NUM_CHANNELS - 1:
            module.num_channels = NUM_CHANNELS
    return model


def zero_mask_channel(model: nn.Module) -> None:
    """Set the weights of the fourth input channel to zero, so that a new model begins blind to masks."""
    _, convolution = first_convolution(model)
    with torch.no_grad():
        convolution.weight[:, NUM_CHANNELS - 1 :].zero_()
