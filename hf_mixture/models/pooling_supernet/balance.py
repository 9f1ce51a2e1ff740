"""Assignment of paths to models, balanced by Sinkhorn's iteration in the log domain (arXiv 2306.11982, section 4).

Letters: P paths, M models, W scores, tau temperature, m mean share of each model over the paths.

Dividing the probabilities by m and normalising the rows, again and again, is the same as subtracting log m from the
logits before each row-wise softmax. So one vector, the sum of log m over the iterations, stands for the whole list of
shares: the balanced probabilities are softmax(tau W - sum_k log m_k), also for a W that has changed since.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Balance:
    """What balancing found.

    Args:
        log_marginals: The sum of log m over the iterations [M], in float64.
        num_iterations: Number of iterations.
        divergence: KL(m || 1/M) that is left, in nats.
    """

    log_marginals: Tensor
    num_iterations: int
    divergence: float


def balance(logits: Tensor, *, tolerance: float = 1e-4, max_iterations: int = 10_000) -> Balance:
    """Find what to subtract from the logits so that every model gets the same share of the paths.

    While KL(m || 1/M) is above the tolerance: add log m to the sum, and recompute m. All of it in float64 and in the
    log domain, where a share may be as small as exp(-1000).

    Args:
        logits: tau W [P, M], finite.
        tolerance: Largest KL(m || 1/M), in nats, above 0. Default: 1e-4, as published.
        max_iterations: Largest number of iterations. Default: 10,000.

    Returns:
        The sum of log m, and how it was reached.

    Raises:
        ValueError: The logits are no matrix, or not finite; or the tolerance is not reached.

    Example:
        >>> import torch
        >>> from hf_mixture.models.pooling_supernet.balance import assignment, balance
        >>> logits = 1000 * torch.tensor([[1.0, 0.0], [1.0, 0.0]])
        >>> assignment(logits, balance(logits).log_marginals)
        tensor([[0.5000, 0.5000],
                [0.5000, 0.5000]], dtype=torch.float64)
    """
    if logits.dim() != 2 or 0 in logits.shape or not logits.isfinite().all():
        raise ValueError(
            f"logits of shape {tuple(logits.shape)} must be finite numbers [paths, models]; lower the temperature, or "
            "look for scores that are not finite"
        )
    logits = logits.detach().double().cpu()
    num_paths, num_models = logits.shape
    total = torch.zeros(num_models, dtype=torch.float64)
    for iteration in range(max_iterations + 1):
        log_shares = (logits - total).log_softmax(dim=1).logsumexp(dim=0) - math.log(num_paths)
        divergence = float((log_shares.exp() * (log_shares + math.log(num_models))).sum())
        if divergence <= tolerance:
            return Balance(log_marginals=total, num_iterations=iteration, divergence=max(divergence, 0.0))
        total = total + log_shares
    raise ValueError(
        f"after max_iterations={max_iterations} the shares of the models differ from even ones by {divergence:.2g} "
        f"nats, more than tolerance={tolerance:g}; lower the temperature, or raise one of the two"
    )


def assignment(logits: Tensor, log_marginals: Tensor) -> Tensor:
    """Compute the probability of each model for each path: softmax(tau W - sum_k log m_k).

    Args:
        logits: tau W [P, M], or some of its rows.
        log_marginals: The sum of log m [M].

    Returns:
        Probabilities in float64 [P, M]; rows add up to 1.
    """
    return (logits.detach().double().cpu() - log_marginals.double().cpu()).softmax(dim=-1)
