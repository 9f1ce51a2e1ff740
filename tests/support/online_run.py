"""Runs of a tiny model with an online method under the stock Trainer: three domains of real text, bytes as tokens."""

from __future__ import annotations

import email
import hashlib
import json
import logging
from functools import cache
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainerCallback, TrainingArguments

from hf_mixture import Mixture
from hf_mixture.data.mixture_dataset import MixtureDataset
from hf_mixture.data.online import AioliCallback


WEIGHTS = {"email": 0.5, "json": 0.3, "logging": 0.2}
LENGTH = 24
NAMES = tuple(WEIGHTS)


@cache
def domains(num_held_out: int = 4, num_rows: int = 400) -> tuple[dict[str, Dataset], dict[str, Dataset]]:
    """Rows to train on and rows held out, by domain."""
    train, held_out = {}, {}
    for package in (email, json, logging):
        text = b"".join(path.read_bytes() for path in sorted(Path(package.__file__).parent.glob("*.py")))
        rows = [list(text[start : start + LENGTH]) for start in range(0, len(text) - LENGTH, LENGTH)]
        name = package.__name__
        # Every tenth row is held out, the others are trained on.
        held_out[name] = table(rows[::10][:num_held_out])
        train[name] = table([row for number, row in enumerate(rows) if number % 10][:num_rows])
    return train, held_out


def table(rows: list[list[int]]) -> Dataset:
    return Dataset.from_dict({"input_ids": rows, "labels": rows})


def tiny_model(dropout: float = 0.1) -> GPT2LMHeadModel:
    torch.manual_seed(0)
    rates = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), dropout)
    return GPT2LMHeadModel(
        GPT2Config(vocab_size=256, n_embd=16, n_layer=1, n_head=2, n_positions=LENGTH, use_cache=False, **rates)
    )


class Recorder(TrainerCallback):
    """Keeps the samples that each step trains on, one digest for each."""

    def __init__(self) -> None:
        self.digests: list[str] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        model.register_forward_pre_hook(self._watch, with_kwargs=True)

    def _watch(self, module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        if module.training:
            self.digests += [hashlib.sha256(row.numpy().tobytes()).hexdigest()[:12] for row in kwargs["input_ids"]]


def make(
    output: Path,
    callback: Any,
    *more: Any,
    steps: int = 24,
    dropout: float = 0.1,
    block_size: int | None = None,
    mixture: Mixture | None = None,
    **arguments: Any,
) -> Trainer:
    """A Trainer on the three domains; `callback` may be None."""
    defaults: dict[str, Any] = {
        "per_device_train_batch_size": 4,
        "learning_rate": 5e-3,
        "logging_steps": 1,
        "save_strategy": "no",
    }
    arguments = defaults | arguments
    args = TrainingArguments(
        output_dir=str(output),
        max_steps=steps,
        train_sampling_strategy="sequential",
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
        **arguments,
    )
    step_samples = args.world_size * args.per_device_train_batch_size * args.gradient_accumulation_steps
    mixture = mixture or Mixture(WEIGHTS, unit="examples", seed=1)
    dataset = MixtureDataset(domains()[0], mixture, num_examples=steps * step_samples, block_size=block_size)
    callbacks = [one for one in (callback, *more) if one is not None]
    return Trainer(tiny_model(dropout), args, train_dataset=dataset, callbacks=callbacks)


def losses(trainer: Trainer) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def held_out() -> dict[str, Any]:
    return domains()[1]


def aioli(**arguments: Any) -> AioliCallback:
    """Aioli with blocks of one step, in rounds of twelve."""
    return AioliCallback(
        held_out(),
        **({"lp_rounds": 1, "lp_steps": 1, "update_steps": 12, "one_hot_factor": 0.75, "seed": 4} | arguments),
    )
