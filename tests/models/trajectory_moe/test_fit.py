"""Fits: monotone ECM, missing waves, journals, degenerate results, and what is refused. Acceptance check 4."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from tiny_trajectories import two_groups

from hf_mixture.models.trajectory_moe import fit as fit_module
from hf_mixture.models.trajectory_moe.data import data_of_dataset, make_data
from hf_mixture.models.trajectory_moe.degenerate import check_support, faults_of
from hf_mixture.models.trajectory_moe.ecm import ecm
from hf_mixture.models.trajectory_moe.fit import fit_mixture, fit_one_class
from hf_mixture.models.trajectory_moe.layout import Layout, pack, unpack
from hf_mixture.models.trajectory_moe.optima import match_classes
from hf_mixture.models.trajectory_moe.polish import polish
from hf_mixture.models.trajectory_moe.products import observations_of
from hf_mixture.models.trajectory_moe.scores import evaluate
from hf_mixture.models.trajectory_moe.simulate import curves_of
from hf_mixture.models.trajectory_moe.starts import draw_starts
from hf_mixture.models.trajectory_moe.units import units_of


@pytest.mark.parametrize(
    "layout",
    [
        Layout(num_classes=2),
        Layout(num_classes=3, num_growth=2, num_cluster=2),
        Layout(num_classes=2, curve="exponential"),
        Layout(num_classes=2, curve="jenss_bayley"),
    ],
    ids=["bilinear", "full", "exponential", "jenss_bayley"],
)
def test_check_4_ecm_is_monotone(bls, layout):
    data = bls(growth=layout.num_growth > 0, cluster=layout.num_cluster > 0)
    rng = np.random.default_rng(0)
    data = replace(data, mask=data.mask & (rng.random(data.mask.shape) > 0.2))
    observations = observations_of(units_of(data).standardise(data))
    starts = draw_starts(fit_one_class(observations, layout), observations, layout, seed=0, indices=[0, 1, 2])
    estimates, trace = ecm(starts, observations, layout, num_iterations=25)
    assert (-2 * np.diff(trace, axis=0)).max() <= 1e-6
    posterior = evaluate(pack(estimates, layout), observations, layout).posterior
    np.testing.assert_allclose(posterior.sum(axis=1), 1, atol=1e-12)


def test_check_4_ecm_is_monotone_with_two_outcomes_of_which_some_are_missing():
    data, _ = two_groups(num_people=40)
    values = np.concatenate([data.values, data.values**2], axis=2)
    rng = np.random.default_rng(1)
    mask = rng.random(values.shape) > 0.25
    mask[:, 0] = True
    data = make_data(values, data.times, mask=mask)
    layout = Layout(num_classes=2, num_outcomes=2, curve="linear")
    observations = observations_of(units_of(data).standardise(data))
    starts = draw_starts(fit_one_class(observations, layout), observations, layout, seed=0, indices=[0, 1])
    _, trace = ecm(starts, observations, layout, num_iterations=30)
    assert (-2 * np.diff(trace, axis=0)).max() <= 1e-6


def test_check_4_a_missing_wave_equals_data_without_it(bls):
    data = bls()
    mask = data.mask.copy()
    mask[:, 4] = False
    kept = [j for j in range(10) if j != 4]
    layout = Layout(num_classes=2)
    missing = fit_mixture(replace(data, mask=mask), layout, num_starts=2, progress=False)
    reduced = bls(values=data.values[:, kept], times=data.times[:, kept])
    without = fit_mixture(reduced, layout, num_starts=2, progress=False)
    assert missing.log_likelihood == pytest.approx(without.log_likelihood, abs=1e-6)
    np.testing.assert_allclose(missing.vector, without.vector, atol=1e-5)


def test_an_optimum_has_no_gradient_or_lies_on_a_kink():
    # Everybody is measured at the same times, so kinks are far apart and high; the lines meet at one of them.
    rng = np.random.default_rng(0)
    times = np.tile(np.arange(7.0), (80, 1))
    lines = 2 * np.minimum(times, 3) + 0.5 * np.maximum(times - 3, 0)
    slopes = 0.3 * rng.standard_normal((80, 1)) * times
    waves = make_data(lines + slopes + rng.standard_normal((80, 1)) + 0.3 * rng.standard_normal(times.shape), times)
    layout = Layout(num_classes=1)
    observations = observations_of(units_of(waves).standardise(waves))
    for knot in (0.3, 0.45, 0.6):
        start = fit_one_class(observations, layout)
        start = replace(start, shape=np.full_like(start.shape, knot))
        found = polish(pack(start, layout)[0], observations, layout)
        assert found.is_converged
        assert unpack(found.vector[None], layout).shape.item() == pytest.approx(0.5, abs=0.05)
        for place in found.pinned:
            sides = []
            for sign in (-1, 1):
                beside = found.vector.copy()
                beside[place] += sign * 1e-7
                sides.append(evaluate(beside[None], observations, layout).gradient[0, place])
            assert sides[0] > 0 > sides[1]


@pytest.mark.parametrize("curve", ["linear", "quadratic", "exponential", "jenss_bayley"])
def test_other_curves_are_recovered(curve):
    layout = Layout(num_classes=1, curve=curve)
    rng = np.random.default_rng(0)
    times = np.sort(rng.uniform(0, 8, (200, 8)), axis=1)
    means = np.array([10.0, 4.0, 1.5])[: layout.num_factors]
    factors = means + rng.standard_normal((200, layout.num_factors))
    shape = np.full((200, layout.family.num_shapes), 0.6)
    values = curves_of(factors, times, shape, layout)[..., 0] + 0.2 * rng.standard_normal(times.shape)
    found = fit_mixture(make_data(values, times), layout, progress=False).parameters
    np.testing.assert_allclose(found.alpha[0, 0], factors.mean(axis=0), atol=0.15)
    if layout.family.num_shapes:
        assert found.shape[0, 0, 0] == pytest.approx(0.6, abs=0.05)


def test_classes_are_found_and_ordered_by_size():
    data, classes = two_groups()
    fit = fit_mixture(data, Layout(num_classes=2, curve="linear"), num_starts=4, progress=False)
    assert (fit.posterior.argmax(axis=1) == classes).mean() > 0.98
    given = fit_mixture(
        data, Layout(num_classes=2, curve="linear"), num_starts=1, first_classes=1 - classes, progress=False
    )
    assert (given.posterior.argmax(axis=1) == 1 - classes).mean() > 0.98
    assert given.log_likelihood == pytest.approx(fit.log_likelihood, abs=1e-6)


def test_a_killed_fit_continues(tmp_path, monkeypatch):
    data, _ = two_groups()
    layout, journal = Layout(num_classes=2, curve="linear"), tmp_path / "fit.json"
    whole = fit_mixture(data, layout, num_starts=4, progress=False)
    calls = []

    def killed(*args, **kwargs):
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return polish(*args, **kwargs)

    monkeypatch.setattr(fit_module, "polish", killed)
    with pytest.raises(KeyboardInterrupt):
        fit_mixture(data, layout, num_starts=4, journal=journal, progress=False)
    assert len(json.loads(journal.read_text())["finished"]["polished"]) == 2
    monkeypatch.setattr(fit_module, "ecm", None)
    monkeypatch.setattr(fit_module, "polish", lambda *args, **kwargs: (calls.append(1), polish(*args, **kwargs))[1])
    again = fit_mixture(data, layout, num_starts=4, journal=journal, progress=False)
    assert len(calls) == 5
    np.testing.assert_array_equal(again.vector, whole.vector)
    with pytest.raises(ValueError, match="is of a fit with other data, sizes or settings"):
        fit_mixture(data, layout, num_starts=5, journal=journal, progress=False)
    journal.write_text("{}")
    with pytest.raises(ValueError, match="has the format None"):
        fit_mixture(data, layout, num_starts=4, journal=journal, progress=False)


def test_degenerate_estimates_are_named():
    data, _ = two_groups()
    layout = Layout(num_classes=2)
    units = units_of(data)
    observations = observations_of(units.standardise(data))
    good = fit_mixture(data, layout, num_starts=3, progress=False)
    parameters = unpack(good.vector[None], layout)

    def faults(posterior=good.posterior.T, **changes):
        return " ".join(faults_of(replace(parameters, **changes), posterior, layout))

    few = np.stack([np.ones(data.num_people), np.zeros(data.num_people)])
    assert "class 1 is all but empty: 0.0 people, 4 needed" in faults(posterior=few)
    assert "class 0 has its knot at the end" in faults(shape=np.array([[[0.999], [0.5]]]))
    assert "class 1 has no residual variance left" in faults(theta_factor=np.array([[[[1.0]], [[1e-6]]]]))
    assert "the classes are the same" in faults(posterior=np.full((2, observations.num_people), 0.5))


def test_more_classes_than_there_are_end_in_a_name_not_in_nan():
    rng = np.random.default_rng(0)
    times = np.tile(np.arange(5.0), (60, 1))
    data = make_data(rng.standard_normal((60, 1)) + times + 0.1 * rng.standard_normal((60, 5)), times)
    fit = fit_mixture(data, Layout(num_classes=4, curve="linear"), num_starts=6, progress=False)
    assert np.isfinite(fit.log_likelihood)
    assert np.isfinite(fit.vector).all()
    np.testing.assert_allclose(fit.posterior.sum(axis=1), 1)
    assert all(start.state for start in fit.starts)


@pytest.mark.parametrize(
    ("layout", "changes", "said"),
    [
        (Layout(num_classes=40), {}, "num_classes=40 needs at least 160 people"),
        (Layout(num_classes=1), {"occasions": 1}, "nobody has more than one occasion"),
        (Layout(num_classes=1), {"waves": 3}, "there are 3 different times, and the bilinear curve needs at least 4"),
    ],
)
def test_what_the_data_cannot_support_is_refused(layout, changes, said):
    data, _ = two_groups()
    if "occasions" in changes:
        data = make_data(data.values[:, :1], data.times[:, :1])
    if "waves" in changes:
        data = make_data(data.values[:, :3], np.arange(3.0))
    with pytest.raises(ValueError, match=said):
        check_support(data, layout)
    with pytest.raises(ValueError, match=said):
        fit_mixture(data, layout, progress=False)


NAN = float("nan")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"times": [[0.0, 2.0, 1.0], [0.0, 1.0, 2.0]]},
            r"times of person 0 are \[0.0, 2.0, 1.0\]; they must increase",
        ),
        ({"times": [[0.0, 1.0, 1.0], [0.0, 1.0, 2.0]]}, "they must increase"),
        ({"times": [[0.0, NAN, 1.0], [0.0, 1.0, 2.0]]}, r"times\[0, 1\] is not finite"),
        ({"times": [0.0, 1.0]}, r"times has the shape \(2,\); values need \(2, 3\)"),
        ({"values": [[1.0, float("inf"), 2.0], [1.0, 2.0, 3.0]]}, r"values\[0, 1, 0\] is inf and observed"),
        ({"values": [[NAN, NAN, NAN], [1.0, 2.0, 3.0]]}, "person 0 has no observed value"),
        ({"values": [[1.0, NAN, 2.0], [1.0, 2.0, 3.0]], "mask": np.ones((2, 3))}, "is nan and observed"),
        ({"values": [1.0, 2.0]}, "give people x occasions"),
        ({"mask": np.ones((2, 2))}, "mask has the shape"),
        ({"growth_covariates": [1.0, NAN]}, r"growth_covariates\[1\] is not finite"),
        ({"cluster_covariates": [1.0]}, "cluster_covariates has the shape"),
        ({"labels": [1]}, "labels has the shape"),
    ],
)
def test_malformed_data_are_refused(changes, said):
    given = {"values": [[1.0, 2.0, 3.0], [1.0, 2.0, 3.0]], "times": [[0.0, 1.0, 2.0], [0.0, 1.0, 2.0]]} | changes
    with pytest.raises(ValueError, match=said):
        make_data(given.pop("values"), given.pop("times"), **given)


def test_data_sets_are_read_by_names():
    data = {"values": [[1, 2, None], [3, 4]], "times": [[0, 1, 2], [0, 1]], "a": [1, 2]}
    found = data_of_dataset(data, cluster_covariates=["a"])
    assert found.mask[..., 0].tolist() == [[True, True, False], [True, True, False]]
    assert found.cluster_covariates.ravel().tolist() == [1, 2]
    with pytest.raises(ValueError, match=r"has no column 'b' of config.growth_covariates"):
        data_of_dataset(data, growth_covariates=["b"])
    with pytest.raises(ValueError, match="has no column 'times'"):
        data_of_dataset({"values": [[1, 2]]})


def test_classes_are_matched_by_distance():
    rng = np.random.default_rng(0)
    first = rng.random((9, 4))
    order = rng.permutation(9)
    assert match_classes(first, first[order]) == np.argsort(order).tolist()
    assert match_classes(first[:4], first[[3, 1, 0, 2]]) == [2, 1, 3, 0]
