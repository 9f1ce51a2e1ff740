"""Analytic gradient of the log-likelihood, in total or for each person.

By Fisher's identity the gradient is the posterior mean of the gradients of the classes. With h = Lambda' Sigma^-1 (y -
Lambda mu), m and V the posterior mean and covariance of the growth factors, A = Lambda' P Lambda, and R the sum over
occasions of (y - Lambda m)(y - Lambda m)' + Lambda V Lambda':

    d / d mu    = h                      d / d Psi   = (h h' - A + A V A) / 2
    d / d Theta = (P R P - n P) / 2      d / d shape = sum of dLambda' P (y - Lambda m) m' - dLambda' P Lambda V

Letters: S starts, K classes, N people, D outcomes, q factors of an outcome, Q = D q, P covariates, V numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from hf_mixture.models.trajectory_moe.arrays import Matrix, dot, lower_indices, multiply
from hf_mixture.models.trajectory_moe.layout import Layout, Parameters, unpack
from hf_mixture.models.trajectory_moe.likelihood import Component, components, gate_logits, log_prior, log_sum_exp
from hf_mixture.models.trajectory_moe.products import Observations


Chain = Callable[[Matrix, Any], list[Any]]


@dataclass(frozen=True)
class Evaluation:
    """Log-likelihood and gradient at S unconstrained vectors.

    Args:
        log_likelihood: [S].
        gradient: [S, V].
        person_scores: Gradient of each person [S, V, N], or None.
        posterior: Probability of each class [S, K, N].
    """

    log_likelihood: Any
    gradient: Any
    person_scores: Any
    posterior: Any


def evaluate(vectors: Any, observations: Observations, layout: Layout, *, each_person: bool = False) -> Evaluation:
    """Log-likelihood and gradient at unconstrained vectors.

    Args:
        vectors: [S, V].
        observations: The data, standardised.
        layout: The sizes.
        each_person: Whether to return the gradient of each person too.
    """
    return evaluate_at(unpack(vectors, layout), observations, layout, by_factor, each_person=each_person)


def evaluate_at(
    parameters: Parameters,
    observations: Observations,
    layout: Layout,
    chain: Chain,
    *,
    each_person: bool = False,
) -> Evaluation:
    """Log-likelihood and gradient at parameters, by what `chain` says.

    Args:
        parameters: The parameters.
        observations: The data.
        layout: The sizes.
        chain: From derivatives by a covariance to those by the numbers that stand for it: `by_factor` or `by_entries`.
        each_person: Whether to return the gradient of each person too.
    """
    component = components(parameters, observations, layout)
    joint = component.log_density + log_prior(parameters, observations)
    person = log_sum_exp(joint)
    posterior = np.exp(joint - person[:, None])
    logits = gate_logits(parameters, observations)
    prior = np.exp(logits - log_sum_exp(logits)[:, None])
    weighted, gate = posterior, posterior - prior
    if observations.weights is not None:
        person = person * observations.weights
        weighted, gate = posterior * observations.weights[:, None], gate * observations.weights[:, None]

    def each(entry: Any) -> Any:
        return entry * weighted

    def total(entry: Any) -> Any:
        return np.einsum("skn,skn->sk", np.broadcast_to(entry, weighted.shape), weighted)[..., None]

    gather = each if each_person else total
    classes = _class_scores(component, parameters, observations, layout, gather=gather, chain=chain)
    count = len(posterior)
    scores = None
    if each_person:
        gates = gate[:, 1:, None] * observations.cluster.T
        scores = np.concatenate(
            [part.reshape(count, -1, part.shape[-1]) for part in (classes, gates) if part.size], axis=1
        )
        gradient = scores.sum(axis=2)
    else:
        gates = gate[:, 1:] @ observations.cluster
        gradient = np.concatenate([classes.reshape(count, -1), gates.reshape(count, -1)], axis=1)
    return Evaluation(person.sum(axis=1), gradient, scores, posterior)


def _class_scores(
    component: Component,
    parameters: Parameters,
    observations: Observations,
    layout: Layout,
    *,
    gather: Callable[[Any], Any],
    chain: Chain,
) -> Any:
    """Scores of the numbers of each class [S, K, L, N], or sums of them [S, K, L, 1]."""
    covariates = observations.growth.T
    parts: dict[str, list[Any]] = {
        "alpha": [gather(entry) for entry in component.score],
        "coef": [gather(entry * covariate) for entry in component.score for covariate in covariates],
        "psi": chain(_gathered(_by_psi(component), gather), parameters.psi_factor),
        "theta": chain(_gathered(_by_theta(component, observations, layout), gather), parameters.theta_factor),
        "shape": [],
    }
    if layout.family.num_shapes:
        rates = layout.family.shape_rate(parameters.shape) if chain is by_factor else np.ones_like(parameters.shape)
        parts["shape"] = [
            gather(entry) * rates[:, :, d, None] for d, entry in enumerate(shape_scores(component, layout))
        ]
    if layout.describes_growth_covariates:
        scaled, inverse = _scaled_covariates(parameters, observations)
        size = len(scaled)
        by_phi = [[(scaled[a] * scaled[b] - inverse[a][b]) / 2 for b in range(size)] for a in range(size)]
        parts["mu_x"] = [gather(entry) for entry in scaled]
        parts["phi"] = chain(_gathered(by_phi, gather), parameters.phi_factor)
    return np.stack([entry for name, _ in layout.blocks() for entry in parts[name]], axis=2)


def by_factor(by_covariance: Matrix, factor: Any) -> list[Any]:
    """From derivatives G by a covariance L L' to those by L, of which the diagonal is a logarithm: 2 G L."""
    size = len(by_covariance)
    found = []
    for row, column in zip(*lower_indices(size), strict=True):
        value = 2 * dot(by_covariance[row][column:], [factor[:, :, c, column, None] for c in range(column, size)])
        found.append(value * factor[:, :, row, row, None] if row == column else value)
    return found


