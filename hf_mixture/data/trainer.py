"""`MixtureCallback`: a `MixtureDataset` under the stock Trainer.

It checks that the samples are read in order, knows how far they have been fetched, changes weights ahead of that,
restores them at a resume, and logs the training loss of each domain.

Letters: W processes, b samples of a micro-batch on one process, ga micro-batches of an optimizer step, nw workers,
pf batches that a worker prefetches, s optimizer steps, K domains.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import broadcast_object_list, gather
from numpy.typing import NDArray
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from hf_mixture._compat.transformers import extend_logs
from hf_mixture.data.domain_loss import DomainLoss
from hf_mixture.data.loader import Course, Layout, check_lag, check_passes, check_position, read_layout
from hf_mixture.data.mixture_dataset import MixtureDataset
from hf_mixture.hub.atomic import write_atomic


FORMAT = "hf_mixture.plan"
VERSION = 1
FILE_NAME = "mixture_plan.json"

LOGGED, TAKEN = "logged", "taken"


class MixtureCallback(TrainerCallback, ExportableState):
    """Trains on a `MixtureDataset`: in order, with weights that change on time, exact resume and loss by domain.

    - Before the first step it checks sampler and data loader, and raises where the order of the mixture would be lost.
    - `set_weights` changes the weights ahead of everything that any worker of any process has fetched. The weights of
      process 0 hold for all.
    - The plan is part of the Trainer's state in every checkpoint, and of `mixture_plan.json` beside it. A resumed run
      checks domains, data, and position, and continues bit by bit, also between a decision and its effect, whatever
      `restore_callback_states_from_checkpoint` says.
    - `loss/<domain>` joins each training entry of the log: nats per token since the entry before, over all processes.

    A subclass that decides on weights keeps what it knows in `controller_state`, takes it back in
    `load_controller_state`, and gives its arguments in `init_arguments`.

    Args:
        changes_weights: Whether weights are going to be changed. Unless the data set was given a block size, its
            blocks are then the samples of one optimizer step, so that weights can change at every one. Default: what
            the class says, here False.
        lag: Optimizer steps from a decision to its effect. Default: as few as possible,
            ceil((1 + nw * pf) / ga).
        log_domain_loss: Whether to log the training loss of each domain. It costs one more pass over the logits, and
            changes nothing else. Default: True.

    Attributes:
        dataset (`MixtureDataset`): What is trained on; from `on_train_begin` on, as the following ones.
        layout (`Layout`): Processes, batches and workers.
        global_batch (`int`): Samples of one optimizer step, W * b * ga.
        lag (`int`): Optimizer steps from a decision to its effect.

    Raises:
        ValueError: When training begins: the order would be lost, `lag` is too small, the run would pass over the
            mixture again, or a resumed run has other domains, data or positions.

    Example:
        ```python
        >>> import contextlib, io, tempfile
        >>> from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainerCallback, TrainingArguments
        >>> from hf_mixture import Mixture
        >>> from hf_mixture.data.mixture_dataset import MixtureDataset
        >>> from hf_mixture.data.pack import TokenPack
        >>> from hf_mixture.data.packed_rows import collate_packed
        >>> from hf_mixture.data.trainer import MixtureCallback
        >>> class HalfTime(TrainerCallback):
        ...     def on_step_end(self, args, state, control, **kwargs):
        ...         if state.global_step == state.max_steps // 2:
        ...             mixing.set_weights({"low": 0.0, "high": 1.0})
        >>> sizes = {"vocab_size": 8, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
        >>> model = LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=1))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     low = TokenPack.write(f"{folder}/low", [[0, 1, 2, 3] * 8], vocab_size=8).blocks(4)
        ...     high = TokenPack.write(f"{folder}/high", [[4, 5, 6, 7] * 8], vocab_size=8).blocks(4)
        ...     mixture = Mixture({"low": 0.5, "high": 0.5}, unit="tokens")
        ...     mixing = MixtureCallback(changes_weights=True)
        ...     args = TrainingArguments(
        ...         folder,
        ...         max_steps=6,
        ...         per_device_train_batch_size=2,
        ...         train_sampling_strategy="sequential",
        ...         logging_steps=1,
        ...         save_strategy="no",
        ...         report_to=[],
        ...     )
        ...     trainer = Trainer(
        ...         model,
        ...         args,
        ...         data_collator=collate_packed,
        ...         train_dataset=MixtureDataset({"low": low, "high": high}, mixture, num_examples=12),
        ...         callbacks=[mixing, HalfTime()],
        ...     )
        ...     with contextlib.redirect_stdout(io.StringIO()):  # the Trainer prints its log
        ...         _ = trainer.train()
        >>> [segment.start for segment in mixing.dataset.plan.segments]  # decided after step 3, one more was fetched
        [0, 8]
        >>> [sorted(key for key in entry if "/" in key) for entry in trainer.state.log_history[3:5]]
        [['loss/high', 'loss/low'], ['loss/high']]

        ```
    """

    changes_weights = False

    def __init__(
        self, *, changes_weights: bool | None = None, lag: int | None = None, log_domain_loss: bool = True
    ) -> None:
        if lag is not None and (isinstance(lag, bool) or not isinstance(lag, int) or lag < 1):
            raise ValueError(f"lag={lag!r} is not an integer >= 1; give optimizer steps, or leave it out")
        if changes_weights is not None:
            self.changes_weights = changes_weights
        self._declared_lag = lag
        self._log_domain_loss = log_domain_loss
        # What the Trainer sets on a callback that it makes anew; the state of the Trainer has the same.
        self.saved: dict[str, Any] | None = None
        self.dataset: MixtureDataset
        self.layout: Layout
        self.lag: int
        self._is_training = False
        self._course: Course
        self._num_done = self._num_begun = self._substep = 0
        self._device = torch.device("cpu")
        self._loss: DomainLoss | None = None

    @property
    def global_batch(self) -> int:
        """Samples of one optimizer step, W * b * ga."""
        return self.layout.global_batch

    def position_of(self, step: int) -> int:
        """Return the position of the first sample that comes after some optimizer steps.

        Args:
            step: Optimizer steps since the beginning of the run.
        """
        return self._course.position_of(step)

    def init_arguments(self) -> dict[str, Any]:
        """Return the arguments that make this callback again: JSON values."""
        return {
            "changes_weights": self.changes_weights,
            "lag": self._declared_lag,
            "log_domain_loss": self._log_domain_loss,
        }

    def controller_state(self) -> dict[str, Any]:
        """Return what a subclass has to remember across an interruption: JSON values."""
        return {}

    def load_controller_state(self, state: dict[str, Any]) -> None:
        """Take back what `controller_state` returned; called in `on_train_begin` of a resumed run.

        Args:
            state: What it returned.
        """

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        saved = None
        if self._is_training:
            saved = {
                "version": VERSION,
                "step": self._num_done,
                "position": self.position_of(self._num_done),
                "global_batch": self.global_batch,
                "dataset": self.dataset.state_dict(),
                "controller": self.controller_state(),
            }
        return {"args": self.init_arguments(), "attributes": {"saved": saved}}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Check the run, and restore the plan of an interrupted one."""
        loader = kwargs["train_dataloader"]
        if args.n_gpu > 1 and self._log_domain_loss:
            raise ValueError(
                f"one process with n_gpu={args.n_gpu} splits its batches (DataParallel), so that the loss of each "
                "domain cannot be collected; start one process for each GPU with torchrun, or pass "
                "log_domain_loss=False"
            )
        self.layout = read_layout(loader, args)
        self.dataset = loader.dataset
        self._is_training = True
        self.lag = check_lag(self._declared_lag, self.layout)
        skipped = 0 if args.ignore_data_skip else state.global_step % self.layout.num_steps
        self._course = Course(self.layout, state.global_step, self.dataset.start_at + skipped * self.global_batch)
        check_passes(state, self.layout, skipped, length=len(self.dataset), drops_last=args.dataloader_drop_last)
        saved = self._saved_by(state) if state.global_step else None
        if saved is not None:
            if state.global_step < state.max_steps:
                check_position(saved, self._course)
            self.dataset.load_state_dict(saved["dataset"])
        elif self.changes_weights:
            self.dataset.resize_blocks(self.global_batch)
        # Nothing has been fetched yet, in whatever state an earlier call of train() has left the plan.
        self.dataset.plan.frontier = self._course.position
        self._num_done = self._num_begun = state.global_step
        self._device = args.device
        if saved is not None:
            self.load_controller_state(saved["controller"])
        # The Trainer expects an entry for every callback, and a checkpoint made without this one has none.
        state.stateful_callbacks.setdefault(type(self).__name__, self.state())
        if self._loss is not None:
            # An earlier call of train() may have ended in an error.
            self._loss.detach()
        if self._log_domain_loss:
            extend_logs()
            self._loss = DomainLoss(len(self.dataset.names), self._domains_of, readers=(LOGGED, TAKEN))
            self._loss.attach(kwargs["model"])

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Move the frontier: the micro-batches of this step have been taken from the loader."""
        self._num_begun = state.global_step + 1
        self.dataset.plan.advance_frontier(self._course.frontier(self._num_begun))
        self._expect(0)

    def on_substep_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Await the next micro-batch of the step."""
        self._expect(self._substep + 1)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Count the step."""
        self._num_done = state.global_step

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Write the plan beside the Trainer's state, for readers without the Trainer."""
        folder = Path(args.output_dir, f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}")
        if args.should_save and folder.is_dir():
            content = {"format": FORMAT, **self.state()["attributes"]["saved"]}
            write_atomic(folder / FILE_NAME, json.dumps(content, indent=2) + "\n")

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Leave the model as it was."""
        if self._loss is not None:
            self._loss.detach()

    def set_weights(self, weights: Mapping[str, float], *, step: int | None = None) -> int:
        """Change the weights ahead of everything that has been fetched.

        All processes call it; the weights of process 0 hold for all.

        Args:
            weights: Weight of every domain; normalised by their sum.
            step: Optimizer steps after which they hold. Default: `lag` steps after those that have begun.

        Returns:
            The position of the stream from which on they hold. A change that would hold only after the end is not
            made.

        Raises:
            ValueError: `step` lies before the frontier or between blocks, or the plan refuses the weights.
        """
        return self.set_schedule([(step, weights)])[0]

    def set_schedule(self, changes: Sequence[tuple[int | None, Mapping[str, float]]]) -> list[int]:
        """Make several changes of `set_weights` at once: caps are checked for the whole.

        Args:
            changes: Step and weights of each, in the order of the steps; see `set_weights`.

        Returns:
            The position of each change.

        Raises:
            ValueError: As in `set_weights`; nothing is changed then.
        """
        if not self._is_training:
            raise ValueError("weights are set before training begins; do so from on_train_begin on")
        shared = [[(step, dict(weights)) for step, weights in changes]]
        if self.layout.num_processes > 1:
            broadcast_object_list(shared)
        soonest = self._num_begun + self.lag
        positions = [self.position_of(soonest if step is None else step) for step, _ in shared[0]]
        end = len(self.dataset.plan)
        self.dataset.set_schedule(
            [(at, weights) for at, (_, weights) in zip(positions, shared[0], strict=True) if at < end]
        )
        return positions

    def take_totals(self) -> NDArray[np.float64]:
        """Return nats and tokens of each domain over all processes, since the call before; all processes call it.

        The log does not take part in this: it has a count of its own.

        Returns:
            float64 [2, K], in the order of `dataset.names`.

        Raises:
            ValueError: The callback was made with `log_domain_loss=False`, or the forward of the model does not give
                the losses.
        """
        if self._loss is None:
            raise ValueError("the loss of each domain is not collected; make the callback with log_domain_loss=True")
        if self._loss.failure is not None:
            raise ValueError(
                f"{type(self).__name__} decides by the training loss of each domain, which is not known: "
                f"{self._loss.failure}; train without them, or choose a method that measures validation losses"
            )
        return self._sum(self._loss.take(TAKEN))

    def extend_logs(self, args: TrainingArguments, state: TrainerState, logs: dict[str, Any]) -> dict[str, float]:
        """Return `loss/<domain>` for a training entry of the log, for each domain that had tokens since the last.

        Args:
            args: The Trainer's arguments.
            state: The Trainer's state.
            logs: The entry.
        """
        if self._loss is None or "loss" not in logs:
            return {}
        nats, tokens = self._sum(self._loss.take(LOGGED))
        return {
            f"loss/{name}": float(nats[number] / tokens[number])
            for number, name in enumerate(self.dataset.names)
            if tokens[number]
        }

    def _sum(self, totals: NDArray[np.float64]) -> NDArray[np.float64]:
        """Add what each process has."""
        if self.layout.num_processes == 1:
            return totals
        # Gathered and added in one order, so that every process has the same bits.
        everywhere = gather(torch.from_numpy(totals).to(self._device)[None])
        summed: NDArray[np.float64] = everywhere.cpu().numpy().sum(axis=0)
        return summed

    def _expect(self, substep: int) -> None:
        """Tell the collector of losses which samples come next."""
        self._substep = substep
        if self._loss is not None:
            self._loss.expect(self._course.micro_batch(self._num_begun, substep))

    def _domains_of(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        # The last batches of a pass are completed from its beginning.
        start = self.dataset.start_at
        return self.dataset.plan.draws((positions - start) % len(self.dataset) + start)[0]

    def _saved_by(self, state: TrainerState) -> dict[str, Any] | None:
        """What this callback saved in the checkpoint that the run resumes from."""
        entry: Any = state.stateful_callbacks.get(type(self).__name__)
        if isinstance(entry, list):
            raise ValueError(f"the checkpoint is of a run with several {type(self).__name__}; attach one to a Trainer")
        saved: dict[str, Any] | None = entry and entry["attributes"]["saved"]
        if saved is not None and saved["version"] != VERSION:
            raise ValueError(
                f"the checkpoint has the mixture in version {saved['version']!r}; this release reads version "
                f"{VERSION}: resume with the release that wrote it"
            )
        return saved
