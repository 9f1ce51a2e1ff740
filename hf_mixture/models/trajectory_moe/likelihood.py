"""Log-likelihood of each person in each class, by algebra on the growth factors instead of the occasions.

With y = Lambda eta + eps, eta ~ N(mu, Psi = L L'), eps ~ N(0, Theta) at each occasion, P = Theta^-1 of what an
occasion has, A = Lambda' P Lambda, g = Lambda' P (y - Lambda mu) and M = I + L' A L:

    -2 log N(y) = n log 2 pi - log det P + log det M + (y - Lambda mu)' P (y - Lambda mu) - g' L M^-1 L' g.

Nothing of the size of all occasions is inverted, and a singular Psi needs no care. What is missing is left out of the
sums: full-information maximum likelihood. Liu & Perera, arXiv 2007.02432. The same code runs on NumPy arrays, for
fits, and on torch tensors, for `forward`.

Letters: S starts, K classes, N people, D outcomes, q factors of an outcome, Q = D q factors, P covariates.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from hf_mixture.models.trajectory_moe.arrays import (
    Array,
    Matrix,
    dot,
    factorise,
    library_of,
    multiply,
    solve_unit_lower,
)
from hf_mixture.models.trajectory_moe.layout import Layout, Parameters
from hf_mixture.models.trajectory_moe.products import Observations, Pairs, cross_products


LOG_2PI = math.log(2 * math.pi)
# Added to the logit of a class that a known label rules out.
RULED_OUT = -1e30


@dataclass
class Component:
    """What is known of each person under each class; entries [S, K, N].

    Args:
        log_density: Log density of the outcomes, and of the growth covariates where they are described.
        products: Cross-products by pattern and pair of outcomes.
        precisions: P of each pattern, entries [S, K, 1].
        mean: Posterior mean of the growth factors, Q.
        covariance: Their posterior covariance V, Q x Q.
        score: Lambda' Sigma^-1 (y - Lambda mu), Q: the derivative by mu.
        information: A, Q x Q.
    """

    log_density: Array
    products: list[Pairs]
    precisions: list[Matrix]
    mean: list[Array]
    covariance: Matrix
    score: list[Array]
    information: Matrix


def components(parameters: Parameters, observations: Observations, layout: Layout) -> Component:
    """Log density and posterior growth factors of each person under each class.

    Args:
        parameters: The parameters.
        observations: The data.
        layout: The sizes.
    """
    library = library_of(parameters.alpha)
    size = layout.num_factors
    products = cross_products(observations, layout, parameters.shape)
    precisions = [_precision(parameters, pattern.outcomes) for pattern in observations.patterns]
    information, outcome, square = _weighted_sums(products, precisions, layout)
    means = growth_means(parameters, observations)
    gradient = [a - b for a, b in zip(outcome, multiply(information, means), strict=True)]
    quadratic = square - dot(means, outcome) - dot(means, gradient)

    factor = [[parameters.psi_factor[:, :, row, column, None] for column in range(size)] for row in range(size)]
    signs = [1.0] * size
    if parameters.psi_signs is not None:
        signs = [parameters.psi_signs[:, :, place, None] for place in range(size)]
    root, pivots = factorise(_signs_plus_congruence(information, factor, signs))
    covariance = _inverse_congruence(root, pivots, factor)
    effect = multiply(covariance, gradient)
    log_det = sum(
        pattern.count * (len(pattern.outcomes) * LOG_2PI - _log_det(precision, pattern.outcomes))
        for pattern, precision in zip(observations.patterns, precisions, strict=True)
    )
    for place in range(size):
        log_det = log_det + library.log(pivots[place] * signs[place])
    log_density = -0.5 * (log_det + quadratic - dot(gradient, effect))
    if layout.describes_growth_covariates:
        log_density = log_density + _covariate_log_density(parameters, observations)
    return Component(
        log_density=log_density,
        products=products,
        precisions=precisions,
        mean=[a + b for a, b in zip(means, effect, strict=True)],
        covariance=covariance,
        score=[a - b for a, b in zip(gradient, multiply(information, effect), strict=True)],
        information=information,
    )


def log_prior(parameters: Parameters, observations: Observations) -> Array:
    """Log probability of each class from gate and known labels [S, K, N].

    Args:
        parameters: The parameters.
        observations: The data.
    """
    logits = gate_logits(parameters, observations)
    prior = logits - log_sum_exp(logits)[:, None, :]
    if observations.labels is None:
        return prior
    labels = np.asarray(observations.labels)
    others = np.where((labels >= 0) & (labels != np.arange(prior.shape[1])[:, None]), RULED_OUT, 0.0)
    return prior + (others if library_of(prior) is np else prior.new_tensor(others))


def gate_logits(parameters: Parameters, observations: Observations) -> Array:
    """Logits of the classes, that of class 0 being 0 [S, K, N]."""
    others = parameters.gate @ observations.cluster.T
    first = parameters.alpha[:, :1, :1] * 0 + observations.cluster[:, 0] * 0
    return library_of(others).concatenate([first, others], 1)


def log_sum_exp(values: Array) -> Array:
    """Log of the sum of exponentials over classes, [S, K, N] to [S, N]."""
    library = library_of(values)
    if library is not np:
        return library.logsumexp(values, 1)
    top = values.max(axis=1)
    return top + np.log(np.exp(values - top[:, None]).sum(axis=1))


def growth_means(parameters: Parameters, observations: Observations) -> list[Array]:
    """Mean of each growth factor given the growth covariates: Q entries."""
    means = parameters.alpha[..., None]
    if observations.growth.shape[1]:
        means = means + parameters.coef @ observations.growth.T
    return [means[:, :, factor] for factor in range(means.shape[2])]


def _weighted_sums(
    products: list[Pairs], precisions: list[Matrix], layout: Layout
) -> tuple[Matrix, list[Array], Array]:
    """A = Lambda' P Lambda, Lambda' P y and y' P y."""
    size, q = layout.num_factors, layout.family.num_factors
    information: Matrix = [[0.0] * size for _ in range(size)]
    outcome: list[Array] = [0.0] * size
    square: Array = 0.0
    for pairs, precision in zip(products, precisions, strict=True):
        for (d, e), pair in pairs.items():
            weight = precision[d][e]
            square = square + weight * pair.square
            for a in range(q):
                row = d * q + a
                outcome[row] = outcome[row] + weight * pair.outcome[a]
                for b in range(q):
                    column = e * q + b
                    if column <= row:
                        information[row][column] = information[row][column] + weight * pair.design[a][b]
    for row in range(size):
        for column in range(row):
            information[column][row] = information[row][column]
    return information, outcome, square


