"""Which path is trained in which model: draws that depend on the seed and the step alone.

Nothing but the step has to be remembered for a resumed run to make the draws of an uninterrupted one, and all
processes make the same.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor


# Streams of draws of one seed.
_PAIRS, _VALIDATION = 0, 1


def draw_path(num_paths: int, *, seed: int, step: int) -> tuple[int, float]:
    """Draw the path of a step, uniformly, and a number in [0, 1) that decides its model.

    Args:
        num_paths: P.
        seed: Seed of the search.
        step: The step, counted from 0.

    Returns:
        The path's index, and the number.
    """
    generator = np.random.default_rng([seed, _PAIRS, step])
    return int(generator.integers(num_paths)), float(generator.random())


def choose_model(probabilities: Tensor, number: float) -> int:
    """Find the model that a uniform number falls to.

    Args:
        probabilities: Of each model [M].
        number: In [0, 1).

    Returns:
        The model's index.
    """
    bounds = probabilities.cumsum(dim=0).numpy()
    return min(int(np.searchsorted(bounds, number * bounds[-1], side="right")), len(bounds) - 1)


def validation_rows(num_rows: int, batch_size: int, *, seed: int, step: int) -> NDArray[np.int64]:
    """Choose the rows of the validation batch of a step; all rows have been in one before any comes again.

    Args:
        num_rows: Rows of the validation data.
        batch_size: Rows of a batch; rows that do not fill the last batch of a round are left out of that round.
        seed: Seed of the search.
        step: The step, counted from 0.

    Returns:
        Indices, as many as `batch_size` or all rows.
    """
    batch_size = min(batch_size, num_rows)
    turn, place = divmod(step, num_rows // batch_size)
    order = np.random.default_rng([seed, _VALIDATION, turn]).permutation(num_rows)
    return order[place * batch_size : (place + 1) * batch_size]
