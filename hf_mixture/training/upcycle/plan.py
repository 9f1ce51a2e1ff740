"""What an upcycling run will do, worked out before anything is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hf_mixture.training.models import config_of
from hf_mixture.training.plan import domain_lines, num_documents, num_text_bytes, vocab_size_of
from hf_mixture.training.recipe import StageSpec
from hf_mixture.training.resolve import training_argument_values
from hf_mixture.training.upcycle.recipe import UpcycleRecipe


@dataclass(frozen=True, kw_only=True)
class UpcyclePlan:
    """The resolved plan of an upcycling run.

    Args:
        steps: Optimizer steps of `pretrain` and of `continued`.
        num_examples: Blocks that each of them reads.
        dense_parameters: Parameters of the dense model.
        moe_parameters: Parameters of the mixture of experts.
        active_parameters: Those that a token meets, with the top k of the family.
        moe_type: Model type of the mixture of experts.
        documents: Documents of each domain and split.
        num_bytes: Bytes of text of each domain and split.
    """

    steps: dict[str, int]
    num_examples: dict[str, int]
    dense_parameters: int
    moe_parameters: int
    active_parameters: int
    moe_type: str
    documents: dict[str, dict[str, int]]
    num_bytes: dict[str, dict[str, int]]


def make_plan(recipe: UpcycleRecipe, texts: Mapping[str, Any]) -> UpcyclePlan:
    """Work out the plan; building it checks the training arguments and the counterpart of the dense model.

    Args:
        recipe: The recipe.
        texts: For each domain its splits: datasets with a column `text`.

    Returns:
        The plan.

    Raises:
        ValueError: If a training argument cannot work, the dense model has no counterpart with experts, or several
            processes were started. Nothing has been written.
    """
    import torch
    from transformers import AutoModelForCausalLM, TrainingArguments

    from hf_mixture.moe.anatomy import find_routers
    from hf_mixture.moe.routers.upcycle import moe_config

    steps, num_examples = {}, {}
    for name, given in (("pretrain", recipe.pretrain), ("continued", recipe.continued)):
        stage = StageSpec(mixture=recipe.mixture, training_arguments=given)
        try:
            arguments = TrainingArguments(
                output_dir=recipe.output_dir, **training_argument_values(recipe.data_recipe(), stage)
            )
        except (TypeError, ValueError) as error:
            raise ValueError(f"{name}: {error}") from error
        if arguments.world_size > 1:
            raise ValueError(f"{arguments.world_size} processes were started; hf-mixture upcycle runs in one")
        batch = arguments.train_batch_size * arguments.gradient_accumulation_steps
        steps[name], num_examples[name] = arguments.max_steps, arguments.max_steps * batch
    spec = recipe.upcycle
    sizes = {"vocab_size": vocab_size_of(recipe.tokenizer), "separator": 0, "block_size": recipe.block_size}
    with torch.device("meta"):
        dense = AutoModelForCausalLM.from_config(config_of(recipe.dense, **sizes))
        num_experts = spec.num_experts * spec.granularity
        config = moe_config(
            dense, None, num_experts=num_experts, top_k=min(spec.top_k, num_experts), num_shards=spec.granularity
        )
        moe = AutoModelForCausalLM.from_config(config)
    if spec.top_k > num_experts:
        raise ValueError(f"upcycle.top_k is {spec.top_k}, more than the {num_experts} experts; lower it")
    idle = 0
    for router in find_routers(moe):
        assert router.experts is not None  # noqa: S101 - all counterparts have stacked experts
        each = sum(weight.numel() for weight in router.experts.parameters()) // router.num_experts
        idle += each * (router.num_experts - router.top_k)
    return UpcyclePlan(
        steps=steps,
        num_examples=num_examples,
        dense_parameters=dense.num_parameters(),
        moe_parameters=moe.num_parameters(),
        active_parameters=moe.num_parameters() - idle,
        moe_type=config.model_type,
        documents=num_documents(texts),
        num_bytes=num_text_bytes(texts),
    )


def describe(recipe: UpcycleRecipe, plan: UpcyclePlan) -> str:
    """Format a plan for people."""
    lines = [f"{recipe.name}: {recipe.description.strip()}".rstrip(" :"), ""]
    lines.append(f"output folder  {recipe.output_dir}")
    lines += domain_lines(plan.documents, plan.num_bytes)
    shares = ", ".join(f"{domain} {share:.3g}" for domain, share in recipe.mixture.weights.items())
    spec = recipe.upcycle
    shards = f" of {spec.granularity} shards" if spec.granularity > 1 else ""
    lines += [
        f"mixture        by {recipe.mixture.unit}: {shares}",
        "",
        f"pretrain       {recipe.dense['model_type']}, {plan.dense_parameters:,} parameters, "
        f"{_run(recipe, plan, 'pretrain')}",
        f"upcycle        to {plan.moe_type}, {plan.moe_parameters:,} parameters, {plan.active_parameters:,} of them "
        f"for a token: {spec.num_experts} copies{shards}, top {spec.top_k}",
        f"continued      {_run(recipe, plan, 'continued')}; seeds {', '.join(map(str, recipe.seeds))}; for each of:",
        f"{'':<15}{'dense':<22}all weights of the dense model",
    ]
    for name, router in recipe.routers.items():
        balance = [f"{key} {values}" for key, values in (("losses", router.losses), ("bias", router.bias)) if values]
        options = f" {router.options}" if router.options else ""
        lines.append(
            f"{'':<15}{name:<22}{router.router}{options}; {'; '.join(balance) or 'nothing balances the load'}"
        )
    return "\n".join(lines)


def _run(recipe: UpcycleRecipe, plan: UpcyclePlan, stage: str) -> str:
    blocks = plan.num_examples[stage]
    return (
        f"{plan.steps[stage]:,} steps, {blocks:,} blocks of {recipe.block_size} tokens = "
        f"{blocks * recipe.block_size:,} tokens"
    )
