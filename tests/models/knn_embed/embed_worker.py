"""Trains small embeddings on as many processes as there are, and writes what came out."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from tiny_knn_embed import trainer_of


folder, world_size = Path(sys.argv[1]), int(sys.argv[2])
trainer = trainer_of(folder, per_device_train_batch_size=32 // world_size, max_steps=6)
assert trainer.args.world_size == world_size, (trainer.args.world_size, world_size)
assert trainer.accelerator.num_processes == world_size
trainer.train()
state = {name: value.clone() for name, value in trainer.model.state_dict().items()}
torch.save(state, folder / f"{world_size}-{trainer.args.process_index}.pt")
