"""The clusters and the models of the paper (Hecate, arXiv 2502.02581), and how long a layer takes on them.

A model of bandwidths and floating-point operations: no latencies of messages, and no slowing of computation by what is
sent behind it. What all systems share beside attention (embeddings, head, optimizer, gradients of attention) is left
out. Letters: D devices, E experts of a layer, d hidden size.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from hf_mixture.moe.parallel.placement import Cluster
from hf_mixture.moe.parallel.simulate.flow import Floats, TokenFlow, Traffic


NUM_DEVICES_OF_NODE = 8
# Weights, gradients and tokens travel and are kept in 16 bits.
ELEMENT_BYTES = 2


@dataclass(frozen=True, kw_only=True)
class SimulatedModel:
    """Equal layers of attention and experts of two matrices.

    Args:
        hidden: d.
        sequence: Tokens of a sequence.
        num_layers: Layers, each with experts.
        vocab_size: Tokens of the vocabulary.
        top_k: Experts of a token. Default: 2.
        inner_factor: Inner size of an expert over d. Default: 2.
    """

    hidden: int
    sequence: int
    num_layers: int
    vocab_size: int
    top_k: int = 2
    inner_factor: int = 2

    @property
    def expert_parameters(self) -> int:
        """Parameters of one expert."""
        return 2 * self.inner_factor * self.hidden**2

    @property
    def expert_bytes(self) -> int:
        """Bytes of the weights of one expert, or of their gradients, on the way."""
        return self.expert_parameters * ELEMENT_BYTES

    @property
    def token_bytes(self) -> int:
        """Bytes of a token on its way to an expert."""
        return self.hidden * ELEMENT_BYTES

    @property
    def attention_parameters(self) -> int:
        """Parameters of the attention of a layer."""
        return 4 * self.hidden**2

    @property
    def attention_flops(self) -> int:
        """Floating-point operations of attention for a token, forwards; causal scores are not halved."""
        return 2 * self.attention_parameters + 4 * self.sequence * self.hidden


MODELS: Mapping[str, SimulatedModel] = {
    "gpt-moe-s": SimulatedModel(hidden=768, sequence=2048, num_layers=12, vocab_size=50257),
    "gpt-moe-l": SimulatedModel(hidden=1536, sequence=2048, num_layers=12, vocab_size=50257),
    "bert-moe": SimulatedModel(hidden=1024, sequence=512, num_layers=12, vocab_size=30522),
    "bert-moe-deep": SimulatedModel(hidden=1024, sequence=512, num_layers=24, vocab_size=30522),
}


@dataclass(frozen=True, kw_only=True)
class SimulatedCluster:
    """Nodes of 8 GPUs, and what they reach of their data sheets.

    The three shares are round assumptions, and not fitted to results.

    Args:
        peak_flops: Of a GPU, 16-bit matrix products.
        memory_bytes: Of a GPU.
        node_bandwidth: Of a GPU to its node, one way, bytes a second.
        network_bandwidth: Of a node to others, one way, bytes a second.
        adapter_bandwidth: The most of it that one GPU can use: one adapter.
        num_devices: GPUs. Default: 32, as in the paper.
        compute_share: Share of the peak that attention and experts reach. Default: 0.4.
        node_share: Share of the bandwidth within nodes. Default: 0.6.
        network_share: Share of the bandwidth between nodes. Default: 0.8.
    """

    peak_flops: float
    memory_bytes: float
    node_bandwidth: float
    network_bandwidth: float
    adapter_bandwidth: float
    num_devices: int = 32
    compute_share: float = 0.4
    node_share: float = 0.6
    network_share: float = 0.8

    @property
    def devices(self) -> Cluster:
        """The devices, in nodes of 8, or in one smaller node."""
        return Cluster(self.num_devices, min(NUM_DEVICES_OF_NODE, self.num_devices))


# p3dn: V100 with NVLink 2 and one 100 Gb/s adapter for a node. p4d: A100 with NVSwitch and four such adapters.
CLUSTERS: Mapping[str, SimulatedCluster] = {
    "a": SimulatedCluster(
        peak_flops=125e12,
        memory_bytes=32e9,
        node_bandwidth=150e9,
        network_bandwidth=12.5e9,
        adapter_bandwidth=12.5e9,
    ),
    "b": SimulatedCluster(
        peak_flops=312e12,
        memory_bytes=40e9,
        node_bandwidth=300e9,
        network_bandwidth=50e9,
        adapter_bandwidth=12.5e9,
    ),
}


@dataclass(frozen=True, kw_only=True)
class Machine:
    """A model on a cluster.

    Args:
        cluster: The cluster.
        model: The model.
        num_tokens: Tokens of a device in a step.

    Example:
        >>> from hf_mixture.moe.parallel.simulate.hardware import machine_of
        >>> machine_of("b", "gpt-moe-s", num_devices=256, num_tokens=8192).overlap_degree
        6
    """

    cluster: SimulatedCluster
    model: SimulatedModel
    num_tokens: int

    @property
    def devices(self) -> Cluster:
        """The devices."""
        return self.cluster.devices

    @property
    def attention_seconds(self) -> float:
        """Attention of a layer, forwards; backwards it takes twice as long."""
        flops = self.num_tokens * self.model.attention_flops
        return flops / (self.cluster.peak_flops * self.cluster.compute_share)

    @property
    def overlap_degree(self) -> int:
        """t, the experts that may enter each node while attention computes."""
        cluster = self.cluster
        if self.devices.num_nodes > 1:
            bandwidth = cluster.network_bandwidth * cluster.network_share
        else:
            bandwidth = cluster.node_bandwidth * cluster.node_share
        return int(self.attention_seconds * bandwidth // self.model.expert_bytes)

    def seconds(self, traffic: Traffic) -> float:
        """Time of an exchange: the busiest link of all; links within and between nodes work at the same time.

        Args:
            traffic: In bytes.
        """
        cluster, devices = self.cluster, self.devices
        inside, between = traffic.of_devices
        by_node = (2, devices.num_nodes, devices.devices_per_node)
        ends = np.stack([traffic.received[1], traffic.sent[1]])
        return float(
            max(
                inside.max() / (cluster.node_bandwidth * cluster.node_share),
                between.max() / (cluster.adapter_bandwidth * cluster.network_share),
                ends.reshape(by_node).sum(axis=2).max() / (cluster.network_bandwidth * cluster.network_share),
            )
        )

    def expert_seconds(self, loads: Floats) -> float:
        """Experts of a layer on the busiest device, forwards and backwards.

        Args:
            loads: Tokens of devices [D].
        """
        flops = 3 * 2 * self.model.expert_parameters * float(loads.max())
        return flops / (self.cluster.peak_flops * self.cluster.compute_share)

    def all_to_all_seconds(self, flow: TokenFlow) -> float:
        """Tokens to experts and back, forwards, and their gradients, backwards."""
        return 4 * self.seconds(flow.traffic * self.model.token_bytes)

    def routed_seconds(self, flow: TokenFlow) -> float:
        """What depends on the loads."""
        return self.expert_seconds(flow.loads) + self.all_to_all_seconds(flow)


def machine_of(cluster: str | SimulatedCluster, model: str, *, num_devices: int, num_tokens: int) -> Machine:
    """A model of the paper on a number of nodes.

    Args:
        cluster: `"a"`, `"b"`, or another.
        model: A key of `MODELS`.
        num_devices: D.
        num_tokens: Tokens of a device in a step.

    Returns:
        The machine.

    Raises:
        ValueError: If a name is unknown, or the devices do not fill nodes.
    """
    if isinstance(cluster, str):
        if cluster not in CLUSTERS:
            raise ValueError(f"cluster={cluster!r} is not known; known are {', '.join(map(repr, CLUSTERS))}")
        cluster = CLUSTERS[cluster]
    if model not in MODELS:
        raise ValueError(f"model={model!r} is not known; known are {', '.join(map(repr, MODELS))}")
    if num_devices > NUM_DEVICES_OF_NODE and num_devices % NUM_DEVICES_OF_NODE:
        raise ValueError(
            f"ranks={num_devices} do not fill nodes of {NUM_DEVICES_OF_NODE}; use a multiple of it, or fewer than it"
        )
    return Machine(cluster=replace(cluster, num_devices=num_devices), model=MODELS[model], num_tokens=num_tokens)
