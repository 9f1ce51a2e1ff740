"""The fast partition against the slow reference: the same labels, and the same numbers behind them."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import multivariate_normal
from slow_partition import SlowPartition, slow_dip

from hf_mixture import ProbabilisticPartition
from hf_mixture.data.clustering.dip import critical_dip, dip
from hf_mixture.data.clustering.gaussian import FAMILIES, evidence, moments_of, num_parameters, pooled
from hf_mixture.data.clustering.rows import Rows, distinct_rows
from hf_mixture.data.clustering.split import split_rows


def blobs(seed: int, rows: int = 120, columns: int = 3, spread: float = 3.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    places = spread * rng.normal(size=(4, columns))
    return places[rng.integers(0, 4, rows)] + rng.normal(size=(rows, columns))


SETS = {
    "blobs": blobs(0),
    "near blobs": blobs(1, spread=1.5),
    "uniform": np.random.default_rng(2).random((120, 2)),
    "repeated rows": np.round(blobs(3, columns=2)),
    "one column": blobs(4, columns=1),
    "more columns than components": np.concatenate([blobs(5, columns=7), np.full((120, 1), 3.0)], axis=1),
}
OPTIONS = [
    {},
    {"family": ("full", "pdiag")},
    {"family": ("diag",), "merge_family": None},
    {"family": ("tied", "spherical"), "em_steps": 2},
    {"family": ("tied_diag",), "merge_family": ("tied",), "min_agreement": 0.8},
    {"family": ("auto",), "em_steps": None, "merge_family": None},
    {"test": ("cross_fit",), "margin": 0.02},
    {"test": ("bic", "stability")},
    {"start_clusters": 5},
]


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_labels_are_those_of_the_reference(name: str, options: dict) -> None:
    slow = SlowPartition(num_components=5, **options).fit(SETS[name])
    fast = ProbabilisticPartition(num_components=5, **options).fit(SETS[name])
    assert fast.labels_.tolist() == slow.tolist()


def test_the_options_differ_on_these_sets() -> None:
    found = {
        tuple(ProbabilisticPartition(num_components=5, **options).fit(rows).n_clusters_ for rows in SETS.values())
        for options in OPTIONS
    }
    assert len(found) >= 5


def test_labels_under_the_dip_are_those_of_the_reference() -> None:
    for seed, spread in ((0, 3.0), (1, 2.0)):
        rows = blobs(seed, rows=50, columns=2, spread=spread)
        slow = SlowPartition(test=("dip",), merge_family=None).fit(rows)
        assert ProbabilisticPartition(test="dip", merge_family=None).fit(rows).labels_.tolist() == slow.tolist()


def test_weights_are_those_of_the_reference() -> None:
    rng = np.random.default_rng(0)
    rows, weights = blobs(6), rng.uniform(0.5, 3, 120)
    slow = SlowPartition().fit(rows, weights)
    assert ProbabilisticPartition().fit(rows, sample_weight=weights).labels_.tolist() == slow.tolist()


@pytest.mark.parametrize("em_steps", [1, 3, None])
@pytest.mark.parametrize("family", FAMILIES)
def test_evidence_is_that_of_the_reference(family: str, em_steps: int | None) -> None:
    slow = SlowPartition(em_steps=em_steps, min_agreement=0.0)
    slow.prepare(blobs(1, spread=1.5))
    points, weights = slow.points, slow.weights
    everything = list(range(len(points)))
    sides = slow.halves(everything)
    rows = Rows(points, weights)
    second = np.isin(everything, sides[1])
    found = evidence(
        rows,
        second,
        moments_of(rows),
        [moments_of(rows.take(~second)), moments_of(rows.take(second))],
        family=family,
        ridge=slow.ridge,
        em_steps=em_steps,
    )
    assert found.gain == pytest.approx(slow.gain(sides, family), abs=1e-9)


def test_numbers_of_parameters() -> None:
    """As the free entries of the matrices of each family, counted one by one."""
    d, k = 4, 2
    triangle = sum(1 for row in range(d) for column in range(row + 1))
    wanted = {"full": 2 * triangle, "tied": triangle, "diag": 2 * d, "pdiag": 2 * d, "tied_diag": d, "spherical": 2}
    for family in FAMILIES:
        assert num_parameters(family, k, d) == wanted[family] + k * d + (k - 1)


def test_the_posterior_is_that_of_the_gaussians_of_the_clusters() -> None:
    rows = blobs(0)
    partition = ProbabilisticPartition().fit(rows)
    ridge = 1e-4 * rows.var(axis=0).mean()
    joint = np.empty((len(rows), partition.n_clusters_))
    for number in range(partition.n_clusters_):
        own = rows[partition.labels_ == number]
        assert len(own) >= 15
        covariance = np.cov(own.T, bias=True) + ridge * np.eye(3)
        joint[:, number] = len(own) / len(rows) * multivariate_normal(own.mean(axis=0), covariance).pdf(rows)
    wanted = joint / joint.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(partition.predict_proba(rows), wanted, atol=1e-9)
    for number, value in enumerate(partition.separability_):
        assert value == pytest.approx(wanted[partition.labels_ == number].max(axis=1).mean(), abs=1e-9)


@pytest.mark.parametrize("seed", range(8))
def test_dip_is_the_nearest_unimodal_distribution(seed: int) -> None:
    rng = np.random.default_rng(seed)
    size = int(rng.integers(2, 16))
    values = rng.normal(size=size) + 3 * (seed % 2) * (rng.random(size) > 0.5)
    weights = rng.integers(1, 4, size).astype(float) if seed % 3 else np.ones(size)
    assert dip(values, weights) == pytest.approx(slow_dip(values.tolist(), weights.tolist()), abs=1e-7)


@pytest.mark.parametrize("size", [30, 150])
def test_the_critical_dip_is_exceeded_by_one_in_twenty_uniform_samples(size: int) -> None:
    rng = np.random.default_rng(size)
    share = np.mean([dip(rng.random(size), np.ones(size)) > critical_dip(size) for _ in range(500)])
    assert 0.02 < share < 0.085


def test_distinct_rows_are_sorted_by_content() -> None:
    rng = np.random.default_rng(0)
    rows = rng.integers(-1, 2, (200, 4)).astype(float)
    rows[rows == 0] *= rng.choice([-1.0, 1.0], (rows == 0).sum())
    weights = rng.uniform(0.1, 2, 200)
    distinct, total, inverse = distinct_rows(rows, weights)
    wanted = sorted({tuple(row + 0.0) for row in rows})
    assert [tuple(row) for row in distinct] == wanted
    np.testing.assert_array_equal(distinct[inverse], rows)
    for number, row in enumerate(wanted):
        assert total[number] == pytest.approx(weights[(rows == row).all(axis=1)].sum())


def test_moments_of_a_union_are_pooled() -> None:
    rng = np.random.default_rng(0)
    rows = Rows(rng.normal(size=(40, 3)), rng.uniform(0.5, 2, 40))
    parts = [moments_of(rows.take(np.arange(10))), moments_of(rows.take(np.arange(10, 40)))]
    found, wanted = pooled(parts), moments_of(rows)
    np.testing.assert_allclose(found.mean, wanted.mean, atol=1e-12)
    np.testing.assert_allclose(found.covariance, wanted.covariance, atol=1e-12)


def test_a_split_is_stopped_where_the_axis_is_arbitrary() -> None:
    angles = 2 * np.pi * np.arange(6) / 6
    rows = Rows(np.stack([np.cos(angles), np.sin(angles)], axis=1), np.ones(6))
    assert split_rows(rows, moments_of(rows)) == "axis_tie"
    assert not isinstance(split_rows(rows, moments_of(rows), axis_ties="first"), str)
