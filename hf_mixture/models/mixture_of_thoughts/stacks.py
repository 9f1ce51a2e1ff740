"""Finding the decoder layers of any causal language model, and cutting them into stacks.

Letters: L layers of an expert, Q stacks.
"""

from __future__ import annotations

from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer


def stack_ends(num_layers: int, num_levels: int) -> list[int]:
    """Cut L layers into Q contiguous stacks whose sizes differ by one at most: the ends b_q = round(q L / Q).

    Args:
        num_layers: L.
        num_levels: Q, at most L, so that no stack is empty.

    Returns:
        For each stack the number of layers up to its end.

    Raises:
        ValueError: If there are more stacks than layers.
    """
    if not 1 <= num_levels <= num_layers:
        raise ValueError(f"num_levels={num_levels} must be from 1 to {num_layers}, the number of layers")
    return [(2 * level * num_layers + num_levels) // (2 * num_levels) for level in range(1, num_levels + 1)]


def decoder_layers(expert: PreTrainedModel) -> nn.ModuleList:
    """Find the layers of the decoder of a causal language model, whatever its family calls them.

    Args:
        expert: The model.

    Returns:
        The layers in their order.

    Raises:
        ValueError: If the model has no stack of decoder layers.
    """
    decoder = expert.get_decoder() or expert
    lists = [
        module
        for module in decoder.modules()
        if isinstance(module, nn.ModuleList)
        and len(module)
        and all(isinstance(layer, GradientCheckpointingLayer) for layer in module)
    ]
    num_layers = expert.config.get_text_config(decoder=True).num_hidden_layers
    layers = max(lists, key=len, default=None)
    if not expert.can_generate() or not getattr(expert.config, "is_decoder", True) or expert.config.is_encoder_decoder:
        raise ValueError(f"{type(expert).__name__} must be a causal language model, a decoder without an encoder")
    if layers is None or len(layers) != num_layers:
        found = 0 if layers is None else len(layers)
        raise ValueError(
            f"{type(expert).__name__} must have a stack of {num_layers} decoder layers, as its configuration says; "
            f"{found} were found"
        )
    return layers
