"""The sizes of a sparse model that cost memory and time, and the machines that it runs on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True, kw_only=True)
class ModelShape:
    """A decoder of equal layers, each with attention and experts.

    Args:
        hidden: Hidden size.
        num_layers: Layers.
        query_width: Heads times head size.
        kv_width: Key and value heads times head size.
        num_experts: Experts of a layer.
        top_k: Experts of a token.
        expert_inner: Inner size of an expert, which is gated.
        shared_inner: Inner size of what every token passes beside its experts. Default: 0.
        vocab_size: Tokens of the vocabulary.
    """

    hidden: int
    num_layers: int
    query_width: int
    kv_width: int
    num_experts: int
    top_k: int
    expert_inner: int
    vocab_size: int
    shared_inner: int = 0

    @property
    def dense_parameters(self) -> int:
        """Parameters outside of the experts."""
        attention = 2 * self.hidden * (self.query_width + self.kv_width)
        router, shared = self.hidden * self.num_experts, 3 * self.hidden * self.shared_inner
        return self.num_layers * (attention + router + shared) + 2 * self.vocab_size * self.hidden

    @property
    def expert_parameters(self) -> int:
        """Parameters of all experts."""
        return self.num_layers * self.num_experts * 3 * self.hidden * self.expert_inner

    def flops_per_token(self, sequence: int) -> float:
        """Floating-point operations of a training step for a token, as Megatron counts: attention is not halved.

        Args:
            sequence: Tokens of a sequence.
        """
        attention = 2 * self.hidden * (2 * self.query_width + 2 * self.kv_width) + 4 * sequence * self.query_width
        inner = self.top_k * self.expert_inner + self.shared_inner
        layer = attention + 2 * self.hidden * self.num_experts + 6 * self.hidden * inner
        return 3.0 * (self.num_layers * layer + 2 * self.hidden * self.vocab_size)


def shape_of(config: Any) -> ModelShape:
    """Read the sizes of a sparse model of transformers.

    Every layer is counted as if it had attention and experts: right to a few percent where the first layers are dense
    (DeepSeek-V3), and far too many experts where they are in every other layer (Jamba) or fewer.

    Args:
        config: Its configuration.

    Returns:
        The shape.

    Raises:
        ValueError: If it has no experts.
    """
    text = config.get_text_config()

    def first(*names: str, default: int | None = None) -> int:
        for name in names:
            if isinstance(value := getattr(text, name, None), int):
                return value
        if default is None:
            raise ValueError(
                f"{type(text).__name__} has none of the fields {', '.join(names)}; give the configuration of a sparse "
                "model"
            )
        return default

    num_experts = first("num_local_experts", "num_experts", "n_routed_experts")
    head = first("head_dim", default=text.hidden_size // text.num_attention_heads)
    inner = first("moe_intermediate_size", "intermediate_size")
    num_shared = first("n_shared_experts", "num_shared_experts", default=0)
    return ModelShape(
        hidden=text.hidden_size,
        num_layers=text.num_hidden_layers,
        query_width=text.num_attention_heads * head,
        kv_width=first("num_key_value_heads", default=text.num_attention_heads) * head,
        num_experts=num_experts,
        top_k=first("num_experts_per_tok", "top_k", "moe_topk"),
        expert_inner=inner,
        shared_inner=first("shared_expert_intermediate_size", default=num_shared * inner),
        vocab_size=text.vocab_size,
    )


@dataclass(frozen=True, kw_only=True)
class GpuCluster:
    """Equal GPUs in equal nodes.

    Args:
        num_gpus: All of them.
        gpus_per_node: Those that share fast links. Default: 8.
        peak_flops: Of a GPU, in bfloat16, without sparsity.
        memory_bytes: Of a GPU.
        memory_bandwidth: Of a GPU, bytes a second.
        node_bandwidth: Of a GPU within its node, one way, bytes a second.
        network_bandwidth: Of a GPU to other nodes, one way, bytes a second.

    Raises:
        ValueError: If the GPUs do not fill nodes.
    """

    num_gpus: int
    peak_flops: float
    memory_bytes: float
    memory_bandwidth: float
    node_bandwidth: float
    network_bandwidth: float
    gpus_per_node: int = 8

    def __post_init__(self) -> None:
        if self.num_gpus < 1:
            raise ValueError(f"num_gpus={self.num_gpus} must be at least 1")
        if self.num_gpus > self.gpus_per_node and self.num_gpus % self.gpus_per_node:
            raise ValueError(
                f"num_gpus={self.num_gpus} does not fill nodes of gpus_per_node={self.gpus_per_node}; give a multiple"
            )


# Data sheets: bfloat16 without sparsity, NVLink one way, and one 400 Gb/s (A100: 200 Gb/s) adapter for each GPU.
GPUS: Mapping[str, GpuCluster] = {
    "h100": GpuCluster(
        num_gpus=8,
        peak_flops=989.5e12,
        memory_bytes=80e9,
        memory_bandwidth=3.35e12,
        node_bandwidth=450e9,
        network_bandwidth=50e9,
    ),
    "h200": GpuCluster(
        num_gpus=8,
        peak_flops=989.5e12,
        memory_bytes=141e9,
        memory_bandwidth=4.8e12,
        node_bandwidth=450e9,
        network_bandwidth=50e9,
    ),
    "a100": GpuCluster(
        num_gpus=8,
        peak_flops=312e12,
        memory_bytes=80e9,
        memory_bandwidth=2.0e12,
        node_bandwidth=300e9,
        network_bandwidth=25e9,
    ),
}


def cluster_of(gpu: str, num_gpus: int) -> GpuCluster:
    """A cluster of a kind of GPU that is known by name.

    Args:
        gpu: `"h100"`, `"h200"` or `"a100"`.
        num_gpus: How many.

    Returns:
        The cluster.

    Raises:
        ValueError: If the name is unknown, or the GPUs do not fill nodes.
    """
    if gpu not in GPUS:
        raise ValueError(f"gpu={gpu!r} is not known; known are {', '.join(map(repr, GPUS))}, or describe a GpuCluster")
    return replace(GPUS[gpu], num_gpus=num_gpus)
