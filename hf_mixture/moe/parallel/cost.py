"""What a mapping costs: memory of a rank and time of a step, by a model with four fitted constants.

Megatron-Core with bfloat16 weights, float32 gradients, a distributed optimizer, sequence parallelism with tp, and no
recomputation; or fully sharded parameters (ZeRO-3). Letters: n tokens of a rank in one micro-batch.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field

from hf_mixture.moe.parallel.folding import FoldingPlan
from hf_mixture.moe.parallel.groups import rank_groups, stays_in_node
from hf_mixture.moe.parallel.shape import GpuCluster, ModelShape


# Tokens that pass memory between matrix products: norms, permutation and back, activations; bytes for hidden sizes.
_MEMORY_SHARE = 0.7


@dataclass(frozen=True, kw_only=True)
class CostConstants:
    """What the hardware gives of its data sheet, fitted by `benchmarks/fit_folding.py` on half of the published cells.

    Args:
        node: Share of the bandwidth within a node.
        network: Share of the bandwidth between nodes; what is hidden behind computation counts, so it may reach 1.
        gemm: Share of the peak that large matrix products reach.
        small: How much smaller products lose: a size of d costs small / d of their time more.
    """

    node: float = 0.523
    network: float = 1.0
    gemm: float = 0.701
    small: float = 242.0


@dataclass(frozen=True, kw_only=True)
class Mapping:
    """A plan with what else decides its cost.

    Args:
        plan: The sizes.
        micro_batch: Sequences of a micro-batch. Default: 1.
        virtual_stages: Pipeline stages on a rank. Default: 1.
        fully_sharded: Whether parameters are sharded over data parallelism too (ZeRO-3, FSDP). Default: False.
        folded: Whether expert parallelism may cover the ranks of tp and cp; otherwise it lies within data parallelism
            and strides over them. Default: True.
    """

    plan: FoldingPlan
    micro_batch: int = 1
    virtual_stages: int = 1
    fully_sharded: bool = False
    folded: bool = True


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What a mapping costs.

    Args:
        mfu: Floating-point operations of the model over those the GPUs could do, by the convention of Megatron.
        step_seconds: Time of an optimizer step.
        memory: Bytes of a rank by purpose.
        traffic: Bytes that a rank sends in a step, within its node and to others, by purpose.
        bubble: Share of a step in which a pipeline stage waits.
    """

    mfu: float
    step_seconds: float
    memory: dict[str, float]
    traffic: dict[str, dict[str, float]]
    bubble: float

    @property
    def memory_bytes(self) -> float:
        """Bytes of a rank."""
        return sum(self.memory.values())


@dataclass
class _Traffic:
    """Adds up bytes by the links they take, and their time."""

    cluster: GpuCluster
    constants: CostConstants
    bytes: dict[str, dict[str, float]] = field(default_factory=lambda: {"node": {}, "network": {}})

    def send(self, purpose: str, num_bytes: float, *, in_node: bool, times: float = 1.0) -> float:
        """Seconds of one message of so many bytes; `times` of them are counted."""
        link = "node" if in_node else "network"
        of_link = self.bytes[link]
        of_link[purpose] = of_link.get(purpose, 0.0) + times * num_bytes
        if in_node:
            return num_bytes / (self.cluster.node_bandwidth * self.constants.node)
        return num_bytes / (self.cluster.network_bandwidth * self.constants.network)


