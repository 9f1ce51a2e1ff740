"""Merging experts: groups of experts become one each, the weighted mean of their weights (arXiv 2310.01334).

Letters: E experts, R groups, H hidden, I intermediate.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from hf_mixture.moe.anatomy import MoeRouter, find_routers
from hf_mixture.moe.anatomy.surgery import keep_experts
from hf_mixture.moe.anatomy.ties import tied_routers


def merge_experts(
    model: nn.Module,
    groups: Mapping[str, Sequence[Sequence[int]]],
    *,
    counts: Mapping[str, Tensor] | None = None,
    align: bool = False,
) -> None:
    """Replace each group of experts by one expert, in place; the stock `from_pretrained` loads the result.

    The weights, the router row and the selection bias of the new expert are the mean of those of its group. That is an
    approximation, meant to be trained further: a mean of weights is no mean of functions, and tokens find fewer
    choices. Only experts that all compute the same function, as after `upcycle`, merge without any change.

    Args:
        model: A transformers model with stacked experts, without wrappers or adapters.
        groups: For the path of every router, a partition of its experts into equally many groups; the new experts have
            the order of the groups.
        counts: For the path of each router, how often each expert was chosen [E]; the means are weighted by it.
            Default: plain means.
        align: Whether the hidden units of each expert are first brought into the order of those of the first of its
            group that they resemble most, by an assignment of least cost. The order of the hidden units of an expert
            is without effect on it but not on a mean: experts that are the same but for the order merge exactly. It
            needs scipy, and experts with the weights `gate_up_proj` [E, 2 I, H] and `down_proj` [E, H, I] alone.

    Raises:
        ValueError: If the groups are no partition, or the model cannot have so few experts. Nothing has been changed.

    Example:
        >>> from transformers import MixtralConfig, MixtralForCausalLM
        >>> from hf_mixture import merge_experts
        >>> config = MixtralConfig(
        ...     vocab_size=32, hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        ...     num_key_value_heads=2, num_local_experts=4, num_experts_per_tok=2,
        ... )
        >>> model = MixtralForCausalLM(config)
        >>> pairs = [[0, 1], [2, 3]]
        >>> merge_experts(model, {"model.layers.0.mlp.gate": pairs, "model.layers.1.mlp.gate": pairs})
        >>> model.config.num_local_experts
        2
    """
    routers = {router.path: router for router in find_routers(model)}
    merged: dict[str, list[Tensor]] = {}
    for path, parts in groups.items():
        if path not in routers:
            raise ValueError(f"groups names {path!r}, which is no router; the routers are {', '.join(routers)}")
        router = routers[path]
        if sorted(expert for part in parts for expert in part) != list(range(router.num_experts)) or not all(parts):
            raise ValueError(
                f"groups[{path!r}] is no partition of the experts 0 to {router.num_experts - 1}; name each once"
            )
        shares = [_shares(part, None if counts is None else counts[path]) for part in parts]
        orders = _orders(router, parts) if align else {}
        merged[path] = [
            torch.stack([_mean(tensor, part, share, orders, kind) for part, share in zip(parts, shares, strict=True)])
            for kind, tensor in _stacked(router)
        ]
    for path, owner in tied_routers(list(routers.values())).items():
        pairs = zip(merged.get(path, ()), merged.get(owner, ()), strict=True)
        if not all(torch.equal(ours, theirs) for ours, theirs in pairs):
            raise ValueError(
                f"{path} has the same experts as {owner}, and would merge them differently; give both the same groups "
                "and the same counts"
            )
    keep_experts(model, {path: [part[0] for part in parts] for path, parts in groups.items()})
    for router in find_routers(model):
        if router.path in merged:
            for (_, tensor), values in zip(_stacked(router), merged[router.path], strict=True):
                tensor.data[: len(values)] = values


def group_experts(model: nn.Module, num_groups: int, counts: Mapping[str, Tensor]) -> dict[str, list[list[int]]]:
    """Group experts for `merge_experts`: the most used are centres, each other joins the one with the closest row.

    Args:
        model: A transformers model.
        num_groups: R, groups of each router.
        counts: For the path of each router, how often each expert was chosen [E].

    Returns:
        For each router its groups; each begins with its centre. Closeness is the cosine of router rows.

    Raises:
        ValueError: If a router has fewer experts than groups, or no single matrix that makes its logits.

    Example:
        >>> import torch
        >>> from transformers import MixtralConfig, MixtralForCausalLM
        >>> from hf_mixture.moe.routers.transforms.merge import group_experts
        >>> config = MixtralConfig(
        ...     vocab_size=32, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        ...     num_key_value_heads=2, num_local_experts=4, num_experts_per_tok=1,
        ... )
        >>> groups = group_experts(
        ...     MixtralForCausalLM(config), 2, {"model.layers.0.mlp.gate": torch.tensor([1, 9, 2, 8])}
        ... )
        >>> [group[0] for group in groups["model.layers.0.mlp.gate"]]
        [1, 3]
    """
    found = {}
    for router in find_routers(model):
        if router.weight is None:
            raise ValueError(f"{router.path} has no single matrix that makes its logits; give the groups yourself")
        if not 1 <= num_groups <= router.num_experts:
            raise ValueError(f"num_groups={num_groups}; {router.path} has {router.num_experts} experts")
        rows = torch.nn.functional.normalize(router.weight.detach().double()[: router.num_experts], dim=-1)
        used = counts[router.path].tolist()
        ranked = sorted(range(router.num_experts), key=lambda expert: (-used[expert], expert))
        centres = sorted(ranked[:num_groups])
        groups = {centre: [centre] for centre in centres}
        for expert in sorted(ranked[num_groups:]):
            closest = int((rows[centres] @ rows[expert]).argmax())
            groups[centres[closest]].append(expert)
        found[router.path] = list(groups.values())
    return found


def _stacked(router: MoeRouter) -> Iterator[tuple[str, Tensor]]:
    """The tensors with one entry for each expert along their first dimension, by kind."""
    if router.experts is None or router.weight is None:
        raise ValueError(f"{router.path} has no stacked experts or no single matrix that makes its logits")
    for name, parameter in router.experts.named_parameters():
        # Some families keep empty places for the classes behind the experts.
        if parameter.dim() < 2 or parameter.shape[0] not in (router.num_experts, router.num_choices):
            raise ValueError(f"{router.experts_path}.{name} has no first dimension of {router.num_experts} experts")
        yield name, parameter
    yield "router", router.weight
    if router.bias is not None:
        yield "bias", router.bias.tensor.view(-1)
    if router.expert_scale is not None:
        yield "scale", router.expert_scale


def _shares(part: Sequence[int], counts: Tensor | None) -> Tensor:
    used = torch.ones(len(part), dtype=torch.float64) if counts is None else counts[list(part)].double()
    return used / used.sum() if used.sum() > 0 else torch.full_like(used, 1 / len(part))


def _mean(tensor: Tensor, part: Sequence[int], share: Tensor, orders: Mapping[int, Tensor], kind: str) -> Tensor:
    total = torch.zeros_like(tensor[0], dtype=torch.float64)
    for expert, weight in zip(part, share.tolist(), strict=True):
        total += weight * _ordered(tensor.detach()[expert].double(), kind, orders.get(expert))
    return total.to(tensor.dtype)


def _ordered(weight: Tensor, kind: str, order: Tensor | None) -> Tensor:
    if order is None or kind not in ("gate_up_proj", "down_proj"):
        return weight
    if kind == "down_proj":
        return weight[:, order]
    return torch.cat([half[order] for half in weight.chunk(2)])


def _orders(router: MoeRouter, parts: Sequence[Sequence[int]]) -> dict[int, Tensor]:
    """For each expert the order of its hidden units that comes closest to the first expert of its group."""
    try:
        from scipy.optimize import linear_sum_assignment
    except ImportError as error:
        raise ImportError("align=True needs scipy: pip install scipy, or merge with align=False") from error
    tensors = {name: parameter.detach().double() for name, parameter in _stacked(router) if name not in _ROWS}
    if (
        set(tensors) != {"gate_up_proj", "down_proj"}
        or tensors["gate_up_proj"].shape[1] != 2 * (tensors["down_proj"].shape[2])
    ):
        raise ValueError(
            f"align=True knows experts with gate_up_proj [E, 2 I, H] and down_proj [E, H, I] alone, and "
            f"{router.experts_path} has {', '.join(tensors)}; merge with align=False"
        )
    units = torch.cat([*tensors["gate_up_proj"].chunk(2, dim=1), tensors["down_proj"].mT], dim=-1)
    orders = {}
    for first, *others in parts:
        for expert in others:
            # Entry [i, j]: how much unit j of the expert resembles unit i of the first.
            alike = units[first] @ units[expert].T
            orders[expert] = torch.from_numpy(linear_sum_assignment(alike.cpu().numpy(), maximize=True)[1])
    return orders


_ROWS = frozenset({"router", "bias", "scale"})
