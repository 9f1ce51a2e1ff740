"""What a D2MoE run will do, worked out before anything is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hf_mixture.training.models import config_of
from hf_mixture.training.mwq.recipe import MwqRecipe
from hf_mixture.training.plan import domain_lines, num_documents, num_text_bytes, vocab_size_of
from hf_mixture.training.recipe import StageSpec
from hf_mixture.training.resolve import training_argument_values


@dataclass(frozen=True, kw_only=True)
class MwqPlan:
    """The resolved plan of a D2MoE run.

    Args:
        steps: Optimizer steps of `pretrain` and of `bit_routers`.
        num_examples: Blocks that each of them reads.
        parameters: Parameters of the model.
        expert_parameters: Those of its experts.
        plane_bytes: Bytes of their planes.
        documents: Documents of each domain and split.
        num_bytes: Bytes of text of each domain and split.
    """

    steps: dict[str, int]
    num_examples: dict[str, int]
    parameters: int
    expert_parameters: int
    plane_bytes: int
    documents: dict[str, dict[str, int]]
    num_bytes: dict[str, dict[str, int]]


def make_plan(recipe: MwqRecipe, texts: Mapping[str, Any]) -> MwqPlan:
    """Work out the plan; building it checks the training arguments, and that the model can be quantised.

    Args:
        recipe: The recipe.
        texts: For each domain its splits: datasets with a column `text`.

    Returns:
        The plan.

    Raises:
        ValueError: If a training argument cannot work, the experts cannot be quantised, or several processes were
            started. Nothing has been written.
    """
    import torch
    from transformers import AutoModelForCausalLM, TrainingArguments

    from hf_mixture.moe.mwq.config import MwqConfig
    from hf_mixture.moe.mwq.experts import matrix_names, weight_shape
    from hf_mixture.moe.mwq.planes import num_bytes
    from hf_mixture.moe.mwq.targets import find_targets

    steps, num_examples = {}, {}
    stages = {"pretrain": recipe.pretrain, "bit_routers": recipe.bit_routers.training_arguments}
    for name, given in stages.items():
        stage = StageSpec(mixture=recipe.mixture, training_arguments=given)
        try:
            arguments = TrainingArguments(
                output_dir=recipe.output_dir, **training_argument_values(recipe.data_recipe(), stage)
            )
        except (TypeError, ValueError) as error:
            raise ValueError(f"{name}: {error}") from error
        if arguments.world_size > 1:
            raise ValueError(f"{arguments.world_size} processes were started; hf-mixture mwq run uses one")
        batch = arguments.train_batch_size * arguments.gradient_accumulation_steps
        steps[name], num_examples[name] = arguments.max_steps, arguments.max_steps * batch
    sizes = {"vocab_size": vocab_size_of(recipe.tokenizer), "separator": 0, "block_size": recipe.block_size}
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config_of(recipe.model, **sizes))
    planes = recipe.planes
    targets = find_targets(model, MwqConfig(planes.widths, planes.group_size))
    shapes = [weight_shape(module, name) for module in targets.values() for name in matrix_names(module)]
    return MwqPlan(
        steps=steps,
        num_examples=num_examples,
        parameters=model.num_parameters(),
        expert_parameters=sum(e * r * c for e, r, c in shapes),
        plane_bytes=sum(num_bytes(shape, planes.widths, planes.group_size) for shape in shapes),
        documents=num_documents(texts),
        num_bytes=num_text_bytes(texts),
    )


def describe(recipe: MwqRecipe, plan: MwqPlan) -> str:
    """Format a plan for people."""
    lines = [f"{recipe.name}: {recipe.description.strip()}".rstrip(" :"), ""]
    lines.append(f"output folder  {recipe.output_dir}")
    lines += domain_lines(plan.documents, plan.num_bytes)
    shares = ", ".join(f"{domain} {share:.3g}" for domain, share in recipe.mixture.weights.items())
    widths = ", ".join(map(str, recipe.planes.widths))
    spec = recipe.bit_routers
    lines += [
        f"mixture        by {recipe.mixture.unit}: {shares}",
        "",
        f"pretrain       {recipe.model['model_type']}, {plan.parameters:,} parameters, {plan.expert_parameters:,} of "
        f"them experts; {plan.steps['pretrain']:,} steps of {recipe.block_size}-token blocks",
        f"quantise       to {widths} bits in one file: {plan.plane_bytes:,} bytes; and to each width by itself",
        f"bit routers    {plan.steps['bit_routers']:,} steps for each alpha of {', '.join(map(str, spec.alphas))}",
        f"compare        at {spec.average_bits} bits on average, and with {recipe.speed.budget:.0%} of the bytes of "
        "8-bit experts in memory",
    ]
    return "\n".join(lines)
