"""Trains the tiny MixER on as many processes as there are, and writes what came out of it."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from tiny_mixer import arguments, rotations, tiny_mixer

from hf_mixture import MixerTrainer
from hf_mixture.models.mixer.trainer import MixerSchedule


folder, world_size, gate = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
settings = arguments(folder, per_device_train_batch_size=8 // world_size, max_steps=10)
assert settings.world_size == world_size, (settings.world_size, world_size)
model = tiny_mixer(gate=gate)
schedule = MixerSchedule(context_steps=3, expert_steps=2, gate_interval=2)
trainer = MixerTrainer(model, settings, schedule=schedule, train_dataset=rotations())
assert trainer.accelerator.num_processes == world_size
trainer.train()
torch.save(
    {"state": model.state_dict(), "reports": trainer.gate_reports},
    folder / f"{gate}-{world_size}-{settings.process_index}.pt",
)
