"""Granular upcycling: many narrow experts, each a shard of the dense MLP (arXiv 2410.07524).

Letters: G shards of one MLP, K chosen, I intermediate size.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from hf_mixture.moe.routers.upcycle import build_moe


if TYPE_CHECKING:
    from transformers import PreTrainedModel


def upcycle_granular(
    dense_model: PreTrainedModel,
    target: str | None = None,
    *,
    num_copies: int = 8,
    granularity: int = 8,
    top_k: int = 8,
    router_init: Literal["grouped", "random", "orthogonal"] = "grouped",
    noise: float = 0.0,
    seed: int = 0,
) -> PreTrainedModel:
    """Make a model with `num_copies * granularity` narrow experts from a dense one.

    The MLP is cut along its intermediate size into G shards, whose outputs add up to its own; each shard is repeated
    `num_copies` times (the paper's E8G8T8 is 8 copies, 8 shards, top 8). A shard's output is scaled by G, because the
    weights of the chosen experts sum to one: all of the scale is in `down_proj`, where it is exact. (Megatron-Core
    spreads it over three matrices, which a silu between them makes approximate.)

    The logits equal those of the dense model when the chosen experts are whole copies, all shards of a copy with equal
    weight. That is so with `router_init="grouped"` and a `top_k` that is a multiple of G: the shards of a copy then
    share one router row, and a token takes them together. It is not so with a router that is random for each expert:
    the tokens then get shards of several copies, some twice and some not at all, and the model starts far from the
    dense one.

    Args:
        dense_model: As for `hf_mixture.upcycle`.
        target: As for `hf_mixture.upcycle`.
        num_copies: How often each shard is there. Default: 8.
        granularity: G, a divisor of the intermediate size I. Default: 8.
        top_k: K, narrow experts for each token; K = G has the cost of the dense model. Default: 8.
        router_init: `"grouped"`, or `"random"` and `"orthogonal"` as for `hf_mixture.upcycle`.
        noise: As for `hf_mixture.upcycle`.
        seed: Seed of router and noise.

    Returns:
        The new model, in the type, on the device and in the mode of the dense one.

    Raises:
        ValueError: If a number breaks its rule, or the dense model has no counterpart with experts.

    Example:
        >>> import torch
        >>> from transformers import LlamaConfig, LlamaForCausalLM
        >>> from hf_mixture import upcycle_granular
        >>> config = LlamaConfig(
        ...     vocab_size=32, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2
        ... )
        >>> dense = LlamaForCausalLM(config).eval()
        >>> moe = upcycle_granular(dense, num_copies=2, granularity=4, top_k=4)
        >>> ids = torch.arange(8)[None]
        >>> moe.config.num_local_experts, moe.config.intermediate_size
        (8, 8)
        >>> torch.allclose(moe(ids).logits, dense(ids).logits, atol=1e-5)
        True
    """
    if router_init not in ("grouped", "random", "orthogonal"):
        raise ValueError(f"router_init={router_init!r}; choose 'grouped', 'random' or 'orthogonal'")
    return build_moe(
        dense_model,
        target,
        num_copies=num_copies,
        top_k=top_k,
        num_shards=granularity,
        router_init=router_init,
        noise=noise,
        seed=seed,
    )
