"""`plan_folding`: the mappings of a model onto a cluster, best first, and why the others lose."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from hf_mixture.moe.parallel.cost import CostConstants, Estimate, Mapping, estimate, impossible
from hf_mixture.moe.parallel.engines import PROBLEMS
from hf_mixture.moe.parallel.folding import FoldingPlan
from hf_mixture.moe.parallel.groups import divisors
from hf_mixture.moe.parallel.shape import GpuCluster, ModelShape, shape_of


Method = Literal["folding", "megatron", "tp_ep_dp", "fsdp_ep", "fsdp"]


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One mapping and what it costs.

    Args:
        mapping: The mapping.
        estimate: Its cost.
        fits: Whether a GPU has the memory.
    """

    mapping: Mapping
    estimate: Estimate
    fits: bool

    @property
    def engines(self) -> dict[str, str | None]:
        """For each engine why it cannot run the plan; None if it can."""
        return {name: problem(self.mapping.plan) for name, problem in PROBLEMS.items()}


@dataclass(frozen=True, kw_only=True)
class FoldingSearch:
    """All mappings that were compared.

    Args:
        shape: The model.
        cluster: The machines.
        sequence: Tokens of a sequence.
        global_batch: Sequences of an optimizer step.
        candidates: One for each plan, with its best micro-batch and virtual stages: those that fit, best first, then
            those that do not, the smallest first.
    """

    shape: ModelShape
    cluster: GpuCluster
    sequence: int
    global_batch: int
    candidates: list[Candidate]

    @property
    def fitting(self) -> list[Candidate]:
        """Those that fit into memory, best first."""
        return [candidate for candidate in self.candidates if candidate.fits]

    @property
    def best(self) -> Candidate:
        """The best.

        Raises:
            ValueError: If none fits; the smallest is named.
        """
        if self.candidates and self.candidates[0].fits:
            return self.candidates[0]
        smallest = min(self.candidates, key=lambda candidate: candidate.estimate.memory_bytes)
        raise ValueError(
            f"no mapping fits: the smallest, {smallest.mapping.plan.sizes()}, needs "
            f"{smallest.estimate.memory_bytes / 1e9:.0f} GB of a GPU with {self.cluster.memory_bytes / 1e9:.0f} GB; "
            "use more GPUs, or shorter sequences"
        )


def plan_folding(
    config: Any,
    cluster: GpuCluster,
    *,
    sequence: int,
    global_batch: int,
    micro_batches: Sequence[int] = (1, 2, 4),
    constants: CostConstants | None = None,
) -> FoldingSearch:
    """Compare all mappings of a sparse model onto a cluster, by a model of memory and time.

    The model has four constants, fitted to half of the published measurements on H100 and compared with the other
    half; on other machines it ranks rather than predicts. Load imbalance of the experts is not in it.

    Args:
        config: Configuration of a sparse model of transformers, or its id or folder.
        cluster: The machines; `cluster_of("h100", 64)` makes one.
        sequence: Tokens of a sequence.
        global_batch: Sequences of an optimizer step.
        micro_batches: Sequences of a micro-batch that are tried.
        constants: What the hardware gives of its data sheet.

    Returns:
        The mappings.

    Raises:
        ValueError: If the model has no experts, or a number is out of range.

    Example:
        >>> from transformers import MixtralConfig
        >>> from hf_mixture import plan_folding
        >>> from hf_mixture.moe.parallel.shape import cluster_of
        >>> found = plan_folding(MixtralConfig(), cluster_of("h100", 16), sequence=4096, global_batch=64)
        >>> found.best.estimate.mfu > 0.3
        True
    """
    if isinstance(config, str):
        from transformers import AutoConfig

        config = AutoConfig.from_pretrained(config)
    for name, value in (("sequence", sequence), ("global_batch", global_batch)):
        if type(value) is not int or value < 1:
            raise ValueError(f"{name}={value!r} is not a positive whole number")
    shape = shape_of(config)
    candidates = []
    for plan in plans_of(shape, cluster.num_gpus, "folding", sequence):
        if plan.model_problem(config) is not None:
            continue
        best = best_of_plan(
            shape,
            plan,
            cluster,
            sequence=sequence,
            global_batch=global_batch,
            micro_batches=micro_batches,
            constants=constants,
        )
        if best is not None:
            candidates.append(best)
    if not candidates:
        raise ValueError(
            f"no mapping of {cluster.num_gpus} GPUs divides a batch of {global_batch} sequences; give another "
            "global_batch, such as a multiple of the number of GPUs"
        )
    candidates.sort(key=lambda c: (not c.fits, -c.estimate.mfu if c.fits else c.estimate.memory_bytes))
    return FoldingSearch(
        shape=shape, cluster=cluster, sequence=sequence, global_batch=global_batch, candidates=candidates
    )


