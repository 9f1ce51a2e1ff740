"""Private calls of bitsandbytes."""

from __future__ import annotations

from typing import Any


def restore_4bit_layout(layer: Any) -> None:
    """Undo the layout that bitsandbytes gives to 4-bit weights for inference on CPUs with AVX512-BF16.

    Such a layer changes its weights in place in the first forward without gradients, and its dequantisation then
    returns wrong values without a word. The inverse rounds the scales to bfloat16, as that forward does.

    Args:
        layer: Any module; all others are left alone.
    """
    weight: Any = getattr(layer, "weight", None)
    if not getattr(getattr(weight, "quant_state", None), "packing_format_for_cpu", False):
        return
    from bitsandbytes.functional import _convert_weight_packed_for_cpu_inverse

    weight.data, weight.quant_state = _convert_weight_packed_for_cpu_inverse(weight.data, weight.quant_state)


def keep_4bit_layout(model: Any) -> None:
    """Keep the 4-bit weights of a frozen model as they are on CPUs with AVX512-BF16.

    Otherwise the first forward without gradients repacks them in place and rounds their scales, a later forward whose
    input needs a gradient goes through a kernel without one, and `state_dict` leaves other weights behind.

    Args:
        model: A model; layers that are not of bitsandbytes are left alone.
    """
    for layer in model.modules():
        if hasattr(layer, "support_avx512bf16_for_cpu"):
            restore_4bit_layout(layer)
            layer.support_avx512bf16_for_cpu = False
