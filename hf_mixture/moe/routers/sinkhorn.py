"""Sinkhorn router: in training the tokens are shared out evenly over the experts (S-BASE).

Letters: T tokens, E experts, K chosen.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hf_mixture.moe.anatomy import RouterOutput
from hf_mixture.moe.routers.base import LinearRouter, RouterShape, full_precision
from hf_mixture.moe.routers.checks import check_integer, check_number
from hf_mixture.moe.routers.registry import register_router


# Keeps an expert that nobody wants from a division by zero; as in Megatron-Core.
_EPS = 1e-8


@torch.no_grad()
def balance(logits: Tensor, *, tolerance: float = 1e-4, max_iterations: int = 100) -> Tensor:
    """Scale exp(z) until its rows sum to 1/T and its columns to 1/E (https://arxiv.org/abs/2202.01169, section 3.1).

    Args:
        logits: Raw logits z [T, E].
        tolerance: The scaling ends when the factors of the columns move by no more than this on average.
        max_iterations: Largest number of rounds, each over the rows and then over the columns.

    Returns:
        The plan [T, E], by which the K best experts of each token make a balanced load.
    """
    logits = full_precision(logits)
    num_tokens, num_experts = logits.shape
    # The factor of a row takes up any constant, and exp cannot overflow then.
    plan = (logits - logits.amax(dim=-1, keepdim=True)).exp()
    columns = torch.ones(num_experts, dtype=plan.dtype, device=plan.device)
    rows = torch.ones(num_tokens, dtype=plan.dtype, device=plan.device)
    for _ in range(max_iterations):
        rows = 1 / (num_tokens * ((plan * columns).sum(dim=1) + _EPS))
        before, columns = columns, 1 / (num_experts * ((plan * rows.unsqueeze(1)).sum(dim=0) + _EPS))
        if (columns - before).abs().mean() <= tolerance:
            break
    return rows.unsqueeze(1) * plan * columns


def route_sinkhorn(
    logits: Tensor, top_k: int, *, balanced: bool, tolerance: float = 1e-4, max_iterations: int = 100
) -> RouterOutput:
    """Choose the K best experts of the balanced plan, or of the logits, and weigh them by their scores.

    The scores are the softmax of the logits, or their sigmoid for K = 1 (BASE layers, https://arxiv.org/abs/2103.16716).

    Args:
        logits: Raw logits z [T, E].
        top_k: K.
        balanced: Whether the choice follows the plan.
        tolerance: See `balance`.
        max_iterations: See `balance`.

    Returns:
        The logits, weights [T, K] and indices [T, K].
    """
    scores = full_precision(logits)
    choice = balance(logits, tolerance=tolerance, max_iterations=max_iterations) if balanced else scores
    indices = torch.topk(choice, top_k, dim=-1).indices
    scores = scores.sigmoid() if top_k == 1 else scores.softmax(dim=-1)
    return RouterOutput(logits, scores.gather(-1, indices), indices)


@register_router(
    "sinkhorn",
    causal=True,
    paper="https://arxiv.org/abs/2202.01169",
    summary="Tokens shared out evenly over the experts in training, plain top k in evaluation (S-BASE).",
)
class SinkhornRouter(LinearRouter):
    """Sinkhorn router.

    Evaluation is plain top k, which is causal. In training the choice for a token also depends on the load that the
    other tokens of the forward make, later ones included, as it does in BASE layers; its weights do not.

    Args:
        shape: Numbers of experts, of hidden features and of choices.
        tolerance: The scaling ends when the factors of the columns move by no more than this on average.
        max_iterations: Largest number of rounds.
        bias: Whether the logits have a bias.
    """

    def __init__(
        self, shape: RouterShape, *, tolerance: float = 1e-4, max_iterations: int = 100, bias: bool = False
    ) -> None:
        super().__init__(shape, bias=bias)
        self.tolerance = check_number("tolerance", tolerance, at_least=0.0)
        self.max_iterations = check_integer("max_iterations", max_iterations, at_least=1)

    def route(self, hidden: Tensor) -> RouterOutput:
        """Choose by the balanced plan in training, by the logits in evaluation."""
        return route_sinkhorn(
            self.logits(hidden),
            self.top_k,
            balanced=self.training,
            tolerance=self.tolerance,
            max_iterations=self.max_iterations,
        )
