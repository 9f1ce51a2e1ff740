"""Finding the routers of any transformers model, by the router classes that the models themselves declare."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

from hf_mixture._compat.recorders import recorded_classes
from hf_mixture.moe.anatomy.families import FAMILIES, UNREADABLE, Family
from hf_mixture.moe.anatomy.router import MoeRouter, SelectionBias
from hf_mixture.moe.anatomy.rule import SelectionRule, UnsupportedRouterError


# Modules that wrap another under the same name: PEFT, DDP, FSDP, torch.compile, activation checkpointing.
_WRAPPERS = re.compile(
    r"(^|\.)(base_model\.model|base_layer|module|_fsdp_wrapped_module|_orig_mod|_checkpoint_wrapped_module)(?=\.|$)"
)


def base_path(name: str) -> str:
    """Take the names of wrappers out of a module or parameter path.

    Args:
        name: Path as in `named_modules` of a model, wrapped or not.

    Returns:
        The path in the model without wrappers.
    """
    return _WRAPPERS.sub("", name).strip(".")


def find_routers(model: nn.Module) -> tuple[MoeRouter, ...]:
    """Find the routers of a model: the modules whose class the model records as `router_logits`.

    Wrappers (PEFT, DDP, FSDP, `torch.compile`) are looked through; the paths are those of the bare model. Nothing is
    changed.

    Args:
        model: A transformers model, wrapped or not; its parameters may be on any device, "meta" included.

    Returns:
        The routers in the order of the modules.

    Raises:
        UnsupportedRouterError: If the model has no routers, or its family does not follow a known contract.

    Example:
        >>> from transformers import MixtralConfig, MixtralForCausalLM
        >>> from hf_mixture import find_routers
        >>> config = MixtralConfig(
        ...     vocab_size=32, hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        ...     num_key_value_heads=2, num_local_experts=4, num_experts_per_tok=2,
        ... )
        >>> [(router.path, router.num_experts) for router in find_routers(MixtralForCausalLM(config))]
        [('model.layers.0.mlp.gate', 4), ('model.layers.1.mlp.gate', 4)]
    """
    modules = {base_path(name): module for name, module in model.named_modules()}
    recorded = recorded_classes(model, "router_logits")
    routers: list[MoeRouter] = []
    for path, module in modules.items():
        family = _family(module)
        if family is not None:
            routers.append(_router(path, module, family, modules, len(routers)))
        elif isinstance(module, recorded) and not _contains_router(module):
            name = type(module).__name__
            reason = UNREADABLE.get(name, "this router class is not known to hf_mixture")
            raise UnsupportedRouterError(f"{name} at {path} cannot be read: {reason}")
    if not routers:
        raise UnsupportedRouterError(
            f"{type(model).__name__} has no router: none of its modules is recorded as router_logits or of a known "
            "router class; give a mixture-of-experts model"
        )
    return tuple(routers)


def _family(module: nn.Module) -> Family | None:
    # A subclass of a router class, such as a router of the registry, follows the contract of its base.
    return next((FAMILIES[base.__name__] for base in type(module).__mro__ if base.__name__ in FAMILIES), None)


def _contains_router(module: nn.Module) -> bool:
    return any(_family(inner) is not None for inner in module.modules())


def _router(path: str, module: nn.Module, family: Family, modules: Mapping[str, nn.Module], ordinal: int) -> MoeRouter:
    block_path = path.rpartition(".")[0]
    block = modules[block_path]
    num_experts = _count(module, block, ("num_experts", "moe_num_experts"), path)
    top_k = _top_k(module, block, path)
    rule, reason = _rule(module, block, family)
    gate_path = f"{path}.{family.gate}".rstrip(".")
    gate = modules.get(gate_path) if getattr(module, "linear_gate", True) else None
    layer = next((int(part) for part in path.split(".") if part.isdigit()), None)
    experts_path = _experts_path(path, block_path, modules, num_experts)
    return MoeRouter(
        path=path,
        layer=layer,
        ordinal=ordinal,
        module=module,
        block=block,
        num_experts=num_experts,
        num_choices=getattr(module, family.num_choices) if family.num_choices else num_experts,
        top_k=top_k,
        rule=rule,
        reason=reason,
        layout=family.layout,
        bias=_bias(path, module, family, modules),
        weight_path=f"{gate_path}.weight" if isinstance(getattr(gate, "weight", None), nn.Parameter) else None,
        weight_module=gate if isinstance(getattr(gate, "weight", None), nn.Parameter) else None,
        expert_scale_name=family.expert_scale,
        experts_path=experts_path,
        experts=None if experts_path is None else modules[experts_path],
        defect="" if hasattr(module, "selection_bias") else family.defect,
    )


def _bias(path: str, module: nn.Module, family: Family, modules: Mapping[str, nn.Module]) -> SelectionBias | None:
    """The selection bias, the name of which routers of the registry say themselves; else where the family keeps it."""
    own: str | None = getattr(module, "selection_bias", None)
    if own is not None:
        return SelectionBias(module, own, f"{path}.{own}") if own else None
    block_path = path.rpartition(".")[0]
    owner_path = {"": path, "..": block_path, "moe_statics": f"{path}.moe_statics"}[family.bias_owner]
    owner = modules.get(owner_path)
    if not family.bias or owner is None or getattr(owner, family.bias, None) is None:
        return None
    return SelectionBias(owner, family.bias, f"{owner_path}.{family.bias}")


def _rule(module: nn.Module, block: nn.Module, family: Family) -> tuple[SelectionRule | None, str]:
    """Ask the router itself if it says what it computes, as those of the registry do; else its family."""
    own: Any = getattr(module, "selection_rule", None)
    if own is not None:
        rule = own()
        return rule, "" if rule is not None else f"{type(module).__name__} has no explicit rule"
    if family.rule is None:
        return None, family.reason
    return family.rule(module, block), family.reason


def _count(module: nn.Module, block: nn.Module, names: tuple[str, ...], path: str) -> int:
    for owner in (module, block, getattr(block, "experts", None), getattr(module, "config", None)):
        for name in names:
            value = getattr(owner, name, None)
            if isinstance(value, int):
                return value
    raise UnsupportedRouterError(f"{type(module).__name__} at {path} does not say how many experts it has")


def _top_k(module: nn.Module, block: nn.Module, path: str) -> int:
    # These choose as many experts as their code says, whatever the configuration says; a router of the registry in
    # their place has a number of its own.
    fixed = {"SwitchTransformersTop1Router": 1, "NllbMoeTop2Router": 2, "PhimoeTopKRouter": 2}
    name = next(base.__name__ for base in type(module).__mro__ if base.__name__ in FAMILIES)
    if name in fixed and not hasattr(module, "selection_bias"):
        return fixed[name]
    return _count(module, block, ("top_k", "top_k_experts"), path)


def _experts_path(path: str, block_path: str, modules: Mapping[str, nn.Module], num_experts: int) -> str | None:
    """The experts beside a router: a module with tensors of three dimensions, or with one module for each expert."""
    found = []
    for name in _beside(path, block_path, modules):
        module = modules[name]
        stacked = any(p.dim() == 3 and p.shape[0] >= num_experts for p in module.parameters(recurse=False))
        listed = isinstance(module, nn.ModuleList | nn.ModuleDict) and len(module) >= num_experts
        if stacked or listed or getattr(module, "num_experts", None) == num_experts:
            found.append(name)
    # JetMoE splits its experts over two modules.
    return found[0] if len(found) == 1 else None


def _beside(path: str, block_path: str, modules: Mapping[str, nn.Module]) -> Iterator[str]:
    prefix = f"{block_path}." if block_path else ""
    for name in modules:
        if name.startswith(prefix) and name != path and name and "." not in name[len(prefix) :]:
            yield name
