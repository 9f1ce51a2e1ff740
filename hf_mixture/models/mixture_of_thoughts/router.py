"""Routing a prompt: which experts think about it, and which of them answers.

Letters: B rows, M experts, K active experts of a row.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn


class PromptRouter(nn.Module):
    """Multi-layer perceptron from the features of a prompt to a score for each expert.

    Args:
        num_features: Width of the features.
        num_experts: M.
        hidden_size: Width of the two hidden layers.
        dropout: Probability that a hidden unit is dropped in training.
    """

    def __init__(self, num_features: int, num_experts: int, hidden_size: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(num_features, hidden_size),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden_size, hidden_size),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden_size, num_experts),
        )

    def forward(self, features: Tensor) -> Tensor:
        """Scores [B, M] of features [B, F], in float32."""
        weight = next(self.parameters())
        scores: Tensor = self.layers(features.to(weight.device, weight.dtype))
        return scores.float()


@dataclass(frozen=True)
class Routing:
    """One decision for each row.

    Args:
        scores: Scores of the router without noise [B, M].
        active: Whether an expert is active, bool [B, M].
        primary: The expert that answers [B].
        gates: 1 for each expert, with the gradient of its probability: straight-through selection [B, M].
    """

    scores: Tensor
    active: Tensor
    primary: Tensor
    gates: Tensor

    @property
    def peers(self) -> Tensor:
        """Active experts other than the primary, bool [B, M]."""
        is_primary = torch.zeros_like(self.active).scatter(-1, self.primary.unsqueeze(-1), True)
        return self.active & ~is_primary

    def select(self, rows: Tensor) -> Routing:
        """The decision for some rows."""
        return Routing(self.scores[rows], self.active[rows], self.primary[rows], self.gates[rows])


def gumbel_noise(scores: Tensor, scale: float) -> Tensor:
    """Draw Gumbel noise of a scale, shaped as the scores, from the global generator."""
    return -scale * torch.empty_like(scores).exponential_().log()


def route(scores: Tensor, num_active: int, *, noise: Tensor | None = None, primary: Tensor | None = None) -> Routing:
    """Choose the K best experts of each row, and the best of them as the primary.

    The choice itself has no gradient. The gates are exactly 1 in the forward pass and pass on the gradient of the
    softmax of the noisy scores.

    Args:
        scores: Scores [B, M].
        num_active: K; more than M means all.
        noise: Added to the scores for the choice [B, M].
        primary: Experts that must answer [B], active whatever their score.

    Returns:
        The decision.

    Raises:
        ValueError: If `primary` does not name one expert for each row.
    """
    if primary is not None:
        primary = torch.as_tensor(primary, device=scores.device)
        num_rows, num_experts = scores.shape
        if primary.shape != (num_rows,) or not ((primary >= 0) & (primary < num_experts)).all():
            raise ValueError(
                f"primary={primary.tolist()} must name an expert from 0 to {num_experts - 1} for each of the "
                f"{num_rows} rows"
            )
    noisy = scores if noise is None else scores + noise
    ranked = noisy.detach()
    if primary is not None:
        ranked = ranked.scatter(-1, primary.unsqueeze(-1), float("inf"))
    chosen = ranked.topk(min(num_active, scores.shape[-1]), dim=-1).indices
    active = torch.zeros_like(scores, dtype=torch.bool).scatter(-1, chosen, True)
    soft = noisy.softmax(dim=-1)
    return Routing(scores, active, chosen[:, 0], 1 + (soft - soft.detach()))


def drop_peers(routing: Routing, probability: float) -> Routing:
    """Leave peers out at random, never the primary.

    Args:
        routing: A decision.
        probability: Of each peer of each row.

    Returns:
        A decision with fewer active experts.
    """
    dropped = routing.peers & (torch.rand_like(routing.scores) < probability)
    return Routing(routing.scores, routing.active & ~dropped, routing.primary, routing.gates)


def entropy_loss(scores: Tensor) -> Tensor:
    """Minus the mean entropy of the router, in nats: lowest when the router is undecided."""
    return (scores.softmax(-1) * scores.log_softmax(-1)).sum(-1).mean()


def balance_loss(scores: Tensor) -> Tensor:
    """Squared coefficient of variation of the mean probability of each expert: 0 when all are used alike.

    Probabilities, not choices, are averaged, so that the loss has a gradient.
    """
    means = scores.softmax(-1).mean(0)
    return means.var(unbiased=False) / means.mean() ** 2


def expert_nll_loss(scores: Tensor, expert_nll: Tensor, temperature: float) -> Tensor:
    """Cross-entropy of the router against the softmax of minus the experts' own losses (the targets of RouterDC).

    Args:
        scores: Scores [B, M].
        expert_nll: Loss of each expert on each row, in bits per byte [B, M].
        temperature: Of the targets, in the same unit.

    Returns:
        The mean over rows.
    """
    targets = (-expert_nll / temperature).softmax(-1)
    return -(targets * scores.log_softmax(-1)).sum(-1).mean()


def consistency_loss(first: Tensor, second: Tensor, *, temperature: float = 2.0) -> Tensor:
    """Half the symmetric divergence between two predictions of the same tokens.

    Args:
        first: Logits [..., V].
        second: Logits of the same tokens under another routing.
        temperature: Divides both.

    Returns:
        The mean over tokens; 0 for equal logits.
    """
    p, q = (first / temperature).log_softmax(-1), (second / temperature).log_softmax(-1)
    return 0.5 * ((p.exp() - q.exp()) * (p - q)).sum(-1).mean()
