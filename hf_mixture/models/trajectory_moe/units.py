"""Units: models are estimated on standardised outcomes, times and covariates, and reported in the user's units.

Starts, steps and tolerances therefore do not depend on whether time is in months or in years. All five curves are
closed under a change of origin and scale of time, so the two descriptions have the same likelihood, but for a
constant.

Letters as in `layout`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from hf_mixture.models.trajectory_moe.data import TrajectoryData
from hf_mixture.models.trajectory_moe.layout import Layout, Parameters
from hf_mixture.models.trajectory_moe.natural import signed_factor


@dataclass(frozen=True, kw_only=True)
class Units:
    """Origin and unit of each quantity: standardised = (value - origin) / unit.

    Args:
        values: Origin and unit of each outcome [2, D].
        times: Origin and unit of time [2].
        growth: Origin and unit of each growth covariate [2, P].
        cluster: Origin and unit of each cluster covariate [2, G].
    """

    values: Any
    times: Any
    growth: Any
    cluster: Any

    def standardise(self, data: TrajectoryData) -> TrajectoryData:
        """The data on these units.

        Args:
            data: The data on the user's units.
        """
        return replace(
            data,
            values=np.where(data.mask, (data.values - self.values[0]) / self.values[1], 0.0),
            times=np.where(data.mask.any(axis=2), (data.times - self.times[0]) / self.times[1], 0.0),
            growth_covariates=(data.growth_covariates - self.growth[0]) / self.growth[1],
            cluster_covariates=(data.cluster_covariates - self.cluster[0]) / self.cluster[1],
        )

    def log_density_shifts(self, data: TrajectoryData, layout: Layout) -> Any:
        """What is added to the log density of each person's standardised data to give that of the data [N].

        Args:
            data: The data.
            layout: Whether growth covariates are described too.
        """
        shift = data.mask.sum(axis=1) @ np.log(self.values[1])
        if layout.describes_growth_covariates:
            shift = shift + np.log(self.growth[1]).sum()
        return -shift


def units_of(data: TrajectoryData) -> Units:
    """Origins and units from data: means and standard deviations; for time, the observed range.

    Args:
        data: The trajectories.

    Raises:
        ValueError: If an outcome, all times or a covariate does not vary.
    """
    seen = data.mask.any(axis=2)
    times = data.times[seen]
    first, length = times.min(), np.ptp(times)
    if length <= 0:
        raise ValueError(f"all observations are at the time {first:g}; a growth curve needs more than one time")
    outcomes = [data.values[..., d][data.mask[..., d]] for d in range(data.num_outcomes)]
    for place, outcome in enumerate(outcomes):
        if not len(outcome) or outcome.std() <= 1e-12 * max(1.0, np.abs(outcome).max()):
            raise ValueError(f"outcome {place} is constant; there is no growth to describe, so leave it out")
    for name in ("growth_covariates", "cluster_covariates"):
        spread = getattr(data, name).std(axis=0)
        if (spread <= 1e-12).any():
            raise ValueError(f"{name} has a column that is constant ({int(spread.argmin())}); leave it out")

    def covariates(values: Any) -> Any:
        return np.stack([values.mean(axis=0), values.std(axis=0)])

    return Units(
        values=np.stack([[outcome.mean() for outcome in outcomes], [outcome.std() for outcome in outcomes]]),
        times=np.array([first, length]),
        growth=covariates(data.growth_covariates),
        cluster=covariates(data.cluster_covariates),
    )


def in_user_units(parameters: Parameters, units: Units, layout: Layout) -> Parameters:
    """Parameters of the data from those of the standardised data.

    Args:
        parameters: The parameters on standardised units.
        units: The units.
        layout: The sizes.
    """
    start, length = units.times
    shape = layout.family.shape_in_units(parameters.shape, start, length)
    into = np.linalg.inv(_factor_map(shape, units, layout)) * _factor_units(units, layout)
    slopes = into @ parameters.coef / units.growth[1]
    alpha = np.einsum("skab,skb->ska", into, parameters.alpha) - slopes @ units.growth[0]
    alpha[..., :: layout.family.num_factors] += units.values[0]
    gate = parameters.gate.copy()
    gate[..., 1:] /= units.cluster[1]
    gate[..., 0] -= gate[..., 1:] @ units.cluster[0]
    joint = layout.describes_growth_covariates
    return Parameters(
        alpha=alpha,
        coef=slopes,
        psi_factor=_lower(into @ parameters.psi_factor),
        theta_factor=units.values[1][:, None] * parameters.theta_factor,
        shape=shape,
        mu_x=units.growth[0] + units.growth[1] * parameters.mu_x if joint else None,
        phi_factor=units.growth[1][:, None] * parameters.phi_factor if joint else None,
        gate=gate,
    )


def in_standard_units(parameters: Parameters, units: Units, layout: Layout) -> Parameters:
    """Parameters of the standardised data from those of the data: the inverse of `in_user_units`.

    Args:
        parameters: The parameters on the user's units.
        units: The units.
        layout: The sizes.
    """
    start, length = units.times
    into = _factor_map(parameters.shape, units, layout) / _factor_units(units, layout)[:, None]
    alpha = parameters.alpha.copy()
    alpha[..., :: layout.family.num_factors] -= units.values[0]
    alpha = np.einsum("skab,skb->ska", into, alpha + parameters.coef @ units.growth[0])
    gate = parameters.gate.copy()
    gate[..., 0] += gate[..., 1:] @ units.cluster[0]
    gate[..., 1:] *= units.cluster[1]
    joint = layout.describes_growth_covariates
    return Parameters(
        alpha=alpha,
        coef=into @ parameters.coef * units.growth[1],
        psi_factor=_lower(into @ parameters.psi_factor),
        theta_factor=parameters.theta_factor / units.values[1][:, None],
        shape=layout.family.shape_from_units(parameters.shape, start, length),
        mu_x=(parameters.mu_x - units.growth[0]) / units.growth[1] if joint else None,
        phi_factor=parameters.phi_factor / units.growth[1][:, None] if joint else None,
        gate=gate,
    )


def report_factors(parameters: Parameters, layout: Layout) -> Parameters:
    """The growth factors as they are reported: for the bilinear curve, intercept and two slopes.

    Args:
        parameters: The parameters on the user's units.
        layout: The sizes.
    """
    into = _block_diagonal(layout.family.reported_map(_shape_or_zero(parameters.shape, layout)))
    factor, signs = signed_factor(into @ parameters.psi @ np.swapaxes(into, -1, -2))
    return replace(
        parameters,
        alpha=np.einsum("skab,skb->ska", into, parameters.alpha),
        coef=into @ parameters.coef,
        psi_factor=factor,
        psi_signs=signs,
    )


def _factor_map(shape: Any, units: Units, layout: Layout) -> Any:
    """F of all outcomes [S, K, Q, Q]."""
    return _block_diagonal(layout.family.factor_map(_shape_or_zero(shape, layout), *units.times))


def _shape_or_zero(shape: Any, layout: Layout) -> Any:
    return shape if shape.shape[-1] else np.zeros((*shape.shape[:2], layout.num_outcomes))


def _factor_units(units: Units, layout: Layout) -> Any:
    return np.repeat(units.values[1], layout.family.num_factors)


def _block_diagonal(blocks: Any) -> Any:
    count, classes, num_outcomes, size, _ = blocks.shape
    whole = np.zeros((count, classes, num_outcomes * size, num_outcomes * size))
    for d in range(num_outcomes):
        here = slice(d * size, (d + 1) * size)
        whole[:, :, here, here] = blocks[:, :, d]
    return whole


def _lower(factor: Any) -> Any:
    """The lower Cholesky factor of A A', also where A is singular."""
    upper = np.linalg.qr(np.swapaxes(factor, -1, -2), mode="r")
    signs = np.where(np.diagonal(upper, axis1=-2, axis2=-1) < 0, -1.0, 1.0)
    return np.swapaxes(upper * signs[..., None], -1, -2)
