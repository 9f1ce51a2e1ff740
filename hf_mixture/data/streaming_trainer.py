"""`MixtureStreamCallback`: processes that read a mixed stream by themselves, under the stock Trainer."""

from __future__ import annotations

from typing import Any

from transformers import TrainerCallback

from hf_mixture._compat.accelerate import splits_among_processes
from hf_mixture.data.streaming import MixtureIterableDataset


class MixtureStreamCallback(TrainerCallback):
    """Let each process of a Trainer read its own part of a `MixtureIterableDataset`.

    Without it, a Trainer with several processes gives the right samples too: process 0 reads the stream and hands out
    the batches (`dispatch_batches`, the default), or every process reads all of it and drops the parts of the others.
    With it, each process reads its own positions, and micro-batch k of process r holds the positions
    (k W + r) b ... + b - 1 of the stream, as with a map-style dataset; W processes, batches of b.

    `dispatch_batches=False` is required, and a stream of known length (`num_examples`).

    Example:
        ```python
        >>> from transformers import TrainingArguments
        >>> from hf_mixture.data.streaming_trainer import MixtureStreamCallback
        >>> args = TrainingArguments("out", max_steps=100, accelerator_config={"dispatch_batches": False})
        >>> callbacks = [MixtureStreamCallback()]  # of Trainer(args=args, train_dataset=..., callbacks=callbacks)

        ```
    """

    def on_train_begin(self, args: Any, state: Any, control: Any, train_dataloader: Any = None, **kwargs: Any) -> None:
        """Tell the stream which part this process reads, and its wrapper not to split it once more.

        Raises:
            ValueError: The training set is not a mixed stream, or the loader is not one of each process.
        """
        from accelerate.data_loader import IterableDatasetShard

        wrapper = train_dataloader.dataset
        stream = wrapper.dataset if isinstance(wrapper, IterableDatasetShard) else wrapper
        if not isinstance(stream, MixtureIterableDataset):
            raise ValueError(
                f"train_dataset is a {type(stream).__name__} and MixtureStreamCallback is for a "
                "MixtureIterableDataset; leave the callback out"
            )
        if splits_among_processes(train_dataloader):
            raise ValueError(
                "accelerator_config has dispatch_batches on, so process 0 reads for all, and MixtureStreamCallback is "
                'for processes that read by themselves; use accelerator_config={"dispatch_batches": False} or leave '
                "the callback out"
            )
        if args.accelerator_config.split_batches:
            raise ValueError(
                "accelerator_config has split_batches=True, which cuts batches that a process has read for all; leave "
                "it out"
            )
        stream.set_layout(rank=args.process_index, world_size=args.world_size, batch_size=args.train_batch_size)
        if isinstance(wrapper, IterableDatasetShard):
            # The stream is split by now; the wrapper passes on what it gets.
            wrapper.num_processes, wrapper.process_index = 1, 0
