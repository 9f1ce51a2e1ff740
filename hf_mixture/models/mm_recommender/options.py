"""How a request is carried out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args


Schedule = Literal["sum", "alternate", "two_phase", "project", "mask", "reset", "refit"]
SCHEDULES: tuple[str, ...] = get_args(Schedule)


@dataclass(frozen=True, kw_only=True)
class UnlearningOptions:
    """Losses, weights, schedule and length of an unlearning run.

    The loss is retain_weight * forward BPR of retained pairs + forget_weight * reverse BPR of forgotten pairs + the
    penalty of the retained rows.

    Args:
        schedule: `"sum"`, both losses in each step; `"alternate"`, one step on forgotten pairs and then `retain_steps`
            on retained ones; `"two_phase"`, forgotten pairs until the stop level is reached, then retained ones, and
            again, `num_cycles` times; `"project"`, the sum, without the part of the forget gradient that is against
            the retain gradient; `"mask"`, the sum, with forgotten pairs moving only the rows of what was asked for;
            `"reset"`, new random rows for what was asked for, then the sum; `"refit"`, new random rows, and then only
            these are trained, on what is retained of them. Default: `"reset"`.
        retain_weight: At least 0. Default: 1.0.
        forget_weight: At least 0; after new random rows, more than 0 forgets beyond a retrained model. Default: 0.0.
        forget_loss: `"reverse_bpr"`, or `"gradient_ascent"` for comparison. Default: `"reverse_bpr"`.
        modality: What becomes of the modality vectors of forgotten items: `"remove"`, the mean of the other items
            takes their place; or `"keep"`. Default: `"remove"`.
        num_steps: Largest number of optimizer steps; 0 only prepares (graph, rows, modalities). Default: 100.
        learning_rate: Of a fresh Adam. Default: 1e-3.
        retain_batch: Retained pairs of a step, over all processes, at least 1. Default: 2048.
        forget_batch: Forgotten pairs of a step, over all processes; it divides `retain_batch`. Default: 256.
        retain_steps: Retain steps of `"alternate"` after each forget step, at least 1. Default: 4.
        num_cycles: Most cycles of `"two_phase"`. Default: 3.
        stop_factor: The stop level is this many times the recall of unobserved pairs. Default: 1.5.
        stop_reference: Whose recall: `"unobserved"`, random pairs of the same users; or `"validation"`, pairs that
            were held out of training. Default: `"unobserved"`.
        check_steps: Steps between two looks at the stop level; 0 never looks. Default: 0.
        seed: Seed of orders, negatives and new rows. Default: 0.

    Raises:
        ValueError: If a value is unknown or out of its range.

    Example:
        >>> from hf_mixture import UnlearningOptions
        >>> UnlearningOptions(schedule="project", forget_weight=0.5).resets_rows
        False
    """

    schedule: str = "reset"
    retain_weight: float = 1.0
    forget_weight: float = 0.0
    forget_loss: str = "reverse_bpr"
    modality: str = "remove"
    num_steps: int = 100
    learning_rate: float = 1e-3
    retain_batch: int = 2048
    forget_batch: int = 256
    retain_steps: int = 4
    num_cycles: int = 3
    stop_factor: float = 1.5
    stop_reference: str = "unobserved"
    check_steps: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        for name, known in (
            ("schedule", SCHEDULES),
            ("forget_loss", ("reverse_bpr", "gradient_ascent")),
            ("modality", ("remove", "keep")),
            ("stop_reference", ("unobserved", "validation")),
        ):
            if getattr(self, name) not in known:
                raise ValueError(f"{name}={getattr(self, name)!r} is not one of {list(known)}; choose one of them")
        for name, least in (
            ("retain_weight", 0),
            ("forget_weight", 0),
            ("num_steps", 0),
            ("retain_batch", 1),
            ("forget_batch", 1),
            ("retain_steps", 1),
            ("num_cycles", 1),
            ("stop_factor", 0),
            ("check_steps", 0),
            ("seed", 0),
        ):
            if not getattr(self, name) >= least:
                raise ValueError(f"{name}={getattr(self, name)} must be at least {least}; raise it")
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate={self.learning_rate} must be above 0; raise it")
        if self.retain_batch % self.forget_batch:
            raise ValueError(
                f"retain_batch={self.retain_batch} must be a multiple of forget_batch={self.forget_batch}; change one"
            )
        if self.schedule == "two_phase" and not self.check_steps:
            raise ValueError("schedule='two_phase' looks at the stop level; give check_steps, for example 10")

    @property
    def resets_rows(self) -> bool:
        """Whether rows are re-initialised first."""
        return self.schedule in ("reset", "refit")