def impossible(shape: ModelShape, mapping: Mapping, global_batch: int) -> str | None:
    """Say why a mapping cannot be, or None if it can.

    Args:
        shape: The model.
        mapping: The mapping.
        global_batch: Sequences of an optimizer step.
    """
    plan = mapping.plan
    if shape.num_experts % plan.ep:
        return f"ep={plan.ep} does not divide {shape.num_experts} experts"
    if shape.num_layers % (plan.pp * mapping.virtual_stages):
        return f"{plan.pp * mapping.virtual_stages} pipeline stages do not divide {shape.num_layers} layers"
    if global_batch % (plan.dp * mapping.micro_batch):
        return f"{plan.dp * mapping.micro_batch} sequences at a time do not divide a batch of {global_batch}"
    if mapping.virtual_stages > 1 and (global_batch // (plan.dp * mapping.micro_batch)) % plan.pp:
        return "virtual stages need a multiple of pp micro-batches"
    if not mapping.folded and plan.dp % plan.ep:
        return f"without folding, ep={plan.ep} must divide dp={plan.dp}"
    return None


def estimate(
    shape: ModelShape,
    mapping: Mapping,
    cluster: GpuCluster,
    *,
    sequence: int,
    global_batch: int,
    constants: CostConstants | None = None,
) -> Estimate:
    """Estimate memory and time of a mapping that is possible.

    Args:
        shape: The model.
        mapping: The mapping.
        cluster: The machines; as many GPUs as the plan has ranks.
        sequence: Tokens of a sequence.
        global_batch: Sequences of an optimizer step.
        constants: What the hardware gives. Default: those fitted to the tables of the paper.

    Returns:
        The estimate.
    """
    plan, constants = mapping.plan, constants or CostConstants()
    num_micro = global_batch // (plan.dp * mapping.micro_batch)
    traffic = _Traffic(cluster, constants)
    layer = _compute_of_layer(shape, mapping, cluster, constants, sequence)
    layers = shape.num_layers / plan.pp
    tokens = mapping.micro_batch * sequence / plan.cp
    head = _gemm(
        2 * tokens * shape.hidden * shape.vocab_size / plan.tp,
        (tokens, shape.vocab_size / plan.tp, shape.hidden),
        cluster,
        constants,
    )
    # The backward pass computes twice what the forward pass does.
    micro = 3 * layers * layer + 3 * head / plan.pp
    micro += layers * _talk_of_layer(shape, mapping, traffic, sequence=sequence, times=num_micro * layers)
    if mapping.fully_sharded:
        step = num_micro * (micro + _gather_parameters(shape, mapping, traffic, num_micro))
        bubble = 0.0
    else:
        waits = (plan.pp - 1) / mapping.virtual_stages
        bubble = waits / (num_micro + waits)
        step = micro * (num_micro + waits) + _reduce_gradients(shape, mapping, traffic)
    flops = global_batch * sequence * shape.flops_per_token(sequence)
    return Estimate(
        mfu=flops / (plan.world * step * cluster.peak_flops),
        step_seconds=step,
        memory=_memory(shape, mapping, sequence, num_micro),
        traffic=traffic.bytes,
        bubble=bubble,
    )


def _gemm(flops: float, sizes: Sequence[float], cluster: GpuCluster, constants: CostConstants) -> float:
    """Seconds of a matrix product of three sizes."""
    slower = 1 + constants.small * sum(1 / size for size in sizes)
    return flops / (cluster.peak_flops * constants.gemm) * slower


def _compute_of_layer(
    shape: ModelShape, mapping: Mapping, cluster: GpuCluster, constants: CostConstants, sequence: int
) -> float:
    """Seconds of the forward pass of one layer for a micro-batch."""
    plan, hidden = mapping.plan, shape.hidden
    tokens = mapping.micro_batch * sequence / plan.cp
    own = tokens / plan.tp

    def gemm(rows: float, columns: float, inner: float) -> float:
        return _gemm(2 * rows * columns * inner, (rows, columns, inner), cluster, constants)

    projections = gemm(tokens, (shape.query_width + 2 * shape.kv_width) / plan.tp, hidden)
    projections += gemm(tokens, hidden, shape.query_width / plan.tp)
    # Causal attention computes half of what its matrix products would.
    scores = _gemm(2 * tokens * sequence * shape.query_width / plan.tp, (tokens, 128, sequence), cluster, constants)
    per_expert = max(own * shape.top_k * plan.etp * plan.ep / shape.num_experts, 1.0)
    inner = shape.expert_inner / plan.etp
    expert = gemm(per_expert, 2 * inner, hidden) + gemm(per_expert, hidden, inner)
    shared = 0.0
    if shape.shared_inner:
        flops = 6 * tokens * hidden * shape.shared_inner / plan.tp
        shared = _gemm(flops, (tokens, shape.shared_inner / plan.tp, hidden), cluster, constants)
    moved = own * (6 * shape.top_k + 12) * hidden * 4 / (cluster.memory_bandwidth * _MEMORY_SHARE)
    return projections + scores + shape.num_experts / plan.ep * expert + shared + moved


def _talk_of_layer(shape: ModelShape, mapping: Mapping, traffic: _Traffic, *, sequence: int, times: float) -> float:
    """Seconds of the messages of one layer for a micro-batch, forward and backward."""
    plan, cluster = mapping.plan, traffic.cluster
    tokens = mapping.micro_batch * sequence / plan.cp
    routed = tokens / plan.tp * shape.top_k * shape.hidden * 2
    seconds = 0.0

    def add(purpose: str, num_bytes: float, size: int, stride: int) -> None:
        nonlocal seconds
        if size > 1:
            near = _near(size, stride, plan.world, cluster.gpus_per_node)
            seconds += traffic.send(purpose, num_bytes, in_node=near, times=times)

    # An all-gather and a reduce-scatter of attention, forward and backward.
    add("tp", 4 * tokens * shape.hidden * 2 * (plan.tp - 1) / plan.tp, plan.tp, 1)
    add("cp", 12 * tokens * shape.kv_width / plan.tp * (plan.cp - 1), plan.cp, plan.tp)
    stride = plan.etp if mapping.folded else plan.tp * plan.cp
    add("ep", 4 * routed * (plan.ep - 1) / plan.ep, plan.ep, stride)
    add("etp", 4 * routed * (plan.etp - 1), plan.etp, 1)
    return seconds


def _sharded_over(mapping: Mapping) -> tuple[tuple[int, int], tuple[int, int]]:
    """Size and stride of the groups that hold the same dense parameters, and the same experts."""
    plan = mapping.plan
    return (plan.dp * plan.cp, plan.tp), (plan.edp, plan.etp * plan.ep)


def _gather_parameters(shape: ModelShape, mapping: Mapping, traffic: _Traffic, num_micro: int) -> float:
    """Seconds of two all-gathers and a reduce-scatter of all parameters, for a micro-batch."""
    plan, cluster, seconds = mapping.plan, traffic.cluster, 0.0
    held = (shape.dense_parameters / plan.tp, shape.expert_parameters / (plan.etp * plan.ep))
    for number, (size, stride) in zip(held, _sharded_over(mapping), strict=True):
        if size > 1:
            near = _near(size, stride, plan.world, cluster.gpus_per_node)
            num_bytes = 3 * 2 * number * (size - 1) / size
            seconds += traffic.send("parameters", num_bytes, in_node=near, times=num_micro)
    return seconds


def _reduce_gradients(shape: ModelShape, mapping: Mapping, traffic: _Traffic) -> float:
    """Seconds of a reduce-scatter of gradients and an all-gather of parameters, half hidden, once a step."""
    plan, cluster, seconds = mapping.plan, traffic.cluster, 0.0
    held = (shape.dense_parameters / (plan.tp * plan.pp), shape.expert_parameters / (plan.etp * plan.ep * plan.pp))
    for number, (size, stride) in zip(held, _sharded_over(mapping), strict=True):
        if size > 1:
            near = _near(size, stride, plan.world, cluster.gpus_per_node)
            seconds += traffic.send("gradients", (4 + 2) * number * (size - 1) / size, in_node=near) / 2
    return seconds


def _memory(shape: ModelShape, mapping: Mapping, sequence: int, num_micro: int) -> dict[str, float]:
    """Bytes of a rank."""
    plan = mapping.plan
    tokens = mapping.micro_batch * sequence / plan.cp
    own = tokens / plan.tp
    in_flight = float(min(num_micro, plan.pp))
    if mapping.virtual_stages > 1:
        in_flight *= 1 + (plan.pp - 1) / (plan.pp * mapping.virtual_stages)
    attention = own * 10 * shape.hidden * 2
    routed = own * shape.top_k * (2 * shape.hidden + 3 * shape.expert_inner / plan.etp) * 2
    shared = own * 3 * shape.shared_inner * 2
    activations = shape.num_layers / plan.pp * in_flight * (attention + routed + shared)
    # Logits in bfloat16 and float32.
    logits = tokens * shape.vocab_size / plan.tp * 6
    dense, experts = shape.dense_parameters, shape.expert_parameters
    if mapping.fully_sharded:
        layer = (dense / plan.tp + experts / (plan.etp * plan.ep)) / shape.num_layers
        # The layer at hand and the next one, and the gradients of one.
        states = {"parameters and optimizer": 18 * (dense + experts) / plan.world, "layers at hand": 8 * layer}
    else:
        held = dense / (plan.tp * plan.pp) + experts / (plan.etp * plan.ep * plan.pp)
        sharded = dense / (plan.tp * plan.pp * plan.dp * plan.cp) + experts / (plan.etp * plan.ep * plan.pp * plan.edp)
        states = {"parameters and gradients": 6 * held, "optimizer": 12 * sharded}
    return {**states, "activations": activations, "logits": logits}


@functools.cache
def _near(size: int, stride: int, world: int, gpus_per_node: int) -> bool:
    """Whether groups of a size and stride of ranks lie within nodes, from the lists of their ranks."""
    sizes = {"inner": stride, "group": size, "outer": world // (size * stride)}
    return stays_in_node(rank_groups(sizes, ["group"]), gpus_per_node)
