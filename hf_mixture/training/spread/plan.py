"""What a spread run will do, worked out before anything is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hf_mixture.training.models import config_of
from hf_mixture.training.plan import domain_lines, num_documents, num_text_bytes, vocab_size_of
from hf_mixture.training.recipe import StageSpec
from hf_mixture.training.report import processes_text
from hf_mixture.training.resolve import training_argument_values
from hf_mixture.training.spread.recipe import SpreadRecipe, SystemSpec


@dataclass(frozen=True, kw_only=True)
class SpreadPlan:
    """The resolved plan of a spread run.

    Args:
        steps: Optimizer steps.
        num_examples: Blocks that each system reads.
        parameters: Parameters of the model.
        expert_parameters: Those of its experts.
        num_experts: Experts of a layer.
        num_layers: Layers with experts.
        documents: Documents of each domain and split.
        num_bytes: Bytes of text of each domain and split.
    """

    steps: int
    num_examples: int
    parameters: int
    expert_parameters: int
    num_experts: int
    num_layers: int
    documents: dict[str, dict[str, int]]
    num_bytes: dict[str, dict[str, int]]


def make_plan(recipe: SpreadRecipe, texts: Mapping[str, Any]) -> SpreadPlan:
    """Work out the plan; building it checks the training arguments, and that the model divides over the processes.

    Args:
        recipe: The recipe.
        texts: For each domain its splits: datasets with a column `text`.

    Returns:
        The plan.

    Raises:
        ValueError: If a training argument cannot work, experts do not divide, or several processes were started.
            Nothing has been written.
    """
    import torch
    from transformers import AutoModelForCausalLM, TrainingArguments

    from hf_mixture.moe.anatomy.find import find_routers

    stage = StageSpec(mixture=recipe.mixture, training_arguments=recipe.pretrain)
    try:
        arguments = TrainingArguments(
            output_dir=recipe.output_dir, **training_argument_values(recipe.data_recipe(), stage)
        )
    except (TypeError, ValueError) as error:
        raise ValueError(f"pretrain: {error}") from error
    if arguments.world_size > 1:
        raise ValueError(f"{arguments.world_size} processes were started; hf-mixture spread run starts them itself")
    sizes = {"vocab_size": vocab_size_of(recipe.tokenizer), "separator": 0, "block_size": recipe.block_size}
    config = config_of(recipe.model, **sizes)
    check_layouts(recipe.systems, config, "systems")
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    routers = find_routers(model)
    batch = arguments.train_batch_size * arguments.gradient_accumulation_steps
    experts = [weight for name, weight in model.named_parameters() if ".experts." in name]
    return SpreadPlan(
        steps=arguments.max_steps,
        num_examples=arguments.max_steps * batch,
        parameters=model.num_parameters(),
        expert_parameters=sum(weight.numel() for weight in experts),
        num_experts=routers[0].num_experts,
        num_layers=len(routers),
        documents=num_documents(texts),
        num_bytes=num_text_bytes(texts),
    )


def check_layouts(systems: Mapping[str, SystemSpec], config: Any, where: str) -> None:
    """Check that every system can lay out the experts of a model.

    Args:
        systems: The systems by name.
        config: Configuration of the model.
        where: Key of the recipe that holds them, for messages.

    Raises:
        ValueError: If one cannot.
    """
    for name, system in systems.items():
        try:
            folding_of(system).check_model(config)
        except ValueError as error:
            raise ValueError(f"{where}.{name}: {error}") from None


def folding_of(system: SystemSpec) -> Any:
    """The layout of a system: experts over all processes, batches too.

    Args:
        system: The system.

    Returns:
        A `FoldingPlan`.
    """
    from hf_mixture.moe.parallel.folding import FoldingPlan

    world = system.num_processes
    if world % system.etp:
        raise ValueError(f"etp={system.etp} does not divide num_processes={world}")
    return FoldingPlan(world=world, ep=world // system.etp, etp=system.etp)


def describe(recipe: SpreadRecipe, plan: SpreadPlan) -> str:
    """Format a plan for people."""
    lines = [f"{recipe.name}: {recipe.description.strip()}".rstrip(" :"), ""]
    lines.append(f"output folder  {recipe.output_dir}")
    lines += domain_lines(plan.documents, plan.num_bytes)
    shares = ", ".join(f"{domain} {share:.3g}" for domain, share in recipe.mixture.weights.items())
    lines += [
        f"mixture        by {recipe.mixture.unit}: {shares}",
        "",
        f"train          {recipe.model['model_type']}, {plan.parameters:,} parameters, {plan.expert_parameters:,} of "
        f"them {plan.num_experts} experts in each of {plan.num_layers} layers; {plan.steps:,} steps of "
        f"{recipe.block_size}-token blocks, by each of",
    ]
    for name, system in recipe.systems.items():
        how = "stock" if system.num_processes == 1 else system.ep_implementation
        options = ", ".join(f"{key} {value}" for key, value in system.options.items())
        lines.append(f"  {name:12} {processes_text(system.num_processes)}, {how}{': ' if options else ''}{options}")
    return "\n".join(lines)
