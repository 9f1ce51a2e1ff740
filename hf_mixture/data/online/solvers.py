"""The solvers of linear mixing optimisation: from the matrix A of a round to the weights of the next.

Letters: n validation domains, m training domains.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from hf_mixture.data.online.effects import normalise, smooth
from hf_mixture.data.online.updates import blend, exp3, exploration, exponentiated
from hf_mixture.data.search.ranks import FloatArray


Update = Literal["multiplicative", "reset"]
UPDATES = ("multiplicative", "reset")


class Solver:
    """What a solver is: `prepare` scales A, `move` makes new weights from it; both may keep a state of JSON values."""

    def prepare(self, effects: FloatArray) -> FloatArray:
        """Scale A, of shape (n, m), as the method does. Called once a round."""
        return effects

    def move(self, weights: FloatArray, effects: FloatArray, *, step: int, learning_rate: float) -> FloatArray:
        """New weights of shape (m,).

        Args:
            weights: Weights of this round, of shape (m,).
            effects: What `prepare` returned.
            step: Training steps done.
            learning_rate: That of the optimizer.
        """
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` needs to go on, as JSON values."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a state."""


class ExponentiatedGradient(Solver):
    """Exponentiated gradient descent on the column sums of A (arXiv 2411.05735, algorithm 1).

    Args:
        eta: Step size, > 0.
        update: `"multiplicative"`: from the weights of this round, as in the paper. `"reset"`: from equal weights, as
            in the published code; a prior is then dropped.
        scale: Whether to shift and scale A to sum 1 (`normalise`). Default: True.
        ema: Weight of the past matrices in [0, 1), or None for no averaging. Default: None.
        smoothing: Share of the equal mixture that is mixed in, in [0, 1). Default: 0.

    Raises:
        ValueError: An argument breaks its rule.

    Example:
        ```python
        >>> import numpy as np
        >>> from hf_mixture.data.online.solvers import ExponentiatedGradient
        >>> solver = ExponentiatedGradient(eta=0.2)
        >>> effects = solver.prepare(np.array([[0.3, 0.05], [-0.02, 0.2]]))
        >>> solver.move(np.array([0.5, 0.5]), effects, step=1, learning_rate=0.0).round(6).tolist()
        [0.502459, 0.497541]

        ```
    """

    def __init__(
        self,
        eta: float,
        update: Update = "multiplicative",
        *,
        scale: bool = True,
        ema: float | None = None,
        smoothing: float = 0.0,
    ) -> None:
        if not eta > 0:
            raise ValueError(f"eta={eta!r} is not above 0; the weights would not move towards lower losses: raise it")
        if update not in UPDATES:
            raise ValueError(f"update={update!r} is not one of {list(UPDATES)}; choose one")
        for name, value in (("ema", ema or 0.0), ("smoothing", smoothing)):
            if not 0 <= value < 1:
                raise ValueError(f"{name}={value!r} is not in [0, 1); at 1 nothing measured would count: lower it")
        self.eta, self.update, self.scale, self.ema, self.smoothing = eta, update, scale, ema, smoothing
        self._average: FloatArray | None = None

    def prepare(self, effects: FloatArray) -> FloatArray:
        """Normalise A and average it with the past."""
        self._average = smooth(normalise(effects) if self.scale else effects, self._average, self.ema)
        return self._average

    def move(self, weights: FloatArray, effects: FloatArray, *, step: int, learning_rate: float) -> FloatArray:
        """Follow the column sums of A."""
        base = weights if self.update == "multiplicative" else np.full_like(weights, 1 / len(weights))
        return blend(exponentiated(base, effects.sum(axis=0), self.eta), self.smoothing)

    def state_dict(self) -> dict[str, Any]:
        """The average of the matrices."""
        keep = self.ema is not None and self._average is not None
        return {"average": self._average.tolist() if keep and self._average is not None else None}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over the average of the matrices."""
        average = state["average"]
        self._average = None if average is None else np.asarray(average, dtype=np.float64)


class Exp3(Solver):
    """The adversarial bandit of Online Data Mixing (arXiv 2312.02406): the column sums of A are rewards and add up.

    Example:
        ```python
        >>> import numpy as np
        >>> from hf_mixture.data.online.solvers import Exp3
        >>> solver = Exp3()
        >>> solver.move(np.array([0.5, 0.5]), np.array([[0.6, 0.0]]), step=10, learning_rate=0.0).round(4).tolist()
        [0.5467, 0.4533]

        ```
    """

    def __init__(self) -> None:
        self._rewards: FloatArray | None = None
        self._rate: float | None = None

    def move(self, weights: FloatArray, effects: FloatArray, *, step: int, learning_rate: float) -> FloatArray:
        """Add the rewards, lower the exploration rate, and weigh."""
        rewards = effects.sum(axis=0)
        self._rewards = rewards if self._rewards is None else self._rewards + rewards
        previous = 1 / len(weights) if self._rate is None else self._rate
        self._rate = exploration(len(weights), step)
        return exp3(self._rewards, self._rate, previous)

    def state_dict(self) -> dict[str, Any]:
        """The summed rewards and the exploration rate of the last update."""
        return {"rewards": None if self._rewards is None else self._rewards.tolist(), "rate": self._rate}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over rewards and rate."""
        rewards = state["rewards"]
        self._rewards = None if rewards is None else np.asarray(rewards, dtype=np.float64)
        self._rate = state["rate"]
