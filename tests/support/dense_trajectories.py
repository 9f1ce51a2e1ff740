"""The likelihood of a trajectory mixture as it is written down: one dense covariance for each person and class."""

from __future__ import annotations

import numpy as np


def design(curve, times, shape):
    """Lambda [n, q]."""
    columns = {
        "linear": lambda: [times],
        "quadratic": lambda: [times, times**2],
        "bilinear": lambda: [times - shape, np.abs(times - shape)],
        "exponential": lambda: [1 - np.exp(-shape * times)],
        "jenss_bayley": lambda: [times, np.exp(-shape * times) - 1],
    }[curve]()
    return np.stack([np.ones_like(times), *columns], axis=1)


def log_normal(value, mean, covariance):
    centred = value - mean
    sign, log_det = np.linalg.slogdet(covariance)
    assert sign > 0
    return -0.5 * (len(value) * np.log(2 * np.pi) + log_det + centred @ np.linalg.solve(covariance, centred))


def class_log_densities(parameters, data, layout):
    """Log density of each person under each class [N, K], person by person."""
    q = layout.family.num_factors
    psi, theta = parameters.psi[0], parameters.theta[0]
    phi = parameters.phi[0] if layout.describes_growth_covariates else None
    found = np.zeros((data.num_people, layout.num_classes))
    for person in range(data.num_people):
        for k in range(layout.num_classes):
            rows, values, places = [], [], []
            for d in range(layout.num_outcomes):
                seen = np.flatnonzero(data.mask[person, :, d])
                own = parameters.shape[0, k, d] if layout.family.num_shapes else None
                block = np.zeros((len(seen), q * layout.num_outcomes))
                block[:, d * q : d * q + q] = design(layout.curve, data.times[person, seen], own)
                rows.append(block)
                values.append(data.values[person, seen, d])
                places += [(occasion, d) for occasion in seen]
            loadings, outcome = np.concatenate(rows), np.concatenate(values)
            noise = np.array([[theta[k, d, e] * (i == j) for j, e in places] for i, d in places])
            covariates = data.growth_covariates[person]
            mean = parameters.alpha[0, k] + parameters.coef[0, k] @ covariates
            found[person, k] = log_normal(outcome, loadings @ mean, loadings @ psi[k] @ loadings.T + noise)
            if phi is not None:
                found[person, k] += log_normal(covariates, parameters.mu_x[0, k], phi[k])
    return found


def log_likelihood(parameters, data, layout):
    """Log-likelihood of all people."""
    gate = np.concatenate([np.zeros((1, parameters.gate.shape[2])), parameters.gate[0]])
    logits = np.concatenate([np.ones((data.num_people, 1)), data.cluster_covariates], axis=1) @ gate.T
    prior = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return np.log((prior * np.exp(class_log_densities(parameters, data, layout))).sum(axis=1)).sum()
