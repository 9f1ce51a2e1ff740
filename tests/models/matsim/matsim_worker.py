"""Loads batches under Accelerate, and trains the tiny MatSim, as one of two processes."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from accelerate import Accelerator, DataLoaderConfiguration
from tiny_matsim import train_on_one_batch
from torch.utils.data import DataLoader

from hf_mixture import MaterialBatchSampler


folder = Path(sys.argv[1])
for way in ("plain", "split_batches", "dispatch_batches"):
    settings = DataLoaderConfiguration(**({} if way == "plain" else {way: True}))
    accelerator = Accelerator(cpu=True, dataloader_config=settings)
    assert accelerator.num_processes == 2
    rank = accelerator.process_index
    set_ids = [row % 7 for row in range(70)]
    sampler = MaterialBatchSampler(set_ids, sets_per_batch=2, images_per_set=5, seed=1)
    loader = accelerator.prepare(DataLoader(torch.arange(70), batch_sampler=sampler))
    batches = []
    for epoch in range(2):
        loader.set_epoch(epoch)
        batches += [batch.tolist() for batch in loader]
    (folder / f"{way}-{rank}.json").write_text(json.dumps(batches))
torch.save(train_on_one_batch(folder / "trainer", world_size=2), folder / f"{rank}.pt")
