"""AdaBelief (https://arxiv.org/abs/2010.07468), which torch does not have."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.optim import Optimizer


class AdaBelief(Optimizer):
    """Adam with the variance of the gradient around its own mean, m, in the place of its second moment.

    m = b1 m + (1 - b1) g, s = b2 s + (1 - b2) (g - m)^2 + eps, theta -= lr m' / (sqrt(s') + eps) with the bias
    corrections m' = m / (1 - b1^t) and s' = s / (1 - b2^t). A parameter without a gradient is left as it is.

    Args:
        params: Parameters, or groups of them.
        lr: Learning rate, at least 0.
        betas: b1 and b2, from 0 to below 1.
        eps: What keeps the denominator from zero, above 0.

    Raises:
        ValueError: A number is out of range.

    Example:
        >>> import torch
        >>> from hf_mixture.models.mixer.adabelief import AdaBelief
        >>> weight = torch.nn.Parameter(torch.ones(1))
        >>> optimizer = AdaBelief([weight], lr=0.1)
        >>> weight.square().backward()
        >>> optimizer.step()
        >>> round(weight.item(), 3)
        0.889
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-16,
    ) -> None:
        if lr < 0 or eps <= 0 or not all(0 <= beta < 1 for beta in betas):
            raise ValueError(
                f"lr={lr}, betas={betas} and eps={eps}: give lr of at least 0, betas from 0 to below 1, eps above 0"
            )
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Make one step.

        Args:
            closure: Computes the loss and its gradients.

        Returns:
            What the closure returned.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            if parameters:
                self._step(parameters, group)
        return loss

    def _step(self, parameters: list[Any], group: dict[str, Any]) -> None:
        for parameter in parameters:
            if not self.state[parameter]:
                self.state[parameter] = {
                    "step": torch.zeros(()),
                    "mean": torch.zeros_like(parameter),
                    "variance": torch.zeros_like(parameter),
                }
        states = [self.state[parameter] for parameter in parameters]
        gradients = [parameter.grad for parameter in parameters]
        means = [state["mean"] for state in states]
        variances = [state["variance"] for state in states]
        (first, second), eps = group["betas"], group["eps"]
        for state in states:
            state["step"] += 1
        torch._foreach_lerp_(means, gradients, 1 - first)
        deviations = torch._foreach_sub(gradients, means)
        torch._foreach_mul_(variances, second)
        torch._foreach_addcmul_(variances, deviations, deviations, 1 - second)
        torch._foreach_add_(variances, eps)
        steps = [float(state["step"]) for state in states]
        denominators = torch._foreach_sqrt(torch._foreach_div(variances, [1 - second**step for step in steps]))
        torch._foreach_add_(denominators, eps)
        updates = torch._foreach_div(means, denominators)
        torch._foreach_mul_(updates, [-group["lr"] / (1 - first**step) for step in steps])
        torch._foreach_add_(parameters, updates)
