"""Runs of a tiny model on a mixture of real text with the stock Trainer, each in processes of its own."""

from __future__ import annotations

import hashlib
import json
import os
import socket
from dataclasses import asdict, dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from fork_server import start_process


VOCABULARY = 400
WEIGHTS = {"email": 0.5, "json": 0.3, "logging": 0.2}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """One run; `folder` holds the packs, and `output` gets the checkpoints and `records-RANK.jsonl`."""

    folder: str
    output: str
    num_processes: int = 1
    steps: int = 8
    batch_size: int = 2
    accumulation: int = 1
    workers: int = 0
    save_steps: int = 100
    num_examples: int | None = None
    block_tokens: int = 32
    # After which step which weights are decided on.
    decisions: dict[int, dict[str, float]] = field(default_factory=dict)
    lag: int | None = None
    resume: bool = False
    restore: bool = False
    measure_frontier: bool = False
    dropout: float = 0.1
    # Seconds that a step takes at least, so that there is time to kill it.
    step_seconds: float = 0.0
    arguments: dict[str, Any] = field(default_factory=dict)


def start(settings: Settings) -> list[BaseProcess]:
    """Start the processes of a run."""
    Path(settings.output).mkdir(parents=True, exist_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    values = json.dumps(asdict(settings))
    return [start_process(_train, values, rank, port) for rank in range(settings.num_processes)]


def run(settings: Settings) -> list[list[dict[str, Any]]]:
    """Run to the end; return the records of each process."""
    processes = start(settings)
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0] * settings.num_processes
    return [read_records(settings, rank) for rank in range(settings.num_processes)]


def read_records(settings: Settings, rank: int = 0) -> list[dict[str, Any]]:
    """What a process has recorded: one entry for each step, the last one where a step was done again."""
    path = Path(settings.output, f"records-{rank}.jsonl")
    lines = path.read_text().splitlines() if path.exists() else []
    entries = [json.loads(line) for line in lines if line.endswith("}")]
    return list({entry["step"]: entry for entry in entries}.values())


def fetched(settings: Settings, rank: int = 0) -> list[int]:
    """The positions that a process and its workers have fetched."""
    path = Path(settings.output, f"fetched-{rank}.txt")
    return [int(word) for word in path.read_text().split()] if path.exists() else []


def row_digests(batch: Any) -> list[str]:
    """What identifies the samples of a batch."""
    return [hashlib.sha256(row.tobytes()).hexdigest()[:12] for row in batch.numpy()]


def _train(values: str, rank: int, port: int) -> None:
    settings = json.loads(values)
    settings["decisions"] = {int(step): weights for step, weights in settings["decisions"].items()}
    if settings["num_processes"] > 1:
        os.environ |= {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(settings["num_processes"]),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
        }
    from mixture_run_process import train

    train(Settings(**settings), rank)
