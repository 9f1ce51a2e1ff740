"""Acceptance check 6: bias and coverage over 100 replications."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from hf_mixture.models.trajectory_moe.fit import fit_mixture
from hf_mixture.models.trajectory_moe.layout import Layout
from hf_mixture.models.trajectory_moe.natural import to_natural
from hf_mixture.models.trajectory_moe.optima import match_classes
from hf_mixture.models.trajectory_moe.simulate import simulate
from hf_mixture.models.trajectory_moe.standard_errors import estimate_uncertainty
from hf_mixture.models.trajectory_moe.units import report_factors


def test_simulated_classes_and_means_are_those_of_the_model(bls):
    data, layout = bls(cluster=True), Layout(num_classes=2, num_cluster=2)
    parameters = fit_mixture(data, layout, num_starts=1, progress=False).parameters
    shares, means = [], []
    for seed in range(20):
        drawn, classes = simulate(parameters, data, layout, seed=seed)
        shares.append(classes.mean())
        means.append(drawn.values.mean())
        assert (drawn.times == data.times).all()
    logits = parameters.gate[0, 0, 0] + data.cluster_covariates @ parameters.gate[0, 0, 1:]
    assert np.mean(shares) == pytest.approx((1 / (1 + np.exp(-logits))).mean(), abs=0.02)
    assert np.mean(means) == pytest.approx(data.values.mean(), rel=0.01)


@pytest.mark.slow
def test_check_6_bias_and_coverage(bls, bls_class):
    data, layout = bls(cluster=True), Layout(num_classes=2, num_cluster=2)
    truth = fit_mixture(data, layout, num_starts=1, first_classes=bls_class, progress=False).parameters
    true_vector = to_natural(report_factors(truth, layout), layout)[0]
    own = layout.num_of_class
    means = [k * own + place for k in range(2) for place in range(3)]
    estimates, inside, failed = [], [], 0
    for replication in range(100):
        drawn, classes = simulate(truth, data, layout, seed=[1, replication])
        fit = fit_mixture(drawn, layout, num_starts=1, first_classes=classes, progress=False)
        # Classes are matched by distance, not by order.
        scale = np.abs(truth.alpha[0]).mean(axis=0)
        order = match_classes(truth.alpha[0] / scale, fit.parameters.alpha[0] / scale)
        found = estimate_uncertainty(replace(fit.parameters.relabelled(order)), drawn, layout, reported=True)
        if fit.faults or not found.is_positive:
            failed += 1
            continue
        estimates.append(found.values)
        inside.append(np.abs(found.values - true_vector) <= 1.96 * found.standard_errors)
    assert failed <= 2
    bias = np.mean(estimates, axis=0) / true_vector - 1
    coverage = np.mean(inside, axis=0)
    print("relative bias", bias[means], "coverage", coverage[means], "failed", failed)
    assert (np.abs(bias[means]) < 0.02).all()
    assert ((coverage[means] >= 0.9) & (coverage[means] <= 0.99)).all()
