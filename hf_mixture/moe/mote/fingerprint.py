"""Which sparse model an edit or a map belongs to: its routers, and a hash of their weights.

Letters: E experts of a router, K chosen per token, L routers, H hidden size.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from hf_mixture.moe.anatomy import MoeRouter, find_routers
from hf_mixture.moe.anatomy.router import in_memory


@dataclass(frozen=True)
class Fingerprint:
    """What must agree before edits made for one model are applied to another.

    Args:
        model_type: `config.model_type`.
        num_experts: E of each of the L routers, by path.
        top_k: K of each router, by path.
        sha256: `"sha256:"` and the hash of the router weights.
    """

    model_type: str | None
    num_experts: Mapping[str, int]
    top_k: Mapping[str, int]
    sha256: str


def fingerprint_of(model: nn.Module, routers: Sequence[MoeRouter] | None = None) -> Fingerprint:
    """The fingerprint of a model: equal for equal routers, whatever dtype or device the model is loaded to.

    Weights are rounded to bfloat16 before they are hashed, since the same checkpoint may be loaded in float32 or in
    bfloat16. Selection biases, which further training moves, are not hashed.

    Args:
        model: A transformers model, bare or wrapped by PEFT, patched or not.
        routers: Its routers, where they are known. Default: `find_routers(model)`.

    Returns:
        The fingerprint.

    Raises:
        UnsupportedRouterError: If the model has no routers that can be read.

    Example:
        >>> import torch
        >>> from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM
        >>> from hf_mixture.moe.mote.fingerprint import fingerprint_of
        >>> config = Qwen3MoeConfig(
        ...     vocab_size=16, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
        ...     head_dim=4, intermediate_size=8, moe_intermediate_size=8, num_experts=4, num_experts_per_tok=2,
        ... )
        >>> model = Qwen3MoeForCausalLM(config)
        >>> found = fingerprint_of(model)
        >>> found.num_experts
        {'model.layers.0.mlp.gate': 4, 'model.layers.1.mlp.gate': 4}
        >>> found == fingerprint_of(model.bfloat16())
        True
    """
    routers = find_routers(model) if routers is None else routers
    digest = hashlib.sha256()
    for router in sorted(routers, key=lambda router: router.path):
        digest.update(f"{router.path} {router.num_experts} {router.top_k}\n".encode())
        digest.update(_weight_bytes(router))
    return Fingerprint(
        model_type=model_type_of(model),
        num_experts={router.path: router.num_experts for router in routers},
        top_k={router.path: router.top_k for router in routers},
        sha256=f"sha256:{digest.hexdigest()}",
    )


def model_type_of(model: nn.Module) -> str | None:
    """`config.model_type` of a model, through the wrapper of PEFT."""
    config: Any = getattr(model, "config", None)
    found = config.get("model_type") if isinstance(config, Mapping) else getattr(config, "model_type", None)
    return None if found is None else str(found)


def _weight_bytes(router: MoeRouter) -> bytes:
    if router.weight_module is None:
        return b"no weight\n"
    weight = in_memory(router.weight_module, "weight").detach()
    if weight.is_meta:
        raise ValueError(
            f"{router.weight_path} has no values (device 'meta'), so the model has no fingerprint; load its weights"
        )
    rounded = weight.to(device="cpu", dtype=torch.bfloat16) if weight.is_floating_point() else weight.cpu()
    data: bytes = rounded.contiguous().view(torch.uint8).numpy().tobytes()
    return data
