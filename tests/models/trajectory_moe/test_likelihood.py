"""The fast likelihood against the dense one, its gradient, and what it must not depend on."""

from __future__ import annotations

from dataclasses import replace

import dense_trajectories as dense
import numpy as np
import pytest
import torch

from hf_mixture.models.trajectory_moe.curves import CURVES
from hf_mixture.models.trajectory_moe.data import make_data
from hf_mixture.models.trajectory_moe.layout import Layout, pack, unpack
from hf_mixture.models.trajectory_moe.likelihood import components, log_prior, log_sum_exp
from hf_mixture.models.trajectory_moe.natural import from_natural, to_natural
from hf_mixture.models.trajectory_moe.products import observations_of
from hf_mixture.models.trajectory_moe.scores import by_entries, evaluate, evaluate_at
from hf_mixture.models.trajectory_moe.units import Units, in_standard_units, in_user_units, units_of


LAYOUTS = {
    **{curve: Layout(num_classes=2, curve=curve) for curve in CURVES},
    "one class": Layout(num_classes=1),
    "full, joint": Layout(num_classes=3, num_growth=2, num_cluster=1),
    "full, conditional": Layout(num_classes=2, num_growth=1, num_cluster=2, is_joint=False),
    "two outcomes": Layout(num_classes=2, num_outcomes=2, num_growth=1, num_cluster=1),
    "two linear outcomes": Layout(num_classes=2, num_outcomes=2, curve="linear"),
}


def drawn_data(layout, *, seed=0, num_people=12, num_occasions=6, missing=True):
    rng = np.random.default_rng(seed)
    times = np.sort(rng.uniform(0, 1, (num_people, num_occasions)), axis=1)
    values = rng.standard_normal((num_people, num_occasions, layout.num_outcomes))
    mask = rng.random(values.shape) > (0.3 if missing else -1)
    mask[:, 0] = True
    return make_data(
        values,
        times,
        mask=mask,
        growth_covariates=rng.standard_normal((num_people, layout.num_growth)),
        cluster_covariates=rng.standard_normal((num_people, layout.num_cluster)),
    )


