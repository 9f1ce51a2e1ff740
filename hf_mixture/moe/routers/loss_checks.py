"""Whether router losses can be added to the training of a model."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from hf_mixture.moe.anatomy import MoeRouter
from hf_mixture.moe.routers.noisy import NoisyTopkRouter


def check_losses(
    model_name: str, config: Any, routers: Sequence[MoeRouter], names: Collection[str], *, pooled: bool
) -> None:
    """Check that a model can have some losses.

    Args:
        model_name: Its class, for messages.
        config: Its configuration, that of the text part in a composite one; None where it has none.
        routers: Its routers.
        names: The losses.
        pooled: Whether the tokens of all layers are taken together.

    Raises:
        ValueError: The model adds a balance loss itself, or its routers do not tell what a loss needs.
    """
    if "load_balance" in names and getattr(config, "output_router_logits", False):
        raise ValueError(
            f"config.output_router_logits=True makes {model_name} add its own balance loss with router_aux_loss_coef="
            f"{getattr(config, 'router_aux_loss_coef', None)!r}, so that it would count twice; set "
            "model.config.output_router_logits = False, or leave load_balance out"
        )
    sizes = sorted({router.num_experts for router in routers})
    if pooled and len(sizes) > 1:
        raise ValueError(f"pooling='pooled' with layers of different numbers of experts {sizes}; use pooling='sum'")
    for router in routers:
        if "z" in names and router.rule is not None and router.rule.probabilities:
            raise ValueError(
                f"{router.path} returns probabilities instead of raw logits, which the z-loss needs; leave z out"
            )
        if "load" in names and not isinstance(router.module, NoisyTopkRouter):
            raise ValueError(
                f"{type(router.module).__name__} at {router.path} has no noise, without which the load has no "
                "gradient; call replace_routers(model, 'noisy_topk') first, or use importance and load_balance"
            )
        if "load" in names and router.top_k >= router.num_experts:
            raise ValueError(
                f"{router.path} always chooses all {router.num_experts} experts, so that their load is even; leave "
                "load out"
            )
