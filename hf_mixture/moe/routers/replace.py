"""Replacing the routers of a model by routers of the registry."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from torch import nn
from torch.nn.parallel import DistributedDataParallel
from transformers import PreTrainedModel

from hf_mixture._compat.experts import skip_padding
from hf_mixture._compat.model_init import initial_std
from hf_mixture.moe.anatomy import MoeRouter, check_not_bound, find_routers
from hf_mixture.moe.router_loading import CONFIG_KEY
from hf_mixture.moe.routers.base import RegistryRouter
from hf_mixture.moe.routers.persist import write_spec
from hf_mixture.moe.routers.place import attach_contexts, build_router, check_replaceable, owners_of, put
from hf_mixture.moe.routers.registry import RouterInfo, router_info


class _Replaced(NamedTuple):
    old: MoeRouter
    new: RegistryRouter
    owner: PreTrainedModel


class ReplacedRouters:
    """What `replace_routers` did, and the way back; also a context manager, which goes back at its end.

    Args:
        info: The entry of the registry.
        options: Values of all its options.
        routers: The old routers, the new ones, and the models that own them.
        kept: Names of the tensors, relative to the routers, that kept their values.

    Attributes:
        name: Name of the router.
        options: Values of all its options.
        paths: Paths of the replaced routers.
        kept: Names of the tensors, relative to the routers, that kept their values.
        new: Names of the tensors, relative to the routers, that were drawn.

    Example:
        >>> from transformers import MixtralConfig, MixtralForCausalLM
        >>> from hf_mixture import replace_routers
        >>> config = MixtralConfig(
        ...     vocab_size=32, hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        ...     num_key_value_heads=2, num_local_experts=4, num_experts_per_tok=2,
        ... )
        >>> model = MixtralForCausalLM(config)
        >>> with replace_routers(model, "cosine") as replaced:
        ...     replaced.new
        ('weight', 'projection', 'log_temperature')
        >>> hasattr(model.config, "moe_router")
        False
    """

    def __init__(
        self, *, info: RouterInfo, options: dict[str, Any], routers: Sequence[_Replaced], kept: tuple[str, ...]
    ) -> None:
        self.name = info.name
        self.options = options
        self.paths = tuple(router.old.path for router in routers)
        self.kept = kept
        first = routers[0].new
        self.new = tuple(name for name, _ in (*first.named_parameters(), *first.named_buffers()) if name not in kept)
        self._routers = tuple(routers)
        self._undo: list[Callable[[], object]] = []

    def _apply(self, model: nn.Module, context: tuple[str, ...]) -> None:
        configs = {id(router.owner.config): router.owner.config for router in self._routers}
        for config in configs.values():
            self._undo.append(functools.partial(_restore_spec, config, getattr(config, CONFIG_KEY, None)))
            write_spec(config, self.name, self.options)
        for router in self._routers:
            put(router.old.block, router.old.path, router.new)
            self._undo += [handle.remove for handle in router.new.connect(router.old)]
            experts = router.old.experts
            if router.new.pads and experts is not None:
                self._undo.append(functools.partial(skip_padding, experts, skip_padding(experts)))
        handles = attach_contexts(model, [router.new for router in self._routers], context)
        self._undo += [handle.remove for handle in handles]

    def remove(self) -> None:
        """Put the routers back that the model had before, with the values they had, and restore its configuration.

        Raises:
            ValueError: If the routers have been replaced again since, or experts have been tuned.
        """
        for router in self._routers:
            if getattr(router.old.block, router.old.path.rpartition(".")[2]) is not router.new:
                raise ValueError(f"{router.old.path} has been replaced again since; remove the later routers first")
            check_not_bound(router.new, router.old.path)
        for router in self._routers:
            put(router.old.block, router.old.path, router.old.module)
        for undo in self._undo:
            undo()

    def __enter__(self) -> ReplacedRouters:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    def __str__(self) -> str:
        options = ", ".join(f"{name}={value!r}" for name, value in self.options.items())
        kept, new = ", ".join(self.kept) or "nothing", ", ".join(self.new) or "nothing"
        return f"{len(self.paths)} routers are now {self.name}({options}); kept: {kept}; new: {new}"


def replace_routers(
    model: nn.Module, name: str, *, keep_weights: bool = True, force: bool = False, **options: Any
) -> ReplacedRouters:
    """Replace every router of a model by a router of the registry.

    The new routers are part of the model: they train, `save_pretrained` notes them in the configuration and
    `from_pretrained` restores them wherever hf_mixture is imported, and `output_router_logits` records their raw
    logits. The auxiliary loss of the model family still counts the K largest logits, K as the configuration has it.
    Replace before the optimizer is made and before the model is wrapped or distributed. A process without
    `import hf_mixture` loads the saved model with the stock routers, and warns only of tensors that they do not have.

    Args:
        model: A mixture-of-experts model of transformers whose blocks follow the uniform contract.
        name: Name of the router, as `list_routers` shows it.
        keep_weights: Whether tensors of the old routers that fit keep their values; else all are drawn anew.
        force: Whether a router whose choice depends on later tokens may enter a model with causal attention.
        options: Options of the router; what is left out takes the default, or follows the router that is replaced.

    Returns:
        A report, the `remove` of which puts the old routers back.

    Raises:
        UnsupportedRouterError: If the model has no routers, or its blocks need more of them than the uniform contract.
        ValueError: If the name is unknown, an option is unknown or has a value that it cannot have, or the router is
            not causal and the model is, or the model is distributed or without storage. Nothing is changed then.

    Example:
        >>> from transformers import MixtralConfig, MixtralForCausalLM
        >>> from hf_mixture import replace_routers
        >>> config = MixtralConfig(
        ...     vocab_size=32, hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        ...     num_key_value_heads=2, num_local_experts=4, num_experts_per_tok=2,
        ... )
        >>> model = MixtralForCausalLM(config)
        >>> print(replace_routers(model, "noisy_topk"))
        2 routers are now noisy_topk(bias=False); kept: weight; new: noise_weight
        >>> model.config.moe_router
        {'format': 1, 'name': 'noisy_topk', 'options': {'bias': False}}
    """
    info = router_info(name)
    if any(isinstance(module, DistributedDataParallel) for module in model.modules()):
        raise ValueError(
            "model is wrapped in DistributedDataParallel, which knows its tensors; replace before wrapping"
        )
    old = find_routers(model)
    for found in old:
        check_replaceable(found)
        if next(found.block.parameters()).is_meta:
            raise ValueError(f"{found.path} has no storage, as in an offloaded model; load the whole model first")
    owners = owners_of(model, old)
    if not info.causal and not force:
        _check_not_causal(info, owners)
    stock = info.router_class.stock_options(old[0]).items()
    resolved = info.resolve({**{key: value for key, value in stock if key in info.options}, **options})
    routers = [
        _Replaced(found, build_router(info, resolved, found), owner) for found, owner in zip(old, owners, strict=True)
    ]
    _check_json(info, resolved)
    kept: tuple[str, ...] = ()
    for router in routers:
        router.new.reset_parameters(initial_std(router.owner))
        if keep_weights:
            kept = router.new.keep(router.old)
    replaced = ReplacedRouters(info=info, options=resolved, routers=routers, kept=kept)
    replaced._apply(model, info.context)
    return replaced


def _restore_spec(config: Any, spec: Any) -> None:
    if spec is None:
        delattr(config, CONFIG_KEY)
    else:
        setattr(config, CONFIG_KEY, spec)


def _check_not_causal(info: RouterInfo, owners: Sequence[PreTrainedModel]) -> None:
    for owner in owners:
        if any(getattr(module, "is_causal", False) is True for module in owner.modules()):
            raise ValueError(
                f"the choice of the router {info.name!r} for a token depends on later tokens, and "
                f"{type(owner).__name__} has causal attention, so that training would see what it must predict; give "
                "force=True if this model predicts no next tokens, as a classifier"
            )


def _check_json(info: RouterInfo, options: dict[str, Any]) -> None:
    for name, value in options.items():
        try:
            same = json.loads(json.dumps(value)) == value
        except (TypeError, ValueError):
            same = False
        if not same:
            raise ValueError(
                f"{name}={value!r} of the router {info.name!r} must be a JSON value, as it is saved in the "
                "configuration of the model; give numbers, texts, lists or None"
            )
