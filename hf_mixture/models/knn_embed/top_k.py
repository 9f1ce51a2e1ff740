"""The k largest scores, with a rule for ties.

Letters: R rows, W columns, k results.
"""

from __future__ import annotations

import torch
from torch import Tensor


# Up to this width sorting a whole row takes no longer than choosing from it.
_SORTED_WIDTH = 128


def top_k(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Find the k largest scores of each row; of equal ones those of the first columns.

    Args:
        scores: Scores [R, W], none of them NaN.
        k: Number of results, from 1 to W.

    Returns:
        Scores [R, k], falling, and their columns [R, k].
    """
    width = scores.shape[1]
    if width <= _SORTED_WIDTH:
        values, columns = torch.sort(scores, dim=1, descending=True, stable=True)
        return values[:, :k], columns[:, :k]
    values, columns = torch.topk(scores, k, dim=1)
    # Among equal scores at the end of a list `topk` takes any; such rows are sorted.
    last = values[:, -1:]
    torn = ((scores >= last).sum(dim=1) > k) & (last.squeeze(1) > -torch.inf)
    if torn.any():
        ordered, places = torch.sort(scores[torn], dim=1, descending=True, stable=True)
        values[torn], columns[torn] = ordered[:, :k], places[:, :k]
    columns, order = columns.sort(dim=1)
    values, order = torch.sort(values.gather(1, order), dim=1, descending=True, stable=True)
    return values, columns.gather(1, order)
