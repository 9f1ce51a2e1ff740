"""Samplers and bounds."""

from __future__ import annotations

import hashlib
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_mixture.data.search import Constraints
from hf_mixture.data.search.constraints import project
from hf_mixture.data.search.simplex import (
    _candidates,
    admit,
    check_prior,
    dirichlet,
    grid,
    latin,
    quantize,
    regmix,
    regmix_reference,
    sobol,
)


# Of the array that the published script (commit b004d3a) makes with its seed 42, as little-endian float64.
PUBLISHED_SHA256 = "6d1d5bae9363dfd5cb194489ca729c883704763f041e361749fd538dcc915144"


def reference_twin(prior: np.ndarray, num: int, seed: int) -> np.ndarray:
    """RegMix's sampler, one draw at a time with the generator's own Dirichlet: the oracle of the fast version."""
    rng, chooser = np.random.RandomState(seed), random.Random(seed)  # noqa: S311 - sampling
    shares = prior / np.sum(prior)
    tempered = shares**0.5 / np.sum(shares**0.5)
    found = []
    for _ in range(100 * num):
        draws = [rng.dirichlet(tempered * s) for s in np.logspace(np.log10(0.1), np.log10(5.0), 15)]
        draw = chooser.choice(draws)
        if all(draw <= np.minimum(15 * shares, 1.0)):
            draw = np.where(draw < 2e-4, 0.0, draw)
            found.append(np.round(draw / np.sum(draw) / 2e-4) * 2e-4)
    ordered = np.array(found)[np.lexsort(np.array(found).T)]
    kept = [ordered[0]]
    for row in ordered[1:]:
        if np.abs(row - kept[-1]).sum() > 1e-5:
            kept.append(row)
    return np.stack(chooser.sample(kept, num))


@pytest.mark.parametrize("seed", [42, 7])
def test_reference_mode_equals_the_slow_twin_to_the_bit(prior, seed) -> None:
    assert regmix_reference(prior, 8, seed=seed).tobytes() == reference_twin(prior, 8, seed).tobytes()


def test_reference_mode_equals_the_published_script_to_the_bit(prior) -> None:
    mixtures = np.ascontiguousarray(regmix_reference(prior, 512, seed=42), dtype="<f8")
    assert hashlib.sha256(mixtures.tobytes()).hexdigest() == PUBLISHED_SHA256


def test_repaired_mode_keeps_sums_bounds_and_the_grid(prior) -> None:
    mixtures = regmix(prior, 512, seed=42)
    assert mixtures.shape == (512, 17)
    np.testing.assert_allclose(mixtures.sum(axis=1), 1, atol=1e-9)
    assert (mixtures <= np.minimum(15 * prior / prior.sum(), 1) + 1e-9).all()
    np.testing.assert_allclose(mixtures / 2e-4, np.round(mixtures / 2e-4), atol=1e-8)
    assert len(np.unique(mixtures, axis=0)) == 512


def test_repaired_mode_accepts_as_many_as_the_reference(prior) -> None:
    shares = check_prior(prior)
    rng, chooser = np.random.RandomState(0), random.Random(0)  # noqa: S311 - sampling
    draws = _candidates(shares**0.5 / (shares**0.5).sum(), 10_000, rng, chooser)
    bound = np.minimum(15 * shares, 1.0)
    reference = (draws <= bound).all(axis=1).sum()
    assert abs(len(admit(draws, bound, 2e-4, on_grid=True)) - reference) <= 0.02 * reference


def test_bounds_reach_the_sampler(prior) -> None:
    domains = [str(column) for column in range(17)]
    lower, upper = Constraints(floors={"0": 0.1}, caps={"11": 0.3}).bounds(domains)
    mixtures = regmix(prior, 64, lower=lower, upper=upper)
    assert mixtures[:, 0].min() >= 0.1 - 1e-12
    assert mixtures[:, 11].max() <= 0.3 + 1e-12
    with pytest.raises(ValueError, match="distinct mixtures obey the bounds, 4 were asked for"):
        regmix([1.0], 4)


@pytest.mark.parametrize("sample", [lambda: sobol(5, 256), lambda: latin(5, 256), lambda: dirichlet([1] * 5, 256)])
def test_samplers_cover_the_simplex(sample) -> None:
    mixtures = sample()
    np.testing.assert_allclose(mixtures.sum(axis=1), 1, atol=1e-12)
    np.testing.assert_allclose(mixtures.mean(axis=0), 0.2, atol=0.04)
    # Of a uniform point of the simplex, the largest of 5 shares exceeds .8 with probability 5 * .2^4.
    assert (mixtures.max(axis=1) > 0.8).mean() == pytest.approx(0.008, abs=0.02)


def test_the_grid_is_complete() -> None:
    points = grid(3, 4)
    expected = {(a / 4, b / 4, (4 - a - b) / 4) for a in range(5) for b in range(5 - a)}
    assert {tuple(point) for point in points.tolist()} == expected
    assert len(points) == len(expected)
    with pytest.raises(ValueError, match="has 13037895 points, above max_points=1000000"):
        grid(17, 11)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=2, max_size=8).filter(lambda row: sum(row) > 1e-3))
def test_largest_remainder_keeps_the_sum(row) -> None:
    mixture = np.array([row]) / sum(row)
    rounded = quantize(mixture, 2e-4)
    assert rounded.sum() == pytest.approx(1, abs=1e-12)
    assert np.abs(rounded - mixture).max() <= 2e-4 + 1e-12


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 9))
def test_projection_obeys_bounds_and_leaves_the_inside_alone(seed, num_domains) -> None:
    rng = np.random.default_rng(seed)
    lower = rng.random(num_domains) / num_domains
    upper = np.minimum(lower + rng.random(num_domains), 1.0)
    upper *= max(1.0, 1.0 / upper.sum())
    upper = np.clip(upper, lower, 1.0)
    if upper.sum() < 1:
        return
    mixtures = rng.dirichlet(np.full(num_domains, 0.3), 20)
    projected = project(mixtures, lower, upper)
    np.testing.assert_allclose(projected.sum(axis=1), 1, atol=1e-9)
    assert (projected >= lower - 1e-12).all()
    assert (projected <= upper + 1e-12).all()
    np.testing.assert_allclose(project(projected, lower - 1e-9, upper + 1e-9), projected, atol=1e-9)


@pytest.mark.parametrize(
    ("constraints", "message"),
    [
        (Constraints(floors={"a": 0.7}, caps={"a": 0.5}), "floor of 'a', 0.7, is above its cap, 0.5"),
        (Constraints(floors={"a": 0.7, "b": 0.6}), "floors sum to 1.3"),
        (Constraints(caps={"a": 0.3, "b": 0.3}), "caps to 0.6"),
        (Constraints(fixed={"z": 0.3}), "fixed names 'z'"),
        (Constraints(caps={"a": 1.5}), r"caps\['a'\]=1.5 is not a share"),
    ],
)
def test_impossible_bounds_are_refused(constraints, message) -> None:
    with pytest.raises(ValueError, match=message):
        constraints.bounds(["a", "b"])
