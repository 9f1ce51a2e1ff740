"""Registering a quantisation method whose configuration has arguments for loading.

transformers lets a method be registered once, and an argument such as `dequantize` pass from `from_pretrained` to the
configuration of a quantised model only for the classes of a tuple of its own.
"""

from __future__ import annotations

from typing import Any

from transformers.quantizers import auto


def register_quantisation(name: str, config_class: type[Any], quantizer_class: type[Any]) -> None:
    """Register a quantisation method. A second call replaces what the first registered.

    Args:
        name: Its `quant_method`.
        config_class: Its configuration, with `get_loading_attributes`.
        quantizer_class: Its quantizer.

    Raises:
        ValueError: If another package has registered a method under this name.
    """
    known = auto.AUTO_QUANTIZATION_CONFIG_MAPPING.get(name)
    if known is not None and known.__module__ != config_class.__module__:
        raise ValueError(
            f"the quantisation method {name!r} is registered by {known.__module__} already; import one of the two "
            "packages only"
        )
    auto.AUTO_QUANTIZATION_CONFIG_MAPPING[name] = config_class
    auto.AUTO_QUANTIZER_MAPPING[name] = quantizer_class
    others = tuple(kind for kind in auto.LOADING_ATTRIBUTES_CONFIG_TYPES if kind.__module__ != config_class.__module__)
    auto.LOADING_ATTRIBUTES_CONFIG_TYPES = (*others, config_class)