def _precision(parameters: Parameters, outcomes: tuple[int, ...]) -> Matrix:
    """Inverse residual covariance of some outcomes, as a D x D matrix that is only filled in for those."""
    library = library_of(parameters.alpha)
    chosen = list(outcomes)
    inverse = library.linalg.inv(parameters.theta[:, :, chosen][:, :, :, chosen])
    whole: Matrix = [[None] * parameters.theta_factor.shape[-1] for _ in range(parameters.theta_factor.shape[-1])]
    for a, d in enumerate(chosen):
        for b, e in enumerate(chosen):
            whole[d][e] = inverse[:, :, a, b, None]
    return whole


def _log_det(precision: Matrix, outcomes: tuple[int, ...]) -> Array:
    _, pivots = factorise([[precision[d][e] for e in outcomes] for d in outcomes])
    return sum(library_of(pivot).log(pivot) for pivot in pivots)


def _signs_plus_congruence(middle: Matrix, factor: Matrix, signs: list[Array]) -> Matrix:
    """The lower triangle of S + L' A L for lower triangular L and a diagonal S."""
    size = len(middle)
    columns = [[line[column] for line in factor] for column in range(size)]
    right = [[dot(middle[row][b:], columns[b][b:]) for row in range(size)] for b in range(size)]
    whole: Matrix = [[None] * size for _ in range(size)]
    for row in range(size):
        for b in range(row + 1):
            value = dot(columns[row][row:], right[b][row:])
            whole[row][b] = value + signs[row] if row == b else value
    return whole


def _inverse_congruence(root: Matrix, pivots: list[Array], factor: Matrix) -> Matrix:
    """L M^-1 L' for M = C diag(d) C': the posterior covariance of the growth factors."""
    size = len(root)
    halves = [solve_unit_lower(root, factor[row]) for row in range(size)]
    scaled = [[value / pivot for value, pivot in zip(half, pivots, strict=True)] for half in halves]
    found: Matrix = [[None] * size for _ in range(size)]
    for row in range(size):
        for column in range(row + 1):
            found[row][column] = found[column][row] = dot(halves[row], scaled[column])
    return found


def _covariate_log_density(parameters: Parameters, observations: Observations) -> Array:
    """Log density of the growth covariates under each class [S, K, N]."""
    size = observations.growth.shape[1]
    rows = [[parameters.phi[:, :, a, b, None] for b in range(size)] for a in range(size)]
    root, pivots = factorise(rows)
    scaled = solve_unit_lower(root, [observations.growth[:, a] - parameters.mu_x[:, :, a, None] for a in range(size)])
    log_det = sum(library_of(pivot).log(pivot) for pivot in pivots)
    quadratic = dot(scaled, [value / pivot for value, pivot in zip(scaled, pivots, strict=True)])
    return -0.5 * (size * LOG_2PI + quadratic + log_det)
