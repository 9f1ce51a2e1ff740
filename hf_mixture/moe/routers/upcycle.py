"""Sparse upcycling: a dense language model becomes a stock mixture-of-experts model of transformers.

Every expert starts as a copy of the dense MLP (arXiv 2212.05055). With weights that sum to one, the mixture of equal
experts is that MLP, so the new model begins where the dense one is; families that renormalise on request are asked to.

Letters: E experts, K chosen, G shards of one MLP, H hidden, I intermediate.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from hf_mixture.moe.anatomy import MoeRouter, find_routers


if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

RouterInit = Literal["random", "orthogonal", "grouped"]


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A dense family and the mixture-of-experts family that shares its attention, norms and residual stream.

    Args:
        target: Model type of the mixture of experts.
        num_experts: Field of its configuration with E.
        intermediate: Field of its configuration with the width of one expert.
        fixed: Fields that make every MLP a mixture with weights that sum to one, and nothing beside it.
    """

    target: str
    num_experts: str
    intermediate: str = "intermediate_size"
    fixed: Mapping[str, Any] = field(default_factory=dict)


_EVERY_LAYER = {"norm_topk_prob": True, "decoder_sparse_step": 1, "mlp_only_layers": []}

PAIRS: dict[str, Pair] = {
    "cohere2": Pair(target="cohere2_moe", num_experts="num_experts"),
    "granite": Pair(target="granitemoe", num_experts="num_local_experts"),
    "llama": Pair(target="mixtral", num_experts="num_local_experts"),
    "mistral": Pair(target="mixtral", num_experts="num_local_experts"),
    "olmo2": Pair(target="flex_olmo", num_experts="num_experts", fixed={"norm_topk_prob": True}),
    "qwen2": Pair(
        target="qwen2_moe",
        num_experts="num_experts",
        intermediate="moe_intermediate_size",
        # The family always has a shared expert; of width 0 it adds nothing.
        fixed={**_EVERY_LAYER, "shared_expert_intermediate_size": 0},
    ),
    "qwen3": Pair(
        target="qwen3_moe", num_experts="num_experts", intermediate="moe_intermediate_size", fixed=_EVERY_LAYER
    ),
}


def upcycle(
    dense_model: PreTrainedModel,
    target: str | None = None,
    *,
    num_experts: int = 8,
    top_k: int = 2,
    router_init: Literal["random", "orthogonal"] = "random",
    noise: float = 0.0,
    seed: int = 0,
) -> PreTrainedModel:
    """Make a mixture-of-experts model from a dense one: every expert a copy of the MLP, the router new.

    The result is of a stock class of transformers and needs nothing of this package to train, save or load. Without
    noise its logits are those of the dense model whatever the router says, because the weights of the chosen experts
    sum to one, up to rounding (in float32 also for a float64 model, whose router computes in float32); with K = 1 the
    weight is exactly one.

    Pairs: Llama and Mistral to Mixtral, Qwen2 to Qwen2-MoE (with a shared expert of width 0, and `norm_topk_prob`
    set), Qwen3 to Qwen3-MoE and OLMo2 to FlexOlmo (`norm_topk_prob` set), Granite to GraniteMoE, Cohere2 to
    Cohere2-MoE.

    Args:
        dense_model: A causal language model of one of these families, without wrappers or adapters. It is not changed.
        target: Model type of the result, for example `"mixtral"`. Default: the one that fits the dense model.
        num_experts: E, at least `top_k`. Default: 8.
        top_k: K, experts for each token, at least 1. Default: 2.
        router_init: `"random"` draws the router from a normal distribution with the `initializer_range` of the
            configuration; `"orthogonal"` draws orthogonal rows of the same size, so that no two experts start alike.
        noise: Standard deviation of what is added to the weights of each expert, relative to that of the weights,
            >= 0. Above 0 the experts differ from the start, and the logits from the dense ones. Default: 0.
        seed: Seed of router and noise.

    Returns:
        The new model, in the type, on the device and in the mode of the dense one.

    Raises:
        ValueError: If a number breaks its rule, or the dense model has no such counterpart.

    Example:
        >>> import torch
        >>> from transformers import LlamaConfig, LlamaForCausalLM
        >>> from hf_mixture import upcycle
        >>> config = LlamaConfig(
        ...     vocab_size=32, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2
        ... )
        >>> dense = LlamaForCausalLM(config).eval()
        >>> moe = upcycle(dense, "mixtral", num_experts=4, top_k=2)
        >>> ids = torch.arange(8)[None]
        >>> type(moe).__name__, torch.allclose(moe(ids).logits, dense(ids).logits, atol=1e-5)
        ('MixtralForCausalLM', True)
    """
    if router_init not in ("random", "orthogonal"):
        raise ValueError(f"router_init={router_init!r}; choose 'random' or 'orthogonal'")
    return build_moe(
        dense_model,
        target,
        num_copies=num_experts,
        top_k=top_k,
        num_shards=1,
        router_init=router_init,
        noise=noise,
        seed=seed,
    )


