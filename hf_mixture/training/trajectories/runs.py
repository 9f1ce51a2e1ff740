"""Training runs to follow: tiny language models of bytes, one after the other, by the stock Trainer."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from hf_mixture.training.journal import Journal
from hf_mixture.training.recipe import source_of
from hf_mixture.training.trajectories.recipe import RunsSpec


# Bytes read of each domain; far more than the runs need.
MOST_BYTES = 2_000_000


def draw_runs(spec: RunsSpec, seed: int) -> dict[str, dict[str, float]]:
    """Covariates of each run: the logarithm of its learning rate, and the share of the first domain.

    Args:
        spec: The runs.
        seed: Seed.
    """
    generator = np.random.default_rng(seed)
    low, high = np.log10(spec.learning_rates)
    # One rate in each of as many equal intervals: no run is a near copy of another.
    rates = low + (high - low) * (np.arange(spec.num_runs) + generator.random(spec.num_runs)) / spec.num_runs
    shares = generator.random(spec.num_runs)
    first = next(iter(spec.domains))
    width = len(str(spec.num_runs - 1))
    return {
        f"run-{index:0{width}}": {"log10_learning_rate": float(rate), f"share_{first}": float(share)}
        for index, (rate, share) in enumerate(zip(rates, shares, strict=True))
    }


def make_runs(spec: RunsSpec, seed: int, journal: Journal) -> Any:
    """Train every run that is not in the journal.

    Args:
        spec: The runs.
        seed: Seed of weights, order and covariates.
        journal: Where the log of each run is kept.

    Returns:
        A `datasets.Dataset` of training curves with their covariates.
    """
    from tqdm.auto import tqdm

    from hf_mixture.models.trajectory_moe.training_curves import load_training_curves

    covariates = draw_runs(spec, seed)
    blocks: dict[str, Any] = {}
    for name, drawn in tqdm(covariates.items(), desc="training runs", unit="run", delay=2.0):
        if name not in journal.finished:
            blocks = blocks or _read_blocks(spec)
            journal.finish(name, _train(spec, drawn, blocks, [seed, list(covariates).index(name)]))
    logs = {name: [_entry(entry) for entry in journal.finished[name]] for name in covariates}
    return load_training_curves(logs, covariates=covariates)


def _read_blocks(spec: RunsSpec) -> dict[str, Any]:
    """Samples of bytes of each domain [n, T]."""
    from hf_mixture.data.domains import load_domains

    texts = load_domains({name: source_of(name, values) for name, values in spec.domains.items()})
    blocks = {}
    for name in spec.domains:
        data = bytearray()
        for text in texts[name]["train"]["text"]:
            data += text.encode()
            if len(data) >= MOST_BYTES:
                break
        length = len(data) // spec.block_size * spec.block_size
        if length < spec.block_size * spec.batch_size:
            raise ValueError(f"runs.domains.{name} has {len(data)} bytes of text; that is less than one step reads")
        blocks[name] = (
            np.frombuffer(bytes(data[:length]), dtype=np.uint8).reshape(-1, spec.block_size).astype(np.int64)
        )
    return blocks


def _train(
    spec: RunsSpec, covariates: Mapping[str, float], blocks: Mapping[str, Any], seed: list[int]
) -> list[dict[str, Any]]:
    """The log of one run."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, PrinterCallback, Trainer, TrainingArguments

    generator = np.random.default_rng(seed)
    first, second = spec.domains
    is_first = generator.random(spec.num_steps * spec.batch_size) < covariates[f"share_{first}"]
    chosen = [blocks[first if flag else second] for flag in is_first]
    rows = [torch.from_numpy(part[generator.integers(len(part))]) for part in chosen]
    # Each run has weights of its own; with the same ones all curves would begin at one point.
    torch.manual_seed(int(generator.integers(2**31)))
    fields = dict(spec.model)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(fields.pop("model_type"), vocab_size=256, **fields))
    with tempfile.TemporaryDirectory() as scratch:
        arguments = TrainingArguments(
            scratch,
            max_steps=spec.num_steps,
            per_device_train_batch_size=spec.batch_size,
            learning_rate=10 ** covariates["log10_learning_rate"],
            lr_scheduler_type="constant",
            # Clipping is what keeps runs of a learning rate that is too high from showing it.
            max_grad_norm=0.0,
            logging_steps=1,
            # A loss that is not finite is an outcome here.
            logging_nan_inf_filter=False,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
        )
        trainer = Trainer(model, arguments, train_dataset=[{"input_ids": row, "labels": row} for row in rows])
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    kept = ("step", "loss", "learning_rate")
    return [
        {key: entry[key] if np.isfinite(entry[key]) else None for key in kept}
        for entry in trainer.state.log_history
        if "loss" in entry
    ]


def _entry(entry: Mapping[str, Any]) -> dict[str, Any]:
    """An entry of a log with what JSON cannot say put back."""
    return {**entry, "loss": float("nan") if entry["loss"] is None else entry["loss"]}
