"""Training of TaskExpert: losses normalised over an optimizer step, and a log of tasks and gates."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import Trainer, TrainerCallback
from transformers.trainer_utils import EvalPrediction, get_last_checkpoint

from hf_mixture._compat.checkpoints import load_converted_weights
from hf_mixture._compat.transformers import extend_logs
from hf_mixture.models.taskexpert.data_collator import missing_map
from hf_mixture.models.taskexpert.losses import count_labels, mask_labels, sum_counts
from hf_mixture.models.taskexpert.modeling_taskexpert import TaskExpertOutput


class TaskExpertTrainer(Trainer):
    """The stock Trainer, with losses divided by the labels of a whole optimizer step.

    The loss of a task is a mean over the pixels that have a label. Batches that are accumulated, and processes, may
    have unequally many, or none. This class counts them over all batches of a step and all processes, so that
    accumulation changes nothing. The stock `Trainer` works too, and averages the means of batches. It also evaluates
    data of which some batches lack a task, whose labels the stock one cannot join for `compute_metrics`, and resumes
    backbones whose weights have other names in files than in the model, as those of DINOv2, which the stock one leaves
    as they are without a word.

    Args:
        args: As of `Trainer`.
        kwargs: As of `Trainer`.

    Example:
        >>> import tempfile, torch
        >>> from transformers import ResNetConfig, TrainingArguments
        >>> from hf_mixture import TaskExpertConfig, TaskExpertForMultiTaskVision, TaskExpertTrainer, collate_scenes
        >>> backbone = ResNetConfig(embedding_size=8, hidden_sizes=[8], depths=[1], layer_type="basic")
        >>> config = TaskExpertConfig(backbone_config=backbone, tasks=["depth"], expert_size=8, num_experts=2)
        >>> row = {"pixel_values": torch.zeros(3, 16, 16), "labels": {"depth": torch.ones(16, 16)}}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     arguments = TrainingArguments(
        ...         folder, max_steps=2, report_to=[], disable_tqdm=True, use_cpu=True, save_strategy="no",
        ...         gradient_accumulation_steps=2, per_device_train_batch_size=2,
        ...     )
        ...     model = TaskExpertForMultiTaskVision(config)
        ...     trainer = TaskExpertTrainer(model, arguments, train_dataset=[row] * 8, data_collator=collate_scenes)
        ...     trainer.train().global_step  # doctest: +ELLIPSIS
        {'train_runtime': ...}
        2
    """

    compute_metrics: Any

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs: Any) -> Any:
        """Train, or continue a training.

        Args:
            resume_from_checkpoint: A checkpoint, or True for the last one of the output folder.
            kwargs: As of `Trainer.train`.

        Returns:
            As of `Trainer.train`.
        """
        place = resume_from_checkpoint
        if place is True:
            place = get_last_checkpoint(self.args.output_dir)
        if place:
            load_converted_weights(self.model, str(place))
        return super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: torch.device) -> tuple[list[Any], Any]:
        """Take the batches of an optimizer step, and count their labels by task.

        Args:
            epoch_iterator: Batches.
            num_batches: How many to take.
            device: Where the counts go.

        Returns:
            The batches, and counts [2] by task; None where there are no labels.
        """
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        if not batches or "labels" not in batches[0]:
            return batches, None
        return batches, self._add_processes(sum_counts([self._counts(batch) for batch in batches]), device)

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> Any:
        """Evaluate or predict; `compute_metrics` gets the labels of the tasks that the data have.

        Args:
            args: As of `Trainer.evaluation_loop`.
            kwargs: As of `Trainer.evaluation_loop`.

        Returns:
            As of `Trainer.evaluation_loop`.
        """
        compute = self.compute_metrics
        if compute is not None:
            self.compute_metrics = lambda found, *more, **options: compute(self._labelled(found), *more, **options)
        try:
            return super().evaluation_loop(*args, **kwargs)
        finally:
            self.compute_metrics = compute

    def prediction_step(
        self, model: Any, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: list[str] | None = None
    ) -> Any:
        """Predict a batch; the labels of all batches have the same tasks, so that they can be joined.

        Args:
            model: The model.
            inputs: The batch.
            prediction_loss_only: Whether only the loss is wanted.
            ignore_keys: As of `Trainer.prediction_step`.

        Returns:
            Loss, outputs and labels.
        """
        if "labels" in inputs and not prediction_loss_only:
            config = self.accelerator.unwrap_model(self.model).config
            number, _, *size = inputs["pixel_values"].shape
            missing = {
                task: torch.stack([missing_map(task, tuple(size), config.ignore_value)] * number)
                for task in config.tasks
            }
            inputs = {**inputs, "labels": {**missing, **inputs["labels"]}}
        return super().prediction_step(model, inputs, prediction_loss_only, ignore_keys)

    def _labelled(self, found: EvalPrediction) -> EvalPrediction:
        ignore_value = self.accelerator.unwrap_model(self.model).config.ignore_value
        if isinstance(found.label_ids, dict):
            found.label_ids = {t: maps for t, maps in found.label_ids.items() if (maps != ignore_value).any()}
        return found

    def _counts(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        ignore_value = self.accelerator.unwrap_model(self.model).config.ignore_value
        masks = batch.get("task_masks") or {}
        return {
            task: count_labels(
                task,
                labels if task not in masks else mask_labels(task, labels, masks[task], ignore_value),
                ignore_value,
            )
            for task, labels in batch["labels"].items()
        }

    def _add_processes(self, counts: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
        if self.args.world_size == 1 or not self.args.average_tokens_across_devices:
            return {task: values.to(device) for task, values in counts.items()}
        # Processes may lack different tasks, and must send the same.
        tasks = self.accelerator.unwrap_model(self.model).config.tasks
        own = torch.stack([counts.get(task, torch.zeros(2, dtype=torch.int64)).to(device) for task in tasks])
        return dict(zip(tasks, self.accelerator.reduce(own, reduction="sum").unbind(), strict=True))


class TaskLossCallback(TrainerCallback):
    """Adds to each log entry the loss of every task, and the mean weight of each expert and the memory by level.

    Entries get `task_loss/TASK`, and `gate/levelL/expertE` and `gate/levelL/memory`, averaged over tasks, images and
    the steps since the last entry. A first level that is all memory has collapsed: its memory has no history yet.
    Per-task gates of a trained model are for `read_gates`.

    Example:
        >>> from hf_mixture import TaskLossCallback
        >>> TaskLossCallback().extend_logs(None, None, {"loss": 1.0})
        {}
    """

    def __init__(self) -> None:
        extend_logs()
        self._losses: dict[str, list[Tensor]] = {}
        self._gates: list[Tensor] = []
        self._num_batches = 0
        self._shares: dict[bool, float] = {}
        self._handle: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Listen to the model."""
        # A loss that is divided by the labels of several batches and processes is a part of a sum, not of a mean.
        processes = args.world_size if args.average_tokens_across_devices else 1
        self._shares = {True: float(processes), False: 1 / args.gradient_accumulation_steps}
        self._handle = kwargs["model"].register_forward_hook(self._listen, with_kwargs=True)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Stop listening."""
        if self._handle is not None:
            self._handle.remove()

    def _listen(self, model: Any, inputs: Any, given: dict[str, Any], output: TaskExpertOutput) -> None:
        if not model.training or output.task_losses is None:
            return
        self._num_batches += 1
        share = self._shares[given.get("num_items_in_batch") is not None]
        for task, loss in output.task_losses.items():
            self._losses.setdefault(task, []).append(share * loss.detach())
        if output.gate_scores is not None:
            self._gates.append(output.gate_scores.detach().mean(dim=(1, 2)))

    def extend_logs(self, args: Any, state: Any, logs: dict[str, Any]) -> dict[str, float]:
        """Give what was heard since the last entry about training.

        Args:
            args: Arguments of the training.
            state: State of the training.
            logs: The entry.

        Returns:
            What to add to it.
        """
        if "loss" not in logs or not self._losses:
            return {}
        steps = max(1, self._num_batches // args.gradient_accumulation_steps)
        more = {f"task_loss/{task}": float(torch.stack(seen).sum() / steps) for task, seen in self._losses.items()}
        if self._gates:
            for level, weights in enumerate(torch.stack(self._gates).mean(dim=0).tolist()):
                *experts, memory = weights
                more |= {f"gate/level{level}/expert{place}": weight for place, weight in enumerate(experts)}
                more[f"gate/level{level}/memory"] = memory
        self._losses, self._gates, self._num_batches = {}, [], 0
        return more
