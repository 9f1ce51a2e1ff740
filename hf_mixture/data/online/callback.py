"""Online mixing under the stock Trainer: an estimator of A, a solver, and rounds, in one callback.

Letters: n validation domains, m training domains.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import numpy as np

from hf_mixture.data.online.driver import OnlineDriver
from hf_mixture.data.online.estimators import named
from hf_mixture.data.online.history import FORMAT, VERSION
from hf_mixture.data.online.schedule import Cost


class MixingLawCallback(OnlineDriver):
    """Choose the weights of a `MixtureDataset` while the stock `Trainer` trains on it.

    Online methods are one scheme (arXiv 2411.05735, table 1): an `Estimator` measures a matrix A (how much training on
    domain j lowers the loss of domain i), a `Solver` turns it into weights, `Rounds` say when. `AioliCallback`,
    `DoReMiCallback`, `DoGECallback`, `SkillItCallback` and `ODMCallback` are instances; the static member of the
    family, DML, is `hf_mixture.data.search.DMLSearch`, whose weights can be the `prior`.

    Decisions follow from losses that are reduced over the processes, and are the same on all of them. New weights hold
    from the first block of the plan that no process has fetched, at most (1 + nw * pf) / ga optimizer steps later
    (nw workers, pf batches prefetched, ga accumulation steps). The state is part of every checkpoint, and a resumed
    run goes on bit by bit.

    Args:
        estimator: What is measured.
        solver: How weights follow.
        settings: The arguments that make this callback again, as JSON values; subclasses pass their own.
        resources: The arguments that JSON cannot hold, by name: `validation`, and what the estimator needs.
        prior: Weights up to the first decision, and the start of the recursion, by domain. Default: the mixture's.
        prior_steps: Optimizer steps before the first round. None: 0 with `update_steps` or `static`, otherwise a tenth
            of the run.
        update_steps: Optimizer steps of a round. Default: see `num_updates`.
        num_updates: Without `update_steps` and LearnParams, the number of rounds.
        sweeps: Blocks of LearnParams of each domain at the start of a round.
        block_steps: Optimizer steps of a block of LearnParams.
        one_hot_factor: Share of the favoured domain in a block.
        learn_once: Whether only the first round has blocks.
        static: Whether there is one round, which lasts to the end.
        seed: Seed of the order of the blocks.
        eval_batch_size: Rows of an evaluation batch. Default: `per_device_eval_batch_size`.
        lag: Optimizer steps from a decision to its effect. Default: none beyond what has been fetched.

    Attributes:
        history: One entry for each decision: `effects` (A as measured), `normalised`, `weights`, `losses`, `delta`,
            `lag`, `num_evaluations`, and more.

    Raises:
        ValueError: When training begins: a setting does not fit the run, the data or the domains.

    Example:
        Aioli by hand; `AioliCallback` shows a run:

        ```python
        >>> from hf_mixture import MixingLawCallback
        >>> from hf_mixture.data.online.estimators import LearnParams
        >>> from hf_mixture.data.online.solvers import ExponentiatedGradient
        >>> validation = {"a": [{"input_ids": [1, 2]}], "b": [{"input_ids": [3, 4]}]}
        >>> callback = MixingLawCallback(
        ...     LearnParams(sweeps=2), ExponentiatedGradient(eta=0.2), settings={},
        ...     resources={"validation": validation}, sweeps=2, block_steps=1, one_hot_factor=0.75)
        >>> callback.estimator.cost(num_validation=2, num_domains=2).evaluations
        5

        ```
    """

    def report(self) -> dict[str, Any]:
        """Return the history of the run as JSON values: what `write_history` writes and the plots draw.

        Raises:
            ValueError: Training has not begun.
        """
        if self.mixing is None:
            raise ValueError("there is nothing to report before training begins")
        names = self.dataset.names
        return {
            "format": FORMAT,
            "version": VERSION,
            "method": self.estimator.method,
            "settings": self.settings,
            "domains": list(names),
            "validation": list(self.validation.names),
            "max_steps": self._max_steps,
            "global_batch": self.global_batch,
            "initial_weights": named(self.mixing.initial, names),
            "average_weights": self.average_weights,
            "cost": asdict(self.cost),
            "num_evaluations": self._num_evaluations,
            "rounds": self.history,
        }

    @property
    def cost(self) -> Cost:
        """What a round costs."""
        cost = self.estimator.cost(len(self.validation.names), len(self.dataset.names))
        return replace(cost, training_share=self.mixing.rounds.share if self.mixing else 0.0)

    @property
    def average_weights(self) -> dict[str, float]:
        """Mean of the weights of all decisions: the result of a proxy run of DoReMi or DoGE, for another run."""
        rows = [list(turn["weights"].values()) for turn in self.history] or [self._first_weights().tolist()]
        return named(np.mean(rows, axis=0), self.dataset.names)
