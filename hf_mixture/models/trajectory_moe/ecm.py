"""Expectation / conditional maximisation (ECM) of many starts at once.

One iteration: class probabilities r of each person; a safeguarded step of each knot or rate on sum r log N, the
density with growth factors integrated out; then, given the posterior mean m and covariance V of the growth factors,

    (alpha, B): regression of m on (1, x) with weights r        Psi: weighted mean of V + (m - mu)(m - mu)'
    Theta: weighted mean of (y - Lambda m)(y - Lambda m)' + Lambda V Lambda'        gate: a Newton step

No iteration lowers the log-likelihood. ECM is slow near an optimum; `polish` takes over there.

Letters: S starts, K classes, N people, D outcomes, Q growth factors, P growth and G cluster covariates.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from hf_mixture.models.trajectory_moe.arrays import Matrix
from hf_mixture.models.trajectory_moe.layout import Layout, Parameters
from hf_mixture.models.trajectory_moe.likelihood import Component, components, log_prior, log_sum_exp
from hf_mixture.models.trajectory_moe.products import Observations
from hf_mixture.models.trajectory_moe.scores import residual_moments, shape_scores


# Longest step of the free number of a knot or rate in one iteration.
LONGEST_STEP = 0.5
# Least number of people of a class, and least relative pivot of a covariance, that keep a collapsing class computable
# until the start is dropped.
FEWEST = 1e-6
FLOOR = 1e-12


def ecm(
    parameters: Parameters, observations: Observations, layout: Layout, *, num_iterations: int
) -> tuple[Parameters, Any]:
    """Run a number of iterations.

    Args:
        parameters: Where to start, on standardised units.
        observations: The data, standardised.
        layout: The sizes.
        num_iterations: Number of iterations, at least 1.

    Returns:
        The parameters, and the log-likelihood before each iteration and after the last [num_iterations + 1, S].
    """
    reach = np.ones_like(parameters.shape)
    trace = []
    for _ in range(num_iterations):
        component = components(parameters, observations, layout)
        joint = component.log_density + log_prior(parameters, observations)
        person = log_sum_exp(joint)
        weights = np.exp(joint - person[:, None])
        trace.append(_total(person, observations))
        if observations.weights is not None:
            weights = weights * observations.weights[:, None]
        if layout.family.num_shapes:
            parameters, component, reach = _move_shapes(
                parameters, component, observations, layout, weights=weights, reach=reach
            )
        parameters = maximise(parameters, component, observations, layout, weights)
    component = components(parameters, observations, layout)
    person = log_sum_exp(component.log_density + log_prior(parameters, observations))
    return parameters, np.stack([*trace, _total(person, observations)])


def maximise(
    parameters: Parameters, component: Component, observations: Observations, layout: Layout, weights: Any
) -> Parameters:
    """Everything but the shapes, given class probabilities and posterior growth factors.

    Args:
        parameters: The parameters that `component` belongs to.
        component: What `components` returned.
        observations: The data.
        layout: The sizes.
        weights: Probability of each class times the weight of the person [S, K, N].
    """
    people = np.maximum(weights.sum(axis=2), FEWEST)
    alpha, coef = _regress(component.mean, observations, weights)
    means = alpha[..., None] + coef @ observations.growth.T
    size = layout.num_factors
    psi = np.empty((*people.shape, size, size))
    for a in range(size):
        for b in range(a + 1):
            spread = (component.mean[a] - means[:, :, a]) * (component.mean[b] - means[:, :, b])
            value = _mean_over_people(spread + component.covariance[a][b], weights, people)
            psi[..., a, b] = psi[..., b, a] = value
    mu_x = phi = None
    if layout.describes_growth_covariates:
        mu_x = weights @ observations.growth / people[..., None]
        centred = observations.growth - mu_x[:, :, None]
        phi = np.einsum("skn,skna,sknb->skab", weights, centred, centred) / people[..., None, None]
    theta = _residual_covariance(parameters, component, observations, layout, weights)
    return replace(
        parameters,
        alpha=alpha,
        coef=coef,
        psi_factor=_safe_factor(psi),
        psi_signs=None,
        theta_factor=_safe_factor(theta),
        mu_x=mu_x,
        phi_factor=None if phi is None else _safe_factor(phi),
        gate=_gate_step(parameters.gate, observations, weights),
    )


def _total(person: Any, observations: Observations) -> Any:
    return (person if observations.weights is None else person * observations.weights).sum(axis=1)


def _mean_over_people(values: Any, weights: Any, people: Any) -> Any:
    return np.einsum("skn,skn->sk", np.broadcast_to(values, weights.shape), weights) / people


def _regress(means: list[Any], observations: Observations, weights: Any) -> tuple[Any, Any]:
    """Weighted least squares of posterior means on (1, x): intercepts [S, K, Q] and slopes [S, K, Q, P]."""
    design = np.concatenate([observations.cluster[:, :1], observations.growth], axis=1)
    width = design.shape[1]
    squares = (design[:, :, None] * design[:, None, :]).reshape(len(design), -1)
    gram = (weights @ squares).reshape(*weights.shape[:2], width, width)
    gram = gram + FEWEST * np.eye(width)
    cross = np.stack([(weights * mean) @ design for mean in means], axis=-1)
    solution = np.linalg.solve(gram, cross)
    return solution[..., 0, :], np.swapaxes(solution[..., 1:, :], -1, -2)


def _residual_covariance(
    parameters: Parameters, component: Component, observations: Observations, layout: Layout, weights: Any
) -> Any:
    """Expected second moments of the residuals at all occasions where something was observed, over their number."""
    size = layout.num_outcomes
    before = parameters.theta
    total = np.zeros_like(before)
    number = np.zeros(weights.shape[:2])
    moments = residual_moments(component, observations, layout)
    for pattern, sums in zip(observations.patterns, moments, strict=True):
        occasions = weights @ pattern.count
        number = number + occasions
        chosen = list(pattern.outcomes)
        seen = _weighted_matrix(sums, chosen, weights)
        if len(chosen) == size:
            total = total + seen
            continue
        # What was not observed is predicted from what was, with the uncertainty of the prediction.
        into = before[:, :, :, chosen] @ np.linalg.inv(before[:, :, chosen][:, :, :, chosen])
        rest = before - into @ before[:, :, chosen]
        total = total + into @ seen @ np.swapaxes(into, -1, -2) + occasions[..., None, None] * rest
    return total / np.maximum(number, FEWEST)[..., None, None]


def _weighted_matrix(sums: Matrix, chosen: list[int], weights: Any) -> Any:
    return np.stack(
        [
            np.stack(
                [np.einsum("skn,skn->sk", np.broadcast_to(sums[d][e], weights.shape), weights) for e in chosen], -1
            )
            for d in chosen
        ],
        -2,
    )


def _safe_factor(covariance: Any) -> Any:
    """The Cholesky factor of a covariance, whose correlations are pulled together a little where it is singular."""
    spread = np.sqrt(np.maximum(np.diagonal(covariance, axis1=-2, axis2=-1), FLOOR))
    correlation = covariance / (spread[..., :, None] * spread[..., None, :])
    size = covariance.shape[-1]
    return spread[..., None] * np.linalg.cholesky(correlation + FLOOR * np.eye(size))


def _move_shapes(
    parameters: Parameters,
    component: Component,
    observations: Observations,
    layout: Layout,
    *,
    weights: Any,
    reach: Any,
) -> tuple[Parameters, Component, Any]:
    """One step of each shape along its score; kept where the weighted log density does not fall.

    The length is that of a Newton step with the sum of squared scores for curvature, times `reach`, which is halved
    after a step that was not kept and doubled, up to 1, after one that was.
    """
    curve = layout.family
    score = np.stack(shape_scores(component, layout), axis=-1) * curve.shape_rate(parameters.shape)[:, :, None]
    slope = np.einsum("skn,sknd->skd", weights, score)
    curvature = np.einsum("skn,sknd->skd", weights, score**2)
    step = np.clip(reach * slope / np.maximum(curvature, FLOOR), -LONGEST_STEP, LONGEST_STEP)
    moved = replace(parameters, shape=curve.shape_from_free(curve.free_from_shape(parameters.shape) + step))
    there = components(moved, observations, layout)
    gain = np.einsum("skn,skn->sk", weights, there.log_density - component.log_density)
    kept = (gain >= 0)[..., None]
    reach = np.where(kept, np.minimum(2 * reach, 1.0), reach / 2)
    if kept.all():
        return moved, there, reach
    some = replace(parameters, shape=np.where(kept, moved.shape, parameters.shape))
    return some, components(some, observations, layout), reach


def _gate_step(gate: Any, observations: Observations, weights: Any) -> Any:
    """The gate of class probabilities: in closed form without covariates, otherwise a safeguarded Newton step."""
    if not gate.size:
        return gate
    people = np.maximum(weights.sum(axis=2), FEWEST)
    if observations.cluster.shape[1] == 1:
        return np.log(people[:, 1:] / people[:, :1])[..., None]
    design, width = observations.cluster, observations.cluster.shape[1]
    count, others = len(gate), gate.shape[1]
    total = weights.sum(axis=1)

    def log_probability(at: Any) -> Any:
        logits = np.concatenate([np.zeros((count, 1, len(design))), at @ design.T], axis=1)
        return logits - log_sum_exp(logits)[:, None]

    before = log_probability(gate)
    probability = np.exp(before[:, 1:])
    gradient = ((weights[:, 1:] - total[:, None] * probability) @ design).reshape(count, -1)
    squares = (design[:, :, None] * design[:, None, :]).reshape(len(design), -1)
    pairs = np.einsum("san,sbn->sabn", probability, -probability)
    pairs[:, range(others), range(others)] += probability
    hessian = (total[:, None, None] * pairs) @ squares
    hessian = hessian.reshape(count, others, others, width, width).swapaxes(2, 3).reshape(count, others * width, -1)
    step = np.linalg.solve(hessian + FEWEST * np.eye(others * width), gradient[..., None]).reshape(gate.shape)
    value = (weights * before).sum(axis=(1, 2))
    for _ in range(8):
        worse = (weights * log_probability(gate + step)).sum(axis=(1, 2)) < value
        if not worse.any():
            break
        step[worse] /= 2
    else:
        step[worse] = 0
    return gate + step