def drawn_vector(layout, seed=0):
    return 0.5 * np.random.default_rng(seed).standard_normal((1, layout.num_parameters))


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("missing", [False, True])
def test_the_likelihood_equals_the_dense_one(name, missing):
    layout = LAYOUTS[name]
    data, parameters = drawn_data(layout, missing=missing), unpack(drawn_vector(layout), layout)
    found = components(parameters, observations_of(data), layout)
    np.testing.assert_allclose(
        np.broadcast_to(found.log_density[0].T, (data.num_people, layout.num_classes)),
        dense.class_log_densities(parameters, data, layout),
        rtol=1e-10,
        atol=1e-10,
    )
    total = evaluate(drawn_vector(layout), observations_of(data), layout).log_likelihood[0]
    assert total == pytest.approx(dense.log_likelihood(parameters, data, layout), abs=1e-9)


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_analytic_gradient_equals_automatic_differentiation(name):
    layout = LAYOUTS[name]
    data, vector = drawn_data(layout), drawn_vector(layout, 1)
    tensor = torch.tensor(vector, requires_grad=True)
    observations = observations_of(data, torch.tensor)
    parameters = unpack(tensor, layout)
    joint = components(parameters, observations, layout).log_density + log_prior(parameters, observations)
    value = log_sum_exp(joint).sum()
    value.backward()
    found = evaluate(vector, observations_of(data), layout)
    assert found.log_likelihood[0] == pytest.approx(value.item(), abs=1e-10)
    np.testing.assert_allclose(found.gradient, tensor.grad.numpy(), rtol=1e-9, atol=1e-9)
    each = evaluate(vector, observations_of(data), layout, each_person=True)
    np.testing.assert_allclose(each.person_scores.sum(axis=2), found.gradient, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(found.posterior.sum(axis=1), 1, atol=1e-12)


@pytest.mark.parametrize("name", ["bilinear", "full, joint", "two outcomes"])
def test_the_gradient_by_natural_parameters_equals_differences(name):
    layout = LAYOUTS[name]
    data = drawn_data(layout)
    vector = to_natural(unpack(drawn_vector(layout, 2), layout), layout)[0]
    observations = observations_of(data)
    step = 1e-6
    ends = [
        evaluate_at(from_natural(vector + sign * step * np.eye(len(vector)), layout), observations, layout, by_entries)
        for sign in (1, -1)
    ]
    differences = (ends[0].log_likelihood - ends[1].log_likelihood) / (2 * step)
    found = evaluate_at(from_natural(vector[None], layout), observations, layout, by_entries)
    np.testing.assert_allclose(found.gradient[0], differences, rtol=1e-5, atol=1e-5)


def test_weights_of_people_are_repetitions():
    layout = LAYOUTS["full, joint"]
    data, vector = drawn_data(layout), drawn_vector(layout)
    counts = np.arange(data.num_people) % 3
    rows = np.repeat(np.arange(data.num_people), counts)
    repeated = make_data(
        data.values[rows],
        data.times[rows],
        mask=data.mask[rows],
        growth_covariates=data.growth_covariates[rows],
        cluster_covariates=data.cluster_covariates[rows],
    )
    weighted = evaluate(vector, observations_of(data, weights=counts[None].astype(float)), layout)
    plain = evaluate(vector, observations_of(repeated), layout)
    assert weighted.log_likelihood[0] == pytest.approx(plain.log_likelihood[0], abs=1e-9)
    np.testing.assert_allclose(weighted.gradient, plain.gradient, atol=1e-9)


@pytest.mark.parametrize("name", LAYOUTS)
def test_units_change_no_likelihood_and_lead_back(name):
    layout = LAYOUTS[name]
    data = drawn_data(layout, seed=3)
    units = Units(
        values=np.array([[5.0] * layout.num_outcomes, [30.0] * layout.num_outcomes]),
        times=np.array([2.0, 12.0]),
        growth=np.array([[1.0] * layout.num_growth, [4.0] * layout.num_growth]),
        cluster=np.array([[-2.0] * layout.num_cluster, [0.5] * layout.num_cluster]),
    )
    user = replace(
        data,
        values=np.where(data.mask, units.values[0] + units.values[1] * data.values, 0.0),
        times=units.times[0] + units.times[1] * data.times,
        growth_covariates=units.growth[0] + units.growth[1] * data.growth_covariates,
        cluster_covariates=units.cluster[0] + units.cluster[1] * data.cluster_covariates,
    )
    vector = drawn_vector(layout, 4)
    parameters = in_user_units(unpack(vector, layout), units, layout)
    shift = units.log_density_shifts(user, layout).sum()
    standard = evaluate(vector, observations_of(data), layout).log_likelihood[0]
    assert dense.log_likelihood(parameters, user, layout) == pytest.approx(standard + shift, abs=1e-8)
    np.testing.assert_allclose(pack(in_standard_units(parameters, units, layout), layout), vector, atol=1e-9)


def test_relabelled_classes_have_the_same_likelihood():
    layout = LAYOUTS["full, joint"]
    data, parameters = drawn_data(layout), unpack(drawn_vector(layout), layout)
    observations = observations_of(data)
    before = evaluate(pack(parameters, layout), observations, layout)
    order = [2, 0, 1]
    after = evaluate(pack(parameters.relabelled(order), layout), observations, layout)
    assert after.log_likelihood[0] == pytest.approx(before.log_likelihood[0], abs=1e-10)
    np.testing.assert_allclose(after.posterior[0], before.posterior[0, order], atol=1e-12)


def test_known_labels_rule_out_other_classes():
    layout = LAYOUTS["full, joint"]
    data = drawn_data(layout)
    labels = np.where(np.arange(data.num_people) % 2, np.arange(data.num_people) % 3, -1)
    observations = observations_of(replace(data, labels=labels))
    vector = drawn_vector(layout)
    found = evaluate(vector, observations, layout)
    known = labels >= 0
    assert (found.posterior[0].argmax(axis=0)[known] == labels[known]).all()
    assert found.posterior[0].max(axis=0)[known] == pytest.approx(1)
    step = 1e-6 * np.eye(vector.size)
    ends = [evaluate(vector + sign * step, observations, layout).log_likelihood for sign in (1, -1)]
    np.testing.assert_allclose(found.gradient[0], (ends[0] - ends[1]) / 2e-6, rtol=1e-5, atol=1e-5)


def test_a_singular_covariance_needs_no_care():
    layout = Layout(num_classes=1)
    data, parameters = drawn_data(layout), unpack(drawn_vector(layout), layout)
    factor = parameters.psi_factor.copy()
    factor[..., 2, :] = 0
    singular = replace(parameters, psi_factor=factor)
    found = components(singular, observations_of(data), layout).log_density[0].T
    np.testing.assert_allclose(found, dense.class_log_densities(singular, data, layout), atol=1e-10)


def test_units_refuse_what_does_not_vary():
    times = np.tile(np.arange(3.0), (4, 1))
    with pytest.raises(ValueError, match="outcome 0 is constant"):
        units_of(make_data(np.ones((4, 3)), times))
    with pytest.raises(ValueError, match="all observations are at the time 1"):
        units_of(make_data(np.random.default_rng(0).random((4, 1)), np.ones((4, 1))))
    with pytest.raises(ValueError, match="growth_covariates has a column that is constant"):
        units_of(make_data(np.random.default_rng(0).random((4, 3)), times, growth_covariates=np.ones(4)))
