"""The split of a leaf: Lloyd's algorithm with two centres, started on the principal axis.

Letters: n rows, d columns.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from hf_mixture.data.clustering.gaussian import Moments
from hf_mixture.data.clustering.preparation import axes_of
from hf_mixture.data.clustering.rows import BoolArray, FloatArray, Rows


MAX_ROUNDS = 300
# Two leading singular values that agree to this relative difference leave the axis arbitrary.
AXIS_TOLERANCE = 1e-8


class Split(NamedTuple):
    """Two sides of a plane: `(x - midpoint) . normal > 0` is the second.

    `midpoint` and `normal` have shape (d,), and `second` says for each row, shape (n,), whether it is there.
    """

    midpoint: FloatArray
    normal: FloatArray
    second: BoolArray


def split_rows(rows: Rows, moments: Moments, *, axis_ties: str = "stop") -> Split | str:
    """Split rows in two, without a random number.

    The centres start at mean +- s v, with v the first principal axis and s the standard deviation along it. Rows as
    far from both centres go to the first.

    Args:
        rows: The rows.
        moments: Their mean and covariance.
        axis_ties: What to do if the first axis is arbitrary: `"stop"`, or `"first"` to take the one found first.

    Returns:
        The split, or the reason why there is none: `"constant"` or `"axis_tie"`.
    """
    axes, variances = axes_of(moments.covariance)
    if len(rows) < 2 or variances[0] <= 0:
        return "constant"
    # Variances are squares, hence twice the relative tolerance.
    if len(variances) > 1 and variances[1] >= variances[0] * (1 - 2 * AXIS_TOLERANCE) and axis_ties == "stop":
        return "axis_tie"
    centred = rows.points - moments.mean
    step = np.sqrt(variances[0]) * axes[:, 0]
    centres = [-step, step]
    second = np.zeros(len(rows), bool)
    for _ in range(MAX_ROUNDS):
        normal, midpoint = centres[1] - centres[0], (centres[0] + centres[1]) / 2
        found = centred @ normal > midpoint @ normal
        if np.array_equal(found, second):
            break
        second = found
        if second.all() or not second.any():
            # Only where the variance is so small that it vanishes in rounding.
            return "constant"
        there = rows.weights * second
        weight, total = there.sum(), there @ centred
        # The rows are centred: the sums of the two sides cancel.
        centres = [-total / (moments.weight - weight), total / weight]
    return Split(moments.mean + midpoint, normal, second)
