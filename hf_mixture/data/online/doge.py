"""DoGE (arXiv 2310.15393): weigh the domains whose gradients point the way of the validation gradients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from hf_mixture.data.online.callback import MixingLawCallback
from hf_mixture.data.online.estimators import Estimator, Probe
from hf_mixture.data.online.schedule import Cost
from hf_mixture.data.online.solvers import ExponentiatedGradient
from hf_mixture.data.online.validation import collate, row_losses, undisturbed
from hf_mixture.data.search.ranks import FloatArray


LARGEST_SCORE = 5.0
LARGEST_NORM = 1.0


def loss_gradient(model: nn.Module, rows: Sequence[Mapping[str, Any]]) -> list[torch.Tensor]:
    """The gradient of the mean loss of a batch, without dropout, clipped to norm 1; `.grad` is not touched.

    Args:
        model: A causal language model.
        rows: Rows with `input_ids`.

    Returns:
        One tensor for each trainable parameter.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    batch = collate(rows)
    with undisturbed(model), torch.enable_grad():
        losses = row_losses(model, batch)
        loss = losses.sum() / (batch["labels"][:, 1:] >= 0).sum()
        found = torch.autograd.grad(loss, parameters, allow_unused=True)
    parts = [torch.zeros_like(p) if g is None else g for g, p in zip(found, parameters, strict=True)]
    norm = dot(parts, parts) ** 0.5
    return [part / norm * LARGEST_NORM for part in parts] if norm > LARGEST_NORM else parts


def dot(left: Sequence[torch.Tensor], right: Sequence[torch.Tensor]) -> float:
    """Inner product of two gradients, summed in float64 on the processor."""
    return sum(float((a.float() * b.float()).sum()) for a, b in zip(left, right, strict=True))


class GradientAlignment(Estimator):
    """A is the inner product of training and validation gradients, over the mean norm of the training gradients.

    Args:
        num_rows: Rows of a domain in a gradient.
        full: Whether A has one row for each validation domain (n gradients are then held in memory at once), or one
            for their mean.
    """

    method = "doge"

    def __init__(self, num_rows: int, *, full: bool = False) -> None:
        self.num_rows, self.full = num_rows, full
        self._turn = 0

    def estimate(self, probe: Probe) -> FloatArray:
        """Gradients of samples just trained on, against those of validation rows that change from round to round."""
        first = self._turn * self.num_rows
        self._turn += 1
        groups = [probe.validation.rows(i, first, self.num_rows) for i in range(len(probe.validation.names))]
        if not self.full:
            groups = [[row for group in groups for row in group]]
        targets = [loss_gradient(probe.model, rows) for rows in groups]
        effects = np.zeros((len(targets), len(probe.dataset.names)))
        norms = np.zeros(len(probe.dataset.names))
        for domain in range(len(norms)):
            rows = probe.trained_rows(domain, self.num_rows)
            if not rows:
                continue
            gradient = loss_gradient(probe.model, rows)
            effects[:, domain] = [dot(target, gradient) for target in targets]
            norms[domain] = dot(gradient, gradient) ** 0.5
        return effects / len(targets) / (norms.mean() + 1e-6)

    def cost(self, num_validation: int, num_domains: int) -> Cost:
        """One backward pass for each training domain, and one for each row of A."""
        rows = num_validation if self.full else 1
        return Cost(backward_passes=num_domains + rows, gradients=rows + 1)

    def state_dict(self) -> dict[str, Any]:
        """The number of the next round."""
        return {"turn": self._turn}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over the number of the next round."""
        self._turn = state["turn"]


class RateScaledGradient(ExponentiatedGradient):
    """The step of DoGE: scores in [0, 5], a step size of learning rate / mu.

    Args:
        mu: Bregman coefficient, > 0.
    """

    def __init__(self, mu: float) -> None:
        if not mu > 0:
            raise ValueError(f"mu={mu!r} is not above 0; it divides the learning rate: raise it")
        super().__init__(1 / mu, scale=False)

    def move(self, weights: FloatArray, effects: FloatArray, *, step: int, learning_rate: float) -> FloatArray:
        """Follow the clipped column sums of A."""
        scores = learning_rate * np.clip(effects.sum(axis=0), 0.0, LARGEST_SCORE)
        return super().move(weights, scores[None], step=step, learning_rate=learning_rate)


class DoGECallback(MixingLawCallback):
    """Choose the weights of a `MixtureDataset` by the alignment of gradients, while the stock `Trainer` trains.

    Every `update_steps` steps: `p_j exp(learning rate / mu * s_j)`, scaled to sum 1, where s_j is the product of the
    gradient of domain j with the mean validation gradient, over the mean norm, in [0, 5]. It costs m + 1 backward
    passes and two gradients in memory. `average_weights` is the result for another run. Every process computes the
    same gradients, so the model must be whole on each (no sharded parameters).

    Args:
        validation: Held-out rows by domain, with `input_ids`.
        update_steps: Optimizer steps between updates. Default: a twentieth of the run.
        mu: Divides the learning rate; smaller moves more, > 0. Default: .01.
        num_rows: Rows of a domain in a gradient. Default: 8.
        full: Whether to measure a row of A for each validation domain; n + 1 gradients are then in memory.
        lag: As for `AioliCallback`.

    Raises:
        ValueError: As for `AioliCallback`.

    Example:
        Used like `AioliCallback`:

        ```python
        >>> from hf_mixture import DoGECallback
        >>> callback = DoGECallback({"a": [{"input_ids": [1, 2]}]}, update_steps=50)
        >>> callback.estimator.cost(num_validation=3, num_domains=3).backward_passes
        4

        ```
    """

    def __init__(
        self,
        validation: Mapping[str, Any] | None = None,
        *,
        update_steps: int | None = None,
        mu: float = 0.01,
        num_rows: int = 8,
        full: bool = False,
        lag: int | None = None,
    ) -> None:
        if num_rows < 1:
            raise ValueError(f"num_rows={num_rows!r} is below 1; a gradient needs rows")
        super().__init__(
            GradientAlignment(num_rows, full=full),
            RateScaledGradient(mu),
            settings={"update_steps": update_steps, "mu": mu, "num_rows": num_rows, "full": full, "lag": lag},
            resources={"validation": validation},
            update_steps=update_steps,
            lag=lag,
        )
