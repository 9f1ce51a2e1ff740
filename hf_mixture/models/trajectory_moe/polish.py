"""From near an optimum to the optimum: BFGS with analytic gradients, to a gradient criterion.

The inverse of the sum of squared scores of people is the first metric, so steps do not depend on scales. The
likelihood of a curve with a knot is continuous but has kinks: the derivative by a knot jumps at every observed time.
An optimum may lie on a kink, where no gradient is zero; there the criterion is that the derivatives on the two sides
point towards it. A knot in such a place is called pinned.

Letters: V numbers of the unconstrained vector.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from hf_mixture.models.trajectory_moe.layout import Layout
from hf_mixture.models.trajectory_moe.products import Observations
from hf_mixture.models.trajectory_moe.scores import Evaluation, evaluate


# A step of BFGS has to gain this share of what its slope promises.
SUFFICIENT = 1e-4
# Logarithm of a pivot of the covariance of growth factors, on standardised units, below which it is zero: a boundary.
BOUNDARY = -9.0
# Free number of a knot, beyond which it is within 1 % of the end of the observed times: nothing is to be found there.
FARTHEST_KNOT = 5.0
# Longest step of any number of the vector, on standardised units.
LONGEST = 1.0


@dataclass(frozen=True, kw_only=True)
class Optimum:
    """Where polishing ended.

    Args:
        vector: The unconstrained vector [V].
        log_likelihood: Log-likelihood of the standardised data.
        criterion: Largest |g| / (1 + root of the sum of squared scores), over numbers that are not pinned or at the
            boundary of a singular covariance, which they would pass.
        max_gradient: Largest |g| over the same, on standardised units.
        pinned: Places of knots that lie on a kink.
        is_converged: Whether the criterion is met.
        num_evaluations: Evaluations of likelihood and gradient.
    """

    vector: Any
    log_likelihood: float
    criterion: float
    max_gradient: float
    pinned: list[int]
    is_converged: bool
    num_evaluations: int


class _Objective:
    """Log-likelihood and gradient at one vector, counted."""

    def __init__(self, observations: Observations, layout: Layout) -> None:
        self.observations, self.layout, self.count = observations, layout, 0

    def __call__(self, vector: Any) -> tuple[float, Any]:
        self.count += 1
        # A step that is too long may leave the range of numbers; it is then taken back.
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            found = evaluate(vector[None], self.observations, self.layout)
        value = float(found.log_likelihood[0])
        return (value if np.isfinite(value) else -np.inf), found.gradient[0]

    def scores(self, vector: Any) -> Evaluation:
        self.count += 1
        return evaluate(vector[None], self.observations, self.layout, each_person=True)


def polish(
    vector: Any,
    observations: Observations,
    layout: Layout,
    *,
    tolerance: float = 1e-6,
    max_iterations: int = 1000,
) -> Optimum:
    """Maximise the log-likelihood from a vector near an optimum.

    Args:
        vector: The unconstrained vector [V].
        observations: The data, standardised.
        layout: The sizes.
        tolerance: Value of the criterion at which an optimum is accepted. Default: 1e-6.
        max_iterations: Most iterations of BFGS. Default: 1000.

    Returns:
        The optimum.
    """
    objective = _Objective(observations, layout)
    knots, pivots = shape_places(layout), _pivot_places(layout)
    pinned: list[int] = []
    left = max_iterations
    free = np.arange(len(vector))
    criterion = np.inf
    # From the boundary itself there is no slope back.
    vector = vector.copy()
    vector[pivots] = np.maximum(vector[pivots], BOUNDARY + 3)
    for _ in range(12):
        vector, value, gradient, squares, used = _bfgs(vector, free, objective, tolerance, left)
        left -= used
        vector, pinned = _settle(vector, objective, knots, squares, tolerance)
        value, gradient = objective(vector)
        at_boundary = pivots[(vector[pivots] < BOUNDARY) & (gradient[pivots] <= 0)]
        free = np.setdiff1d(np.arange(len(vector)), [*pinned, *at_boundary])
        criterion = float(np.abs(gradient / (1 + np.sqrt(squares)))[free].max())
        if criterion <= tolerance or left <= 0 or _is_lost(vector, layout):
            break
    return Optimum(
        vector=vector,
        log_likelihood=value,
        criterion=criterion,
        max_gradient=float(np.abs(gradient[free]).max()),
        pinned=[int(place) for place in pinned],
        is_converged=criterion <= tolerance,
        num_evaluations=objective.count,
    )


def shape_places(layout: Layout) -> list[int]:
    """Places of the shapes in the unconstrained vector.

    Args:
        layout: The sizes.
    """
    own = layout.places()["shape"]
    return [k * layout.num_of_class + place for k in range(layout.num_classes) for place in range(own.start, own.stop)]


def _is_lost(vector: Any, layout: Layout) -> bool:
    """Whether a knot has run to the end of the observed times."""
    return layout.family.has_kinks and bool((np.abs(vector[shape_places(layout)]) > FARTHEST_KNOT).any())


def _pivot_places(layout: Layout) -> Any:
    """Places of the logarithms of the pivots of the covariances of growth factors."""
    own = layout.places()["psi"].start + np.cumsum(np.arange(1, layout.num_factors + 1)) - 1
    return (np.arange(layout.num_classes)[:, None] * layout.num_of_class + own).ravel()


def _bfgs(
    vector: Any, free: Any, objective: _Objective, tolerance: float, max_iterations: int
) -> tuple[Any, float, Any, Any, int]:
    """BFGS over the free numbers, until the criterion is met, no step gains anything, or a boundary is reached."""
    pivots = np.intersect1d(free, _pivot_places(objective.layout))
    scores = objective.scores(vector)
    value, gradient = float(scores.log_likelihood[0]), scores.gradient[0]
    person = scores.person_scores[0][free]
    metric = _inverse(person @ person.T)
    squares = (scores.person_scores[0] ** 2).sum(axis=1)
    used, is_fresh = 0, True
    while used < max_iterations:
        if np.abs(gradient / (1 + np.sqrt(squares)))[free].max() <= tolerance:
            break
        if ((vector[pivots] < BOUNDARY) & (gradient[pivots] <= 0)).any():
            break
        if _is_lost(vector, objective.layout):
            break
        used += 1
        direction = np.zeros_like(vector)
        direction[free] = metric @ gradient[free]
        direction *= min(1.0, LONGEST / np.abs(direction).max())
        found = _line_search(vector, value, gradient, direction, objective)
        if found is None:
            if is_fresh:
                break
            # Curvature from elsewhere misleads; begin again with that of the people at this place.
            scores = objective.scores(vector)
            person = scores.person_scores[0][free]
            metric, is_fresh = _inverse(person @ person.T), True
            squares = (scores.person_scores[0] ** 2).sum(axis=1)
            continue
        there, there_value, there_gradient = found
        step, change = (there - vector)[free], (gradient - there_gradient)[free]
        vector, value, gradient = there, there_value, there_gradient
        inner = step @ change
        if inner > 1e-10 * np.linalg.norm(step) * np.linalg.norm(change):
            image = metric @ change
            metric = (
                metric
                + (1 + change @ image / inner) * np.outer(step, step) / inner
                - (np.outer(image, step) + np.outer(step, image)) / inner
            )
            is_fresh = False
    return vector, value, gradient, squares, used


def _line_search(
    vector: Any, value: float, gradient: Any, direction: Any, objective: _Objective
) -> tuple[Any, float, Any] | None:
    """Backtracking by quadratic interpolation; None where nothing along the direction is gained."""
    slope = gradient @ direction
    length = 1.0
    # Below this, differences of the log-likelihood are rounding, and the gradient decides.
    rounding = 1e-13 * max(1.0, abs(value))
    for _ in range(25):
        there = vector + length * direction
        there_value, there_gradient = objective(there)
        gained = there_value - value
        if gained >= SUFFICIENT * length * slope and gained > rounding:
            return there, there_value, there_gradient
        if abs(gained) <= 4 * rounding and abs(there_gradient @ direction) < 0.9 * abs(slope):
            return there, there_value, there_gradient
        curvature = slope * length - gained
        shorter = 0.5 * slope * length**2 / curvature if np.isfinite(curvature) and curvature > 0 else 0.0
        length = float(np.clip(shorter, 0.1 * length, 0.5 * length))
    return None


def _settle(
    vector: Any, objective: _Objective, knots: list[int], squares: Any, tolerance: float
) -> tuple[Any, list[int]]:
    """Move each knot whose derivative is not small to where the derivative changes sign; name those on a kink."""
    pinned: list[int] = []
    if not objective.layout.family.has_kinks:
        return vector, pinned
    for place in knots:
        small = tolerance * (1 + np.sqrt(squares[place]))
        slope = objective(vector)[1][place]
        if abs(slope) <= small:
            continue
        interval = _interval_of_change(vector, place, slope, objective)
        if interval is None:
            continue
        vector, is_kink = _bisect(vector, place, interval, objective, small)
        if is_kink:
            pinned.append(place)
    return vector, pinned


def _interval_of_change(vector: Any, place: int, slope: float, objective: _Objective) -> tuple[float, float] | None:
    """An interval uphill of a knot over which the derivative by it changes sign, in order."""
    before, step = vector[place], 1e-9
    beyond = vector.copy()
    while step <= LONGEST:
        beyond[place] = vector[place] + np.sign(slope) * step
        if objective(beyond)[1][place] * slope <= 0:
            low, high = sorted((before, beyond[place]))
            return low, high
        before, step = beyond[place], 3 * step
    return None


def _bisect(
    vector: Any, place: int, interval: tuple[float, float], objective: _Objective, small: float
) -> tuple[Any, bool]:
    """The place in an interval where the derivative is small, or jumps over zero, and whether it jumps."""
    low, high = interval
    trial = vector.copy()
    while True:
        trial[place] = (low + high) / 2
        slope = objective(trial)[1][place]
        if abs(slope) <= small:
            return trial, False
        if trial[place] in (low, high):
            return trial, True
        if slope > 0:
            low = trial[place]
        else:
            high = trial[place]


def _inverse(matrix: Any) -> Any:
    """Inverse of a positive semidefinite matrix, of which directions without information get a unit step."""
    scale = np.sqrt(np.maximum(np.diagonal(matrix), 1e-8))
    values, vectors = np.linalg.eigh(matrix / np.outer(scale, scale))
    inverse = (vectors / np.maximum(values, 1e-6)) @ vectors.T
    return inverse / np.outer(scale, scale)
