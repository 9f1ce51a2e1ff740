"""One run of an online method without the Trainer: estimator, solver, rounds, and the weights they lead to.

Letters: n validation domains, m training domains.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hf_mixture.data.online.effects import block_order, normalise, one_hot_shares
from hf_mixture.data.online.estimators import Estimator, Probe
from hf_mixture.data.online.schedule import Rounds
from hf_mixture.data.online.solvers import Solver
from hf_mixture.data.online.updates import with_floors
from hf_mixture.data.search.ranks import FloatArray


@dataclass(frozen=True)
class Change:
    """Weights that hold from a step on.

    Args:
        step: Steps done when they begin to hold; None: as soon as no sample has been fetched.
        weights: Of shape (m,).
    """

    step: int | None
    weights: FloatArray


@dataclass(frozen=True)
class Decision:
    """What the end of a measurement led to.

    Args:
        turn: Number of the round.
        effects: A as measured, of shape (n, m).
        used: A as the solver used it, of shape (n, m).
        weights: The new weights, of shape (m,).
        changes: What to change in the plan, in order.
    """

    turn: int
    effects: FloatArray
    used: FloatArray
    weights: FloatArray
    changes: tuple[Change, ...]


class MixingLaw:
    """The state machine of an online method: fed with probes at steps, it says which weights hold when.

    Args:
        estimator: What is measured.
        solver: How weights follow.
        rounds: When.
        initial: First weights, of shape (m,).
        floors: Smallest weights, of shape (m,).
        sweeps: Blocks of each domain in a round with LearnParams.
        one_hot_factor: Share of the favoured domain in a block.
        seed: Seed of the order of the blocks.

    Raises:
        ValueError: The blocks cannot tell the domains apart.
    """

    def __init__(
        self,
        estimator: Estimator,
        solver: Solver,
        rounds: Rounds,
        *,
        initial: FloatArray,
        floors: FloatArray,
        sweeps: int = 0,
        one_hot_factor: float = 1.0,
        seed: int = 0,
    ) -> None:
        self.estimator, self.solver, self.rounds = estimator, solver, rounds
        self.floors, self.sweeps, self.seed = floors, sweeps, seed
        self.initial = self.weights = with_floors(initial, floors)
        self.blocks = np.zeros((0, 0))
        if sweeps:
            self.blocks = np.stack([with_floors(w, floors) for w in one_hot_shares(len(initial), one_hot_factor)])

    def begin(self) -> tuple[Change, ...]:
        """The changes to make before the first step."""
        return (Change(0, self.weights), *self._block_changes(0, self.weights))

    def needs_probe(self, step: int) -> bool:
        """Whether something is measured after this many steps."""
        turn, offset = self.rounds.locate(step)
        length = self.rounds.blocks(turn) * self.rounds.block_steps
        return turn >= 0 and (offset == 0 or (offset <= length and offset % self.rounds.block_steps == 0))

    def advance(
        self,
        probe: Probe,
        drawn: Callable[[int, int], FloatArray],
        agree: Callable[[Any], Any] = lambda value: value,
    ) -> Decision | None:
        """Measure, and decide if that completes the measurement of the round.

        Args:
            probe: The model after a step for which `needs_probe` holds.
            drawn: Shares of the domains, of shape (m,), in the samples of the steps from one to another.
            agree: Makes a JSON value of this rank that of all ranks.

        Returns:
            The decision, if one was made.
        """
        turn, offset = self.rounds.locate(probe.step)
        num_blocks, size = self.rounds.blocks(turn), self.rounds.block_steps
        if offset == 0:
            self.estimator.begin(probe)
        else:
            domain = self._order(turn)[offset // size - 1]
            self.estimator.end_block(probe, domain, drawn(probe.step - size, probe.step))
        if offset != num_blocks * size:
            return None
        effects = np.asarray(agree(self.estimator.estimate(probe).tolist()), dtype=np.float64)
        used = self.solver.prepare(effects)
        moved = self.solver.move(self.weights, used, step=probe.step, learning_rate=probe.learning_rate)
        self.weights = with_floors(moved, self.floors)
        changes = (Change(None, self.weights), *self._block_changes(turn + 1, self.weights))
        return Decision(turn, effects, used, self.weights, changes)

    def _order(self, turn: int) -> list[int]:
        return block_order(len(self.initial), self.sweeps, seed=self.seed, turn=turn)

    def _block_changes(self, turn: int, after: FloatArray) -> list[Change]:
        """The weights of the blocks of a round, and those that follow them."""
        if turn >= self.rounds.count or not self.rounds.blocks(turn):
            return []
        start, size = self.rounds.start(turn), self.rounds.block_steps
        blocks = [Change(start + k * size, self.blocks[domain]) for k, domain in enumerate(self._order(turn))]
        return [*blocks, Change(self.rounds.decision(turn), after)]

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` needs to go on, as JSON values."""
        return {
            "initial": self.initial.tolist(),
            "weights": self.weights.tolist(),
            "estimator": self.estimator.state_dict(),
            "solver": self.solver.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state."""
        self.initial = np.asarray(state["initial"], dtype=np.float64)
        self.weights = np.asarray(state["weights"], dtype=np.float64)
        self.estimator.load_state_dict(state["estimator"])
        self.solver.load_state_dict(state["solver"])


def describe(decision: Decision, names: Sequence[str]) -> dict[str, Any]:
    """The parts of a decision as JSON values."""
    return {
        "round": decision.turn,
        "weights": dict(zip(names, decision.weights.tolist(), strict=True)),
        "effects": decision.effects.tolist(),
        "normalised": normalise(decision.effects).tolist(),
        "used": decision.used.tolist(),
    }
