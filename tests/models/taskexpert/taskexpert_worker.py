"""Trains the tiny TaskExpert on as many processes as there are, and writes what came out of it."""

from __future__ import annotations

import sys
from pathlib import Path

import tiny_taskexpert as tiny
import torch

from hf_mixture import TaskExpertTrainer, collate_scenes


folder, world_size = Path(sys.argv[1]), int(sys.argv[2])
settings = tiny.arguments(folder, per_device_train_batch_size=16 // world_size)
assert settings.world_size == world_size, (settings.world_size, world_size)
trainer = TaskExpertTrainer(
    tiny.without_batch_norm(), settings, train_dataset=tiny.uneven_rows(), data_collator=collate_scenes
)
assert trainer.accelerator.num_processes == world_size
trainer.train()
torch.save(trainer.model.state_dict(), folder / f"{world_size}-{settings.process_index}.pt")