def plans_of(shape: ModelShape, world: int, method: Method, sequence: int = 4096) -> Iterator[FoldingPlan]:
    """The plans that a method may use: powers of two within a node for tp and etp, and what divides the model.

    Context parallelism is for long sequences: each of its ranks has 4,096 tokens or more.

    Args:
        shape: The model.
        world: Number of ranks.
        method: `"folding"`; `"megatron"`, without folding; `"tp_ep_dp"`, that without a pipeline; `"fsdp_ep"` and
            `"fsdp"`, fully sharded with and without expert parallelism.
        sequence: Tokens of a sequence. Default: 4096.

    Yields:
        Plans.
    """
    tps = [size for size in (1, 2, 4, 8) if world % size == 0 and shape.kv_width % size == 0]
    pps = [size for size in divisors(world) if shape.num_layers % size == 0 and size <= 16]
    eps = [size for size in divisors(world) if shape.num_experts % size == 0]
    cps = [size for size in (1, 2, 4, 8) if size == 1 or sequence // size >= 4096]
    pipelined = method in ("folding", "megatron")
    for tp, pp, cp in itertools.product(tps, pps if pipelined else [1], cps if pipelined else [1]):
        for ep in eps if method != "fsdp" else [1]:
            for etp in tps if method == "folding" else [tp]:
                if world % (tp * cp * pp) == 0 and world % (etp * ep * pp) == 0:
                    yield FoldingPlan(world=world, tp=tp, cp=cp, pp=pp, ep=ep, etp=etp)


def best_of_plan(
    shape: ModelShape,
    plan: FoldingPlan,
    cluster: GpuCluster,
    *,
    sequence: int,
    global_batch: int,
    micro_batches: Sequence[int] = (1, 2, 4),
    method: Method = "folding",
    constants: CostConstants | None = None,
) -> Candidate | None:
    """The fastest way to run a plan that fits; the smallest if none does; None if none is possible.

    Args:
        shape: The model.
        plan: The plan.
        cluster: The machines.
        sequence: Tokens of a sequence.
        global_batch: Sequences of an optimizer step.
        micro_batches: Sequences of a micro-batch that are tried.
        method: As in `plans_of`.
        constants: What the hardware gives of its data sheet.
    """
    stages = [size for size in divisors(shape.num_layers) if size <= 10] if plan.pp > 1 else [1]
    found = []
    for micro_batch in micro_batches:
        for virtual_stages in stages:
            mapping = Mapping(
                plan=plan,
                micro_batch=micro_batch,
                virtual_stages=virtual_stages,
                fully_sharded=method.startswith("fsdp"),
                folded=method == "folding",
            )
            if impossible(shape, mapping, global_batch) is None:
                cost = estimate(
                    shape, mapping, cluster, sequence=sequence, global_batch=global_batch, constants=constants
                )
                fits = cost.memory_bytes <= cluster.memory_bytes
                found.append(Candidate(mapping=mapping, estimate=cost, fits=fits))
    return min(found, key=lambda c: (not c.fits, -c.estimate.mfu if c.fits else c.estimate.memory_bytes), default=None)
