"""Standard errors: observed information and sandwich, for the parameters as they are estimated or as they are
reported.

The observed information is minus the Hessian of the log-likelihood of the mixture by its natural parameters, from
central differences of the analytic gradient; the complete-data information of EM would leave out that classes are not
observed. With scores s_i of people, H the information and J the derivative of what is reported by the natural
parameters:

    covariance = J H^-1 J'        sandwich = J H^-1 (sum s_i s_i') H^-1 J'

A curve with a knot has kinks at observed times. Its second derivative by the knot is taken between them, as the mean
of both sides, so it does not depend on the step.

Letters: V numbers of the natural vector, N people.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from hf_mixture.models.trajectory_moe.data import TrajectoryData
from hf_mixture.models.trajectory_moe.layout import Layout, Parameters
from hf_mixture.models.trajectory_moe.natural import from_natural, to_natural
from hf_mixture.models.trajectory_moe.polish import shape_places
from hf_mixture.models.trajectory_moe.products import Observations, observations_of
from hf_mixture.models.trajectory_moe.scores import by_entries, evaluate_at
from hf_mixture.models.trajectory_moe.units import report_factors


# Step of a difference, in standard errors; within a kink-free interval for knots.
STEP = 1e-2
KNOT_STEP = 1e-4
# Perturbed models evaluated at once.
BATCH = 32


@dataclass(frozen=True, kw_only=True)
class Uncertainty:
    """How sure estimates are.

    Args:
        values: The parameters [V].
        covariance: Inverse observed information [V, V].
        sandwich: Covariance that holds when the model is not the truth [V, V].
        condition: Condition number of the information, scaled to a unit diagonal.
        is_positive: Whether the information is positive definite; without that there are no standard errors.
    """

    values: Any
    covariance: Any
    sandwich: Any
    condition: float
    is_positive: bool

    @property
    def standard_errors(self) -> Any:
        """Roots of the diagonal of `covariance`, NaN where there is none [V]."""
        return _roots(self.covariance)

    @property
    def robust_standard_errors(self) -> Any:
        """Roots of the diagonal of `sandwich` [V]."""
        return _roots(self.sandwich)


def estimate_uncertainty(
    parameters: Parameters, data: TrajectoryData, layout: Layout, *, reported: bool = False
) -> Uncertainty:
    """Standard errors at a maximum of the likelihood.

    Args:
        parameters: One model on the user's units.
        data: The trajectories, on the user's units.
        layout: The sizes.
        reported: Whether to speak of the reported growth factors. Default: of the estimated ones.

    Returns:
        Values and covariances; NaN where the information is not positive definite.
    """
    vector = to_natural(parameters, layout)[0]
    observations = observations_of(data)
    scores = evaluate_at(from_natural(vector[None], layout), observations, layout, by_entries, each_person=True)
    squares = scores.person_scores[0] @ scores.person_scores[0].T
    information = -_hessian(vector, np.sqrt(np.diagonal(_inverse(squares)[0])), observations, layout)
    inverse, condition, is_positive = _inverse(information)
    if not is_positive:
        inverse = np.full_like(inverse, np.nan)
    sandwich = inverse @ squares @ inverse
    if reported:
        # The derivative of the map itself; steps are relative to the sizes of the numbers, for which it is smooth.
        steps = 1e-6 * np.maximum(
            np.abs(vector), 1e-3 * np.sqrt(np.maximum(np.diagonal(_inverse(squares)[0]), 1e-300))
        )
        ends = [report_vector(vector + sign * np.diag(steps), layout) for sign in (1, -1)]
        jacobian = ((ends[0] - ends[1]) / (2 * steps[:, None])).T
        vector = report_vector(vector[None], layout)[0]
        inverse, sandwich = jacobian @ inverse @ jacobian.T, jacobian @ sandwich @ jacobian.T
    return Uncertainty(
        values=vector, covariance=inverse, sandwich=sandwich, condition=condition, is_positive=is_positive
    )


def report_vector(vectors: Any, layout: Layout) -> Any:
    """Natural vectors [S, V] of the reported growth factors.

    Args:
        vectors: Natural vectors of the estimated ones.
        layout: The sizes.
    """
    return to_natural(report_factors(from_natural(vectors, layout), layout), layout)


def _hessian(vector: Any, errors: Any, observations: Observations, layout: Layout) -> Any:
    size = len(vector)
    knots = shape_places(layout) if layout.family.has_kinks else []
    steps = STEP * errors
    moves = [(place, sign * steps[place]) for place in range(size) if place not in knots for sign in (1, -1)]
    moves += [(place, factor * KNOT_STEP * errors[place]) for place in knots for factor in (1, 2, -1, -2)]
    vectors = np.repeat(vector[None], len(moves), axis=0)
    for row, (place, move) in enumerate(moves):
        vectors[row, place] += move
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        gradients = np.concatenate(
            [
                evaluate_at(from_natural(vectors[at : at + BATCH], layout), observations, layout, by_entries).gradient
                for at in range(0, len(vectors), BATCH)
            ]
        )
    by_move = {move: gradients[row] for row, move in enumerate(moves)}
    hessian = np.zeros((size, size))
    for place in range(size):
        if place not in knots:
            hessian[place] = (by_move[place, steps[place]] - by_move[place, -steps[place]]) / (2 * steps[place])
    for place in knots:
        step = KNOT_STEP * errors[place]
        right = (by_move[place, 2 * step] - by_move[place, step]) / step
        left = (by_move[place, -step] - by_move[place, -2 * step]) / step
        hessian[place] = (right + left) / 2
        # Other parameters' derivatives cross no kink, so the mixed ones are better known from them.
        others = [other for other in range(size) if other not in knots]
        hessian[place, others] = hessian[others, place]
    return (hessian + hessian.T) / 2


def _inverse(matrix: Any) -> tuple[Any, float, bool]:
    """Inverse, condition number at a unit diagonal, and whether it is positive definite."""
    if not np.isfinite(matrix).all():
        # A step from the boundary of the admissible covariances ended where there is no likelihood.
        return np.full_like(matrix, np.nan), float("inf"), False
    scale = np.sqrt(np.maximum(np.abs(np.diagonal(matrix)), 1e-300))
    values, vectors = np.linalg.eigh(matrix / np.outer(scale, scale))
    is_positive = bool(values[0] > 1e-12 * values[-1])
    condition = float(values[-1] / values[0]) if values[0] > 0 else float("inf")
    safe = np.where(np.abs(values) < 1e-14, 1e-14, values)
    return (vectors / safe) @ vectors.T / np.outer(scale, scale), condition, is_positive


def _roots(covariance: Any) -> Any:
    diagonal = np.diagonal(covariance)
    return np.sqrt(np.where(diagonal > 0, diagonal, np.nan))
