"""Taking experts out of a model for good: rows of routers, biases and experts, and the counts of the configuration.

Which tensors have a row for each expert is not listed here. Two empty twins of the model, with the old and with the
new number of experts in their configuration, differ in exactly these tensors, and in the counts that their modules
keep; so the result is what `from_pretrained` builds from the new configuration.

Letters: E experts, C classes that the selection ranks (experts, and identity or skip classes), R experts that remain.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from hf_mixture.moe.anatomy.find import find_routers
from hf_mixture.moe.anatomy.router import MoeRouter
from hf_mixture.moe.anatomy.rule import UnsupportedRouterError


if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class _Cut:
    """Rows of one tensor that stay."""

    tensor: Tensor
    dim: int
    rows: Tensor


@dataclass(frozen=True)
class _Field:
    """A number of the configuration: attributes down to it."""

    owner: tuple[str, ...]
    name: str


def keep_experts(model: nn.Module, keep: Mapping[str, Sequence[int]]) -> None:
    """Keep some experts of every router, and remove the others from the weights and from the configuration.

    The model is changed in place: it then is an ordinary model of its class with fewer experts, which
    `save_pretrained` writes and the stock `from_pretrained` loads. It routes as the old model does with the logits of
    the removed experts at -inf. That equals switching them off in the selection alone, with the weights of the full
    model, where an expert is scored by itself (sigmoid), or where a softmax has no selection bias and is renormalised
    over the chosen. Optimizers made before hold the old rows.

    Args:
        model: A transformers model without wrappers or adapters, in full precision, not offloaded.
        keep: For the path of each router, as `find_routers` gives it, the experts that stay, in their new order. All
            routers that the configuration counts with one number keep equally many; with groups of experts, equally
            many of each group, group by group.

    Raises:
        ValueError: If a router is missing or unknown, an expert is out of range or named twice, too few stay for the
            top k or the groups, or the model is not what its configuration describes. Nothing has been changed.
        UnsupportedRouterError: If the model does not compute with the experts that a router chooses.

    Example:
        >>> from transformers import MixtralConfig, MixtralForCausalLM
        >>> from hf_mixture.moe.anatomy.surgery import keep_experts
        >>> config = MixtralConfig(
        ...     vocab_size=32, hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        ...     num_key_value_heads=2, num_local_experts=4, num_experts_per_tok=2,
        ... )
        >>> model = MixtralForCausalLM(config)
        >>> keep_experts(model, {"model.layers.0.mlp.gate": [0, 1, 3], "model.layers.1.mlp.gate": [1, 2, 3]})
        >>> model.config.num_local_experts, tuple(model.model.layers[0].mlp.gate.weight.shape)
        (3, (3, 16))
    """
    from transformers import PreTrainedModel

    if not isinstance(model, PreTrainedModel):
        raise ValueError(
            f"the model is a {type(model).__name__}, not a model of transformers; merge adapters and unwrap it first"
        )
    routers = {router.path: router for router in find_routers(model)}
    num_left = _check_keep(routers, keep)
    if all(list(experts) == list(range(routers[path].num_experts)) for path, experts in keep.items()):
        return
    _check_tables(routers, keep)
    live = dict(_tensors(model))
    old = _twin(model, model.config)
    _check_twin(model, live, dict(_tensors(old)))
    # Any smaller number tells which tensors have a row for each expert, also where all stay in another order.
    fewer = min(num_left, min(routers[path].num_experts for path in keep) - 1)
    fields = _fields(model, routers, keep, fewer)
    config = copy.deepcopy(model.config)
    for field in fields:
        setattr(_owner(config, field), field.name, fewer)
    new = _twin(model, config)
    for cut in _cuts(live, dict(_tensors(new)), routers, keep, fewer):
        cut.tensor.data = cut.tensor.data.index_select(cut.dim, cut.rows.to(cut.tensor.device))
        cut.tensor.grad = None
    if num_left > fewer:
        return
    modules = dict(model.named_modules())
    for path, name, value in _changed_counts(old, new):
        setattr(modules[path], name, value)
    for field in fields:
        setattr(_owner(model.config, field), field.name, num_left)


def _check_keep(routers: Mapping[str, MoeRouter], keep: Mapping[str, Sequence[int]]) -> int:
    """Check the numbers, and return how many experts every router keeps."""
    if unknown := [path for path in keep if path not in routers]:
        raise ValueError(f"keep names {unknown[0]!r}, which is no router; the routers are {', '.join(routers)}")
    if not keep:
        raise ValueError("keep is empty; name the experts that stay for each router")
    for path, experts in keep.items():
        router = routers[path]
        if router.defect:
            raise UnsupportedRouterError(f"the experts of {path} cannot be removed one by one: {router.defect}")
        wrong = [expert for expert in experts if not 0 <= expert < router.num_experts]
        if wrong:
            raise ValueError(f"keep[{path!r}] has expert {wrong[0]}; the experts are 0 to {router.num_experts - 1}")
        if len(set(experts)) < len(experts):
            raise ValueError(f"keep[{path!r}] names an expert twice; name each once")
        if len(experts) < router.top_k:
            raise ValueError(
                f"keep[{path!r}] leaves {len(experts)} experts and a token takes {router.top_k}; keep at least as many"
            )
        _check_groups(router, experts)
    counts = {len(experts) for experts in keep.values()}
    if len(counts) > 1:
        few, many = min(keep, key=lambda path: len(keep[path])), max(keep, key=lambda path: len(keep[path]))
        raise ValueError(
            f"keep leaves {len(keep[few])} experts in {few!r} and {len(keep[many])} in {many!r}; the configuration "
            "has one number for all: keep equally many"
        )
    return counts.pop()


def _check_groups(router: MoeRouter, experts: Sequence[int]) -> None:
    group = None if router.rule is None else router.rule.group
    if group is None:
        return
    size = router.num_experts // group.num_groups
    if len(experts) % group.num_groups:
        raise ValueError(
            f"keep[{router.path!r}] leaves {len(experts)} experts, which do not divide into the {group.num_groups} "
            "groups of this router; keep a multiple"
        )
    left = len(experts) // group.num_groups
    if [expert // size for expert in experts] != [place // left for place in range(len(experts))]:
        raise ValueError(
            f"keep[{router.path!r}] does not leave equally many experts of each group of {size} neighbours, group by "
            "group; an expert would change its group, and with it the routing"
        )
    if left < 2 and group.score == "top2_sum":
        raise ValueError(
            f"keep[{router.path!r}] leaves one expert a group, and a group is ranked by its two best; keep two or more"
        )
    if left * group.num_kept < router.top_k:
        raise ValueError(
            f"keep[{router.path!r}] leaves {left} experts in each group, {left * group.num_kept} in the "
            f"{group.num_kept} groups a token may use, and it takes {router.top_k}; keep more"
        )


def _check_tables(routers: Mapping[str, MoeRouter], keep: Mapping[str, Sequence[int]]) -> None:
    for path in keep:
        for name, tensor in _tensors(routers[path].module):
            if not tensor.is_floating_point():
                raise ValueError(
                    f"{path}.{name} is a table of expert ids ({type(routers[path].module).__name__}); it cannot lose "
                    "experts without sending its tokens elsewhere"
                )


def _tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from module.named_parameters(remove_duplicate=False)
    yield from module.named_buffers(remove_duplicate=False)


def _twin(model: PreTrainedModel, config: Any) -> nn.Module:
    """A model of the same class without storage."""
    with torch.device("meta"):
        twin: nn.Module = type(model)(copy.deepcopy(config))
    return twin


def _check_twin(model: nn.Module, live: Mapping[str, Tensor], twin: Mapping[str, Tensor]) -> None:
    for name in [*live, *twin]:
        if name not in live or name not in twin or live[name].shape != twin[name].shape:
            raise ValueError(
                f"{name} is not as the configuration of {type(model).__name__} describes it; merge adapters, undo "
                "patches and load the model without quantisation first"
            )
        if live[name].is_meta:
            raise ValueError(f"{name} is on the device 'meta', that is offloaded; load the whole model into memory")


def _owner(config: Any, field: _Field) -> Any:
    for part in field.owner:
        config = getattr(config, part)
    return config


def _count_fields(config: Any, counts: set[int], owner: tuple[str, ...] = ()) -> Iterator[_Field]:
    for name, value in vars(config).items():
        if hasattr(value, "model_type") and hasattr(value, "to_dict"):
            yield from _count_fields(value, counts, (*owner, name))
        elif "expert" in name and type(value) is int and value in counts:
            yield _Field(owner, name)


def _fields(
    model: PreTrainedModel, routers: Mapping[str, MoeRouter], keep: Mapping[str, Sequence[int]], fewer: int
) -> list[_Field]:
    """The numbers of the configuration that count the experts of exactly the routers in `keep`, found by trial."""
    found = []
    counted: set[str] = set()
    for field in _count_fields(model.config, {routers[path].num_experts for path in keep}):
        config = copy.deepcopy(model.config)
        setattr(_owner(config, field), field.name, fewer)
        try:
            after = {router.path: router for router in find_routers(_twin(model, config))}
        except (ValueError, TypeError, RuntimeError):
            # Another number that happens to be as large: the model cannot be built with it.
            continue
        hit = {path for path, router in after.items() if router.num_experts != routers[path].num_experts}
        if hit and all(after[path].num_experts == fewer for path in hit):
            if missing := sorted(hit - set(keep)):
                raise ValueError(
                    f"{field.name} of the configuration also counts the experts of {missing[0]!r}, which keep does "
                    "not name; name every router"
                )
            found.append(field)
            counted |= hit
    if uncounted := [path for path in keep if path not in counted]:
        raise ValueError(
            f"no number of {type(model.config).__name__} counts the experts of {uncounted[0]!r}; its experts cannot "
            "be removed"
        )
    return found


def _cuts(
    live: Mapping[str, Tensor],
    new: Mapping[str, Tensor],
    routers: Mapping[str, MoeRouter],
    keep: Mapping[str, Sequence[int]],
    fewer: int,
) -> list[_Cut]:
    cuts: dict[int, _Cut] = {}
    for name, tensor in live.items():
        if name not in new:
            raise ValueError(f"{name} is a module of its own for one expert; only stacked experts can be removed")
        if tensor.shape == new[name].shape:
            continue
        router = _router_of(name, [routers[path] for path in keep])
        dims = [dim for dim in range(tensor.dim()) if tensor.shape[dim] != new[name].shape[dim]]
        if router is None or len(dims) != 1:
            raise ValueError(f"{name} depends on the number of experts in an unknown way; nothing was removed")
        difference = tensor.shape[dims[0]] - new[name].shape[dims[0]]
        # Some families write the matrices of all experts below each other: as many neighbouring rows for each expert.
        rows_each, rest = divmod(difference, router.num_experts - fewer)
        if rest or rows_each < 1 or tensor.shape[dims[0]] % rows_each:
            raise ValueError(f"{name} depends on the number of experts in an unknown way; nothing was removed")
        rows = _rows(keep[router.path], router.num_experts, tensor.shape[dims[0]], rows_each)
        cut = _Cut(tensor, dims[0], rows)
        before = cuts.setdefault(id(tensor), cut)
        if not torch.equal(before.rows, rows):
            raise ValueError(f"{name} is shared by routers that keep different experts; keep the same in both")
    return list(cuts.values())


def _router_of(name: str, routers: Sequence[MoeRouter]) -> MoeRouter | None:
    """The router in whose block a tensor lies."""
    inside = [router for router in routers if name.startswith(f"{router.path.rpartition('.')[0]}.")]
    return max(inside, key=lambda router: len(router.path), default=None)


def _rows(experts: Sequence[int], num_experts: int, num_rows: int, rows_each: int) -> Tensor:
    """The rows that stay: those of the experts that stay, and of the classes behind the experts."""
    places = torch.tensor([*experts, *range(num_experts, num_rows // rows_each)])
    return (places[:, None] * rows_each + torch.arange(rows_each)).flatten()


def _changed_counts(old: nn.Module, new: nn.Module) -> Iterator[tuple[str, str, int]]:
    """The plain numbers that modules keep and that depend on the number of experts."""
    before = dict(old.named_modules())
    for path, module in new.named_modules():
        for name, value in vars(module).items():
            if type(value) is int and value != vars(before[path])[name]:
                yield path, name, value
