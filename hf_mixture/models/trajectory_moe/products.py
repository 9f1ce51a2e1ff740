"""Sums over occasions: cross-products of the columns of the design with one another and with the outcomes.

Everything else that a likelihood or its gradient needs of the data follows from these sums. Values that are missing
are left out of them. Letters: S starts, K classes, N people, J occasions, D outcomes, q factors of an outcome.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from hf_mixture.models.trajectory_moe.arrays import Array, Matrix, library_of
from hf_mixture.models.trajectory_moe.data import TrajectoryData
from hf_mixture.models.trajectory_moe.layout import Layout


@dataclass(frozen=True)
class Pattern:
    """Occasions at which exactly some outcomes have been observed.

    Args:
        outcomes: Those outcomes.
        where: 1 at those occasions [J, 1, 1, N]; None if it is all of them.
        count: Number of those occasions of each person [N].
    """

    outcomes: tuple[int, ...]
    where: Array
    count: Array


@dataclass(frozen=True)
class Observations:
    """Data in the order that the sums over occasions want, for NumPy or torch.

    Args:
        times: [J, 1, 1, N].
        values: For each outcome [J, 1, 1, N]; 0 where missing.
        patterns: What is observed at which occasions.
        growth: Growth covariates [N, P].
        cluster: Cluster covariates after a leading 1 [N, 1 + G].
        labels: Known class of each person [N], -1 where unknown, or None.
        weights: Weight of each person in each start [S, N], or None for 1.
    """

    times: Array
    values: list[Array]
    patterns: list[Pattern]
    growth: Array
    cluster: Array
    labels: Array
    weights: Array = None

    @property
    def num_people(self) -> int:
        """N."""
        return int(self.growth.shape[0])


def observations_of(data: TrajectoryData, convert: Any = None, weights: Any = None) -> Observations:
    """Prepare data.

    Args:
        data: The trajectories.
        convert: From array to the array or tensor to compute with. Default: as it is.
        weights: Weight of each person in each start [S, N]. Default: 1.
    """
    make = convert or (lambda array: array)

    def by_occasion(array: Any) -> Any:
        return make(np.ascontiguousarray(array.T)[:, None, None, :])

    patterns = [
        Pattern(outcomes, None if where.all() else make(where[:, None, None, :]), make(where.sum(axis=0)))
        for outcomes, where in data.patterns
    ]
    return Observations(
        times=by_occasion(data.times),
        values=[by_occasion(data.values[:, :, d]) for d in range(data.num_outcomes)],
        patterns=patterns,
        growth=make(data.growth_covariates),
        cluster=make(np.concatenate([np.ones((data.num_people, 1)), data.cluster_covariates], axis=1)),
        labels=data.labels,
        weights=weights,
    )


@dataclass
class Products:
    """Cross-products over the occasions of one pattern for outcomes d and e; entries broadcast against [S, K, N].

    Args:
        design: Lambda_d' Lambda_e, q x q.
        outcome: Lambda_d' y_e, q.
        square: y_d' y_e.
        slope_design: (d Lambda_d / d shape)' Lambda_e, q - 1 x q, row a for column a + 1; None where that column does
            not depend on the shape.
        slope_outcome: (d Lambda_d / d shape)' y_e, q - 1.
    """

    design: Matrix
    outcome: list[Array]
    square: Array
    slope_design: list[list[Array] | None]
    slope_outcome: list[Array | None]


Pairs = dict[tuple[int, int], Products]


def cross_products(observations: Observations, layout: Layout, shape: Array) -> list[Pairs]:
    """All sums, for each pattern and pair of its outcomes.

    Args:
        observations: The data.
        layout: The sizes.
        shape: Knot or rate of each outcome [S, K, D], or [S, K, 0].
    """
    outcomes = [_outcome(observations, layout, shape, d) for d in range(layout.num_outcomes)]
    return [
        {(d, e): _pair(outcomes[d], outcomes[e], pattern) for d in pattern.outcomes for e in pattern.outcomes}
        for pattern in observations.patterns
    ]


@dataclass(frozen=True)
class _Outcome:
    """Values of one outcome, columns of its design and their derivatives by its shape."""

    values: Array
    columns: list[Array]
    slopes: list[Array | None]


def _outcome(observations: Observations, layout: Layout, shape: Array, outcome: int) -> _Outcome:
    curve, times = layout.family, observations.times
    own = shape[None, :, :, outcome, None] if curve.num_shapes else times[:1] * 0
    return _Outcome(observations.values[outcome], curve.columns(times, own), curve.slopes(times, own))


def _pair(ours: _Outcome, theirs: _Outcome, pattern: Pattern) -> Products:
    total = library_of(ours.values).einsum
    is_same = ours is theirs

    def at_pattern(array: Array) -> Array:
        return array if pattern.where is None else array * pattern.where

    def product(left: Array, right: Array) -> Array:
        return total("jskn,jskn->skn", left, right)

    columns = [at_pattern(column) for column in ours.columns]
    slopes = [None if slope is None else at_pattern(slope) for slope in ours.slopes]
    size = len(columns) + 1
    design: Matrix = [[None] * size for _ in range(size)]
    design[0][0] = pattern.count
    for a, column in enumerate(columns, start=1):
        design[a][0] = column.sum(0)
        design[0][a] = design[a][0] if is_same else at_pattern(theirs.columns[a - 1]).sum(0)
        for b, another in enumerate(theirs.columns, start=1):
            design[a][b] = design[b][a] if is_same and b < a else product(column, another)
    return Products(
        design=design,
        outcome=[at_pattern(theirs.values).sum(0), *(product(column, theirs.values) for column in columns)],
        square=product(at_pattern(ours.values), theirs.values),
        slope_design=[
            None if slope is None else [slope.sum(0), *(product(slope, column) for column in theirs.columns)]
            for slope in slopes
        ],
        slope_outcome=[None if slope is None else product(slope, theirs.values) for slope in slopes],
    )
