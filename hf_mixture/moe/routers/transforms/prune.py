"""Physical pruning: experts leave the model, with their rows of routers and biases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from hf_mixture.moe.anatomy import find_routers
from hf_mixture.moe.anatomy.surgery import keep_experts


def prune_experts(model: nn.Module, drop: Mapping[str, Sequence[int]]) -> None:
    """Remove experts from a model, in place; the stock `from_pretrained` loads the result.

    What is left routes as `hf_mixture.moe.anatomy.surgery.keep_experts` says.

    Args:
        model: A transformers model without wrappers or adapters.
        drop: For the path of every router, the experts that leave; equally many in each, and with groups of experts
            equally many of each group.

    Raises:
        ValueError: If a router is unknown, an expert is out of range, or what is left cannot be routed to. Nothing
            has been changed.

    Example:
        >>> from transformers import MixtralConfig, MixtralForCausalLM
        >>> from hf_mixture import prune_experts
        >>> config = MixtralConfig(
        ...     vocab_size=32, hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        ...     num_key_value_heads=2, num_local_experts=4, num_experts_per_tok=2,
        ... )
        >>> model = MixtralForCausalLM(config)
        >>> prune_experts(model, {"model.layers.0.mlp.gate": [2], "model.layers.1.mlp.gate": [0]})
        >>> model.config.num_local_experts
        3
    """
    routers = {router.path: router for router in find_routers(model)}
    keep = {}
    for path, experts in drop.items():
        if path not in routers:
            raise ValueError(f"drop names {path!r}, which is no router; the routers are {', '.join(routers)}")
        num_experts = routers[path].num_experts
        if wrong := [expert for expert in experts if not 0 <= expert < num_experts]:
            raise ValueError(f"drop[{path!r}] has expert {wrong[0]}; the experts are 0 to {num_experts - 1}")
        keep[path] = [expert for expert in range(num_experts) if expert not in set(experts)]
    keep_experts(model, keep)


def least_used(counts: Mapping[str, Tensor], num_dropped: int, *, num_groups: int = 1) -> dict[str, list[int]]:
    """Choose the experts that were used least, for `prune_experts`.

    Args:
        counts: For the path of each router, how often each expert was chosen, or any other measure of its use [E].
        num_dropped: How many leave each router, a multiple of `num_groups`.
        num_groups: Groups of neighbouring experts, each of which loses equally many. Default: 1.

    Returns:
        For each router the experts, in ascending order; of equally used ones the last leave first.

    Raises:
        ValueError: If `num_dropped` or the number of experts is not a multiple of the groups, or none would be left.

    Example:
        >>> import torch
        >>> from hf_mixture.moe.routers.transforms.prune import least_used
        >>> least_used({"gate": torch.tensor([5, 0, 7, 0])}, 1)
        {'gate': [3]}
    """
    chosen = {}
    for path, values in counts.items():
        if len(values) % num_groups or num_dropped % num_groups or not 0 <= num_dropped < len(values):
            raise ValueError(
                f"num_dropped={num_dropped} of the {len(values)} experts of {path!r} in num_groups={num_groups}; drop "
                "a multiple of the groups, and leave some"
            )
        size = len(values) // num_groups
        ranked = sorted(range(len(values)), key=lambda expert: (float(values[expert]), -expert))
        each = num_dropped // num_groups
        chosen[path] = sorted(
            expert
            for group in range(num_groups)
            for expert in [place for place in ranked if place // size == group][:each]
        )
    return chosen
