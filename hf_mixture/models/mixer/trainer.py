"""Training of MixER: contexts and experts in turns, each near where it was, and the gate solved for in between.

Letters: E environments, M experts, B trajectories.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

from hf_mixture.models.mixer.adabelief import AdaBelief
from hf_mixture.models.mixer.batches import collate_trajectories
from hf_mixture.models.mixer.modeling_mixer import MixerForTrajectoryReconstruction
from hf_mixture.moe.routers.kmeans_least_squares import GateUpdateReport, KMeansLeastSquaresGate


STATE_FILE = "mixer_state.safetensors"
_ANCHOR = "anchor."
_LOSSES = "expert_losses"


@dataclass(frozen=True, kw_only=True)
class MixerSchedule:
    """The order of training (arXiv 2502.05335, algorithm 1).

    Args:
        context_steps: Steps that move the contexts, in each round; at least 1.
        expert_steps: Steps that move the experts after them; at least 1.
        context_proximity: Weight beta of beta/2 |xi - xi_old|^2 in the steps of the contexts, at least 0.
        expert_proximity: The same for the experts, in theirs.
        gate_interval: Steps between two updates of the gate, at least 1.
        decay: Factor of the learning rate after one third and again after two thirds of all steps, above 0.

    Raises:
        ValueError: A number is out of its range.

    Example:
        >>> from hf_mixture.models.mixer.trainer import MixerSchedule
        >>> [MixerSchedule(context_steps=2, expert_steps=1).moves_contexts(step) for step in range(4)]
        [True, True, False, True]
    """

    context_steps: int = 12
    expert_steps: int = 12
    context_proximity: float = 10.0
    expert_proximity: float = 10.0
    gate_interval: int = 1
    decay: float = 0.4

    def __post_init__(self) -> None:
        for name in ("context_steps", "expert_steps", "gate_interval"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1; raise it")
        for name in ("context_proximity", "expert_proximity"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 0; raise it")
        if not self.decay > 0:
            raise ValueError(f"decay={self.decay} must be above 0; give 1 for none")

    @property
    def round_steps(self) -> int:
        """Steps of a round."""
        return self.context_steps + self.expert_steps

    def moves_contexts(self, step: int) -> bool:
        """Tell whether a step moves the contexts rather than the experts.

        Args:
            step: The step, counted from 0.

        Returns:
            Whether it does.
        """
        return step % self.round_steps < self.context_steps


class MixerTrainer(Trainer):
    """The stock Trainer for MixER: proximal alternating steps, and a gate that is solved for (arXiv 2502.05335).

    In each round, first the contexts and then the experts take some steps, with beta/2 times the squared distance
    from where they were when the round began added to the loss; clipping of gradients acts on both together. The gate
    is updated before these steps, by the losses of all environments under every expert, in float64 on the first
    process; all processes get the same gate. The optimizer is AdaBelief at `args.learning_rate`;
    `args.lr_scheduler_type` is not used, see `MixerSchedule`. A checkpoint holds all that a resumed run needs to go on
    exactly.

    Args:
        model: The model.
        args: Arguments of the Trainer. Several processes need `ddp_find_unused_parameters=True`, which is set.
        schedule: The order of training. Default: as published.
        kwargs: What the stock Trainer takes; the data collator defaults to `collate_trajectories`.

    Attributes:
        gate_reports: Number of updates of the gate by their status.

    Raises:
        TypeError: `model` is no MixER.
        ValueError: Gradients are accumulated, or one process has several devices.

    Example:
        >>> import contextlib, io, tempfile
        >>> from transformers import TrainingArguments
        >>> from hf_mixture import MixerConfig, MixerForTrajectoryReconstruction, MixerTrainer
        >>> row = {"initial_state": [1.0, 0.0], "times": [0.0, 0.1], "labels": [[1.0, 0.0], [0.9, 0.1]]}
        >>> rows = [row | {"env_ids": environment} for environment in range(3)]
        >>> model = MixerForTrajectoryReconstruction(MixerConfig(num_envs=3, num_experts=2))
        >>> with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        ...     args = TrainingArguments(folder, max_steps=2, report_to=[], save_strategy="no", use_cpu=True)
        ...     trainer = MixerTrainer(model, args, train_dataset=rows)
        ...     _ = trainer.train()
        >>> sum(trainer.gate_reports.values())
        2
    """

    def __init__(
        self,
        model: MixerForTrajectoryReconstruction,
        args: TrainingArguments,
        *,
        schedule: MixerSchedule | None = None,
        **kwargs: Any,
    ) -> None:
        if not isinstance(model, MixerForTrajectoryReconstruction):
            raise TypeError(f"model is a {type(model).__name__}; give a MixerForTrajectoryReconstruction")
        if args.gradient_accumulation_steps > 1:
            raise ValueError(
                f"gradient_accumulation_steps={args.gradient_accumulation_steps}: the gate belongs to one step; use "
                "larger batches"
            )
        if args.n_gpu > 1:
            raise ValueError(f"one process with n_gpu={args.n_gpu}; start one process for each GPU with torchrun")
        self.schedule = schedule or MixerSchedule()
        self.gate_reports = {"converged": 0, "empty": 0, "not_converged": 0, "waiting": 0}
        # Parameters that take no part in a step are not seen by its backward pass.
        args.ddp_find_unused_parameters = True
        # Fields that the collator reads are not all arguments of `forward` by name.
        args.remove_unused_columns = False
        kwargs.setdefault("data_collator", collate_trajectories)
        super().__init__(model=model, args=args, **kwargs)
        self._mixer = model
        self._solves_gate = isinstance(model.gate, KMeansLeastSquaresGate) and model.config.num_experts > 1
        self._anchors: dict[str, Tensor] = {}
        size = (model.config.num_envs, model.config.num_experts)
        self._losses = torch.full(size, torch.nan)
        self.add_callback(_SaveState(self))

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Make AdaBelief for contexts and experts, unless there is an optimizer."""
        if self.optimizer is None:
            self.optimizer: Any = AdaBelief(self._mixer.parameters(), lr=self.args.learning_rate)
        return self.optimizer

    def create_scheduler(
        self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
    ) -> torch.optim.lr_scheduler.LRScheduler:
        """Lower the learning rate by `schedule.decay` after one and two thirds of all steps."""
        if self.lr_scheduler is None:
            decay = self.schedule.decay
            self.lr_scheduler: Any = torch.optim.lr_scheduler.LambdaLR(
                optimizer or self.optimizer, lambda step: decay ** min(2, 3 * step // max(1, num_training_steps))
            )
        return self.lr_scheduler

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs: Any) -> Any:
        """Train; see the stock Trainer.

        Args:
            resume_from_checkpoint: A checkpoint, or True for the last one.
            kwargs: What the stock Trainer takes.

        Returns:
            What the stock Trainer returns.

        Raises:
            ValueError: The checkpoint has no state of this Trainer.
        """
        self._anchors = {}
        self._losses = torch.full_like(self._losses, torch.nan)
        if resume_from_checkpoint:
            place = resume_from_checkpoint
            folder = get_last_checkpoint(self.args.output_dir) if place is True else str(place)
            if folder is not None:
                self._load_state(Path(folder) / STATE_FILE)
        return super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """Update the gate where it is its turn, compute the gradients, and drop those of what does not move."""
        step = self.state.global_step
        if step % self.schedule.round_steps == 0 or not self._anchors:
            self._anchors = {name: value.detach().clone() for name, value in self._mixer.named_parameters()}
        inputs = self._prepare_inputs(inputs)
        if self._solves_gate and step % self.schedule.gate_interval == 0:
            self._update_gate(inputs, step)
        loss = super().training_step(model, inputs, num_items_in_batch)
        of_contexts = self.schedule.moves_contexts(step)
        proximity = self.schedule.context_proximity if of_contexts else self.schedule.expert_proximity
        for name, parameter in self._mixer.named_parameters():
            if name.startswith("contexts.") != of_contexts:
                parameter.grad = None
            elif parameter.grad is not None:
                # The gradient of the proximal term, the same on all processes.
                parameter.grad.add_(parameter.detach() - self._anchors[name], alpha=proximity)
        return loss

    def _update_gate(self, inputs: dict[str, Any], step: int) -> None:
        """Collect the losses of the batch of all processes, and let the first one solve for the gate."""
        model = self._mixer
        losses = model.expert_losses(inputs["initial_state"], inputs["times"], inputs["env_ids"], inputs["labels"])
        num_envs = len(self._losses)
        sums = losses.new_zeros(num_envs, losses.shape[1] + 1, dtype=torch.float64)
        sums.index_add_(0, inputs["env_ids"], torch.cat([losses, torch.ones_like(losses[:, :1])], dim=1).double())
        several = self.accelerator.num_processes > 1
        if several:
            dist.all_reduce(sums)
        seen = sums[:, -1] > 0
        means = (sums[:, :-1] / sums[:, -1:]).cpu()
        self._losses[seen.cpu()] = means[seen.cpu()].to(self._losses.dtype)
        # Environments that no batch has had yet are waited for.
        if self._losses.isnan().any():
            self.gate_reports["waiting"] += 1
            return
        gate = model.gate
        assert isinstance(gate, KMeansLeastSquaresGate)  # noqa: S101 - checked by the caller
        report: GateUpdateReport | None = None
        if self.accelerator.is_main_process:
            # Draws depend on the step alone, so that a resumed run makes the same.
            generator = torch.Generator().manual_seed(self.args.seed * 1_000_003 + step)
            report = gate.update(model.contexts.weight, self._losses, generator=generator)
        if several:
            status = [None if report is None else report.status]
            dist.broadcast_object_list(status)
            for buffer in gate.buffers():
                dist.broadcast(buffer, 0)
            self.gate_reports[str(status[0])] += 1
        else:
            assert report is not None  # noqa: S101 - this is the main process
            self.gate_reports[report.status] += 1

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Log, with the share of updates of the gate that were not skipped."""
        total = sum(self.gate_reports.values())
        if total and "loss" in logs:
            logs["gate_updates"] = self.gate_reports["converged"] / total
        super().log(logs, *args, **kwargs)

    def save_state_to(self, path: Path) -> None:
        """Write what a resumed run needs besides what the stock Trainer saves.

        Args:
            path: The file.
        """
        from safetensors.torch import save

        from hf_mixture.hub.atomic import write_atomic

        tensors = {_ANCHOR + name: value.cpu().contiguous() for name, value in self._anchors.items()}
        reports = torch.tensor(list(self.gate_reports.values()))
        write_atomic(path, save({**tensors, _LOSSES: self._losses, "gate_reports": reports}))

    def _load_state(self, path: Path) -> None:
        from hf_mixture.hub.damage import reading
        from hf_mixture.hub.reading import read_tensors

        if not path.is_file():
            raise ValueError(
                f"{path.parent} has no {path.name}; resume from a checkpoint that MixerTrainer has written"
            )
        _, tensors = read_tensors(path)
        model = dict(self._mixer.named_parameters())
        anchors = {
            name: tensors[_ANCHOR + name].to(parameter.device)
            for name, parameter in model.items()
            if _ANCHOR + name in tensors
        }
        with reading(path):
            if anchors.keys() != model.keys() or tensors[_LOSSES].shape != self._losses.shape:
                raise ValueError(f"{path} belongs to another model; resume with the model of that run")
            reports = dict(zip(self.gate_reports, tensors["gate_reports"].tolist(), strict=True))
        self._anchors, self._losses, self.gate_reports = anchors, tensors[_LOSSES], reports


class _SaveState(TrainerCallback):
    """Adds the state of a `MixerTrainer` to each checkpoint."""

    def __init__(self, trainer: MixerTrainer) -> None:
        self.trainer = trainer

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Write the file, on the first process."""
        if state.is_world_process_zero:
            self.trainer.save_state_to(Path(args.output_dir) / f"checkpoint-{state.global_step}" / STATE_FILE)
