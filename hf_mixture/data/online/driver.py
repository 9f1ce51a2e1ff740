"""What drives an online method under the stock Trainer: the events, the plan, the state.

Letters: n validation domains, m training domains.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from accelerate.utils import broadcast_object_list
from transformers import TrainerControl, TrainerState, TrainingArguments

from hf_mixture.data.online.estimators import Estimator, Probe, Window, named
from hf_mixture.data.online.history import write_history
from hf_mixture.data.online.law import Change, MixingLaw, describe
from hf_mixture.data.online.resources import Resources
from hf_mixture.data.online.schedule import Rounds
from hf_mixture.data.online.setup import check_blocks, check_rounds, read_prior, read_validation
from hf_mixture.data.online.solvers import Solver
from hf_mixture.data.search.ranks import FloatArray
from hf_mixture.data.stream_checks import check_count
from hf_mixture.data.trainer import MixtureCallback


HISTORY_FILE = "mixing_law.json"


class OnlineDriver(MixtureCallback):
    """Feeds a `MixingLaw` with probes of a training run and changes the plan as it says; see `MixingLawCallback`."""

    changes_weights = True

    def __init__(
        self,
        estimator: Estimator,
        solver: Solver,
        *,
        settings: Mapping[str, Any],
        resources: Mapping[str, Any],
        prior: Mapping[str, float] | None = None,
        prior_steps: int | None = 0,
        update_steps: int | None = None,
        num_updates: int = 20,
        sweeps: int = 0,
        block_steps: int = 0,
        one_hot_factor: float = 1.0,
        learn_once: bool = False,
        static: bool = False,
        seed: int = 0,
        eval_batch_size: int | None = None,
        lag: int | None = None,
    ) -> None:
        for name, value, least in (
            ("update_steps", update_steps, 1),
            ("prior_steps", prior_steps, 0),
            ("eval_batch_size", eval_batch_size, 1),
        ):
            check_count(name, value, least)
        super().__init__(lag=lag)
        self.estimator, self.solver, self.settings = estimator, solver, dict(settings)
        self._fresh = (estimator.state_dict(), solver.state_dict())
        self._resources = Resources(self, resources)
        self._prior, self._prior_steps, self._update_steps = prior, prior_steps, update_steps
        self._num_updates, self._static, self._learn_once = num_updates, static, learn_once
        self._sweeps, self._block_steps, self._factor, self._seed = sweeps, block_steps, one_hot_factor, seed
        self._eval_batch_size = eval_batch_size
        self._reset()

    def _reset(self) -> None:
        """Forget an earlier run."""
        self.history: list[dict[str, Any]] = []
        self.mixing: MixingLaw | None = None
        self._resumed: dict[str, Any] | None = None
        self._num_evaluations = self._window_step = 0
        self._window_totals: FloatArray = np.zeros((2, 0))
        self.estimator.load_state_dict(self._fresh[0])
        self.solver.load_state_dict(self._fresh[1])

    def init_arguments(self) -> dict[str, Any]:
        """Return the settings."""
        return self.settings

    def on_init_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Remember which Trainer this callback belongs to."""
        super().on_init_end(args, state, control, **kwargs)
        self._resources.attach(args)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Check the settings; lay the first round, or take over the state of the checkpoint."""
        self._reset()
        super().on_train_begin(args, state, control, **kwargs)
        if state.global_step == 0:
            # Weights then change between micro-batches, as early as what is fetched allows.
            self.dataset.resize_blocks(self.layout.num_processes * self.layout.batch_size)
            self.dataset.plan.frontier = self.position_of(0)
        self._max_steps = state.max_steps
        self._batch_size = self._eval_batch_size or args.per_device_eval_batch_size
        resources = self._resources.resolve(args)
        if self.estimator.needs_validation and not resources.get("validation"):
            raise ValueError(
                f"{type(self).__name__} has no validation data; pass validation={{domain: held-out rows}}"
            )
        names = self.dataset.names
        self.validation = read_validation(resources.get("validation") or {}, names)
        self.estimator.bind(names, self.validation.names, resources)
        self._window_totals = np.zeros((2, len(names)))
        prior_steps, period = self._prior_steps, self._update_steps
        if prior_steps is None:
            prior_steps = 0 if self._static or period is not None else self._max_steps // 10
        rounds = Rounds.fit(
            self._max_steps,
            prior_steps,
            self._max_steps - prior_steps if self._static else period,
            num_blocks=self._sweeps * len(names),
            block_steps=self._block_steps,
            first_only=self._learn_once,
            num_updates=self._num_updates,
        )
        check_rounds(rounds, self._lag_after(rounds.decision(0)))
        mixing = MixingLaw(
            self.estimator,
            self.solver,
            rounds,
            initial=self._first_weights(),
            floors=np.array([policy.min_weight for policy in self.dataset.plan.policies]),
            sweeps=self._sweeps,
            one_hot_factor=self._factor,
            seed=self._seed,
        )
        if self._sweeps:
            check_blocks(mixing.blocks, self._block_steps * self.global_batch)
        self.mixing = mixing
        if state.global_step == 0:
            self._change(mixing.begin(), 0)
            self._advance(state, **kwargs)
        elif self._resumed:
            self._restore(self._resumed, mixing)
        else:
            raise ValueError(
                f"the run goes on from step {state.global_step}, and its checkpoint has no state of "
                f"{type(self).__name__}; attach the callback from the first step on"
            )

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Measure where a block ends or a round begins, and decide where LearnParams ends."""
        super().on_step_end(args, state, control, **kwargs)
        if self.estimator.needs_training_loss:
            self._window_totals += self.take_totals()
        self._advance(state, **kwargs)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Write the history beside the checkpoints."""
        super().on_save(args, state, control, **kwargs)
        self._write(args, state)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Write the history."""
        super().on_train_end(args, state, control, **kwargs)
        self._write(args, state)

    def _write(self, args: TrainingArguments, state: TrainerState) -> None:
        if state.is_world_process_zero and args.output_dir:
            write_history(Path(args.output_dir, HISTORY_FILE), self.report())

    def _first_weights(self) -> FloatArray:
        """Where the recursion starts: at the prior, or at the weights of the mixture."""
        if self._prior is not None:
            return read_prior(self._prior, self.dataset.names)
        return np.asarray(self.dataset.plan.weights_at(self.position_of(0)), dtype=np.float64)

    def effect_position(self, step: int) -> int:
        """Return the position from which on weights hold that are decided after a step.

        Args:
            step: Optimizer steps done.
        """
        if self._declared_lag is not None:
            return self.position_of(step + self._declared_lag)
        layout, size = self.layout, self.dataset.plan.block_size
        fetched = self.position_of(step) + layout.lookahead * layout.num_processes * layout.batch_size
        return -(-fetched // size) * size

    def _lag_after(self, step: int) -> float:
        return (self.effect_position(step) - self.position_of(step)) / self.global_batch

    def _agreed(self, value: Any) -> Any:
        """The value of process 0."""
        box = [value]
        if self.layout.num_processes > 1:
            broadcast_object_list(box)
        return box[0]

    def _change(self, changes: Sequence[Change], step: int) -> None:
        """Change the plan of all processes as process 0 would."""
        plan, end = self.dataset.plan, self.position_of(self._max_steps)
        kept: list[tuple[int, list[float]]] = []
        for change in changes:
            # Before the first step nothing has been fetched.
            position = self.effect_position(step) if change.step is None else self.position_of(change.step)
            # A change to the weights that hold anyway would end a segment for nothing.
            holds = kept[-1][1] if kept else plan.weights_at(position).tolist()
            is_last = bool(kept) or plan.segments[-1].start <= position
            if position < end and not (is_last and holds == change.weights.tolist()):
                kept.append((position, change.weights.tolist()))
        names = self.dataset.names
        agreed = self._agreed(kept)
        self.dataset.set_schedule([(at, dict(zip(names, weights, strict=True))) for at, weights in agreed])

    def _drawn(self, start: int, end: int) -> FloatArray:
        """Shares of the domains in what the steps from one to another were given."""
        return self.dataset.shares(range(self.position_of(start), self.position_of(end)))

    def _window(self, step: int) -> Window:
        nats, tokens = self._window_totals
        blocks = range(self.position_of(self._window_step), self.position_of(step), self.dataset.plan.block_size)
        return Window(
            losses=np.divide(nats, tokens, out=np.full(len(nats), np.nan), where=tokens > 0),
            drawn=self._drawn(self._window_step, step),
            weights=np.mean([self.dataset.plan.weights_at(position) for position in blocks], axis=0),
            num_steps=step - self._window_step,
        )

    def _advance(self, state: TrainerState, **kwargs: Any) -> None:
        """Measure after a step, if it is time to, and act on a decision."""
        step, mixing = state.global_step, self.mixing
        if mixing is None or step >= self._max_steps or not mixing.needs_probe(step):
            return
        probe = Probe(
            kwargs["model"],
            self.dataset,
            self.validation,
            step=step,
            learning_rate=float(kwargs["optimizer"].param_groups[0]["lr"]),
            batch_size=self._batch_size,
            rank=self.layout.process_index,
            world_size=self.layout.num_processes,
            trained=(self.position_of(self._window_step), self.position_of(step)),
            window=lambda: self._window(step),
        )
        decision = mixing.advance(probe, self._drawn, self._agreed)
        self._num_evaluations += probe.num_evaluations
        if decision is None:
            return
        self._change(decision.changes, step)
        self._window_step, self._window_totals = step, np.zeros_like(self._window_totals)
        lag = self._lag_after(step)
        self.history.append(
            {
                **describe(decision, self.dataset.names),
                **self.estimator.details(),
                "step": step,
                "losses": {} if probe.measured is None else named(probe.measured, self.validation.names),
                "delta": mixing.rounds.blocks(decision.turn) * mixing.rounds.block_steps / mixing.rounds.period,
                "lag": lag,
                "bias_bound": lag / mixing.rounds.period,
                "effective_position": self.effect_position(step),
                "num_evaluations": self._num_evaluations,
            }
        )

    def extend_logs(self, args: TrainingArguments, state: TrainerState, logs: dict[str, Any]) -> dict[str, float]:
        """Return, beside the training losses, the weights of the last step and the last validation losses."""
        more = super().extend_logs(args, state, logs)
        if "loss" not in logs:
            return more
        weights = self.dataset.weights_at(max(self.position_of(state.global_step) - 1, 0))
        more |= {f"weight/{name}": weight for name, weight in weights.items()}
        if self.history:
            more |= {f"validation_loss/{name}": loss for name, loss in self.history[-1]["losses"].items()}
        return more

    def controller_state(self) -> dict[str, Any]:
        """Return the state of the method: JSON values."""
        if self.mixing is None:
            return {}
        return {
            "method": self.estimator.method,
            "settings": self.settings,
            "validation": self.validation.fingerprint,
            "period": self.mixing.rounds.period,
            "law": self.mixing.state_dict(),
            "num_evaluations": self._num_evaluations,
            "window": [self._window_step, self._window_totals.tolist()],
            "history": self.history,
        }

    def load_controller_state(self, state: dict[str, Any]) -> None:
        """Keep the state until the settings have been checked."""
        self._resumed = state

    def _restore(self, saved: dict[str, Any], mixing: MixingLaw) -> None:
        """Go on from the state of a checkpoint.

        Raises:
            ValueError: The interrupted run had other settings or other validation data.
        """
        mine = {
            **self.settings,
            "validation data": self.validation.fingerprint,
            "steps of a round": mixing.rounds.period,
        }
        then = {**saved["settings"], "validation data": saved["validation"], "steps of a round": saved["period"]}
        for name, value in mine.items():
            if then.get(name) != value:
                raise ValueError(
                    f"the interrupted run had {name}={then.get(name)!r} and this one has {value!r}; resume with the "
                    "arguments and the data of the first run, or begin anew"
                )
        mixing.load_state_dict(saved["law"])
        self._num_evaluations, self.history = saved["num_evaluations"], list(saved["history"])
        self._window_step, self._window_totals = saved["window"][0], np.asarray(saved["window"][1])

    def report(self) -> dict[str, Any]:
        """Return the history of the run as JSON values."""
        raise NotImplementedError
