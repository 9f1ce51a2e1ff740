"""Which positions of a stream the processes of a Trainer read, and what must hold so that this is known.

With a sequential sampler accelerate deals batches to the processes in turn: micro-batch k of process r holds the
positions (k W + r) b ... (k W + r + 1) b - 1, so that all processes together read a contiguous prefix.

Letters: W processes, b samples of a micro-batch on one process, ga micro-batches of an optimizer step, nw workers,
pf batches that a worker prefetches.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from accelerate.data_loader import BatchSamplerShard, DataLoaderDispatcher
from torch.utils.data import BatchSampler, SequentialSampler
from transformers import TrainerState, TrainingArguments

from hf_mixture.data.mixture_dataset import MixtureDataset


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How a run reads its data.

    Args:
        num_processes: W.
        process_index: r, in [0, W).
        batch_size: b.
        accumulation_steps: ga.
        lookahead: Micro-batches that a process has fetched beyond those of the steps begun: 1 + nw * pf.
        num_batches: Micro-batches of one process in one pass over the data.
    """

    num_processes: int
    process_index: int
    batch_size: int
    accumulation_steps: int
    lookahead: int
    num_batches: int

    @property
    def global_batch(self) -> int:
        """Samples of one optimizer step: W * b * ga."""
        return self.num_processes * self.batch_size * self.accumulation_steps

    @property
    def num_steps(self) -> int:
        """Optimizer steps of one pass over the data."""
        return math.ceil(self.num_batches / self.accumulation_steps)

    @property
    def min_lag(self) -> int:
        """Optimizer steps after which everything that is fetched now has been used: ceil((1 + nw * pf) / ga)."""
        return math.ceil(self.lookahead / self.accumulation_steps)

    def num_fetched(self, num_steps: int) -> int:
        """Samples that all processes have fetched when `num_steps` steps have begun: (s * ga + 1 + nw * pf) W b.

        The 1 is the batch that accelerate's loader is ahead.
        """
        return (num_steps * self.accumulation_steps + self.lookahead) * self.num_processes * self.batch_size


@dataclass(frozen=True)
class Course:
    """Which positions a run reads, from where it begins or goes on.

    Args:
        layout: How the run reads.
        step: Optimizer steps done before it.
        position: Position of the first sample that it reads.
    """

    layout: Layout
    step: int
    position: int

    def position_of(self, step: int) -> int:
        """Return the position of the first sample of the optimizer step after `step` steps."""
        return self.position + (step - self.step) * self.layout.global_batch

    def frontier(self, num_begun: int) -> int:
        """Return the first position that nobody has fetched when `num_begun` steps have begun, all told."""
        return self.position + self.layout.num_fetched(num_begun - self.step)

    def micro_batch(self, num_begun: int, number: int) -> int:
        """Return the position of the first sample of this process in a micro-batch of the step begun last."""
        done = (num_begun - 1 - self.step) * self.layout.accumulation_steps + number
        return self.position + (done * self.layout.num_processes + self.layout.process_index) * self.layout.batch_size


def read_layout(loader: Any, args: TrainingArguments) -> Layout:
    """Check the data loader of a Trainer and return how it reads.

    Args:
        loader: The Trainer's `train_dataloader`.
        args: The Trainer's arguments.

    Returns:
        The layout.

    Raises:
        ValueError: The samples would not be read in the order of the mixture, or not by the rule above.
        TypeError: The data is not a `MixtureDataset`.
    """
    if not isinstance(loader.dataset, MixtureDataset):
        raise TypeError(
            f"train_dataset is a {type(loader.dataset).__name__}; this callback needs a MixtureDataset: build one, or "
            "leave the callback out"
        )
    if isinstance(loader, DataLoaderDispatcher):
        raise ValueError(
            "accelerator_config has dispatch_batches=True; a mixture is read by every process itself: set "
            'accelerator_config={"dispatch_batches": False}'
        )
    shard = loader.batch_sampler
    if isinstance(shard, BatchSamplerShard):
        if shard.split_batches:
            raise ValueError(
                "accelerator_config has split_batches=True, with which a batch is dealt out in pieces: set "
                'accelerator_config={"split_batches": False}'
            )
        batches, num_processes, process_index = shard.batch_sampler, shard.num_processes, shard.process_index
    else:
        batches, num_processes, process_index = shard, 1, 0
    sampler = getattr(batches, "sampler", None)
    if type(batches) is not BatchSampler or not isinstance(sampler, SequentialSampler):
        raise ValueError(
            f"train_sampling_strategy={args.train_sampling_strategy!r} reads the mixture with a "
            f"{type(batches if sampler is None else sampler).__name__}; its order is what makes the mixture: set "
            'train_sampling_strategy="sequential" in TrainingArguments'
        )
    if loader.num_workers and not loader.in_order:
        raise ValueError(
            "dataloader_in_order=False lets workers deliver batches in any order; set dataloader_in_order=True"
        )
    return Layout(
        num_processes=num_processes,
        process_index=process_index,
        batch_size=batches.batch_size,
        accumulation_steps=args.gradient_accumulation_steps,
        lookahead=1 + loader.num_workers * (loader.prefetch_factor or 0),
        num_batches=len(loader),
    )


def check_lag(declared: int | None, layout: Layout) -> int:
    """Return the lag of weight changes, the smallest possible one by default; refuse one that is too small."""
    if declared is not None and declared < layout.min_lag:
        raise ValueError(
            f"lag={declared} is too small: {layout.lookahead} micro-batches are fetched ahead, which take "
            f"{layout.min_lag} optimizer steps of {layout.accumulation_steps} to use up; use lag={layout.min_lag} or "
            "more, or fewer workers or a smaller dataloader_prefetch_factor"
        )
    return layout.min_lag if declared is None else declared


def check_passes(state: TrainerState, layout: Layout, num_skipped: int, *, length: int, drops_last: bool) -> None:
    """Refuse a run that would read the stream again, and warn of one that reads its beginning again at the end."""
    num_left, num_available = state.max_steps - state.global_step, layout.num_steps - num_skipped
    if num_left > num_available:
        raise ValueError(
            f"the run has {num_left} more optimizer steps of {layout.global_batch} samples, and the mixture has "
            f"enough for {num_available}: the Trainer would read it again, in the same order. Set num_examples="
            f"{(num_left + num_skipped) * layout.global_batch} or more (repeated rows then come in a new order), or "
            "fewer steps or epochs"
        )
    over = length % (layout.num_processes * layout.batch_size)
    if num_left == num_available and layout.num_processes > 1 and over and not drops_last:
        warnings.warn(
            f"{length} samples are no multiple of the {layout.num_processes * layout.batch_size} that all processes "
            "take at a time: samples from the beginning are repeated at the end. Use another num_examples, or "
            "dataloader_drop_last=True",
            stacklevel=2,
        )


def check_position(saved: Mapping[str, Any], course: Course) -> None:
    """Refuse a resumed run that would not go on where the interrupted one stood."""
    if saved["position"] != course.position:
        raise ValueError(
            f"the interrupted run stood at position {saved['position']} after {saved['step']} steps of "
            f"{saved['global_batch']} samples; this one has steps of {course.layout.global_batch} samples and would "
            f"go on at position {course.position}: pass ignore_data_skip=True to TrainingArguments and "
            f"start_at={saved['position']} to MixtureDataset, or resume with the same batch, processes and "
            "accumulation steps"
        )
