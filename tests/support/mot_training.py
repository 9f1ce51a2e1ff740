"""A toy on which the right expert is plain: each of two experts is trained on its own kind of sentence.

Run as a script it is one process of two.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from tiny_experts import tiny_expert, tokenizer_of
from transformers import PreTrainedModel, Trainer, TrainingArguments

from hf_mixture.models.mixture_of_thoughts.data_collator import MixtureOfThoughtsCollator
from hf_mixture.models.mixture_of_thoughts.modeling_mixture_of_thoughts import MixtureOfThoughtsForCausalLM
from hf_mixture.models.mixture_of_thoughts.processing_mixture_of_thoughts import MixtureOfThoughtsProcessor


FAMILIES = ("llama", "gpt2")
NUMBERS = [str(number) for number in range(10)]
NAMES = ["peer", "mixture", "answer", "tokens", "models", "brackets"]


def sentences(domain: int, count: int, seed: int) -> list[dict[str, str]]:
    """Prompts and answers of one of two domains: numbers that go on, or words that repeat."""
    draw = random.Random(seed)  # noqa: S311 - a toy
    rows = []
    for _ in range(count):
        if domain == 0:
            start = draw.randrange(6)
            prompt, answer = " ".join(NUMBERS[start : start + 3]), " " + NUMBERS[start + 3]
        else:
            first, second = draw.sample(NAMES, 2)
            prompt, answer = f"{first} and {second} and {first} and", f" {second}"
        rows.append({"prompt": prompt, "answer": answer})
    return rows


def trained_expert(domain: int, steps: int = 150) -> PreTrainedModel:
    """An expert of one domain."""
    family = FAMILIES[domain]
    model, tokenizer = tiny_expert(family).train(), tokenizer_of(family)
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    torch.manual_seed(0)
    for step in range(steps):
        rows = sentences(domain, 16, step)
        texts = [row["prompt"] + row["answer"] for row in rows]
        batch = tokenizer(texts, padding=True, return_tensors="pt")
        labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
        loss = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], labels=labels).loss
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    return model.eval()


def build(**config: Any) -> tuple[MixtureOfThoughtsForCausalLM, MixtureOfThoughtsProcessor]:
    """A new mixture of two experts that nobody has trained, for tests that need no domain."""
    settings = {"num_levels": 3, "latent_size": 16, "num_heads": 2, "num_active_experts": 2, **config}
    torch.manual_seed(0)
    model = MixtureOfThoughtsForCausalLM.from_experts([tiny_expert(family) for family in FAMILIES], **settings)
    return model, MixtureOfThoughtsProcessor([tokenizer_of(family) for family in FAMILIES])


def train(model, processor, rows, folder, **arguments: Any) -> Trainer:
    """The stock Trainer on a mixture."""
    settings = {
        "output_dir": str(folder),
        "max_steps": 4,
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-2,
        "logging_steps": 1,
        "report_to": [],
        "save_strategy": "no",
        "use_cpu": True,
        "remove_unused_columns": False,
        "disable_tqdm": True,
        "seed": 0,
        "lr_scheduler_type": "constant",
        "prediction_loss_only": True,
        **arguments,
    }
    trainer = Trainer(
        model=model,
        args=TrainingArguments(**settings),
        train_dataset=Dataset.from_list(rows),
        data_collator=MixtureOfThoughtsCollator(processor),
    )
    trainer.train(resume_from_checkpoint=arguments.get("resume_from_checkpoint"))
    return trainer


def losses(trainer: Trainer) -> list[float]:
    """The logged training losses."""
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def two_process_run(folder: Path, batch_size: int) -> list[float]:
    """Steps in which all rows of a process have one primary, so that some levels get no gradient from it.

    Every answer is one token and the end of text for both experts, and no loss is taken over the batch as a whole, so
    that the mean over two processes is the mean over the doubled batch.
    """
    coefficients = {"entropy_coefficient": 0.0, "balance_coefficient": 0.0}
    model, processor = build(selection_noise=0.0, router_dropout=0.0, num_active_experts=1, **coefficients)
    with torch.no_grad():
        for parameter in model.levels.parameters():
            parameter.normal_(std=0.1)
    rows = [{**row, "answer": " the"} for domain in (0, 1) * 4 for row in sentences(domain, 4, domain)]
    arguments = {"train_sampling_strategy": "sequential", "per_device_train_batch_size": batch_size}
    trainer = train(model, processor, rows, folder, **arguments)
    if trainer.is_world_process_zero():
        state = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
        torch.save(state, folder / f"trained_{batch_size}.pt")
    return losses(trainer)


if __name__ == "__main__":
    place = Path(sys.argv[1])
    result = two_process_run(place, 4)
    assert torch.distributed.get_world_size() == 2
    if torch.distributed.get_rank() == 0:
        (place / "losses.json").write_text(json.dumps(result))
    torch.distributed.destroy_process_group()
