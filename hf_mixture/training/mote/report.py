"""Table and report of a run of expert edits. Every figure comes from `results.json`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hf_mixture.hub.cards import markdown_table
from hf_mixture.moe.mote.report import comparison_table
from hf_mixture.training.report import reproduce_lines


def table(results: Mapping[str, Any]) -> str:
    """The conditions: refusals and right answers of private and public prompts, over the seeds."""
    return comparison_table(results)


def promises(results: Mapping[str, Any]) -> str:
    """What the run was to show, and in how many seeds it did."""
    rows = [
        {"to be shown": name, "holds in": f"{sum(holds)} of {len(holds)} seeds"}
        for name, holds in results["requirements"].items()
    ]
    return markdown_table(rows)


def body(results: Mapping[str, Any]) -> str:
    """What report and cards share: the comparison, what it was to show, the plots, each seed, the versions."""
    seeds = [entry["seed"] for entry in results["seeds"]]
    many = f"Means over the seeds {', '.join(map(str, seeds))}, ± standard deviation between them."
    lines = [
        "## Comparison",
        "",
        comparison_table(results),
        "",
        f"Shares of held-out prompts, none of which the experts were found with. {many if len(seeds) > 1 else ''} "
        f"`random`: mean over {results['num_draws']} sets of as many experts drawn from all {results['num_experts']}. "
        "`topic`: as many experts, ranked by how much more the model used them for private prompts before it had "
        "learned to refuse any. Where `topic` does what the edits do, the map found experts of the topic.",
        "",
        "![Refusals and right answers](comparison.png)",
        "",
        "## What was to be shown",
        "",
        promises(results),
        "",
        "## The experts",
        "",
        "![Experts](experts.png)",
        "",
        markdown_table([_expert_row(entry) for entry in results["seeds"]]),
        "",
        "## In weights",
        "",
        markdown_table([_baked_row(entry) for entry in results["seeds"]]),
        "",
        "The edits in mode `zero` were written into the weights, and the model was loaded by a process that knows "
        "transformers and not this package. `difference` is the largest between its logits and those of the edited "
        "model.",
        "",
        "## Each seed",
        "",
    ]
    for entry in results["seeds"]:
        single = {"target": results["target"], "conditions": entry["conditions"]}
        lines += [f"### Seed {entry['seed']}", "", "± is over the random draws.", "", comparison_table(single), ""]
    lines += [
        *reproduce_lines(results),
    ]
    return "\n".join(lines)


def _expert_row(entry: Mapping[str, Any]) -> dict[str, str]:
    scan, chosen = entry["scan"], entry["finetune"]["chosen"]
    return {
        "seed": str(entry["seed"]),
        "refusals": _listed(scan["ranking"]),
        "trained": "all" if chosen is None else _listed(chosen),
        "of them in the first 4": "" if chosen is None else f"{scan['trained_in_first_4']} of {len(chosen)}",
        "topic": _listed(scan["control"]),
        "first 4 found again": f"{scan['overlap_of_first_4']:.2f}",
    }


def _listed(experts: Any) -> str:
    return ", ".join(f"{expert['layer']}.{expert['expert']} ({expert['score']:.2f})" for expert in experts[:4])


def _baked_row(entry: Mapping[str, Any]) -> dict[str, str]:
    baked = entry["baked"]
    return {
        "seed": str(entry["seed"]),
        "experts": str(baked["experts"]),
        "method": baked["method"],
        "exact": "yes" if baked["exact"] else "no",
        "difference": f"{baked['max_difference']:.3g}",
        "same answers": "yes" if baked["same_answers"] else "no",
        **{f"{topic}: refused": f"{share:.3f}" for topic, share in baked["shares"].items()},
    }
