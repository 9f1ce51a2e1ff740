"""What of a model nested quantisation replaces, and what speaks against it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from hf_mixture._compat.experts import interface_problem
from hf_mixture._compat.sharding import is_spread
from hf_mixture.moe.anatomy import UnsupportedRouterError, check_not_compiled, find_routers
from hf_mixture.moe.mwq.config import MwqConfig
from hf_mixture.moe.mwq.experts import (
    NestedExperts,
    make_nested_experts,
    make_stock_experts,
    matrix_names,
    weight_shape,
)
from hf_mixture.moe.mwq.linear import NestedLinear, make_nested_linear, make_stock_linear
from hf_mixture.moe.mwq.module import NestedModule


if TYPE_CHECKING:
    from transformers import PreTrainedModel


def find_targets(model: PreTrainedModel, config: MwqConfig) -> dict[str, nn.Module]:
    """Find the modules that are quantised, and check that all of them can be.

    Args:
        model: A model of transformers, on any device.
        config: What is wanted.

    Returns:
        Stock experts modules, and linear layers where they are wanted, by path.

    Raises:
        UnsupportedRouterError: If the model has no routers that can be read.
        ValueError: If it has no experts that can be quantised, or some cannot; nothing has been changed.
    """
    if nested_modules(model):
        raise ValueError(
            f"this {type(model).__name__} is quantised already; quantise the full-precision checkpoint instead"
        )
    other = getattr(model, "quantization_method", None)
    if other not in (None, config.quant_method):
        raise ValueError(
            f"this {type(model).__name__} is quantised by {getattr(other, 'value', other)}, and a saved model says "
            "one method; quantise the full-precision checkpoint, with linears=True for the other layers too"
        )
    if is_spread(model):
        raise ValueError(
            "a model cannot be quantised while its weights are spread over processes; quantise it in one process, "
            "save it, and load the saved folder with distributed_config"
        )
    check_not_compiled(model, "and compiled code does not see other weights: quantise before torch.compile")
    found = _experts(model)
    for adapted in model.modules():
        if hasattr(adapted, "get_base_layer") and adapted.get_base_layer() in found.values():
            raise ValueError(
                "adapters are attached to the weights of the experts, and quantised experts have no weights that an "
                "adapter could change; merge and unload the adapters first, or adapt other modules"
            )
    if config.linears:
        found |= _linears(model, list(found))
    chosen = {path: module for path, module in found.items() if not _is_left_out(path, config)}
    if not chosen:
        raise ValueError(
            f"nothing of {type(model).__name__} would be quantised: modules_to_not_convert="
            f"{config.modules_to_not_convert} names all of its experts"
        )
    for path, module in chosen.items():
        if problem := _problem(module, config) or _shared(model, path, module):
            raise ValueError(f"{type(module).__name__} at {path} cannot be quantised: {problem}")
    return chosen


def make_nested(module: nn.Module, config: MwqConfig) -> None:
    """Turn a target into its nested form, without values; its weights stay until they are dropped."""
    make = make_nested_linear if isinstance(module, nn.Linear) else make_nested_experts
    make(module, config.widths, config.group_size)


def make_stock(module: NestedModule, dtype: torch.dtype) -> None:
    """Turn a nested module into its stock form, with the weights of its last width."""
    make = make_stock_linear if isinstance(module, NestedLinear) else make_stock_experts
    make(module, dtype)


def weights_of(module: Any) -> tuple[str, ...]:
    """Names of the weights of a target that are quantised."""
    return ("weight",) if isinstance(module, nn.Linear) else matrix_names(module)


def oriented(module: nn.Module, weight: Tensor) -> Tensor:
    """A weight of a target as [..., R, C], outputs before inputs."""
    return weight.transpose(-1, -2) if getattr(module, "is_transposed", False) else weight


def nested_modules(model: nn.Module) -> dict[str, NestedModule]:
    """All modules of a model with nested planes, by path."""
    return {path: module for path, module in model.named_modules() if isinstance(module, NestedModule)}


def nested_experts(model: nn.Module) -> dict[str, NestedExperts]:
    """The experts modules of a model with nested planes, by path."""
    return {path: module for path, module in model.named_modules() if isinstance(module, NestedExperts)}


def refuse_on_disk(model: nn.Module, purpose: str) -> None:
    """Refuse a model whose experts are on disk.

    Raises:
        ValueError: If they are.
    """
    if any(module.mwq_runtime is not None for module in nested_experts(model).values()):
        raise ValueError(
            f"the experts of this {type(model).__name__} are on disk and cannot {purpose}; load the folder without "
            'experts_implementation="mwq_offload" first, or copy it'
        )


def _experts(model: PreTrainedModel) -> dict[str, nn.Module]:
    experts: dict[str, nn.Module] = {}
    for router in find_routers(model):
        if router.defect:
            raise UnsupportedRouterError(f"the experts of {router.path} cannot be quantised: {router.defect}")
        if router.experts is None or router.experts_path is None:
            raise UnsupportedRouterError(
                f"the experts of the router {router.path} of {type(model).__name__} are not one module beside it; "
                "nested quantisation needs experts that run through the experts interface of transformers"
            )
        experts[router.experts_path] = router.experts
    return experts


def _linears(model: PreTrainedModel, experts: list[str]) -> dict[str, nn.Module]:
    """Dense linear layers, but for the output head, what is tied, routers, adapters, and what lies within experts."""
    head = model.get_output_embeddings()
    kept = {*experts, *(router.path for router in find_routers(model)), *_of_adapters(model)}
    tied = getattr(model, "all_tied_weights_keys", {})
    names = {*tied, *tied.values()}
    return {
        path: module
        for path, module in model.named_modules()
        if type(module) is nn.Linear
        and module is not head
        and f"{path}.weight" not in names
        and not any(path == one or path.startswith(f"{one}.") for one in kept)
    }


def _of_adapters(model: nn.Module) -> list[str]:
    """Paths of what adapters have put beside the layers that they wrap."""
    return [
        f"{path}.{name}"
        for path, wrapper in model.named_modules()
        if hasattr(wrapper, "get_base_layer")
        for name, _ in wrapper.named_children()
        if name != "base_layer"
    ]


def _is_left_out(path: str, config: MwqConfig) -> bool:
    dotted = f".{path}."
    return any(f".{name}." in dotted for name in config.modules_to_not_convert)


def _problem(module: Any, config: MwqConfig) -> str:
    is_linear = isinstance(module, nn.Linear)
    if not is_linear and (problem := interface_problem(module)) is not None:
        return problem
    for name in weights_of(module):
        if not is_linear and (getattr(module, name, None) is None or getattr(module, name).dim() != 3):
            return f"it has no matrices of all experts under the name {name}"
        columns = module.in_features if is_linear else weight_shape(module, name)[-1]
        if columns % config.group_size:
            sizes = [size for size in (256, 128, 64, 32, 16, 8) if columns % size == 0]
            remedy = f"give group_size={sizes[0]}" if sizes else "8 does not divide it either"
            remedy += ", or name it in modules_to_not_convert"
            return f"group_size={config.group_size} does not divide the {columns} inputs of {name}; {remedy}"
    return ""


def _shared(model: PreTrainedModel, path: str, module: nn.Module) -> str:
    tied = getattr(model, "all_tied_weights_keys", {})
    names = {f"{path}.{name}" for name in weights_of(module)}
    if shared := names & {*tied, *tied.values()}:
        return f"{sorted(shared)[0]} is shared with another module, and transformers ties whole weights only"
    return ""
