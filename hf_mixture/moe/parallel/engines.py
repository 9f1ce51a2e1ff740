"""A folding plan in the terms of the engines that run it, and what each of them cannot run.

The Trainer of transformers is the default; torchtitan and Megatron-Core run what it cannot.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from hf_mixture.moe.parallel.folding import FoldingPlan


if TYPE_CHECKING:
    from accelerate import ParallelismConfig
    from transformers.distributed import DistributedConfig


# Ranks over which `ep_implementation="folded"` and its names with a number split an expert.
SPLITS = (1, 2, 4, 8)


def implementation_of(name: str, etp: int) -> str:
    """The name under which an implementation of expert parallelism is registered for a split of experts."""
    return name if etp == 1 else f"{name}_etp{etp}"


def transformers_problem(plan: FoldingPlan) -> str | None:
    """Say why `DistributedConfig` of transformers cannot run a plan.

    Args:
        plan: The plan.

    Returns:
        The reason, or None if it can.
    """
    experts = f"ep={plan.ep}, etp={plan.etp}"
    spread = plan.ep * plan.etp
    problems = {
        f"transformers has no context parallelism together with expert parallelism (cp={plan.cp})": plan.cp > 1,
        f"transformers does not combine pipeline and data parallelism (pp={plan.pp}, dp={plan.dp})": (
            plan.pp > 1 and plan.dp > 1
        ),
        f"transformers does not dispatch tokens to experts in a pipeline (pp={plan.pp}, {experts})": (
            plan.pp > 1 and spread > 1
        ),
        f"experts are split over {', '.join(map(str, SPLITS))} ranks in transformers (etp={plan.etp})": (
            plan.etp not in SPLITS
        ),
        f"ep x etp must be a multiple of tp in transformers ({experts}, tp={plan.tp})": (
            spread > 1 and spread % plan.tp != 0
        ),
        f"without expert parallelism, transformers splits experts over tp (tp={plan.tp}, etp=1)": (
            spread == 1 and plan.tp > 1
        ),
    }
    return next((problem for problem, there in problems.items() if there), None)


def accelerate_problem(plan: FoldingPlan) -> str | None:
    """Say why `ParallelismConfig` of Accelerate cannot run a plan, or None if it can."""
    if plan.ep > 1 or plan.etp > 1:
        return f"Accelerate has no expert parallelism (ep={plan.ep}, etp={plan.etp})"
    if plan.pp > 1:
        return f"Accelerate has no pipeline parallelism (pp={plan.pp})"
    return None


def torchtitan_problem(plan: FoldingPlan) -> str | None:
    """Say why torchtitan cannot run a plan, or None if it can."""
    if plan.etp > 1:
        return f"torchtitan has removed expert tensor parallelism (etp={plan.etp})"
    return None


PROBLEMS: Mapping[str, Callable[[FoldingPlan], str | None]] = {
    "transformers": transformers_problem,
    "accelerate": accelerate_problem,
    "torchtitan": torchtitan_problem,
    "megatron": lambda plan: None,
}


def to_distributed_config(plan: FoldingPlan, **options: Any) -> DistributedConfig:
    """A plan as `from_pretrained(..., distributed_config=...)` takes it.

    Args:
        plan: The plan.
        options: Further fields of `DistributedConfig`, such as `ep_implementation`. Where experts are split (etp),
            that is `"folded"`, the default there, or `"capacity"`.

    Returns:
        The configuration.

    Raises:
        ValueError: If transformers cannot run the plan; the reason, and an engine that can, are named. If an
            implementation is given that does not split experts. If the launcher started another number of processes.
    """
    _require("transformers", plan)
    started = int(os.environ.get("WORLD_SIZE", plan.world))
    if started != plan.world:
        near = plan.nearest(lambda other: PROBLEMS["transformers"](other) is None, world=started)
        assert near is not None  # noqa: S101 - transformers runs a plan with all sizes 1
        raise ValueError(
            f"the plan is for world={plan.world} and the launcher started {started} processes; start {plan.world}, or "
            f"take the nearest layout of {started}: {near.sizes()}"
        )
    from transformers.distributed import DistributedConfig

    if plan.etp > 1:
        implementation = options.pop("ep_implementation", "folded")
        if implementation not in ("folded", "capacity"):
            raise ValueError(
                f'ep_implementation={implementation!r} does not split experts, and etp={plan.etp}; use "folded" or '
                '"capacity", or etp=1'
            )
        options["ep_implementation"] = implementation_of(implementation, plan.etp)
    # Transformers knows no split of experts: it spreads them over all ranks; the implementation lays them out anew.
    spread = plan.ep * plan.etp
    return DistributedConfig(tp_size=plan.tp, fsdp_size=plan.dp, pp_size=plan.pp, ep_size=spread, **options)


def to_parallelism_config(plan: FoldingPlan) -> ParallelismConfig:
    """A plan without expert parallelism as `Accelerator(parallelism_config=...)` takes it.

    Args:
        plan: The plan.

    Returns:
        The configuration.

    Raises:
        ValueError: If Accelerate cannot run the plan; the reason, and an engine that can, are named.
    """
    _require("accelerate", plan)
    from accelerate import ParallelismConfig

    return ParallelismConfig(tp_size=plan.tp, cp_size=plan.cp, dp_shard_size=plan.dp)


def to_megatron_args(plan: FoldingPlan) -> list[str]:
    """A plan as arguments of Megatron-LM, which runs all of them.

    Args:
        plan: The plan.

    Returns:
        The arguments. `--expert-tensor-parallel-size` is always there: without it Megatron takes that of attention.
    """
    sizes = {
        "tensor-model-parallel-size": plan.tp,
        "context-parallel-size": plan.cp,
        "pipeline-model-parallel-size": plan.pp,
        "expert-model-parallel-size": plan.ep,
        "expert-tensor-parallel-size": plan.etp,
    }
    arguments = [word for name, size in sizes.items() for word in (f"--{name}", str(size))]
    # Megatron-LM requires it where both are used.
    return [*arguments, "--sequence-parallel"] if plan.tp > 1 and plan.ep > 1 else arguments


def to_torchtitan(plan: FoldingPlan) -> str:
    """A plan as the `[parallelism]` section of a configuration of torchtitan.

    Args:
        plan: The plan.

    Returns:
        TOML.

    Raises:
        ValueError: If torchtitan cannot run the plan; the reason, and an engine that can, are named.
    """
    _require("torchtitan", plan)
    sizes = {
        "data_parallel_replicate_degree": 1,
        "data_parallel_shard_degree": plan.dp,
        "tensor_parallel_degree": plan.tp,
        "context_parallel_degree": plan.cp,
        "pipeline_parallel_degree": plan.pp,
        "expert_parallel_degree": plan.ep,
    }
    return "\n".join(["[parallelism]", *(f"{name} = {size}" for name, size in sizes.items())]) + "\n"


def _require(engine: str, plan: FoldingPlan) -> None:
    if (problem := PROBLEMS[engine](plan)) is None:
        return
    able = [name for name, problem_of in PROBLEMS.items() if problem_of(plan) is None]
    near = plan.nearest(lambda other: PROBLEMS[engine](other) is None)
    assert near is not None  # noqa: S101 - every engine runs a plan with all sizes 1
    raise ValueError(
        f"{problem}; export the plan to {' or '.join(able)}, or take the nearest layout that {engine} runs: "
        f"{near.sizes()}"
    )
