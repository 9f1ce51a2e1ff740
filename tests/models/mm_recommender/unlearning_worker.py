"""Unlearns on as many processes as there are, and writes losses and weights."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from transformers import TrainerCallback

from hf_mixture import UnlearningOptions, UnlearningRequest
from hf_mixture.models.mm_recommender import training
from hf_mixture.models.mm_recommender.synthetic import synthetic_recommender


class KeepLosses(TrainerCallback):
    losses: list[float] = []  # noqa: RUF012 - one run in each process

    def on_log(self, args, state, control, logs=None, **kwargs) -> None:
        if "loss" in logs:
            self.losses.append(float(logs["loss"]))


folder, world_size, schedule = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
model, data = synthetic_recommender(backbone="lightgcn_mm")
pairs = list(zip(data.train.users[::9].tolist(), data.train.items[::9].tolist(), strict=True))
options = UnlearningOptions(
    schedule=schedule,
    retain_weight=0.5,
    forget_weight=0.5,
    num_steps=10,
    learning_rate=0.01,
    retain_batch=64,
    forget_batch=16,
)
outcome = training.unlearn(
    model,
    data.train,
    UnlearningRequest(interactions=pairs),
    options,
    output_dir=folder / "run",
    callbacks=[KeepLosses()],
    use_cpu=True,
    logging_steps=1,
)
rank = dist.get_rank() if dist.is_initialized() else 0
assert (dist.get_world_size() if dist.is_initialized() else 1) == world_size
assert outcome.num_steps == 10
torch.save({"losses": KeepLosses.losses, "state": model.state_dict()}, folder / f"{world_size}-{rank}.pt")
