"""What makes an estimate unusable, or only usable with care, by name; and what data cannot support, before any work.

Letters: N people, K classes, D outcomes, Q growth factors.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from hf_mixture.models.trajectory_moe.data import TrajectoryData
from hf_mixture.models.trajectory_moe.layout import Layout, Parameters


# Share of the observed range of time next to its ends in which a knot has no data on one side.
EDGE = 0.01
# Rates on standardised time outside these describe a straight line, or a jump before the second occasion.
RATES = (1e-2, 1e3)
# Residual variance, as a share of the variance of the outcome, that counts as none.
NO_RESIDUAL = 1e-8
# Mean distance of class probabilities from the gate's that counts as telling nothing.
SAME = 1e-3
# Logit of a class for one standard deviation of a cluster covariate, from which on the gate separates completely.
SEPARATED = 15.0
# Least eigenvalue of the correlations of growth factors that counts as positive.
SINGULAR = 1e-6


def check_support(data: TrajectoryData, layout: Layout) -> None:
    """Refuse data that cannot identify a model, whatever the values are.

    Args:
        data: The trajectories.
        layout: The sizes.

    Raises:
        ValueError: If there are too few people, occasions, times or values for the model.
    """
    seen = data.mask.any(axis=2)
    if seen.sum(axis=1).max() < 2:
        raise ValueError(
            "nobody has more than one occasion; growth within people cannot be told from differences between them, so "
            "give at least two occasions for some people"
        )
    distinct = len(np.unique(data.times[seen]))
    needed = layout.family.num_factors + layout.family.num_shapes
    if distinct < needed:
        raise ValueError(
            f"there are {distinct} different times, and the {layout.curve} curve needs at least {needed}; choose a "
            "simpler curve"
        )
    fewest = layout.num_classes * (layout.num_factors + layout.num_growth + 1)
    values = int(data.mask.sum())
    if data.num_people < fewest or values < layout.num_parameters:
        raise ValueError(
            f"num_classes={layout.num_classes} needs at least {fewest} people and {layout.num_parameters} observed "
            f"values (it has as many parameters); the data have {data.num_people} and {values}: choose fewer classes "
            "or a simpler curve"
        )


def faults_of(parameters: Parameters, posterior: Any, layout: Layout) -> list[str]:
    """Name what makes an estimate degenerate.

    Args:
        parameters: One model, on standardised units.
        posterior: Class probabilities [K, N].
        layout: The sizes.

    Returns:
        One sentence for each fault; empty for a usable estimate.
    """
    faults = []
    people = posterior.sum(axis=1)
    fewest = layout.num_factors + layout.num_growth + 1
    residual = np.linalg.eigvalsh(parameters.theta[0])[:, 0]
    for k in range(layout.num_classes):
        if people[k] < fewest:
            faults.append(f"class {k} is all but empty: {people[k]:.1f} people, {fewest} needed")
        if residual[k] < NO_RESIDUAL:
            faults.append(f"class {k} has no residual variance left")
        for shape in parameters.shape[0, k]:
            if layout.family.has_kinks and not EDGE < shape < 1 - EDGE:
                faults.append(f"class {k} has its knot at the end of the observed times")
            if not layout.family.has_kinks and not RATES[0] < shape < RATES[1]:
                faults.append(f"class {k} has a rate of {shape:.3g} over the observed range of time")
    if layout.num_classes > 1 and not layout.num_cluster:
        prior = people / people.sum()
        if np.abs(posterior - prior[:, None]).sum(axis=0).mean() < SAME:
            faults.append("the classes are the same: no person's curve tells anything of their class")
    return faults


def boundaries_of(parameters: Parameters, layout: Layout) -> list[str]:
    """Name what is on a boundary: usable, but with standard errors that do not hold there.

    Args:
        parameters: One model, on standardised units.
        layout: The sizes.

    Returns:
        One sentence for each class at a boundary.
    """
    found = []
    psi = parameters.psi[0]
    spread = np.sqrt(np.maximum(np.diagonal(psi, axis1=-2, axis2=-1), 1e-300))
    values = np.linalg.eigvalsh(psi / (spread[:, :, None] * spread[:, None, :]))[:, 0]
    for k in range(layout.num_classes):
        if values[k] < SINGULAR:
            found.append(f"class {k} has a singular covariance of growth factors")
        if k and layout.num_cluster and np.abs(parameters.gate[0, k - 1, 1:]).max() > SEPARATED:
            found.append(f"the gate separates class {k} from class 0 completely, so its logits have no finite maximum")
    return found