def build_moe(
    dense_model: PreTrainedModel,
    target: str | None,
    *,
    num_copies: int,
    top_k: int,
    num_shards: int,
    router_init: RouterInit,
    noise: float,
    seed: int,
) -> PreTrainedModel:
    """Build the model of `upcycle` and of `upcycle_granular`: `num_copies` times `num_shards` experts.

    Expert `copy * num_shards + shard` holds shard `shard` of the MLP, its output times `num_shards`.
    """
    from transformers import AutoModelForCausalLM

    numbers = {"num_experts": num_copies, "top_k": top_k, "granularity": num_shards}
    for name, value in numbers.items():
        if value < 1:
            raise ValueError(f"{name}={value}; it must be at least 1")
    if top_k > num_copies * num_shards:
        raise ValueError(
            f"top_k={top_k} is more than the {num_copies * num_shards} experts; lower it or raise num_experts"
        )
    if noise < 0:
        raise ValueError(f"noise={noise}; it must be at least 0")
    config = moe_config(dense_model, target, num_experts=num_copies * num_shards, top_k=top_k, num_shards=num_shards)
    with torch.device("meta"):
        empty = AutoModelForCausalLM.from_config(config)
    routers = find_routers(empty)
    dense = dense_model.state_dict()
    for name, tensor in dense.items():
        if tensor.is_meta:
            raise ValueError(f"{name} is on the device 'meta', that is offloaded; load the whole model into memory")
    names = {name: _mlp_names(name) for name in (router.path for router in routers)}
    rest = {name: tensor for name, tensor in dense.items() if not any(name in mlp for mlp in names.values())}
    state = {name: tensor.clone() for name, tensor in rest.items()}
    generator = torch.Generator().manual_seed(seed)
    for router in routers:
        gate, up, down = (_weight(dense, name) for name in names[router.path])
        for name, shards in _shards(gate, up, down, num_shards).items():
            experts = shards.repeat(num_copies, 1, 1)
            state[f"{router.experts_path}.{name}"] = _noisy(experts, noise, generator)
        weight = _router_weight(router, num_shards, router_init, config.initializer_range, generator)
        state[str(router.weight_path)] = weight.to(gate)
    for name, tensor in empty.state_dict().items():
        if 0 in tensor.shape or name.endswith("shared_expert_gate.weight"):
            state[name] = torch.zeros(tensor.shape).to(gate)
    _check_state(dense_model, empty, state)
    # The grouped matrix product, the default, has no float64.
    kernels = {"experts_implementation": "eager"} if dense_model.dtype == torch.float64 else {}
    moe = type(empty).from_pretrained(None, config=config, state_dict=state, dtype=dense_model.dtype, **kernels)
    moe.generation_config = copy.deepcopy(dense_model.generation_config)
    return moe.to(dense_model.device).train(dense_model.training)


