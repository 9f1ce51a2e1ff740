"""Trains on a mixed stream with the stock Trainer and notes which rows each process sees; run it with torchrun.

Usage: torchrun --nproc_per_node 2 streaming_worker.py FOLDER
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from datasets import Dataset
from transformers import Trainer, TrainingArguments

from hf_mixture.data import Mixture
from hf_mixture.data.streaming import MixtureIterableDataset
from hf_mixture.data.streaming_trainer import MixtureStreamCallback


SIZES = {"wiki": 400, "code": 70, "books": 900}
BATCH = 4
STEPS = 12
OWN_READING = {"dispatch_batches": False}


def build_stream(unit: Any = "examples", num_shards: int = 8, **kwargs: Any) -> MixtureIterableDataset:
    sources = {
        name: Dataset.from_dict(
            {"number": [1000 * i + row for row in range(size)], "length": [1 + row % 7 for row in range(size)]}
        ).to_iterable_dataset(num_shards=num_shards)
        for i, (name, size) in enumerate(SIZES.items())
    }
    mixture = Mixture({"wiki": 0.5, "code": 0.2, "books": 0.3}, unit=unit, seed=11)
    column = None if unit == "examples" else "length"
    return MixtureIterableDataset(sources, mixture, length_column=column, **{"num_examples": 600, **kwargs})


class Model(torch.nn.Module):
    """Notes the rows that it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))
        self.seen: list[list[int]] = []

    def forward(self, number: torch.Tensor) -> dict[str, torch.Tensor]:
        self.seen.append(number.tolist())
        return {"loss": (self.weight * number.float()).mean() * 1e-3}


def train(
    folder: Path,
    dataset: Any,
    *,
    callback: bool,
    num_workers: int = 0,
    config: Any = None,
    resume: bool = False,
    **kwargs: Any,
) -> list[list[int]]:
    """The rows of each micro-batch of this process."""
    values: dict[str, Any] = {
        "max_steps": STEPS,
        "per_device_train_batch_size": BATCH,
        "dataloader_num_workers": num_workers,
        "accelerator_config": config,
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
        "logging_strategy": "no",
        **kwargs,
    }
    model = Model()
    callbacks = [MixtureStreamCallback()] if callback else []
    trainer = Trainer(model, TrainingArguments(str(folder), **values), train_dataset=dataset, callbacks=callbacks)
    trainer.train(resume_from_checkpoint=resume or None)
    return model.seen


def main(folder: Path) -> None:
    cases: dict[str, Any] = {}

    def run(name: str, dataset: Any, **kwargs: Any) -> None:
        try:
            own: Any = train(folder / name.partition(":")[0], dataset, **kwargs)
        except ValueError as error:
            own = str(error)
        everybody: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(everybody, own)
        cases[name] = everybody

    run("one reads, 2 workers", build_stream(batch_size=BATCH), callback=False, num_workers=2)
    run("all read all", build_stream(), callback=False, config=OWN_READING)
    run("own parts, 2 workers", build_stream(num_lanes=4), callback=True, config=OWN_READING, num_workers=2)
    run("own parts, one shard", build_stream(num_shards=1), callback=True, config=OWN_READING, num_workers=2)
    run("tokens", build_stream("tokens", num_lanes=4), callback=True, config=OWN_READING, num_workers=2)
    run("accumulated", build_stream(num_lanes=4), callback=True, config=OWN_READING, gradient_accumulation_steps=2)
    run(
        "to the end",
        build_stream(num_examples=70),
        callback=True,
        config=OWN_READING,
        num_train_epochs=1,
        max_steps=-1,
    )
    common = {"callback": True, "config": OWN_READING, "num_workers": 2}
    run("resumed:first", build_stream(num_lanes=4), **common, save_strategy="steps", save_steps=5, max_steps=5)
    run("resumed:second", build_stream(num_lanes=4), **common, resume=True)
    run("refused: dispatch", build_stream(), callback=True)
    for name, config in (("wrapped", OWN_READING), ("dispatched", None)):
        split = build_stream()
        split.set_layout(rank=dist.get_rank(), world_size=2, batch_size=BATCH)
        run(f"refused: {name}", split, callback=False, config=config)
    run("refused: no length", build_stream(num_examples=None), callback=True, config=OWN_READING)
    run("refused: split batches", build_stream(), callback=True, config={**OWN_READING, "split_batches": True})
    run("refused: map-style", Dataset.from_dict({"number": [1] * 99}), callback=True)
    if dist.get_rank() == 0:
        (folder / "results.json").write_text(json.dumps({"num_processes": dist.get_world_size(), "cases": cases}))


if __name__ == "__main__":
    dist.init_process_group("gloo")
    main(Path(sys.argv[1]))
    dist.destroy_process_group()
