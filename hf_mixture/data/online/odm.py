"""Online Data Mixing (arXiv 2312.02406): a bandit that draws more from the domains with the highest training loss."""

from __future__ import annotations

import numpy as np

from hf_mixture.data.online.callback import MixingLawCallback
from hf_mixture.data.online.estimators import Estimator, Probe
from hf_mixture.data.online.schedule import Cost
from hf_mixture.data.online.solvers import Exp3
from hf_mixture.data.online.updates import importance_rewards
from hf_mixture.data.search.ranks import FloatArray
from hf_mixture.data.stream_checks import check_count


class TrainingLoss(Estimator):
    """A is diagonal: the rewards of EXP3, summed over the steps since the last decision."""

    method = "odm"
    needs_validation = False
    needs_training_loss = True

    def estimate(self, probe: Probe) -> FloatArray:
        """Weigh the training losses by how often each domain was drawn."""
        window = probe.window()
        return np.diag(window.num_steps * importance_rewards(window.losses, window.drawn, window.weights))

    def cost(self, num_validation: int, num_domains: int) -> Cost:
        """Nothing: the losses of the training batches are there."""
        return Cost()


class ODMCallback(MixingLawCallback):
    """Choose the weights of a `MixtureDataset` by a bandit on the training loss, while the stock `Trainer` trains.

    Every `update_steps` steps the training losses of the domains, a tenth of them and weighted by how often the domain
    was drawn, are added to its rewards, and EXP3 turns rewards into weights. It needs no validation data, no
    evaluation and no second model.

    Args:
        update_steps: Optimizer steps between updates. Default: a hundredth of the run.
        warmup_steps: Optimizer steps before the first update. Default: `update_steps`.
        lag: As for `AioliCallback`.

    Raises:
        ValueError: As for `AioliCallback`.

    Example:
        Used like `AioliCallback`:

        ```python
        >>> from hf_mixture import ODMCallback
        >>> ODMCallback(update_steps=10).estimator.cost(num_validation=0, num_domains=3).evaluations
        0

        ```
    """

    def __init__(
        self, *, update_steps: int | None = None, warmup_steps: int | None = None, lag: int | None = None
    ) -> None:
        check_count("warmup_steps", warmup_steps, 0)
        super().__init__(
            TrainingLoss(),
            Exp3(),
            settings={"update_steps": update_steps, "warmup_steps": warmup_steps, "lag": lag},
            resources={},
            prior_steps=warmup_steps or 0,
            update_steps=update_steps,
            num_updates=100,
            lag=lag,
        )
