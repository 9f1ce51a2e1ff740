"""Data drawn from a model, at given times: for tests of a number of classes and studies of bias and coverage.

Letters: N people, K classes, Q growth factors, D outcomes.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from hf_mixture.models.trajectory_moe.data import TrajectoryData
from hf_mixture.models.trajectory_moe.layout import Layout, Parameters
from hf_mixture.models.trajectory_moe.likelihood import gate_logits, log_sum_exp
from hf_mixture.models.trajectory_moe.products import observations_of


def simulate(
    parameters: Parameters, data: TrajectoryData, layout: Layout, *, seed: int | list[int]
) -> tuple[TrajectoryData, Any]:
    """Draw classes and outcomes for people like those of some data.

    Times, what is missing and cluster covariates are those of the data; growth covariates are drawn where the model
    describes them.

    Args:
        parameters: One model on the user's units.
        data: The data.
        layout: The sizes.
        seed: Seed.

    Returns:
        The data with new outcomes and without labels, and the class of each person [N].
    """
    generator = np.random.default_rng(seed)
    logits = gate_logits(parameters, observations_of(data))
    probability = np.exp(logits - log_sum_exp(logits)[:, None])[0]
    uniform = generator.random(data.num_people)
    classes = (uniform > np.cumsum(probability, axis=0)[:-1]).sum(axis=0)
    growth = data.growth_covariates
    if layout.describes_growth_covariates:
        noise = generator.standard_normal(growth.shape)
        growth = parameters.mu_x[0, classes] + np.einsum("nab,nb->na", parameters.phi_factor[0, classes], noise)
    factors = parameters.alpha[0, classes] + np.einsum("nqp,np->nq", parameters.coef[0, classes], growth)
    noise = generator.standard_normal(factors.shape)
    factors = factors + np.einsum("nab,nb->na", parameters.psi_factor[0, classes], noise)
    noise = generator.standard_normal(data.values.shape)
    residual = np.einsum("nab,njb->nja", parameters.theta_factor[0, classes], noise)
    values = curves_of(factors, data.times, parameters.shape[0, classes], layout) + residual
    drawn = replace(data, values=np.where(data.mask, values, 0.0), growth_covariates=growth, labels=None)
    return drawn, classes


def curves_of(factors: Any, times: Any, shape: Any, layout: Layout) -> Any:
    """Outcomes without residuals [N, J, D].

    Args:
        factors: Growth factors [N, Q].
        times: [N, J].
        shape: Knot or rate of each outcome [N, D], or [N, 0].
        layout: The sizes.
    """
    q = layout.family.num_factors
    found = []
    for d in range(layout.num_outcomes):
        own = factors[:, d * q : d * q + q]
        at = shape[:, d, None] if layout.family.num_shapes else np.zeros((len(times), 1))
        columns = layout.family.columns(times, at)
        found.append(own[:, :1] + sum(own[:, a, None] * column for a, column in enumerate(columns, start=1)))
    return np.stack(found, axis=-1)
