"""A small MixER and trajectories of two families, for training tests."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments

from hf_mixture import MixerConfig, MixerForTrajectoryReconstruction


def rotations(*, environments: int = 4, trajectories: int = 2) -> list[dict[str, Any]]:
    """Exact trajectories of two families: decay in the first half of the environments, rotation in the second."""
    rows = []
    times = [0.1 * place for place in range(6)]
    for environment in range(environments):
        rate = 1 + 0.1 * environment
        for number in range(trajectories):
            x, y = 1.0 + 0.2 * number, 0.5 - 0.1 * number
            if environment < environments // 2:
                states = [[x * math.exp(-rate * t), y * math.exp(-rate * t)] for t in times]
            else:
                turned = [(math.cos(2 * rate * t), math.sin(2 * rate * t)) for t in times]
                states = [[c * x - s * y, s * x + c * y] for c, s in turned]
            rows.append({"env_ids": environment, "initial_state": [x, y], "times": times, "labels": states})
    return rows


def tiny_mixer(**fields: Any) -> MixerForTrajectoryReconstruction:
    torch.manual_seed(0)
    given = {"num_envs": 4, "num_experts": 2, "context_size": 3, "hidden_size": 8}
    return MixerForTrajectoryReconstruction(MixerConfig(**given | fields))


def arguments(folder: Path, **fields: Any) -> TrainingArguments:
    given = {
        "max_steps": 8,
        "per_device_train_batch_size": 8,
        "learning_rate": 1e-2,
        "report_to": [],
        "save_strategy": "no",
        "use_cpu": True,
        "disable_tqdm": True,
        "logging_steps": 1,
        "seed": 3,
    }
    return TrainingArguments(str(folder), **given | fields)