def moe_config(
    dense_model: PreTrainedModel, target: str | None, *, num_experts: int, top_k: int, num_shards: int = 1
) -> PreTrainedConfig:
    """The configuration of the counterpart of a dense model.

    Args:
        dense_model: A causal language model of one of the families of `PAIRS`.
        target: Model type of the result; None for the one that fits.
        num_experts: E.
        top_k: K.
        num_shards: G, that the intermediate size is divided by.

    Raises:
        ValueError: If there is no such counterpart.
    """
    from transformers import CONFIG_MAPPING
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

    given = dense_model.config
    pairs = ", ".join(f"{dense} to {pair.target}" for dense, pair in PAIRS.items())
    pair = PAIRS.get(given.model_type)
    if pair is None or type(dense_model) is not MODEL_FOR_CAUSAL_LM_MAPPING.get(type(given), None):
        raise ValueError(
            f"a {type(dense_model).__name__} (model type {given.model_type!r}) has no counterpart with experts; "
            f"supported are causal language models of {pairs}"
        )
    if target not in (None, pair.target):
        raise ValueError(
            f"target={target!r} does not have the attention of {given.model_type!r}, whose logits it could not give; "
            f"use {pair.target!r}. Supported are {pairs}"
        )
    if given.intermediate_size % num_shards:
        raise ValueError(
            f"granularity={num_shards} does not divide the intermediate size {given.intermediate_size}; use a divisor"
        )
    config_cls = CONFIG_MAPPING[pair.target]
    known = {item.name for item in fields(config_cls)}
    # Read by the attention of every family, declared by some.
    known |= {"head_dim"}
    values = {name: value for name, value in given.to_dict().items() if name in known and name not in _OWN}
    sliding = "sliding_attention" in (getattr(given, "layer_types", None) or [])
    if sliding and "layer_types" not in known:
        raise ValueError(
            f"the dense model has layers with sliding attention, and {pair.target} has one kind of attention for all; "
            "set use_sliding_window to False if its texts are shorter than the window"
        )
    values |= {pair.intermediate: given.intermediate_size // num_shards, pair.num_experts: num_experts}
    return config_cls(**values | dict(pair.fixed) | {"num_experts_per_tok": top_k})


# What a configuration says about its own class and file.
_OWN = frozenset({"model_type", "architectures", "transformers_version", "torch_dtype"})


def _mlp_names(router_path: str) -> tuple[str, str, str]:
    """Names of the weights of the dense MLP in the place of a router: gate, up, down."""
    layer = router_path.rpartition(".")[0].rpartition(".")[0]
    return (f"{layer}.mlp.gate_proj.weight", f"{layer}.mlp.up_proj.weight", f"{layer}.mlp.down_proj.weight")


def _weight(state: Mapping[str, Tensor], name: str) -> Tensor:
    if name not in state:
        raise ValueError(
            f"the dense model has no {name}; undo patches, merge adapters and load it without quantisation"
        )
    return state[name]


def _shards(gate: Tensor, up: Tensor, down: Tensor, num_shards: int) -> dict[str, Tensor]:
    """One copy of the MLP as G experts: `gate_up_proj` [G, 2 I / G, H] and `down_proj` [G, H, I / G]."""
    rows = zip(gate.chunk(num_shards), up.chunk(num_shards), strict=True)
    columns = torch.stack(down.chunk(num_shards, dim=1))
    # A shard is chosen with a G-th of the weight of a whole MLP.
    return {"gate_up_proj": torch.stack([torch.cat(parts) for parts in rows]), "down_proj": columns * num_shards}


def _noisy(weight: Tensor, noise: float, generator: torch.Generator) -> Tensor:
    if noise == 0:
        return weight
    drawn = torch.randn(weight.shape, generator=generator).to(weight)
    return weight + noise * weight.std() * drawn


def _router_weight(
    router: MoeRouter, num_shards: int, init: RouterInit, std: float, generator: torch.Generator
) -> Tensor:
    """A new router [E, H]; `"grouped"` gives the shards of a copy one row, so that they are chosen together."""
    assert router.weight is not None  # noqa: S101 - all families of PAIRS have one matrix
    num_experts, hidden = router.weight.shape
    if init == "grouped":
        rows = torch.randn(num_experts // num_shards, hidden, generator=generator)
        return std * rows.repeat_interleave(num_shards, dim=0)
    weight = torch.empty(num_experts, hidden)
    if init == "orthogonal":
        return torch.nn.init.orthogonal_(weight, gain=std * hidden**0.5, generator=generator)
    return weight.normal_(std=std, generator=generator)


def _check_state(dense_model: PreTrainedModel, empty: Any, state: Mapping[str, Tensor]) -> None:
    expected = empty.state_dict()
    for name in [*expected, *state]:
        if name not in state or name not in expected or state[name].shape != expected[name].shape:
            has, lacks = (empty, dense_model) if name in expected else (dense_model, empty)
            raise ValueError(
                f"{name} of {type(has).__name__} has no counterpart in {type(lacks).__name__}: biases, adapters or "
                "quantised weights cannot be carried over"
            )
