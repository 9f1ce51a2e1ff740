"""What is measured, and how the matrix A follows from it. One estimator serves one run.

Letters: n validation domains, m training domains.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from hf_mixture.data.online.effects import diagonal_effects, solve_effects
from hf_mixture.data.online.schedule import Cost
from hf_mixture.data.online.validation import ValidationSets
from hf_mixture.data.search.ranks import FloatArray


@dataclass(frozen=True)
class Window:
    """What was trained on since the last decision.

    Args:
        losses: Mean training loss of each domain, of shape (m,); NaN where none was drawn.
        drawn: Share of the samples that each domain had, of shape (m,).
        weights: Mean weights under which they were drawn, of shape (m,).
        num_steps: Training steps.
    """

    losses: FloatArray
    drawn: FloatArray
    weights: FloatArray
    num_steps: int


class Probe:
    """What an estimator may look at: the model at this step, the validation sets, the samples trained on.

    Args:
        model: The model that is trained.
        dataset: The `MixtureDataset`.
        validation: Held-out rows by domain.
        step: Training steps done.
        learning_rate: That of the optimizer.
        batch_size: Rows of an evaluation batch.
        rank: Number of this process.
        world_size: Number of processes.
        trained: First position since the last decision, and the position after the last.
        window: Makes the window since the last decision.
    """

    def __init__(
        self,
        model: nn.Module,
        dataset: Any,
        validation: ValidationSets,
        *,
        step: int,
        learning_rate: float = 0.0,
        batch_size: int = 8,
        rank: int = 0,
        world_size: int = 1,
        trained: tuple[int, int] = (0, 0),
        window: Callable[[], Window] | None = None,
    ) -> None:
        self.model, self.dataset, self.validation = model, dataset, validation
        self.step, self.learning_rate = step, learning_rate
        self.batch_size, self.rank, self.world_size = batch_size, rank, world_size
        self.num_evaluations = 0
        self.measured: FloatArray | None = None
        self._trained, self._window = trained, window

    def window(self) -> Window:
        """What was trained on since the last decision."""
        if self._window is None:
            raise RuntimeError("this probe has no training losses")
        return self._window()

    def trained_rows(self, domain: int, count: int) -> Sequence[Mapping[str, Any]]:
        """The last rows of a domain since the last decision, at most `count`.

        Args:
            domain: Number of the training domain.
            count: Most rows.
        """
        start, end = self._trained
        positions = np.arange(start, end)
        mine = positions[self.dataset.plan.draws(positions)[0] == domain][-count:]
        rows: Sequence[Mapping[str, Any]] = self.dataset.rows(mine) if len(mine) else []
        return rows

    def losses(self, model: nn.Module | None = None) -> FloatArray:
        """Validation losses of shape (n,), the same on all ranks.

        Args:
            model: Another model than the one that is trained.

        Raises:
            ValueError: A loss is not finite.
        """
        if model is None and self.measured is not None:
            return self.measured
        losses = self.validation.losses(
            self.model if model is None else model,
            batch_size=self.batch_size,
            rank=self.rank,
            world_size=self.world_size,
        )
        self.num_evaluations += 1
        for name, loss in zip(self.validation.names, losses, strict=True):
            if not np.isfinite(loss):
                raise ValueError(
                    f"the validation loss of {name!r} is {loss} after {self.step} steps; no mixture can be chosen "
                    "from it: lower the learning rate or look for broken rows"
                )
        if model is None:
            self.measured = losses
        return losses


class Estimator:
    """What an estimator is: it looks at probes and gives A.

    In a round, `begin` comes first, then `end_block` after each block of LearnParams (if the method has them), then
    `estimate`. Without blocks all three come at the same step.
    """

    method = ""
    needs_validation = True
    needs_training_loss = False

    def bind(self, names: Sequence[str], validation: Sequence[str], resources: Mapping[str, Any]) -> None:
        """Training begins.

        Args:
            names: The m training domains.
            validation: The n validation domains.
            resources: Objects that the callback was given, by name.

        Raises:
            ValueError: The domains do not suit the method, or something is missing.
        """

    def begin(self, probe: Probe) -> None:
        """A round begins."""

    def end_block(self, probe: Probe, domain: int, shares: FloatArray) -> None:
        """A block of LearnParams ends.

        Args:
            probe: The model after the block.
            domain: The training domain that the block favoured.
            shares: Shares of the domains in the block as drawn, of shape (m,).
        """

    def estimate(self, probe: Probe) -> FloatArray:
        """A of shape (n, m): rows are validation domains, columns training domains."""
        raise NotImplementedError

    def details(self) -> dict[str, Any]:
        """What the history keeps of the last estimate, as JSON values."""
        return {}

    def cost(self, num_validation: int, num_domains: int) -> Cost:
        """What a round costs."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` needs to go on, as JSON values."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a state."""


class LearnParams(Estimator):
    """Aioli's estimator (arXiv 2411.05735, algorithm 2): train on each smoothed one-hot mixture, see what falls.

    The mixtures of the blocks enter as they were drawn, so that blocks too short for the exact shares do not bias A.

    Args:
        sweeps: Blocks of each domain in a round.
        diagonal: Whether each domain is taken to act on its own loss only.

    Example:
        See `hf_mixture.data.online.AioliCallback`, which runs it.
    """

    method = "learn_params"

    def __init__(self, sweeps: int, *, diagonal: bool = False) -> None:
        self.sweeps, self.diagonal = sweeps, diagonal
        self._before = self._drops = self._shares = np.zeros(0)

    def bind(self, names: Sequence[str], validation: Sequence[str], resources: Mapping[str, Any]) -> None:
        """Check the domains."""
        if self.diagonal:
            same_names(names, validation, "diagonal=True lets each domain act on its own loss")

    def begin(self, probe: Probe) -> None:
        """Measure the losses before the first block."""
        self._before = probe.losses()
        num_domains = len(probe.dataset.names)
        self._drops = np.zeros((len(self._before), num_domains))
        self._shares = np.zeros((num_domains, num_domains))

    def end_block(self, probe: Probe, domain: int, shares: FloatArray) -> None:
        """Add the drops of the losses to the column of the domain."""
        after = probe.losses()
        self._drops[:, domain] += self._before - after
        self._shares[domain] += shares
        self._before = after

    def estimate(self, probe: Probe) -> FloatArray:
        """Average over the sweeps and solve."""
        solve = diagonal_effects if self.diagonal else solve_effects
        return solve(self._drops / self.sweeps, self._shares / self.sweeps)

    def details(self) -> dict[str, Any]:
        """Drops of the losses by block, the mixtures of the blocks as drawn, and how far those magnify errors."""
        shares = self._shares / self.sweeps
        return {
            "drops": (self._drops / self.sweeps).tolist(),
            "shares": shares.tolist(),
            "condition": float(np.linalg.cond(shares)),
        }

    def cost(self, num_validation: int, num_domains: int) -> Cost:
        """One evaluation at the start and one after each block."""
        return Cost(evaluations=1 + self.sweeps * num_domains)

    def state_dict(self) -> dict[str, Any]:
        """Last losses, and the sums so far."""
        return {"before": self._before.tolist(), "drops": self._drops.tolist(), "shares": self._shares.tolist()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over last losses and sums."""
        self._before, self._drops, self._shares = (
            np.asarray(state[name], dtype=np.float64) for name in ("before", "drops", "shares")
        )


def same_names(names: Sequence[str], validation: Sequence[str], why: str) -> None:
    """Refuse validation domains that are not the training domains, in their order.

    Args:
        names: The training domains.
        validation: The validation domains.
        why: What needs them to be the same.

    Raises:
        ValueError: They differ.
    """
    if list(names) != list(validation):
        raise ValueError(
            f"{why}, and the domains trained on are {list(names)}, those of the validation {list(validation)}; "
            "give the same names in the same order"
        )


def named(values: Sequence[float] | FloatArray, names: Sequence[str]) -> dict[str, float]:
    """Numbers by name, as JSON values."""
    return {name: float(value) for name, value in zip(names, values, strict=True)}
