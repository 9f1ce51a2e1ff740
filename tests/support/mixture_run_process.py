"""The side of `mixture_run` that runs in the processes of a run."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from mixture_run import VOCABULARY, WEIGHTS, Settings, fetched, row_digests
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

from hf_mixture import Mixture
from hf_mixture.data.mixture_dataset import MixtureDataset
from hf_mixture.data.pack import TokenPack
from hf_mixture.data.packed_rows import collate_packed
from hf_mixture.data.trainer import MixtureCallback
from hf_mixture.training.stage import remove_torn_checkpoints


class RecordingDataset(MixtureDataset):
    """Writes down which positions are fetched, in whichever process."""

    record_to: Path

    def rows(self, positions: Any) -> Any:
        with self.record_to.open("a") as file:
            file.write(" ".join(map(str, positions.tolist())) + "\n")
        return super().rows(positions)


class Deciding(MixtureCallback):
    """Decides on weights after some steps, at process 0; the others have nothing to say."""

    def __init__(self, *, settings: Settings | None = None, rank: int = 0, **arguments: Any) -> None:
        super().__init__(changes_weights=True, **arguments)
        self.settings, self.rank = settings or CURRENT[0], rank

    def init_arguments(self) -> dict[str, Any]:
        arguments = super().init_arguments()
        del arguments["changes_weights"]
        return arguments

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        super().on_step_end(args, state, control, **kwargs)
        if state.global_step in self.settings.decisions:
            mine = self.settings.decisions[state.global_step] if args.process_index == 0 else dict(WEIGHTS)
            self.set_weights(mine)


class Recorder(TrainerCallback):
    """Writes what each step trained on, its losses and its weights, as soon as it is logged."""

    def __init__(self, settings: Settings, rank: int, dataset: MixtureDataset) -> None:
        self.path = Path(settings.output, f"records-{rank}.jsonl")
        self.settings, self.rank, self.dataset = settings, rank, dataset
        self.digests: list[list[str]] = []
        self.frontier = 0
        self.fetched = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        model.register_forward_pre_hook(self._watch, with_kwargs=True)

    def _watch(self, module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        if module.training:
            self.digests.append(row_digests(kwargs["input_ids"]))

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        time.sleep(self.settings.step_seconds)
        self.frontier = self.dataset.plan.frontier
        if self.settings.measure_frontier:
            self.fetched = self._settled()

    def _settled(self) -> int:
        """Positions fetched so far, after the workers have caught up."""
        count = -1
        while count != (now := len(fetched(self.settings, self.rank))):
            count = now
            time.sleep(0.2)
        return count

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if "loss" not in logs:
            return
        record = {
            "step": state.global_step,
            "digests": self.digests,
            "losses": {name: value for name, value in logs.items() if "loss" in name},
            "weights": self.dataset.weights_at((state.global_step - 1) * args.train_batch_size * args.world_size),
            "changes": self.dataset.plan.state_dict()["changes"],
            "fetched": self.fetched,
            "frontier": self.frontier,
            "world_size": args.world_size,
            "backend": torch.distributed.get_backend() if args.world_size > 1 else None,
        }
        with self.path.open("a") as file:
            file.write(json.dumps(record) + "\n")
        self.digests = []


CURRENT: list[Settings] = []


def sources(settings: Settings) -> dict[str, Any]:
    """Blocks of the packs in the folder of the run."""
    return {name: TokenPack(Path(settings.folder, name)).blocks(settings.block_tokens) for name in WEIGHTS}


def tiny_model(dropout: float = 0.0) -> Any:
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=2,
            attention_dropout=dropout,
        )
    )


def train(settings: Settings, rank: int) -> None:
    torch.set_num_threads(1)
    CURRENT[:] = [settings]
    output = Path(settings.output)
    arguments = TrainingArguments(
        output_dir=str(output),
        max_steps=settings.steps,
        per_device_train_batch_size=settings.batch_size,
        gradient_accumulation_steps=settings.accumulation,
        dataloader_num_workers=settings.workers,
        save_steps=settings.save_steps,
        restore_callback_states_from_checkpoint=settings.restore,
        train_sampling_strategy="sequential",
        learning_rate=1e-2,
        use_cpu=True,
        logging_steps=1,
        logging_first_step=True,
        disable_tqdm=True,
        report_to=[],
        **settings.arguments,
    )
    assert arguments.world_size == settings.num_processes
    step_samples = settings.num_processes * settings.batch_size * settings.accumulation
    dataset = RecordingDataset(
        sources(settings),
        Mixture(WEIGHTS, unit="tokens", seed=1),
        num_examples=settings.num_examples or settings.steps * step_samples,
    )
    dataset.record_to = output / f"fetched-{rank}.txt"
    trainer = Trainer(
        model=tiny_model(settings.dropout),
        args=arguments,
        train_dataset=dataset,
        data_collator=collate_packed,
        callbacks=[Deciding(settings=settings, lag=settings.lag), Recorder(settings, rank, dataset)],
    )
    if rank == 0 and output.exists():
        remove_torn_checkpoints(output, settings.num_processes)
    trainer.accelerator.wait_for_everyone()
    last = get_last_checkpoint(str(output)) if settings.resume and os.listdir(output) else None
    trainer.train(resume_from_checkpoint=last)
