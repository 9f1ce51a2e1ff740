"""What of a model nested quantisation replaces, and what speaks against it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import nn

from hf_mixture._compat.experts import interface_problem
from hf_mixture.moe.anatomy import UnsupportedRouterError, find_routers
from hf_mixture.moe.mwq.config import MwqConfig
from hf_mixture.moe.mwq.experts import NestedExperts, matrix_names, weight_shape


if TYPE_CHECKING:
    from transformers import PreTrainedModel


def find_targets(model: PreTrainedModel, config: MwqConfig) -> dict[str, nn.Module]:
    """Find the experts modules that are quantised, and check that all of them can be.

    Args:
        model: A model of transformers, on any device.
        config: What is wanted.

    Returns:
        Stock experts modules by path.

    Raises:
        UnsupportedRouterError: If the model has no routers that can be read.
        ValueError: If it has no experts that can be quantised, or some cannot; nothing has been changed.
    """
    experts = _experts(model)
    chosen = {path: module for path, module in experts.items() if not _is_left_out(path, config)}
    if not chosen:
        raise ValueError(
            f"nothing of {type(model).__name__} would be quantised: modules_to_not_convert="
            f"{config.modules_to_not_convert} names all of its experts"
        )
    for path, module in chosen.items():
        if problem := _problem(module, config) or _shared(model, path, module):
            raise ValueError(f"{type(module).__name__} at {path} cannot be quantised: {problem}")
    return chosen


def nested_modules(model: nn.Module) -> dict[str, NestedExperts]:
    """The experts modules of a model that are nested, by path."""
    return {path: module for path, module in model.named_modules() if isinstance(module, NestedExperts)}


def _experts(model: PreTrainedModel) -> Mapping[str, nn.Module]:
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


def _is_left_out(path: str, config: MwqConfig) -> bool:
    return any(path == name or path.endswith(f".{name}") or name in path for name in config.modules_to_not_convert)


def _problem(experts: nn.Module, config: MwqConfig) -> str:
    if isinstance(experts, NestedExperts):
        return "it is quantised already; load the full-precision checkpoint"
    if (problem := interface_problem(experts)) is not None:
        return problem
    for name in matrix_names(experts):
        if getattr(experts, name, None) is None or getattr(experts, name).dim() != 3:
            return f"it has no matrices of all experts under the name {name}"
        columns = weight_shape(experts, name)[-1]
        if columns % config.group_size:
            sizes = [size for size in (256, 128, 64, 32, 16, 8) if columns % size == 0]
            remedy = f"give group_size={sizes[0]}" if sizes else "8 does not divide it either"
            return f"group_size={config.group_size} does not divide the {columns} inputs of {name}; {remedy}"
    return ""


def _shared(model: PreTrainedModel, path: str, experts: nn.Module) -> str:
    tied = getattr(model, "all_tied_weights_keys", {})
    names = {f"{path}.{name}" for name in matrix_names(experts)}
    if shared := names & {*tied, *tied.values()}:
        return f"{sorted(shared)[0]} is shared with another module, and transformers ties whole weights only"
    return ""


def refuse_on_disk(model: nn.Module, purpose: str) -> None:
    """Refuse a model whose experts are on disk.

    Raises:
        ValueError: If they are.
    """
    if any(module.mwq_runtime is not None for module in nested_modules(model).values()):
        raise ValueError(
            f"the experts of this {type(model).__name__} are on disk and cannot {purpose}; load the folder without "
            'experts_implementation="mwq_offload" first, or copy it'
        )
