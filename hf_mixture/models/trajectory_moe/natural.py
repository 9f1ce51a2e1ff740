"""The vector of parameters that people read: covariances by their entries, knots and rates as they are.

It may hold an indefinite covariance, as published estimates do when an optimiser was free to leave the admissible
ones. For each class: means of the growth factors, their regression on growth covariates (row by row), lower triangle
of their covariance (row by row, which is the upper one column by column), the same of the residuals, knot or rate of
each outcome, means and covariance of growth covariates where the likelihood is joint; then the gate.

Letters: S starts, K classes, V numbers.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from hf_mixture.models.trajectory_moe.arrays import lower_indices
from hf_mixture.models.trajectory_moe.layout import Layout, Parameters


def to_natural(parameters: Parameters, layout: Layout) -> Any:
    """Natural vectors [S, V] of parameters.

    Args:
        parameters: The parameters.
        layout: The sizes.
    """
    count = len(parameters.alpha)
    parts: dict[str, Any] = {
        "alpha": parameters.alpha,
        "coef": parameters.coef.reshape(count, layout.num_classes, -1),
        "psi": _triangle(parameters.psi),
        "theta": _triangle(parameters.theta),
        "shape": parameters.shape,
    }
    if layout.describes_growth_covariates:
        parts |= {"mu_x": parameters.mu_x, "phi": _triangle(parameters.phi)}
    classes = np.concatenate([parts[name] for name, _ in layout.blocks()], axis=2)
    return np.concatenate([classes.reshape(count, -1), parameters.gate.reshape(count, -1)], axis=1)


def from_natural(vectors: Any, layout: Layout) -> Parameters:
    """Parameters of natural vectors [S, V].

    Args:
        vectors: The vectors.
        layout: The sizes.
    """
    vectors = np.asarray(vectors, dtype=np.float64)
    count, classes = len(vectors), layout.num_classes
    end = classes * layout.num_of_class
    own = vectors[:, :end].reshape(count, classes, layout.num_of_class)
    place = layout.places()
    joint = layout.describes_growth_covariates
    factor, signs = signed_factor(_symmetric(own[..., place["psi"]], layout.num_factors))
    return Parameters(
        alpha=own[..., place["alpha"]],
        coef=own[..., place["coef"]].reshape(count, classes, layout.num_factors, layout.num_growth),
        psi_factor=factor,
        psi_signs=signs,
        theta_factor=signed_factor(_symmetric(own[..., place["theta"]], layout.num_outcomes))[0],
        shape=own[..., place["shape"]],
        mu_x=own[..., place["mu_x"]] if joint else None,
        phi_factor=signed_factor(_symmetric(own[..., place["phi"]], layout.num_growth))[0] if joint else None,
        gate=vectors[:, end:].reshape(count, classes - 1, 1 + layout.num_cluster),
    )


def natural_names(
    layout: Layout, growth: tuple[str, ...], cluster: tuple[str, ...], *, reported: bool
) -> list[tuple[str, str]]:
    """Name of the class and of each number of a natural vector.

    Args:
        layout: The sizes.
        growth: Names of the growth covariates.
        cluster: Names of the cluster covariates.
        reported: Whether growth factors are the reported ones (intercept, slopes) or the estimated ones.
    """
    curve = layout.family
    outcomes = [""] if layout.num_outcomes == 1 else [f"outcome {d}: " for d in range(layout.num_outcomes)]
    base = curve.reported if reported else curve.factors
    factors = [f"{outcome}{name}" for outcome in outcomes for name in base]
    names = [f"mean {factor}" for factor in factors]
    names += [f"{factor} on {covariate}" for factor in factors for covariate in growth]
    names += _pairs(factors)
    names += ["residual variance"] if len(outcomes) == 1 else _pairs([f"{outcome}residual" for outcome in outcomes])
    names += [f"{outcome}{curve.shape_name}" for outcome in outcomes if curve.num_shapes]
    if layout.describes_growth_covariates:
        names += [f"mean {name}" for name in growth]
        names += _pairs(list(growth))
    whole = [(f"class {k}", name) for k in range(layout.num_classes) for name in names]
    return whole + [
        (f"class {k} against 0", f"gate {name}")
        for k in range(1, layout.num_classes)
        for name in ("intercept", *cluster)
    ]


def _pairs(names: list[str]) -> list[str]:
    rows, columns = lower_indices(len(names))
    return [
        f"variance {names[a]}" if a == b else f"covariance {names[b]}, {names[a]}"
        for a, b in zip(rows, columns, strict=True)
    ]


def _triangle(matrix: Any) -> Any:
    rows, columns = lower_indices(matrix.shape[-1])
    return matrix[..., rows, columns]


def _symmetric(entries: Any, size: int) -> Any:
    rows, columns = lower_indices(size)
    whole = np.zeros((*entries.shape[:-1], size, size))
    whole[..., rows, columns] = whole[..., columns, rows] = entries
    return whole


def signed_factor(matrix: Any) -> tuple[Any, Any]:
    """Lower L and signs s with L diag(s) L' = matrix."""
    size = matrix.shape[-1]
    factor = np.zeros_like(matrix)
    signs = np.ones(matrix.shape[:-1])
    for column in range(size):
        before = factor[..., :, :column] * signs[..., None, :column]
        rest = matrix[..., :, column] - np.einsum("...rc,...c->...r", before, factor[..., column, :column])
        pivot = rest[..., column]
        signs[..., column] = np.where(pivot < 0, -1.0, 1.0)
        root = np.sqrt(np.abs(pivot))
        factor[..., column:, column] = (signs[..., column] / root)[..., None] * rest[..., column:]
    return factor, signs
