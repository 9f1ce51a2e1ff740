"""The two losses of MMRecUn on pairs of scores, and gradient ascent for comparison (arXiv 2405.15328; our definition).

x = s(user, item) - s(user, negative). Letters: B pairs.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import logsigmoid


def forward_bpr(difference: Tensor) -> Tensor:
    """-log sigma(x): low where the item scores above the negative.

    Args:
        difference: x of each pair [B].

    Returns:
        Loss of each pair [B], at least 0.

    Example:
        >>> import torch
        >>> from hf_mixture.models.mm_recommender.objective import forward_bpr
        >>> round(forward_bpr(torch.tensor(0.0)).item(), 4)
        0.6931
    """
    return -logsigmoid(difference)


def reverse_bpr(difference: Tensor) -> Tensor:
    """-log sigma(-x): its derivative in x is sigma(x), above 0, so that descent lowers x, ever more gently.

    Args:
        difference: x of each pair [B].

    Returns:
        Loss of each pair [B], at least 0.

    Example:
        >>> import torch
        >>> from hf_mixture.models.mm_recommender.objective import reverse_bpr
        >>> x = torch.tensor(0.0, requires_grad=True)
        >>> reverse_bpr(x).backward()
        >>> x.grad.item()
        0.5
    """
    return -logsigmoid(-difference)


def gradient_ascent(difference: Tensor) -> Tensor:
    """log sigma(x): descent on it is ascent on `forward_bpr`; its force sigma(-x) grows as x falls, and never ends.

    Args:
        difference: x of each pair [B].

    Returns:
        Loss of each pair [B], at most 0.

    Example:
        >>> import torch
        >>> from hf_mixture.models.mm_recommender.objective import gradient_ascent
        >>> round(gradient_ascent(torch.tensor(0.0)).item(), 4)
        -0.6931
    """
    return logsigmoid(difference)
