"""Losses of embeddings of users and items.

Letters: B edges, N negatives.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def twhin_loss(scores: Tensor, negative_scores: Tensor, *, negative_weight: float) -> Tensor:
    """-log s(f(u, i)) - w mean_j log s(-f(u, j)), s the logistic function; of the family of arXiv 2202.05387.

    Args:
        scores: Scores of the edges [B].
        negative_scores: Scores of each user with the negatives [B, N].
        negative_weight: w.

    Returns:
        The mean over the edges.
    """
    return F.softplus(-scores).mean() + negative_weight * F.softplus(negative_scores).mean()


def sampled_softmax_loss(scores: Tensor, negative_scores: Tensor) -> Tensor:
    """-log exp(f(u, i)) / (exp(f(u, i)) + sum_j exp(f(u, j))).

    The negatives are taken as they are: with items drawn uniformly the sum is that of all items times N over their
    number.

    Args:
        scores: Scores of the edges [B].
        negative_scores: Scores of each user with the negatives [B, N]; minus infinity for those that do not count.

    Returns:
        The mean over the edges.
    """
    total = torch.logaddexp(scores, negative_scores.logsumexp(dim=1))
    return (total - scores).mean()


def bpr_loss(scores: Tensor, negative_scores: Tensor) -> Tensor:
    """-log s(f(u, i) - f(u, j)), Bayesian personalised ranking, arXiv 1205.2618.

    Args:
        scores: Scores of the edges [B].
        negative_scores: Scores of each user with the negatives [B, N].

    Returns:
        The mean over edges and negatives.
    """
    return F.softplus(negative_scores - scores.unsqueeze(1)).mean()
