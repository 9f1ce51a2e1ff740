"""A callback that looks at retained and forgotten interactions while a model unlearns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState

from hf_mixture.models.mm_recommender.audit import forget_recall, unobserved_recall
from hf_mixture.models.mm_recommender.interactions import Interactions
from hf_mixture.models.mm_recommender.options import UnlearningOptions
from hf_mixture.models.mm_recommender.ranking import quality_of
from hf_mixture.models.mm_recommender.requests import Split
from hf_mixture.models.mm_recommender.unlearning_loss import UnlearningLoss


@dataclass
class _Seen:
    """Measurements so far, and the state of `"two_phase"`."""

    history: list[dict[str, float]]
    forgets: bool = True
    cycles: int = 0


class UnlearningProgress(TrainerCallback, ExportableState):
    """Tells the loss its step, measures forgetting every `check_steps` steps, and ends at the stop level.

    `"two_phase"` changes its phase at the stop level instead, and ends after its cycles.

    Args:
        model: The recommender.
        loss: The loss of the run.
        split: Retained and forgotten interactions.
        options: The options.
        validation: Held-out interactions; needed where they are the reference.

    Attributes:
        history: Step, forget recall and stop level of each measurement.

    Raises:
        ValueError: If the reference is `"validation"`, and there is no held-out interaction of the users concerned.
    """

    def __init__(
        self,
        model: Any,
        loss: UnlearningLoss,
        split: Split,
        options: UnlearningOptions,
        validation: Interactions | None = None,
    ) -> None:
        self._model, self._loss, self._split, self._options = model, loss, split, options
        self._reference = None
        if options.stop_reference == "validation":
            if validation is not None:
                validation = validation.select(np.isin(validation.users, split.forget.users))
            if validation is None or not len(validation):
                raise ValueError(
                    "stop_reference='validation' needs held-out interactions of the users concerned; give validation, "
                    "or use stop_reference='unobserved'"
                )
            self._reference = validation
        self._seen = _Seen(history=[])

    @property
    def history(self) -> list[dict[str, float]]:
        """Step, forget recall and stop level of each measurement."""
        return self._seen.history

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        return {"args": {}, "attributes": {"_progress": [self._seen.history, self._seen.forgets, self._seen.cycles]}}

    def restore(self, attributes: dict[str, Any]) -> None:
        """Take what a checkpoint kept.

        Args:
            attributes: The attributes of `state`.
        """
        history, forgets, cycles = attributes["_progress"]
        self._seen = _Seen(history=list(history), forgets=bool(forgets), cycles=int(cycles))

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Tell the loss where the run is."""
        self._loss.step, self._loss.forgets = state.global_step, self._seen.forgets

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Measure, where it is time."""
        options, seen = self._options, self._seen
        if not options.check_steps or state.global_step % options.check_steps or not len(self._split.forget):
            return
        level, recall = self.stop_level(), forget_recall(self._model.tables(), self._split)
        seen.history.append({"step": state.global_step, "forget_recall": recall, "stop_level": level})
        reached = recall <= level
        if options.schedule != "two_phase":
            control.should_training_stop |= reached
        elif seen.forgets and reached:
            seen.forgets = False
        elif not seen.forgets and not reached:
            seen.forgets = True
            seen.cycles += 1
            control.should_training_stop |= seen.cycles >= options.num_cycles

    def stop_level(self) -> float:
        """Forget recall at which a run has done enough."""
        tables = self._model.tables()
        if self._reference is not None:
            reference = quality_of(tables.users, tables.items, self._reference, masked=self._split.retain).recall
        else:
            reference = unobserved_recall(tables, self._split, seed=self._options.seed)
        return self._options.stop_factor * reference
