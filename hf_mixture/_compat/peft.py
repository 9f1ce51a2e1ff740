"""The private parts of PEFT that this package relies on, and the registration of adapter types.

PEFT reads no entry points and `PeftType` is a closed enum, so an external method has to extend the enum before
`register_peft_method` accepts it. Everything below is covered by `tests/compat/test_peft_compat.py`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any

from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_PREFIX_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING
from peft.tuners._buffer_dict import BufferDict
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer, check_adapters_to_merge
from peft.tuners.tuners_utils import _get_in_out_features as get_in_out_features
from peft.tuners.tuners_utils import _maybe_include_all_linear_layers as expand_all_linear
from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as DEFAULT_TARGET_MODULES
from peft.utils import register_peft_method, save_and_load
from peft.utils.constants import DUMMY_TARGET_MODULES, UPCAST_DTYPES
from peft.utils.other import AuxiliaryTrainingWrapper, get_pattern_key
from peft.utils.peft_types import PeftType
from peft.utils.quantization_utils import (
    get_quantization_kwargs,
    quantization_extra_repr,
    resolve_quantization_backend,
)
from torch import nn


__all__ = [
    "DEFAULT_TARGET_MODULES",
    "DUMMY_TARGET_MODULES",
    "UPCAST_DTYPES",
    "AuxiliaryTrainingWrapper",
    "BaseTuner",
    "BaseTunerLayer",
    "BufferDict",
    "TunerModule",
    "check_adapters_to_merge",
    "expand_all_linear",
    "extend_adapter_key_prefixes",
    "get_in_out_features",
    "get_pattern_key",
    "get_quantization_kwargs",
    "quantization_extra_repr",
    "register_adapter",
    "resolve_quantization_backend",
]


class _TunerModule(nn.Module, BaseTunerLayer):
    """A module that is a tuner layer; a class below it overrides methods of both."""


# `nn.Module.__getattr__` would give type checkers a type for everything that the untyped BaseTunerLayer provides.
TunerModule: Any = _TunerModule


def register_adapter(name: str, *, config_cls: type[Any], model_cls: type[Any]) -> None:
    """Register an adapter type with PEFT; a second call with classes of the same module path changes nothing.

    Args:
        name: Lower-case name of the method. Its prefix of state-dict keys is `name + "_"`.
        config_cls: The `PeftConfig` subclass.
        model_cls: The `BaseTuner` subclass; its `prefix` must be `name + "_"`.

    Raises:
        ValueError: The name or prefix already belongs to another method. PEFT's tables stay as they were.

    Example:
        >>> from hf_mixture import MosConfig, MosModel
        >>> register_adapter("mos", config_cls=MosConfig, model_cls=MosModel)  # again: nothing changes
    """
    prefix = f"{name}_"
    member = PeftType.__members__.get(name.upper())
    owners = [
        table[member]
        for table in (PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING)
        if member is not None and member in table
    ]
    ours = {(cls.__module__, cls.__qualname__) for cls in (config_cls, model_cls)}
    foreign = [owner for owner in owners if (owner.__module__, owner.__qualname__) not in ours]
    if foreign or (member is not None and not owners):
        owner = f"{foreign[0].__module__}.{foreign[0].__qualname__}" if foreign else "another package"
        raise ValueError(
            f"PEFT already has an adapter type {name.upper()!r}, which belongs to {owner}; a type has one owner. "
            "Remedy: import only one of the two packages in this process, or use a PEFT version without that type."
        )
    if member is not None:
        # A reload makes new class objects; PEFT must create instances of those.
        PEFT_TYPE_TO_CONFIG_MAPPING[member] = config_cls
        PEFT_TYPE_TO_TUNER_MAPPING[member] = model_cls
        return
    if prefix in PEFT_TYPE_TO_PREFIX_MAPPING.values() or model_cls.prefix != prefix:
        raise ValueError(
            f"prefix {model_cls.prefix!r} of {model_cls.__qualname__} must be {prefix!r} and free; PEFT has the "
            f"prefixes {sorted(set(PEFT_TYPE_TO_PREFIX_MAPPING.values()))}. Remedy: choose another name."
        )
    _add_member(name.upper())
    register_peft_method(name=name, config_cls=config_cls, model_cls=model_cls)


def _add_member(value: str) -> None:
    """Extend `PeftType`: transformers and the model cards call `.value`, so a plain string would not do."""
    member = str.__new__(PeftType, value)
    member._name_ = value
    member._value_ = value
    member._sort_order_ = len(PeftType.__members__)
    member.__objclass__ = PeftType
    # Before `_member_map_` knows the name: from then on EnumType refuses assignments to it.
    type.__setattr__(PeftType, value, member)
    PeftType._member_names_.append(value)
    PeftType._member_map_[value] = member
    PeftType._value2member_map_[value] = member


def extend_adapter_key_prefixes(find_prefixes: Callable[[Any], Iterable[str]]) -> None:
    """Tell PEFT about adapter state that lives outside of tuner layers.

    `peft.get_base_model_state_dict` and `set_base_model_state_dict` take every key below a tuner layer for adapter
    state and all others for the base model's; they offer no hook for more.

    Args:
        find_prefixes: Gets a base model and yields further key prefixes; replaces the function given before.
    """
    original = save_and_load._get_adapter_state_dict_key_prefixes
    original = getattr(original, "__wrapped__", original)

    @functools.wraps(original)
    def with_more_prefixes(model: Any) -> set[str]:
        return original(model) | set(find_prefixes(model.base_model.model))

    save_and_load._get_adapter_state_dict_key_prefixes = with_more_prefixes
