"""DoReMi (arXiv 2305.10429): weigh the domains on which the model lags behind a reference model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import nn

from hf_mixture.data.online.callback import MixingLawCallback
from hf_mixture.data.online.estimators import Estimator, Probe, same_names
from hf_mixture.data.online.schedule import Cost
from hf_mixture.data.online.solvers import ExponentiatedGradient
from hf_mixture.data.online.updates import excess
from hf_mixture.data.search.ranks import FloatArray


class ExcessLoss(Estimator):
    """A is diagonal: by how much each loss exceeds that of the reference, or 0."""

    method = "doremi"

    def __init__(self) -> None:
        self._model: nn.Module | None = None
        self._reference: FloatArray = np.zeros(0)

    def bind(self, names: Sequence[str], validation: Sequence[str], resources: Mapping[str, Any]) -> None:
        """Take the reference: a model, or its losses by domain, which must be finite."""
        same_names(names, validation, "DoReMi compares each domain with itself")
        reference = resources.get("reference")
        if isinstance(reference, Mapping):
            if missing := [name for name in names if name not in reference]:
                raise ValueError(f"reference gives no loss for {missing}; give one for each of {list(names)}")
            self._reference = np.array([float(reference[name]) for name in names])
            if not np.isfinite(self._reference).all():
                raise ValueError(f"reference={dict(reference)} must give finite losses; measure them again")
        else:
            self._model = reference

    def begin(self, probe: Probe) -> None:
        """Evaluate the reference model, once."""
        if len(self._reference):
            return
        if self._model is None:
            raise ValueError("DoReMiCallback has no reference; pass reference=model or {domain: loss}")
        self._model.to(next(probe.model.parameters()).device)
        self._reference = probe.losses(self._model)

    def estimate(self, probe: Probe) -> FloatArray:
        """The excess losses, as a diagonal matrix."""
        return np.diag(excess(probe.losses(), self._reference, np.zeros_like(self._reference)))

    def cost(self, num_validation: int, num_domains: int) -> Cost:
        """One evaluation a round, and one of the reference model in all."""
        return Cost(evaluations=1, models=0 if self._model is None else 1)

    def state_dict(self) -> dict[str, Any]:
        """The losses of the reference."""
        return {"reference": self._reference.tolist()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over the losses of the reference."""
        self._reference = np.asarray(state["reference"], dtype=np.float64)


class DoReMiCallback(MixingLawCallback):
    """Choose the weights of a `MixtureDataset` by the excess loss over a reference, while the stock `Trainer` trains.

    Every `update_steps` steps: `p_j exp(eta * max(loss_j - reference loss_j, 0))`, scaled to sum 1 and mixed with a
    little of the equal mixture. The published method measures the excess on the batch and weighs the losses of the
    batch; here it is measured on held-out rows, so that the reference is evaluated once only, and the weights are
    shares of the samples. Its result is meant for another run: `average_weights`.

    Args:
        validation: Held-out rows of each training domain, with `input_ids`.
        reference: The reference model, or its loss on each validation domain. Not needed to resume.
        update_steps: Optimizer steps between updates. Default: a twentieth of the run.
        eta: Step size, > 0. Default: 1.
        smoothing: Share of the equal mixture, in [0, 1). Default: 1e-3.
        eval_batch_size: As for `AioliCallback`.
        lag: As for `AioliCallback`.

    Raises:
        ValueError: As for `AioliCallback`.

    Example:
        Used like `AioliCallback`:

        ```python
        >>> from hf_mixture import DoReMiCallback
        >>> callback = DoReMiCallback({"a": [{"input_ids": [1, 2]}]}, reference={"a": 0.5}, update_steps=50)
        >>> callback.settings["eta"]
        1.0

        ```
    """

    def __init__(
        self,
        validation: Mapping[str, Any] | None = None,
        reference: nn.Module | Mapping[str, float] | None = None,
        *,
        update_steps: int | None = None,
        eta: float = 1.0,
        smoothing: float = 1e-3,
        eval_batch_size: int | None = None,
        lag: int | None = None,
    ) -> None:
        super().__init__(
            ExcessLoss(),
            ExponentiatedGradient(eta, scale=False, smoothing=smoothing),
            settings={
                "update_steps": update_steps,
                "eta": eta,
                "smoothing": smoothing,
                "eval_batch_size": eval_batch_size,
                "lag": lag,
            },
            resources={"validation": validation, "reference": reference},
            update_steps=update_steps,
            eval_batch_size=eval_batch_size,
            lag=lag,
        )
