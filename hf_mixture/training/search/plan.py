"""What a search will do, worked out before anything is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hf_mixture.training.models import config_of
from hf_mixture.training.search.methods import ONLINE
from hf_mixture.training.search.proxies import proxy_spec
from hf_mixture.training.search.recipe import SearchRecipe
from hf_mixture.training.search.searcher import make_search, planned_runs


@dataclass(frozen=True, kw_only=True)
class RunPlan:
    """One training run.

    Args:
        parameters: Parameters of the model.
        steps: Optimizer steps.
        batch_size: Blocks of one optimizer step.
        tokens: Tokens that it reads.
    """

    parameters: int
    steps: int
    batch_size: int
    tokens: int


@dataclass(frozen=True, kw_only=True)
class SearchPlan:
    """The resolved plan of a search.

    Args:
        documents: Documents of each domain and target as named in the recipe, by split.
        num_bytes: Bytes of their text, by split.
        proxy: One proxy run of full size; None when there is none.
        num_proxies: How many proxy runs the search makes, as text.
        comparison: One run of the comparison.
    """

    documents: dict[str, dict[str, int]]
    num_bytes: dict[str, dict[str, int]]
    proxy: RunPlan | None
    num_proxies: str
    comparison: RunPlan


def make_plan(recipe: SearchRecipe, texts: Mapping[str, Any]) -> SearchPlan:
    """Work out the plan; building it checks the training arguments and the settings of the method.

    Args:
        recipe: The recipe.
        texts: For each domain and target its splits: datasets with a column `text`.

    Returns:
        The plan.

    Raises:
        ValueError: If a training argument or a setting cannot work; nothing has been written.
    """
    from hf_mixture.data.lengths import column_lengths

    num_bytes = {
        name: {
            split: int(column_lengths(rows, "text", unit="bytes", name=name).sum()) if len(rows) else 0
            for split, rows in splits.items()
        }
        for name, splits in texts.items()
    }
    proxies = "none"
    if recipe.method.name not in ONLINE:
        proxies = planned_runs(make_search(recipe, prior=None, constraints=None))
    return SearchPlan(
        documents={name: {split: len(rows) for split, rows in splits.items()} for name, splits in texts.items()},
        num_bytes=num_bytes,
        proxy=_plan_proxy(recipe),
        num_proxies=proxies,
        comparison=_plan_comparison(recipe),
    )


def describe(recipe: SearchRecipe, plan: SearchPlan) -> str:
    """Format a plan for people."""
    lines = [f"{recipe.name}: {recipe.description.strip()}".rstrip(" :"), ""]
    lines += [f"output folder  {recipe.output_dir}", ""]
    lines.append("text                  documents    train bytes   validation         test")
    for name, counts in plan.num_bytes.items():
        documents = sum(plan.documents[name].values())
        role = "  (scored only)" if name in recipe.targets else ""
        lines.append(
            f"{name:<20}{documents:>11,}{counts['train']:>15,}{counts['validation']:>13,}{counts['test']:>13,}{role}"
        )
    if recipe.clusters is not None:
        lines.append(
            f"{'':<15}grouped into {recipe.clusters.num_domains} domains by {recipe.clusters.clusterer} "
            f"with {recipe.clusters.num_clusters} clusters"
        )
    objective = recipe.objective
    lines += ["", f"objective      {objective.direction} {_metric_name(objective.metric)}"]
    lines.append(f"method         {recipe.method.name} {recipe.method.settings or ''}".rstrip())
    bounds = {name: value for name, value in vars(recipe.constraints).items() if value}
    if bounds:
        lines.append(f"constraints    {bounds}")
    if plan.proxy is not None:
        trained = "as one stacked model" if recipe.swarm else "one after the other"
        lines.append(
            f"proxies        {plan.num_proxies}, {trained}; one is {_run_text(plan.proxy, recipe.block_size)}"
        )
    mixtures = [recipe.method.name, *recipe.comparison.baselines]
    seeds = recipe.comparison.seeds
    lines.append(
        f"comparison     {', '.join(mixtures)}; seeds {', '.join(map(str, seeds))}: {len(mixtures) * len(seeds)} runs "
        f"of {_run_text(plan.comparison, recipe.block_size)}"
    )
    return "\n".join(lines)


def _metric_name(metric: Any) -> str:
    if isinstance(metric, str):
        return metric
    return " + ".join(f"{weight:g}*{name}" for name, weight in metric.items())


def _run_text(plan: RunPlan, block_size: int) -> str:
    return (
        f"{plan.parameters:,} parameters, {plan.steps:,} steps of {plan.batch_size} blocks of {block_size} tokens = "
        f"{plan.tokens:,} tokens"
    )


def _plan_proxy(recipe: SearchRecipe) -> RunPlan | None:
    if recipe.proxy is None:
        return None
    spec = proxy_spec(recipe, recipe.proxy, vocab_size=_vocab_size(recipe), separator=0)
    return _run_plan(recipe, spec.model, spec.num_steps, spec.batch_size)


def _plan_comparison(recipe: SearchRecipe) -> RunPlan:
    from transformers import TrainingArguments

    spec = recipe.comparison
    try:
        arguments = TrainingArguments(output_dir=recipe.output_dir, **spec.training_arguments)
    except (TypeError, ValueError) as error:
        raise ValueError(f"comparison.training_arguments: {error}") from error
    batch = arguments.train_batch_size * arguments.gradient_accumulation_steps * arguments.world_size
    return _run_plan(recipe, spec.model, arguments.max_steps, batch)


def _run_plan(recipe: SearchRecipe, model: Mapping[str, Any], steps: int, batch_size: int) -> RunPlan:
    import torch
    from transformers import AutoModelForCausalLM

    sizes = {"vocab_size": _vocab_size(recipe), "separator": 0, "block_size": recipe.block_size}
    with torch.device("meta"):
        empty = AutoModelForCausalLM.from_config(config_of(model, **sizes))
    return RunPlan(
        parameters=empty.num_parameters(),
        steps=steps,
        batch_size=batch_size,
        tokens=steps * batch_size * recipe.block_size,
    )


def _vocab_size(recipe: SearchRecipe) -> int:
    if recipe.tokenizer.train_bpe is not None:
        return recipe.tokenizer.train_bpe.vocab_size
    from transformers import AutoTokenizer

    return len(AutoTokenizer.from_pretrained(str(recipe.tokenizer.from_pretrained)))
