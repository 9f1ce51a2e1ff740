"""Searches with the tiny mixture on as many processes as there are, and writes what came out of it."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from tiny_supernets import arguments, stripes, tiny_mixture
from transformers import Trainer

from hf_mixture import SuperNetSearchCallback


folder, world_size = Path(sys.argv[1]), int(sys.argv[2])
settings = arguments(folder, per_device_train_batch_size=8 // world_size, max_steps=10)
assert settings.world_size == world_size, (settings.world_size, world_size)
model = tiny_mixture()
search = SuperNetSearchCallback(stripes(24, seed=1), batch_size=12 // world_size, interval=4)
trainer = Trainer(model, settings, train_dataset=stripes(), callbacks=[search])
assert trainer.accelerator.num_processes == world_size
trainer.train()
torch.save(model.state_dict(), folder / f"{world_size}-{settings.process_index}.pt")
