"""What a run of thoughts will do, worked out before anything is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hf_mixture.training.models import config_of
from hf_mixture.training.plan import domain_lines, num_documents, num_text_bytes, vocab_size_of
from hf_mixture.training.resolve import filled_arguments
from hf_mixture.training.thoughts.recipe import ThoughtsRecipe


@dataclass(frozen=True, kw_only=True)
class ThoughtsPlan:
    """The resolved plan of a run.

    Args:
        pretrain_steps: Optimizer steps of each new expert.
        pretrain_examples: Blocks that each of them reads.
        tune_steps: Optimizer steps of the mixture and of each control.
        tune_examples: Documents that each of them reads.
        configs: Configuration of each expert; the vocabulary of a new one is as large as the recipe asks for.
        expert_parameters: Parameters of each expert.
        trainable_parameters: Of the mixture, and of its control with one active expert.
        lora_ranks: For each expert the rank that makes LoRA as large as the mixture, as nearly as can be.
        lora_parameters: Trainable parameters with that rank.
        documents: Files of each domain and split.
        num_bytes: Bytes of text of each domain and split.
    """

    pretrain_steps: int
    pretrain_examples: int
    tune_steps: int
    tune_examples: int
    configs: dict[str, Any]
    expert_parameters: dict[str, int]
    trainable_parameters: int
    lora_ranks: dict[str, int]
    lora_parameters: dict[str, int]
    documents: dict[str, dict[str, int]]
    num_bytes: dict[str, dict[str, int]]


def make_plan(recipe: ThoughtsRecipe, texts: Mapping[str, Any]) -> ThoughtsPlan:
    """Work out the plan; building it checks the training arguments, the mixture and LoRA.

    Args:
        recipe: The recipe.
        texts: For each domain its splits: datasets with a column `text`.

    Returns:
        The plan.

    Raises:
        ValueError: If a training argument, a field of the mixture or of LoRA cannot work, or several processes were
            started. Nothing has been written.
    """
    import torch
    from transformers import AutoModelForCausalLM

    tune_steps, tune_examples = _sizes(recipe, "tune", tune_arguments(recipe, recipe.seed, recipe.learning_rates[0]))
    pretrain_steps, pretrain_examples = 0, 0
    if recipe.new_experts:
        pretrain_steps, pretrain_examples = _sizes(
            recipe, "pretrain", filled_arguments(recipe.pretrain or {}, recipe.seed)
        )
    configs = {name: _config(recipe, name) for name in recipe.experts}
    with torch.device("meta"):
        experts = {name: AutoModelForCausalLM.from_config(config) for name, config in configs.items()}
        trainable = _mixture_parameters(recipe, list(experts.values()))
        parameters = {name: expert.num_parameters() for name, expert in experts.items()}
        ranks, sizes = {}, {}
        for name, expert in experts.items():
            one = num_trainable(with_lora(recipe, expert, 1))
            ranks[name] = max(1, round(trainable / one))
            sizes[name] = ranks[name] * one
    return ThoughtsPlan(
        pretrain_steps=pretrain_steps,
        pretrain_examples=pretrain_examples,
        tune_steps=tune_steps,
        tune_examples=tune_examples,
        configs=configs,
        expert_parameters=parameters,
        trainable_parameters=trainable,
        lora_ranks=ranks,
        lora_parameters=sizes,
        documents=num_documents(texts),
        num_bytes=num_text_bytes(texts),
    )


def describe(recipe: ThoughtsRecipe, plan: ThoughtsPlan) -> str:
    """Format a plan for people."""
    lines = [f"{recipe.name}: {recipe.description.strip()}".rstrip(" :"), ""]
    lines.append(f"output folder  {recipe.output_dir}")
    lines += domain_lines(plan.documents, plan.num_bytes)
    spec = recipe.documents
    lines += [
        "",
        f"documents      {spec.num_segments} segments of at most {spec.segment_characters} characters, "
        f"{spec.prompt_segments} of them the prompt; of each kind {spec.num_train} to train on, at most "
        f"{spec.num_validation} for validation and {spec.num_test} to test",
    ]
    lines += [f"{'':<15}{kind:<22}{', '.join(domains)} in turn" for kind, domains in spec.kinds.items()]
    lines += ["", "experts"]
    for name, expert in recipe.experts.items():
        kind = f"{plan.configs[name].model_type}, {plan.expert_parameters[name]:,} parameters"
        how = expert.from_pretrained or "new, trained on " + ", ".join(
            f"{domain} {share:.3g}" for domain, share in recipe.expert_recipe(name).mixture("adapt").weights.items()
        )
        lines.append(f"{'':<15}{name:<22}{kind}; {how}")
    if recipe.new_experts:
        tokens = plan.pretrain_examples * recipe.block_size
        lines.append(
            f"pretrain       {plan.pretrain_steps:,} steps, {plan.pretrain_examples:,} blocks of {recipe.block_size} "
            f"tokens = {tokens:,} tokens, for each new expert"
        )
    rates = ", ".join(f"{rate:g}" for rate in recipe.learning_rates)
    active = recipe.thoughts.get("num_active_experts", len(recipe.experts))
    lines += [
        f"tune           {plan.tune_steps:,} steps, {plan.tune_examples:,} documents; seeds "
        f"{', '.join(map(str, recipe.seeds))}; learning rates {rates}; for each of:",
        f"{'':<15}{'mot':<22}{active} active experts, {plan.trainable_parameters:,} trainable parameters",
        f"{'':<15}{'self_only':<22}1 active expert, {plan.trainable_parameters:,} trainable parameters",
        f"{'':<15}{'lora':<22}on the best expert: "
        + ", or ".join(
            f"{name} rank {rank}, {plan.lora_parameters[name]:,}" for name, rank in plan.lora_ranks.items()
        ),
    ]
    return "\n".join(lines)


def tune_arguments(recipe: ThoughtsRecipe, seed: int, rate: float) -> dict[str, Any]:
    """Fields of `TrainingArguments` for the mixture or a control, with the defaults of this package.

    Args:
        recipe: The recipe.
        seed: Seed of the run.
        rate: Learning rate.

    Returns:
        The fields, without those that name a place.
    """
    # Documents are scored by a callback, in bits per byte: rows have primaries with different vocabularies.
    own = {"learning_rate": rate, "eval_strategy": "no", "remove_unused_columns": False}
    return filled_arguments(recipe.tune, seed) | own


def mixture_settings(recipe: ThoughtsRecipe, *, active: int | None = None) -> dict[str, Any]:
    """Fields of `MixtureOfThoughtsConfig` as the recipe gives them, with another number of active experts if given."""
    given = {"num_active_experts": len(recipe.experts), **recipe.thoughts}
    return given if active is None else given | {"num_active_experts": active}


def with_lora(recipe: ThoughtsRecipe, expert: Any, rank: int) -> Any:
    """Add to a model, in place, the LoRA of the recipe with a rank; its scale is 2.

    Raises:
        ValueError: If a field of `lora` does not fit the model.
    """
    from peft import LoraConfig, get_peft_model

    try:
        return get_peft_model(expert, LoraConfig(**recipe.lora, r=rank, lora_alpha=2 * rank, task_type="CAUSAL_LM"))
    except (TypeError, ValueError) as error:
        raise ValueError(f"lora: {error}") from error


def num_trainable(model: Any) -> int:
    """Number of parameters that are trained."""
    return sum(weight.numel() for weight in model.parameters() if weight.requires_grad)


def _mixture_parameters(recipe: ThoughtsRecipe, experts: list[Any]) -> int:
    from huggingface_hub.errors import StrictDataclassError

    from hf_mixture.models.mixture_of_thoughts.configuration_mixture_of_thoughts import MixtureOfThoughtsConfig
    from hf_mixture.models.mixture_of_thoughts.modeling_mixture_of_thoughts import MixtureOfThoughtsForCausalLM

    try:
        config = MixtureOfThoughtsConfig(experts=[expert.config for expert in experts], **mixture_settings(recipe))
        return num_trainable(MixtureOfThoughtsForCausalLM(config, experts=experts))
    except (TypeError, ValueError, StrictDataclassError) as error:
        raise ValueError(f"thoughts: {error}") from error


def _sizes(recipe: ThoughtsRecipe, stage: str, arguments: Mapping[str, Any]) -> tuple[int, int]:
    """Steps of a stage, and the rows that it reads."""
    from transformers import TrainingArguments

    try:
        checked = TrainingArguments(output_dir=recipe.output_dir, **arguments)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{stage}: {error}") from error
    if checked.world_size > 1:
        raise ValueError(f"{checked.world_size} processes were started; hf-mixture thoughts runs in one")
    batch = checked.train_batch_size * checked.gradient_accumulation_steps
    return checked.max_steps, checked.max_steps * batch


def _config(recipe: ThoughtsRecipe, name: str) -> Any:
    from transformers import AutoConfig

    expert = recipe.experts[name]
    if expert.from_config is None:
        return AutoConfig.from_pretrained(str(expert.from_pretrained), revision=expert.revision or "main")
    return config_of(
        expert.from_config, vocab_size=vocab_size_of(expert.tokenizer), separator=0, block_size=recipe.block_size
    )