def by_entries(by_covariance: Matrix, factor: Any) -> list[Any]:
    """From derivatives G by a covariance to those by the entries of its lower triangle, which stand for two each."""
    pairs = zip(*lower_indices(len(by_covariance)), strict=True)
    return [by_covariance[row][column] * (1 if row == column else 2) for row, column in pairs]


def shape_scores(component: Component, layout: Layout) -> list[Any]:
    """Derivative of the log density by the shape of each outcome: D entries [S, K, N]."""
    q = layout.family.num_factors
    second = second_moments(component)
    found: list[Any] = [0.0] * layout.num_outcomes
    for pairs, precision in zip(component.products, component.precisions, strict=True):
        for (d, e), pair in pairs.items():
            value: Any = 0.0
            for a, (row, outcome) in enumerate(zip(pair.slope_design, pair.slope_outcome, strict=True), start=1):
                if row is not None:
                    value = value + outcome * component.mean[d * q + a]
                    value = value - dot(row, [second[e * q + b][d * q + a] for b in range(q)])
            found[d] = found[d] + precision[d][e] * value
    return found


def second_moments(component: Component) -> Matrix:
    """Posterior second moments of the growth factors, m m' + V."""
    size = len(component.mean)
    found: Matrix = [[None] * size for _ in range(size)]
    for a in range(size):
        for b in range(a + 1):
            found[a][b] = found[b][a] = component.mean[a] * component.mean[b] + component.covariance[a][b]
    return found


def residual_moments(component: Component, observations: Observations, layout: Layout) -> list[Matrix]:
    """R of each pattern: expected squares and products of the residuals, summed over occasions; D x D."""
    q = layout.family.num_factors
    second = second_moments(component)
    found = []
    for pattern, pairs in zip(observations.patterns, component.products, strict=True):
        sums: Matrix = [[None] * layout.num_outcomes for _ in range(layout.num_outcomes)]
        for d in pattern.outcomes:
            for e in pattern.outcomes:
                if e > d:
                    continue
                mean_d, mean_e = component.mean[d * q : d * q + q], component.mean[e * q : e * q + q]
                value = pairs[d, e].square - dot(mean_d, pairs[d, e].outcome) - dot(mean_e, pairs[e, d].outcome)
                for a, row in enumerate(pairs[d, e].design):
                    value = value + dot(row, second[d * q + a][e * q : e * q + q])
                sums[d][e] = sums[e][d] = value
        found.append(sums)
    return found


def _by_psi(component: Component) -> Matrix:
    """(h h' - A + A V A) / 2, the lower triangle mirrored."""
    size = len(component.score)
    middle = [multiply(component.covariance, row) for row in component.information]
    found: Matrix = [[None] * size for _ in range(size)]
    for a in range(size):
        for b in range(a + 1):
            value = component.score[a] * component.score[b] - component.information[a][b]
            value = value + dot(middle[a], component.information[b])
            found[a][b] = found[b][a] = value / 2
    return found


def _by_theta(component: Component, observations: Observations, layout: Layout) -> Matrix:
    """(P R P - n P) / 2 over all patterns."""
    size = layout.num_outcomes
    found: Matrix = [[0.0] * size for _ in range(size)]
    moments = residual_moments(component, observations, layout)
    for pattern, precision, sums in zip(observations.patterns, component.precisions, moments, strict=True):
        chosen = pattern.outcomes
        left = {
            (a, c): dot([precision[a][b] for b in chosen], [sums[b][c] for b in chosen])
            for a in chosen
            for c in chosen
        }
        for a in chosen:
            for b in chosen:
                value = dot([left[a, c] for c in chosen], [precision[c][b] for c in chosen])
                found[a][b] = found[a][b] + (value - pattern.count * precision[a][b]) / 2
    return found


def _gathered(by_covariance: Matrix, gather: Callable[[Any], Any]) -> Matrix:
    """What is gathered of each entry of a symmetric matrix."""
    size = len(by_covariance)
    found: Matrix = [[None] * size for _ in range(size)]
    for a in range(size):
        for b in range(a + 1):
            found[a][b] = found[b][a] = gather(by_covariance[a][b])
    return found


def _scaled_covariates(parameters: Parameters, observations: Observations) -> tuple[list[Any], Matrix]:
    """Phi^-1 (x - mu_x), P entries [S, K, N], and Phi^-1."""
    inverse = np.linalg.inv(parameters.phi)
    size = inverse.shape[-1]
    centred = [observations.growth[:, a] - parameters.mu_x[:, :, a, None] for a in range(size)]
    rows = [[inverse[:, :, a, b, None] for b in range(size)] for a in range(size)]
    return multiply(rows, centred), rows
