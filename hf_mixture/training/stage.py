"""One training stage: the stock Trainer, resumed from its last whole checkpoint."""

from __future__ import annotations

import shutil
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState

from hf_mixture._compat.checkpoints import load_converted_weights
from hf_mixture.hub.reading import read_object
from hf_mixture.training.blocks import Windows


@dataclass(frozen=True, kw_only=True)
class StageResult:
    """What a stage measured.

    Args:
        trainer: The Trainer after its last step.
        seconds_per_step: Median time of one optimizer step, without evaluation and saving.
        log: `trainer.state.log_history`.
    """

    trainer: Any
    seconds_per_step: float
    log: list[dict[str, Any]]


class StepTimer(TrainerCallback, ExportableState):
    """Collects the duration of every optimizer step, across interruptions.

    Args:
        seconds: Durations so far.
    """

    def __init__(self, seconds: list[float] | None = None) -> None:
        self.seconds = seconds or []
        self._began = 0.0

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        """Start the clock."""
        self._began = time.perf_counter()

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        """Stop the clock."""
        self.seconds.append(time.perf_counter() - self._began)

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        return {"args": {"seconds": self.seconds}, "attributes": {}}


def train_stage(
    model: Any,
    train_dataset: Any,
    validation: Mapping[str, Windows],
    arguments: Mapping[str, Any],
    folder: Path,
    *,
    attach: Callable[[Any], None] | None = None,
    data_collator: Callable[[list[dict[str, Any]]], dict[str, Any]] | None = None,
) -> StageResult:
    """Train a model with the stock Trainer; continue from the last whole checkpoint in `folder`.

    Args:
        model: The model; all that requires gradients is trained.
        train_dataset: Rows, in the order to see them; with `input_ids`, unless a collator reads others.
        validation: Held-out windows by domain, for the learning curve.
        arguments: Fields of `TrainingArguments`.
        folder: Where the Trainer keeps its checkpoints.
        attach: Called with the Trainer before it trains, to add to it.
        data_collator: Makes batches of rows. Defaults to `collate`.

    Returns:
        The trainer and what it measured.
    """
    from transformers import Trainer, TrainingArguments

    settings = TrainingArguments(output_dir=str(folder), restore_callback_states_from_checkpoint=True, **arguments)
    timer = StepTimer()
    trainer = Trainer(
        model=model,
        args=settings,
        train_dataset=train_dataset,
        eval_dataset={name: windows_dataset(windows) for name, windows in validation.items()},
        data_collator=data_collator or collate,
        callbacks=[timer],
    )
    if attach is not None:
        attach(trainer)
    train_on(trainer, folder)
    (timer,) = [callback for callback in trainer.callback_handler.callbacks if isinstance(callback, StepTimer)]
    return StageResult(
        trainer=trainer, seconds_per_step=statistics.median(timer.seconds), log=list(trainer.state.log_history)
    )


def train_on(trainer: Any, folder: Path) -> None:
    """Train from the last checkpoint that can be resumed, or from the beginning.

    Args:
        trainer: The Trainer, with a number of steps.
        folder: Where it keeps its checkpoints.
    """
    arguments = trainer.args
    if arguments.should_save:
        remove_torn_checkpoints(folder, arguments.world_size)
        # A Trainer that resumes at its last step, and not at the end of an epoch, takes one step more.
        shutil.rmtree(folder / f"checkpoint-{arguments.max_steps}", ignore_errors=True)
    trainer.accelerator.wait_for_everyone()
    checkpoint = last_checkpoint(folder)
    if checkpoint is not None:
        load_converted_weights(trainer.model, checkpoint)
    trainer.train(resume_from_checkpoint=checkpoint)


def collate(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Make a batch of equally long rows; without `labels`, every token is predicted."""
    import torch

    batch = {name: torch.tensor([row[name] for row in rows]) for name in rows[0]}
    return {"labels": batch["input_ids"], **batch}


def windows_dataset(windows: Windows) -> Any:
    """Return held-out windows as rows with `input_ids` and `labels`, for the Trainer's own evaluation."""
    import torch
    from datasets import Dataset

    ids = windows.input_ids
    labels = ids[:, 1:].masked_fill(~windows.scored, -100)
    # The first token of a window is context; the model shifts the labels itself.
    labels = torch.cat([torch.full_like(ids[:, :1], -100), labels], dim=1)
    return Dataset.from_dict({"input_ids": ids.tolist(), "labels": labels.tolist()})


def remove_torn_checkpoints(folder: Path, num_processes: int) -> None:
    """Remove checkpoints that were being written, or being removed, when the run was killed.

    Args:
        folder: Where the Trainer keeps its checkpoints.
        num_processes: Processes of the run, each of which saves its random state.
    """
    for checkpoint in folder.glob("checkpoint-*"):
        if not _is_whole(checkpoint, num_processes):
            shutil.rmtree(checkpoint)


def last_checkpoint(folder: Path) -> str | None:
    """Return the checkpoint with the most steps, if there is one."""
    checkpoints = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    return str(checkpoints[-1]) if checkpoints else None


def _is_whole(checkpoint: Path, num_processes: int) -> bool:
    # The state is the last file that the Trainer writes, and the other processes may be later than the first one.
    # A checkpoint that was being removed lacks files in no certain order, so the weights are looked for too.
    try:
        read_object(checkpoint / "trainer_state.json", allow_nan=True)
    except (FileNotFoundError, ValueError):
        return False
    needed = ("optimizer.pt", "scheduler.pt", "training_args.bin")
    random_states = len(list(checkpoint.glob("rng_state*.pth")))
    return (
        all((checkpoint / name).exists() for name in needed)
        and any(checkpoint.glob("*.safetensors"))
        and random_states == num_processes
    )
