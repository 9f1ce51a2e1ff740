"""The search as a callback of the stock Trainer: what each step trains, and what it teaches about the path.

Letters: P paths, M models.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.distributed as dist
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from hf_mixture.models.pooling_supernet.batches import collate_rows, rows_of
from hf_mixture.models.pooling_supernet.modeling_balanced_supernet import BalancedSuperNetMixture, Entry
from hf_mixture.models.pooling_supernet.sampling import validation_rows


class SuperNetSearchCallback(TrainerCallback):
    """Lets the stock Trainer search: a callback for a `BalancedSuperNetMixture` (arXiv 2306.11982).

    Before each step it draws a path, uniformly, and its model, by the balanced assignment; after the step, one
    validation batch gives the accuracy that moves the score of the two. Every epoch, tau = 1 + (max_temperature - 1) e
    / E, and the assignment is balanced anew. What it draws depends on the seed and the step alone, and what it learns
    is in the model's buffers, so that a run resumed from any checkpoint goes on exactly; under `torchrun` all
    processes draw the same path and model, and share the accuracy.

    The logs of the Trainer get `temperature`, `load`, the largest share of the steps that a model had so far, and
    `balance_iterations`.

    Args:
        validation_dataset: Rows with `pixel_values` [C, H, W] and `labels` that are not trained on.
        seed: Seed of the draws. Default: that of the Trainer.
        batch_size: Images of a validation batch of one process. Default: that of training.
        interval: Steps between two balancings. Default: those of an epoch.
        data_collator: Makes batches of rows. Default: that of transformers.

    Raises:
        ValueError: There are no validation rows, or a number is out of range.

    Example:
        >>> import contextlib, io, tempfile, torch
        >>> from transformers import Trainer, TrainingArguments
        >>> from hf_mixture import BalancedSuperNetConfig, BalancedSuperNetMixture, SuperNetSearchCallback
        >>> network = {"num_channels": 1, "layer_widths": [4, 4, 4, 8], "num_labels": 10}
        >>> config = BalancedSuperNetConfig(network_config=network, num_models=2, num_scales=2)
        >>> mixture = BalancedSuperNetMixture(config)
        >>> rows = [{"pixel_values": torch.randn(1, 8, 8), "labels": label} for label in range(10)]
        >>> with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        ...     args = TrainingArguments(folder, max_steps=6, report_to=[], save_strategy="no", use_cpu=True)
        ...     search = SuperNetSearchCallback(rows)
        ...     _ = Trainer(mixture, args, train_dataset=rows, callbacks=[search]).train()
        >>> int(mixture.visits.sum())
        6
    """

    def __init__(
        self,
        validation_dataset: Any,
        *,
        seed: int | None = None,
        batch_size: int | None = None,
        interval: int | None = None,
        data_collator: Any = None,
    ) -> None:
        if len(validation_dataset) < 1:
            raise ValueError("validation_dataset has no rows; the search needs images that are not trained on")
        for name, value, least in (("seed", seed, 0), ("batch_size", batch_size, 1), ("interval", interval, 1)):
            if value is not None and value < least:
                raise ValueError(f"{name}={value} must be at least {least}; raise it")
        self.validation_dataset = validation_dataset
        self.seed = seed
        self.batch_size = batch_size
        self.interval = interval
        self.data_collator = data_collator
        self._entry: Entry | None = None
        self._iterations = 0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Check that this model can be searched here."""
        model = kwargs["model"]
        if not isinstance(model, BalancedSuperNetMixture):
            raise TypeError(f"the Trainer's model is a {type(model).__name__}; give a BalancedSuperNetMixture")
        if args.n_gpu > 1:
            raise ValueError(f"one process with n_gpu={args.n_gpu}; start one process for each GPU with torchrun")
        if args.world_size > 1 and args.ddp_find_unused_parameters is False:
            raise ValueError(
                "ddp_find_unused_parameters=False, but a step leaves all models but one unused; set it to True"
            )
        if args.world_size > len(self.validation_dataset):
            raise ValueError(
                f"validation_dataset has {len(self.validation_dataset)} rows for {args.world_size} processes; give "
                "more"
            )
        # They are those of other weights.
        model.accuracies.fill_(-1.0)

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Balance the assignment where it is time, and draw what this step trains."""
        model: BalancedSuperNetMixture = kwargs["model"]
        step, interval = state.global_step, self.interval or math.ceil(state.max_steps / state.num_train_epochs)
        if step % interval == 0:
            share = step / max(1, state.max_steps)
            found = model.rebalance(1 + (model.config.max_temperature - 1) * share)
            self._iterations = 0 if found is None else found.num_iterations
        self._entry = model.draw(seed=self._seed(args), step=step)
        model.activate(self._entry)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Score the path in its model by a validation batch, of which each process has its part."""
        model: BalancedSuperNetMixture = kwargs["model"]
        assert self._entry is not None  # noqa: S101 - every step begins before it ends
        size = (self.batch_size or args.per_device_train_batch_size) * args.world_size
        step = state.global_step - 1
        chosen = validation_rows(len(self.validation_dataset), size, seed=self._seed(args), step=step)
        mine = chosen[args.process_index :: args.world_size]
        batch = collate_rows(rows_of(self.validation_dataset, mine), self.data_collator, model.device)
        with torch.no_grad():
            logits = model(
                batch["pixel_values"], batch["labels"], path=self._entry.path, model_index=self._entry.model
            )["logits"]
        right = (logits.argmax(dim=-1) == batch["labels"]).sum()
        if args.world_size > 1:
            dist.all_reduce(right)
        model.record(self._entry, float(right) / len(chosen))

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Add what the search does to the entry of the log that has the loss."""
        model: BalancedSuperNetMixture = kwargs["model"]
        entry = state.log_history[-1] if state.log_history else {}
        if "loss" in entry:
            loads = model.visits.sum(dim=0).double()
            entry["temperature"] = float(model.temperature)
            entry["load"] = float(loads.max() / loads.sum().clamp(min=1))
            entry["balance_iterations"] = self._iterations

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Choose no path any more."""
        kwargs["model"].activate(None)

    def _seed(self, args: TrainingArguments) -> int:
        return args.seed if self.seed is None else self.seed
