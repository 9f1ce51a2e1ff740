"""A search over mappings, for people and for programs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hf_mixture.hub.atomic import write_atomic
from hf_mixture.hub.cards import markdown_table, package_versions
from hf_mixture.moe.parallel.engines import to_megatron_args, to_torchtitan
from hf_mixture.moe.parallel.planner import Candidate, FoldingSearch


# What a `FoldingPlan` is made of; the other sizes follow.
_PLAN_SIZES = ("tp", "cp", "pp", "ep", "etp")


def describe_search(found: FoldingSearch, *, top: int = 5) -> str:
    """Format the best mappings, who can run the best, and why others lose.

    Args:
        found: The search.
        top: Mappings to show.

    Returns:
        Text with a Markdown table.

    Raises:
        ValueError: If no mapping fits.
    """
    best = found.best
    shape, cluster = found.shape, found.cluster
    lines = [
        f"{(shape.dense_parameters + shape.expert_parameters) / 1e9:.1f} billion parameters, "
        f"{shape.expert_parameters / 1e9:.1f} of them experts, on {cluster.num_gpus} GPUs; "
        f"{found.global_batch} sequences of {found.sequence} tokens a step",
        "",
        markdown_table([_row(candidate) for candidate in found.fitting[:top]]),
        "",
        "tp, cp, dp, pp: tensor, context, data and pipeline parallelism; ep, etp, edp: expert, tensor and data "
        "parallelism of the experts; virtual: stages of the pipeline on a GPU.",
        "MFU is estimated, without load imbalance. GB are those of a GPU; traffic is what a GPU sends in a step.",
        "",
        f"Best: {best.mapping.plan.sizes()}, micro-batches of {best.mapping.micro_batch}"
        + (f", {best.mapping.virtual_stages} virtual stages" if best.mapping.virtual_stages > 1 else ""),
    ]
    for engine, problem in best.engines.items():
        lines.append(f"  {engine:<13}{'runs it' if problem is None else 'cannot: ' + problem}")
    lines += [f"  Megatron-LM: {' '.join(to_megatron_args(best.mapping.plan))}", "", "Others:"]
    lines += [f"  {line}" for line in reasons(found)]
    return "\n".join(lines)


def reasons(found: FoldingSearch) -> list[str]:
    """Why mappings of other kinds lose: the best of each kind against the best of all.

    Args:
        found: The search.

    Returns:
        Sentences.
    """
    best = found.best
    said = []
    kinds = {
        "without expert parallelism": lambda plan: plan.ep == 1,
        "without a pipeline": lambda plan: plan.pp == 1,
        "without tensor parallelism": lambda plan: plan.tp == 1 and plan.etp == 1,
        "with experts across nodes": lambda plan: plan.ep * plan.etp > found.cluster.gpus_per_node,
        "with experts as tensor-parallel as attention": lambda plan: plan.etp == plan.tp > 1,
    }
    for kind, belongs in kinds.items():
        others = [candidate for candidate in found.candidates if belongs(candidate.mapping.plan)]
        if not others or belongs(best.mapping.plan):
            continue
        other = others[0]
        sizes, cost = other.mapping.plan.sizes(), other.estimate
        if not other.fits:
            largest = max(cost.memory, key=lambda name: cost.memory[name])
            said.append(
                f"{kind}: out of memory; the smallest, {sizes}, needs {cost.memory_bytes / 1e9:.0f} GB, "
                f"{cost.memory[largest] / 1e9:.0f} of it {largest}"
            )
            continue
        slower = cost.step_seconds / best.estimate.step_seconds
        said.append(f"{kind}: {slower:.2f} x the time ({sizes}); {_loss(other, best)}")
    return said


def as_json(found: FoldingSearch, *, top: int = 5) -> dict[str, Any]:
    """The best mappings as plain data.

    Args:
        found: The search.
        top: Mappings to give.

    Returns:
        The data.

    Raises:
        ValueError: If no mapping fits.
    """
    return {
        "format": "hf_mixture_folding",
        "version": 1,
        "num_gpus": found.cluster.num_gpus,
        "sequence": found.sequence,
        "global_batch": found.global_batch,
        "best": _entry(found.best),
        "fitting": [_entry(candidate) for candidate in found.fitting[:top]],
        "reasons": reasons(found),
    }


def save_search(found: FoldingSearch, folder: Path, *, model: str, command: str, top: int = 5) -> None:
    """Write `plan.json`, and a `README.md` that says how each engine is started with the best mapping.

    Args:
        found: The search.
        folder: Where to; made where it is missing.
        model: What the model is called.
        command: The command, for the card.
        top: Mappings to show.

    Raises:
        ValueError: If no mapping fits; nothing has been written.
    """
    from huggingface_hub import ModelCardData

    document, said = as_json(found, top=top) | {"model": model}, describe_search(found, top=top)
    plan = found.best.mapping.plan
    sizes = ", ".join(f"{name}={getattr(plan, name)}" for name in ("world", *_PLAN_SIZES))
    data = ModelCardData(
        license="apache-2.0",
        library_name="hf-mixture",
        tags=["expert-parallelism", "folding", "hf-mixture", "mixture-of-experts"],
    )
    lines = ["---", data.to_yaml(), "---", "", f"# {model} on {found.cluster.num_gpus} GPUs", ""]
    lines += [
        f"Layouts, best first, after MoE Parallel Folding (arXiv 2504.14960): `{command}`",
        "",
        _with_lists(said),
        "",
    ]
    lines += ["## How to use it", ""]
    lines += ["```python", "from hf_mixture import FoldingPlan", "", f"plan = FoldingPlan({sizes})"]
    by_transformers = [one for one in found.fitting if one.engines["transformers"] is None]
    if found.best.engines["transformers"] is None:
        lines.append('# In each process: from_pretrained("MODEL", distributed_config=plan.to_distributed_config())')
    elif by_transformers:
        other = by_transformers[0]
        slower = other.estimate.step_seconds / found.best.estimate.step_seconds
        sizes = ", ".join(f"{name}={getattr(other.mapping.plan, name)}" for name in ("world", *_PLAN_SIZES))
        lines += [
            f"# The best that transformers runs takes {slower:.2f} x the time:",
            f"stock = FoldingPlan({sizes})",
            '# In each process: from_pretrained("MODEL", distributed_config=stock.to_distributed_config())',
        ]
    lines += [
        "```",
        "",
        "```bash",
        f"torchrun --nproc-per-node {found.cluster.gpus_per_node} train.py  # transformers",
    ]
    lines += [f"pretrain_gpt.py {' '.join(to_megatron_args(plan))}  # Megatron-LM", "```", ""]
    if found.best.engines["torchtitan"] is None:
        lines += ["For torchtitan:", "", "```toml", to_torchtitan(plan).rstrip(), "```", ""]
    versions = [{"package": name, "version": version} for name, version in package_versions().items()]
    lines += ["`plan.json` has all of it for programs.", "", "## Versions", "", markdown_table(versions), ""]
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / "plan.json", json.dumps(document, indent=2) + "\n")
    write_atomic(folder / "README.md", "\n".join(lines))


def _with_lists(said: str) -> str:
    """Indented lines as items of lists, which are what they are in Markdown."""
    lines: list[str] = []
    for line in said.splitlines():
        if line.startswith("  ") and lines[-1] and not lines[-1].startswith("- "):
            lines.append("")
        lines.append(f"- {line[2:]}" if line.startswith("  ") else line)
    return "\n".join(lines)


def _row(candidate: Candidate) -> dict[str, Any]:
    plan, cost = candidate.mapping.plan, candidate.estimate
    sizes = {name: getattr(plan, name) for name in ("tp", "cp", "dp", "pp", "ep", "etp", "edp")}
    return {
        **sizes,
        "micro-batch": candidate.mapping.micro_batch,
        "virtual": candidate.mapping.virtual_stages,
        "MFU %": f"{100 * cost.mfu:.1f}",
        "s/step": f"{cost.step_seconds:.2f}",
        "GB": f"{cost.memory_bytes / 1e9:.0f}",
        "GB in node": f"{sum(cost.traffic['node'].values()) / 1e9:.0f}",
        "GB between": f"{sum(cost.traffic['network'].values()) / 1e9:.0f}",
        "bubble %": f"{100 * cost.bubble:.1f}",
        "transformers": "yes" if candidate.engines["transformers"] is None else "no",
    }


def _entry(candidate: Candidate) -> dict[str, Any]:
    plan, cost = candidate.mapping.plan, candidate.estimate
    return {
        "sizes": {name: getattr(plan, name) for name in ("world", "tp", "cp", "dp", "pp", "ep", "etp", "edp")},
        "micro_batch": candidate.mapping.micro_batch,
        "virtual_stages": candidate.mapping.virtual_stages,
        "mfu": cost.mfu,
        "step_seconds": cost.step_seconds,
        "memory_bytes": cost.memory,
        "traffic_bytes": cost.traffic,
        "bubble": cost.bubble,
        "engines": candidate.engines,
        "megatron_args": to_megatron_args(plan),
    }


def _loss(other: Candidate, best: Candidate) -> str:
    """What a slower mapping does more of."""
    between, ours = (sum(one.estimate.traffic["network"].values()) for one in (other, best))
    if between > 1.5 * ours:
        return f"{between / 1e9:.0f} GB instead of {ours / 1e9:.0f} go between nodes"
    if other.estimate.bubble > best.estimate.bubble + 0.02:
        return f"{100 * other.estimate.bubble:.0f} % of the time pipeline stages wait"
    within, inner = (sum(one.estimate.traffic["node"].values()) for one in (other, best))
    if within > 1.2 * inner:
        return f"{within / 1e9:.0f} GB instead of {inner / 1e9:.0f} go within nodes"
    return "its matrix products are smaller"
