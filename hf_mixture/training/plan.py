"""What a run will do, worked out before anything is written: data sizes, steps, parameter counts."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hf_mixture.training.assets import find_wheel
from hf_mixture.training.models import model_config
from hf_mixture.training.recipe import Recipe, TokenizerSpec
from hf_mixture.training.resolve import peft_config, training_argument_values


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The resolved plan of a recipe.

    Args:
        num_processes: Processes that train together.
        steps: Optimizer steps of each stage.
        num_examples: Blocks that each stage reads.
        base_parameters: Parameters of the base model.
        trainable_parameters: Trainable parameters of each adapter.
        documents: Documents of each domain and split.
        num_bytes: Bytes of text of each domain and split.
    """

    num_processes: int
    steps: dict[str, int]
    num_examples: dict[str, int]
    base_parameters: int
    trainable_parameters: dict[str, int]
    documents: dict[str, dict[str, int]]
    num_bytes: dict[str, dict[str, int]]


def make_plan(recipe: Recipe, texts: Mapping[str, Any]) -> Plan:
    """Work out the plan; building it checks the training arguments and every adapter against the model.

    Args:
        recipe: The recipe.
        texts: For each domain its splits: datasets with a column `text`.

    Returns:
        The plan.

    Raises:
        ValueError: If a training argument or an adapter cannot work; nothing has been written.
    """
    from transformers import TrainingArguments

    num_examples, steps, num_processes = {}, {}, 1
    for name, stage in recipe.stages.items():
        try:
            arguments = TrainingArguments(output_dir=recipe.output_dir, **training_argument_values(recipe, stage))
        except (TypeError, ValueError) as error:
            raise ValueError(f"{name}.training_arguments: {error}") from error
        num_processes = arguments.world_size
        batch = arguments.train_batch_size * arguments.gradient_accumulation_steps * num_processes
        steps[name], num_examples[name] = arguments.max_steps, arguments.max_steps * batch
    base = _empty_model(recipe)
    return Plan(
        num_processes=num_processes,
        steps=steps,
        num_examples=num_examples,
        base_parameters=base.num_parameters(),
        trainable_parameters={name: num_trainable(base, name, values) for name, values in recipe.adapters.items()},
        documents=num_documents(texts),
        num_bytes=num_text_bytes(texts),
    )


def describe(recipe: Recipe, plan: Plan) -> str:
    """Format a plan for people."""
    lines = [f"{recipe.name}: {recipe.description.strip()}".rstrip(" :"), ""]
    lines.append(f"output folder  {recipe.output_dir}")
    lines.append(f"base model     {_model_name(recipe)}, {plan.base_parameters:,} parameters")
    lines.append(f"processes      {plan.num_processes}")
    lines += domain_lines(plan.documents, plan.num_bytes)
    for name, stage in recipe.stages.items():
        examples = plan.num_examples[name]
        shares = ", ".join(f"{domain} {share:.3g}" for domain, share in recipe.mixture(name).weights.items())
        lines += [
            "",
            f"{name:<15}{plan.steps[name]:,} steps, {examples:,} blocks of {recipe.block_size} tokens "
            f"= {examples * recipe.block_size:,} tokens",
            f"{'':<15}mixture by {stage.mixture.unit}: {shares}",
        ]
    rates = ", ".join(f"{rate:g}" for rate in recipe.adapt.learning_rates)
    lines += [f"{'':<15}learning rates {rates}, for each of:"]
    for name, count in plan.trainable_parameters.items():
        values = recipe.adapters[name]
        kind = values["peft_type"] if values else "all weights"
        lines.append(f"{'':<15}{name:<22}{kind:<14}{count:>13,} trainable parameters")
    return "\n".join(lines)


def _model_name(recipe: Recipe) -> str:
    model = recipe.model
    if model.from_config is not None:
        return f"new {model.from_config['model_type']}"
    return model.from_pretrained or str(model.from_wheel)


def _empty_model(recipe: Recipe) -> Any:
    """The base model without memory for its weights."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    model = recipe.model
    if model.from_config is not None:
        bpe = recipe.tokenizer.train_bpe
        if bpe is not None:
            config = model_config(recipe, vocab_size=bpe.vocab_size, separator=0)
        else:
            from hf_mixture.data.encoding import separator_id
            from hf_mixture.training.models import load_tokenizer

            tokenizer = load_tokenizer(recipe)
            config = model_config(recipe, vocab_size=len(tokenizer), separator=separator_id(tokenizer))
    else:
        place, given = model.from_pretrained, {"revision": model.revision, "gguf_file": model.gguf_file}
        if model.from_wheel is not None:
            # The header of the file says enough: a plan converts nothing.
            file = find_wheel(model.from_wheel)
            place, given["gguf_file"] = str(file.parent), file.name
        try:
            config = AutoConfig.from_pretrained(
                place, **{name: value for name, value in given.items() if value is not None}
            )
        except OSError as error:
            raise FileNotFoundError(
                f"the model {place!r} cannot be loaded ({str(error).splitlines()[0]}); check the name and the "
                "network, or give --model a folder with a model and its tokenizer"
            ) from error
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)


def num_trainable(base: Any, name: str, values: Mapping[str, Any] | None) -> int:
    """Count the weights that an adapter trains on a model, which stays as it is; None trains all.

    Raises:
        ValueError: If the adapter does not suit the model.
    """
    if values is None:
        return int(base.num_parameters())
    from peft import get_peft_model

    try:
        model = get_peft_model(copy.deepcopy(base), peft_config(name, values))
    except (TypeError, ValueError) as error:
        raise ValueError(f"adapters.{name}: {error}") from error
    return sum(weight.numel() for weight in model.parameters() if weight.requires_grad)


def vocab_size_of(tokenizer: TokenizerSpec) -> int:
    """Number of tokens of a tokenizer that a recipe names; one that is trained has at most that many."""
    if tokenizer.train_bpe is not None:
        return tokenizer.train_bpe.vocab_size
    from transformers import AutoTokenizer

    return len(AutoTokenizer.from_pretrained(str(tokenizer.from_pretrained)))


def num_documents(texts: Mapping[str, Any]) -> dict[str, dict[str, int]]:
    """Count the documents of each domain and split."""
    return {domain: {split: len(rows) for split, rows in splits.items()} for domain, splits in texts.items()}


def num_text_bytes(texts: Mapping[str, Any]) -> dict[str, dict[str, int]]:
    """Count the UTF-8 bytes of each domain and split."""
    from hf_mixture.data.lengths import column_lengths

    return {
        domain: {
            split: int(column_lengths(rows, "text", unit="bytes", name=domain).sum()) if len(rows) else 0
            for split, rows in splits.items()
        }
        for domain, splits in texts.items()
    }


def domain_lines(documents: Mapping[str, Mapping[str, int]], num_bytes: Mapping[str, Mapping[str, int]]) -> list[str]:
    """The part of a plan for people that says how much text there is."""
    lines = ["", "domain                documents    train bytes   validation         test"]
    for domain, counts in num_bytes.items():
        total = sum(documents[domain].values())
        lines.append(f"{domain:<20}{total:>11,}{counts['train']:>15,}{counts['validation']:>13,}{counts['test']:>13,}")
    return lines
