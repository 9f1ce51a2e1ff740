"""Skill-It (arXiv 2307.14430): weigh the domains that help, by a skills graph, those whose loss is high."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from hf_mixture.data.online.callback import MixingLawCallback
from hf_mixture.data.online.estimators import LearnParams, Probe
from hf_mixture.data.online.schedule import Cost
from hf_mixture.data.online.solvers import ExponentiatedGradient
from hf_mixture.data.online.updates import exponentiated
from hf_mixture.data.search.ranks import FloatArray


def graph_effects(graph: npt.ArrayLike) -> FloatArray:
    """A from a published skills graph: its transpose, with off-diagonal ones as halves.

    Args:
        graph: Of shape (m, n): entry (j, i) is the effect of training on domain j on the loss of domain i.

    Returns:
        A of shape (n, m).
    """
    effects = np.array(graph, dtype=np.float64).T
    effects[(effects == 1) & (np.eye(*effects.shape) == 0)] = 0.5
    return effects


class SkillsGraph(LearnParams):
    """A is the graph times the losses of the last decisions: `A[i, j] = graph[j, i] * sum of the losses of i`.

    Args:
        effects: A of relative drops, of shape (n, m); None: learnt in the first round.
        window: Number of decisions whose losses add up.
        sweeps: Blocks of each domain in the first round, when the graph is learnt.
    """

    method = "skill-it"

    def __init__(self, effects: FloatArray | None, window: int, sweeps: int) -> None:
        super().__init__(sweeps)
        self.graph, self.window = effects, window
        self._first: FloatArray = np.zeros(0)
        self._losses: list[FloatArray] = []

    def bind(self, names: Sequence[str], validation: Sequence[str], resources: Mapping[str, Any]) -> None:
        """Check the shape of the graph."""
        if self.graph is not None and self.graph.shape != (len(validation), len(names)):
            raise ValueError(
                f"graph has the shape {self.graph.T.shape}; it must be (m, n) = ({len(names)}, {len(validation)}), a "
                f"row for each training domain {list(names)}, a column for each validation domain {list(validation)}"
            )

    def begin(self, probe: Probe) -> None:
        """Measure the losses."""
        if self.graph is None:
            super().begin(probe)
            self._first = self._before

    def estimate(self, probe: Probe) -> FloatArray:
        """Weigh the graph with the losses."""
        if self.graph is None:
            self.graph = super().estimate(probe) / self._first[:, None]
        self._losses = [*self._losses, probe.losses()][-self.window :]
        return self.graph * np.sum(self._losses, axis=0)[:, None]

    def details(self) -> dict[str, Any]:
        """The graph, in the orientation of A."""
        return {"graph": None if self.graph is None else self.graph.tolist()}

    def cost(self, num_validation: int, num_domains: int) -> Cost:
        """One evaluation a round; learning the graph adds one for each block of the first round."""
        return Cost(evaluations=1)

    def state_dict(self) -> dict[str, Any]:
        """The graph or its parts, and the losses of the window."""
        return {
            **super().state_dict(),
            "graph": None if self.graph is None else self.graph.tolist(),
            "first": self._first.tolist(),
            "losses": [losses.tolist() for losses in self._losses],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over graph and losses."""
        super().load_state_dict(state)
        self.graph = None if state["graph"] is None else np.asarray(state["graph"], dtype=np.float64)
        self._first = np.asarray(state["first"], dtype=np.float64)
        self._losses = [np.asarray(losses, dtype=np.float64) for losses in state["losses"]]


class SkillItCallback(MixingLawCallback):
    """Choose the weights of a `MixtureDataset` by a skills graph, while the stock `Trainer` trains.

    Every `update_steps` steps: `exp(eta * sum_i graph[j, i] * (losses of i in the window))`, scaled to sum 1: always
    from equal weights. The first weights are `exp(eta * sum_i graph[j, i])`. Without a graph the first round learns
    one as Aioli does, from blocks that favour one domain each.

    Args:
        validation: Held-out rows by domain, with `input_ids`.
        graph: Skills graph as published, of shape (m, n): entry (j, i) is the relative drop of the loss of validation
            domain i by training on domain j (`relative_effects(...).T`). Default: learnt.
        update_steps: Optimizer steps between updates. Default: a twentieth of the run, or what learning needs.
        eta: Step size, > 0. Default: .2.
        window: Decisions whose losses add up, >= 1. Default: 3.
        lp_rounds: Blocks of each domain when the graph is learnt. Default: 2.
        lp_steps: Optimizer steps of a block. Default: 4.
        one_hot_factor: Share of the favoured domain in a block. Default: 1.
        seed: As for `AioliCallback`.
        eval_batch_size: As for `AioliCallback`.
        lag: As for `AioliCallback`.

    Raises:
        ValueError: As for `AioliCallback`.

    Example:
        Used like `AioliCallback`:

        ```python
        >>> from hf_mixture import SkillItCallback
        >>> held_out = {"a": [{"input_ids": [1, 2]}], "b": [{"input_ids": [3, 4]}]}
        >>> callback = SkillItCallback(held_out, graph=[[0.8, 0.5], [0.4, 0.6]])  # row: trained on; column: measured
        >>> callback.estimator.graph.tolist()  # A, its transpose
        [[0.8, 0.4], [0.5, 0.6]]

        ```
    """

    def __init__(
        self,
        validation: Mapping[str, Any] | None = None,
        graph: Sequence[Sequence[float]] | None = None,
        *,
        update_steps: int | None = None,
        eta: float = 0.2,
        window: int = 3,
        lp_rounds: int = 2,
        lp_steps: int = 4,
        one_hot_factor: float = 1.0,
        seed: int = 0,
        eval_batch_size: int | None = None,
        lag: int | None = None,
    ) -> None:
        for name, value in (("window", window), ("lp_rounds", lp_rounds), ("lp_steps", lp_steps)):
            if value < 1:
                raise ValueError(f"{name}={value!r} is below 1; raise it")
        effects = None if graph is None else graph_effects(graph)
        super().__init__(
            SkillsGraph(effects, window, lp_rounds),
            ExponentiatedGradient(eta, "reset", scale=False),
            settings={
                "graph": None if graph is None else np.asarray(graph, dtype=np.float64).tolist(),
                "update_steps": update_steps,
                "eta": eta,
                "window": window,
                "lp_rounds": lp_rounds,
                "lp_steps": lp_steps,
                "one_hot_factor": one_hot_factor,
                "seed": seed,
                "eval_batch_size": eval_batch_size,
                "lag": lag,
            },
            resources={"validation": validation},
            update_steps=update_steps,
            sweeps=lp_rounds if graph is None else 0,
            block_steps=lp_steps,
            one_hot_factor=one_hot_factor,
            learn_once=True,
            seed=seed,
            eval_batch_size=eval_batch_size,
            lag=lag,
        )

    def _first_weights(self) -> FloatArray:
        """By the graph with equal losses; without one, the weights of the mixture."""
        weights = super()._first_weights()
        graph = self.estimator.graph if isinstance(self.estimator, SkillsGraph) else None
        if graph is None or not isinstance(self.solver, ExponentiatedGradient):
            return weights
        return exponentiated(np.full_like(weights, 1 / len(weights)), graph.sum(axis=0), self.solver.eta)
