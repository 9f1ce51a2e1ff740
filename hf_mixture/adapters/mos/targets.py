"""Finding the weights that a configuration targets, before the model is changed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from torch import nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear
from transformers.pytorch_utils import Conv1D

from hf_mixture._compat.peft import (
    DUMMY_TARGET_MODULES,
    BaseTuner,
    BaseTunerLayer,
    expand_all_linear,
    get_in_out_features,
    get_quantization_kwargs,
    resolve_quantization_backend,
)
from hf_mixture.adapters.mos.bank import BANK_NAME
from hf_mixture.adapters.mos.config import MosConfig
from hf_mixture.adapters.mos.layout import Target


def is_target(config: MosConfig, name: str) -> Any:
    """PEFT's test whether a configuration targets a module; the bank is never a target."""
    return not f"{name}.".startswith(f"{BANK_NAME}.") and BaseTuner._check_target_module_exists(config, name)


def find_targets(config: MosConfig, model: nn.Module, named_modules: set[str] | None = None) -> list[Target]:
    """List the modules and parameters of a model that an adapter will change, by the rules of PEFT's injection.

    Args:
        config: The adapter's configuration; `target_modules="all-linear"` is replaced by names.
        model: The base model, with or without adapters.
        named_modules: Names of the modules to adapt, where a checkpoint and not the configuration selects them.

    Returns:
        The targets in the order of the model.

    Raises:
        TypeError: A module or parameter of an unsupported type is targeted.
    """
    if config.target_modules == DUMMY_TARGET_MODULES:
        return []
    expand_all_linear(config, model)
    targets = []
    for name, module in _modules_outside_adapters(model):
        if name in named_modules if named_modules else name and is_target(config, name):
            targets.append(_module_target(name, module, model))
    return targets + list(_parameter_targets(config, model))


def _modules_outside_adapters(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    inside: list[str] = []
    for name, module in model.named_modules():
        if name.startswith(tuple(inside)):
            continue
        if isinstance(module, BaseTunerLayer):
            inside.append(f"{name}.")
        yield name, module


def _module_target(name: str, module: nn.Module, model: nn.Module) -> Target:
    base = module.get_base_layer() if isinstance(module, BaseTunerLayer) else module
    is_linear = isinstance(base, nn.Linear | Conv1D) or (
        resolve_quantization_backend(base, **get_quantization_kwargs(model)) is not None
    )
    if not is_linear or isinstance(base, NonDynamicallyQuantizableLinear):
        reason = " (nn.MultiheadAttention reads its weight without calling it)" if is_linear else ""
        raise TypeError(
            f"target module {name!r} is a {type(base).__name__}{reason}; MoS supports torch.nn.Linear, quantised "
            "linear layers and transformers' Conv1D. Remedy: narrow target_modules, or name it in exclude_modules."
        )
    in_features, out_features = get_in_out_features(base)
    return Target(name=name, in_features=in_features, out_features=out_features)


def _parameter_targets(config: MosConfig, model: nn.Module) -> Iterator[Target]:
    names = tuple(config.target_parameters or ())
    if not names:
        return
    for module_name, module in model.named_modules():
        for short_name, parameter in module.named_parameters(recurse=False):
            name = re.sub(r"\.base_layer(?=\.|$)", "", f"{module_name}.{short_name}")
            if name not in names and not name.endswith(tuple(f".{target}" for target in names)):
                continue
            if parameter.dim() not in (2, 3):
                raise TypeError(
                    f"target parameter {name!r} has {parameter.dim()} dimensions; MoS supports matrices and 3-D "
                    "stacks of them. Remedy: remove it from target_parameters."
                )
            in_features, out_features = parameter.shape[-1], parameter.shape[-2]
            if getattr(module, "is_transposed", False) and parameter.dim() == 3:
                in_features, out_features = out_features, in_features
            yield Target(
                name=name,
                in_features=in_features,
                out_features=out_features,
                num_experts=parameter.shape[0] if parameter.dim() == 3 else 1,
            )
