"""`ProbabilisticPartition`: repeatable to the bit, right on planted clusters, and an estimator of scikit-learn."""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import sys
from itertools import combinations

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.cluster import KMeans
from sklearn.datasets import load_breast_cancer, load_digits, load_iris, load_wine, make_blobs
from sklearn.decomposition import PCA
from sklearn.metrics import adjusted_rand_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator
from threadpoolctl import threadpool_limits

from hf_mixture import ProbabilisticPartition


LOADERS = {"iris": load_iris, "wine": load_wine, "cancer": load_breast_cancer, "digits": load_digits}


def real(name: str) -> np.ndarray:
    rows = LOADERS[name]().data
    # The last bit of the projection depends on the number of threads.
    with threadpool_limits(limits=1):
        return (
            PCA(10, svd_solver="full").fit_transform(rows)
            if name == "digits"
            else StandardScaler().fit_transform(rows)
        )


def state(partition: ProbabilisticPartition) -> str:
    """All that a fit found of the data, to the bit."""
    arrays = [*vars(partition.tree_).values(), *vars(partition.mixture_).values(), partition.separability_]
    return hashlib.sha256(b"".join(np.ascontiguousarray(array).tobytes() for array in arrays)).hexdigest()


@pytest.mark.parametrize(
    "name", ["iris", *(pytest.param(name, marks=pytest.mark.slow) for name in ("digits", "cancer"))]
)
def test_row_order_and_threads_change_nothing(name: str) -> None:
    """Acceptance check 1: 20 row orders, 1 and 2 threads; here not the Rand index but the bits."""
    rows = real(name)
    first = ProbabilisticPartition().fit(rows)
    assert first.n_clusters_ > 1
    for seed in range(20):
        order = np.random.default_rng(seed).permutation(len(rows))
        with threadpool_limits(limits=1 + seed % 2):
            again = ProbabilisticPartition().fit(rows[order])
        assert again.labels_.tolist() == first.labels_[order].tolist()
        assert state(again) == state(first)


THREADS = """
import sys
sys.path.insert(0, sys.argv[1])
from test_partition import ProbabilisticPartition, real, state
for name in ("digits", "iris", "cancer"):
    for options in ({}, {"em_steps": 5}, {"num_cells": 100}):
        print(state(ProbabilisticPartition(**options).fit(real(name))))
"""


@pytest.mark.slow
def test_processes_with_one_and_two_threads_agree() -> None:
    """Acceptance check 1, where the number of threads is set for the whole process."""
    outputs = {
        subprocess.run(
            [sys.executable, "-c", THREADS, os.path.dirname(__file__)],
            env={**os.environ, "OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for threads in ("1", "2")
    }
    assert len(outputs) == 1
    assert len(set(outputs.pop().split())) == 9


@pytest.mark.parametrize("seed", [0, 1])
def test_planted_blobs_are_found(seed: int) -> None:
    """Acceptance check 2, first half."""
    rows, labels = make_blobs(4000, 16, centers=8, random_state=seed)
    partition = ProbabilisticPartition().fit(rows)
    assert partition.n_clusters_ == 8
    assert adjusted_rand_score(labels, partition.labels_) >= 0.99
    assert partition.separability_.min() > 0.99


def test_one_gaussian_stays_whole() -> None:
    """Acceptance check 2, second half: 20 seeds, at most 1 failure."""
    counts = [
        ProbabilisticPartition().fit(np.random.default_rng(seed).normal(size=(4000, 16))).n_clusters_
        for seed in range(20)
    ]
    assert sum(count > 1 for count in counts) <= 1


def test_runs_agree_where_those_of_kmeans_do_not() -> None:
    """Acceptance check 3: the smallest Rand index between two runs on digits."""
    rows = real("digits")

    def smallest(runs: list[np.ndarray]) -> float:
        return min(adjusted_rand_score(one, two) for one, two in combinations(runs, 2))

    runs = []
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(len(rows))
        runs.append(ProbabilisticPartition().fit(rows[order]).labels_[np.argsort(order)])
    kmeans = [KMeans(10, n_init=1, random_state=seed).fit_predict(rows) for seed in range(10)]
    assert smallest(runs) == 1.0
    assert smallest(kmeans) < 0.9


@pytest.mark.parametrize(
    ("name", "options"),
    [
        # Digits have the most rows and columns.
        pytest.param(name, options, marks=pytest.mark.slow if slow else [], id=f"{name}-{options}")
        for options in ({}, {"scale": "standard"}, {"num_components": 5}, {"num_cells": 60})
        for name in LOADERS
        for slow in [name == "digits" and "num_components" not in options]
    ],
)
def test_predict_gives_the_labels_of_fit(name: str, options: dict) -> None:
    """Acceptance check 4: in whatever company and order the rows come."""
    rows = LOADERS[name]().data
    partition = ProbabilisticPartition(**options).fit(rows)
    assert partition.predict(rows).tolist() == partition.labels_.tolist()
    assert partition.predict(rows[::-3]).tolist() == partition.labels_[::-3].tolist()
    assert [int(partition.predict(row[None])[0]) for row in rows[:40]] == partition.labels_[:40].tolist()
    if "num_cells" not in options:
        # The tree puts the rows where growth had them.
        sizes = np.bincount([leaf["cluster"] for leaf in partition.leaf_report_], _sizes(partition))
        assert sizes.tolist() == np.bincount(partition.labels_).tolist()


def _sizes(partition: ProbabilisticPartition) -> list[float]:
    return [leaf["size"] for leaf in partition.leaf_report_]


@pytest.mark.parametrize("options", [{}, {"test": ("bic", "cross_fit", "dip", "stability")}, {"num_cells": 100}])
def test_no_global_generator_is_drawn_from(options: dict) -> None:
    """Acceptance check 5."""
    rows = real("digits")

    def states() -> list[str]:
        return [repr(random.getstate()), repr(np.random.get_state()[1].tolist()), repr(torch.get_rng_state().tolist())]

    found = []
    for seed in (0, 1):
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        before = states()
        found.append(state(ProbabilisticPartition(**options).fit(rows)))
        assert states() == before
    assert found[0] == found[1]


def test_equal_rows_stay_together_and_count() -> None:
    rows = np.random.default_rng(0).integers(0, 6, (600, 2)).astype(float)
    rows[:200] += 20
    partition = ProbabilisticPartition().fit(rows)
    for row in np.unique(rows, axis=0):
        assert len(set(partition.labels_[(rows == row).all(axis=1)])) == 1
    times = np.random.default_rng(1).integers(0, 4, len(rows))
    weighted = ProbabilisticPartition().fit(rows, sample_weight=times)
    repeated = ProbabilisticPartition().fit(np.repeat(rows, times, axis=0))
    assert state(weighted) == state(repeated)
    assert weighted.labels_[times > 0].tolist() == repeated.predict(rows[times > 0]).tolist()
    assert weighted.cluster_sizes_.sum() == times.sum()


def test_copies_change_nothing_where_they_count_once() -> None:
    rows = real("wine")
    once = ProbabilisticPartition(duplicates="once")
    alone = once.fit(rows).labels_
    copies = np.concatenate([rows, np.repeat(rows[:20], 30, axis=0)])
    assert clone(once).fit(copies).labels_[: len(rows)].tolist() == alone.tolist()
    counted = ProbabilisticPartition().fit(copies)
    assert counted.labels_[: len(rows)].tolist() != alone.tolist()


def test_units_and_origin_do_not_matter() -> None:
    rows = real("cancer")
    labels = ProbabilisticPartition().fit(rows).labels_
    assert ProbabilisticPartition().fit(rows * 2.0**-20).labels_.tolist() == labels.tolist()
    assert ProbabilisticPartition().fit(rows * 1e6 + 1e7).labels_.tolist() == labels.tolist()
    units = np.logspace(-3, 3, rows.shape[1])
    scaled = ProbabilisticPartition(scale="standard").fit(rows * units)
    assert scaled.labels_.tolist() == labels.tolist()


@pytest.mark.parametrize("name", ["iris", "wine", "cancer", "digits"])
def test_the_default_does_not_depend_on_the_axes(name: str) -> None:
    rows = real(name)
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(rows.shape[1],) * 2))[0]
    partitions = [ProbabilisticPartition().fit(points).labels_ for points in (rows, rows @ turn)]
    assert adjusted_rand_score(*partitions) == 1.0


@pytest.mark.parametrize("name", ["iris", "wine", "cancer", "digits"])
def test_the_default_finds_clusters_in_real_data(name: str) -> None:
    partition = ProbabilisticPartition().fit(real(name))
    assert partition.n_clusters_ > 1
    assert adjusted_rand_score(LOADERS[name]().target, partition.labels_) > 0.1


def test_report_and_separability() -> None:
    rows, _ = make_blobs(900, 2, centers=[[0, 0], [2.6, 0], [30, 0]], random_state=0)
    partition = ProbabilisticPartition(merge_family=None).fit(rows)
    assert partition.n_clusters_ == 3
    far = partition.predict([[30, 0]])[0]
    near = [number for number in range(3) if number != far]
    assert partition.separability_[far] > 0.9999 > partition.separability_[near].max() > 0.9
    assert {leaf["stopped_by"] for leaf in partition.leaf_report_} <= {"bic", "agreement", "min_size", "small_side"}
    assert sum(leaf["size"] for leaf in partition.leaf_report_) == 900
    refused = [leaf for leaf in partition.leaf_report_ if leaf["stopped_by"] == "bic"]
    assert refused
    assert all(leaf["gain"] <= 0 for leaf in refused)

    chosen = partition.most_separable()
    assert chosen[partition.labels_ == far].all()
    assert 0 < chosen[partition.labels_ != far].mean() < 1
    assert (chosen == partition.most_separable(rows)).all()
    assert partition.most_separable(threshold=0.9).sum() > chosen.sum()
    assert partition.predict_proba(rows)[chosen].max(axis=1).min() > 0.99
    with pytest.raises(ValueError, match=r"threshold=1 must lie in \[0, 1\)"):
        partition.most_separable(threshold=1)


def test_a_leaf_names_why_it_stays_whole() -> None:
    def reasons(rows: np.ndarray, **options: object) -> set[str]:
        return {leaf["stopped_by"] for leaf in ProbabilisticPartition(**options).fit(rows).leaf_report_}

    rng = np.random.default_rng(0)
    assert reasons(np.ones((30, 3))) == {"constant"}
    assert reasons(rng.normal(size=(15, 2))) == {"min_size"}
    assert reasons(np.array([[0.0]] * 95 + [[9.0]] * 5)) == {"small_side"}
    corners = np.repeat([[1.0, 1], [1, -1], [-1, 1], [-1, -1]], 20, axis=0)
    assert reasons(corners) == {"axis_tie"}
    assert ProbabilisticPartition(axis_ties="first", family="full").fit(corners).n_clusters_ == 4
    gaussian = rng.normal(size=(400, 3))
    assert reasons(gaussian, family="full") == {"bic"}
    assert reasons(gaussian, test="dip") == {"dip"}
    assert reasons(gaussian, test="cross_fit", margin=0.1) == {"cross_fit"}
    assert reasons(gaussian, test="stability") == {"stability"}
    assert reasons(real("wine"), em_steps=None, family="full") == {"agreement"}
    assert "start_clusters" in reasons(gaussian, start_clusters=4)


@pytest.mark.parametrize(
    "rows",
    [
        np.random.default_rng(0).normal(size=(30, 100)),
        np.repeat(np.random.default_rng(1).normal(size=(25, 4)), 4, axis=0),
        np.column_stack([np.arange(60.0)] * 5),
        np.concatenate([np.zeros((40, 3)), np.ones((40, 3))]),
        1e-150 * np.random.default_rng(2).normal(size=(60, 3)),
        np.random.default_rng(3).normal(size=(200, 3)) * [1, 1e-9, 1e9],
    ],
    ids=["wide", "repeated", "collinear", "two points", "tiny", "uneven"],
)
def test_degenerate_rows_are_no_error(rows: np.ndarray) -> None:
    for options in ({}, {"em_steps": None, "family": ("full", "diag")}, {"start_clusters": 4}):
        partition = ProbabilisticPartition(**options).fit(rows)
        assert np.isfinite(partition.predict_proba(rows)).all()
        assert np.isfinite(partition.separability_).all()
        assert partition.predict(rows).tolist() == partition.labels_.tolist()


def test_cells_take_the_place_of_many_rows() -> None:
    rows, _ = make_blobs(6000, 8, centers=6, random_state=1)
    exact = ProbabilisticPartition().fit(rows)
    cells = ProbabilisticPartition(num_cells=300).fit(rows)
    assert cells.n_clusters_ == exact.n_clusters_ == 6
    assert adjusted_rand_score(exact.labels_, cells.labels_) > 0.999
    np.testing.assert_allclose(cells.mixture_.covariances, exact.mixture_.covariances, atol=0.1)
    order = np.random.default_rng(0).permutation(len(rows))
    assert state(ProbabilisticPartition(num_cells=300).fit(rows[order])) == state(cells)
    whole = np.random.default_rng(0).normal(size=(4000, 6))
    assert ProbabilisticPartition(num_cells=200).fit(whole).n_clusters_ == 1


def test_conservative_refuses_what_uniform_data_suggests() -> None:
    """Acceptance check 6, the column of uniform data: the table is in `benchmarks/results/ppp.json`."""

    def clusters(columns: int, **options: object) -> list[int]:
        rows = [np.random.default_rng(seed).random((1000, columns)) for seed in range(3)]
        return [ProbabilisticPartition(**options).fit(points).n_clusters_ for points in rows]

    assert clusters(4, family=("full", "pdiag")) > [1, 1, 1] < clusters(1)
    assert clusters(4, conservative=True) == clusters(1, conservative=True) == clusters(4) == [1, 1, 1]
    blobs, labels = make_blobs(4000, 16, centers=8, random_state=0)
    assert adjusted_rand_score(labels, ProbabilisticPartition(conservative=True).fit(blobs).labels_) >= 0.99


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"family": "round"}, "family='round' must be one of full, tied"),
        ({"family": ()}, "family=.. must be one of"),
        ({"merge_family": ("full", "no")}, "merge_family="),
        ({"test": "aic"}, "test='aic' must be one of bic"),
        ({"em_steps": 0}, "em_steps=0 must be a whole number >= 1"),
        ({"em_steps": True}, "em_steps=True must be a whole number"),
        ({"min_size": 0.5}, "min_size=0.5 must be a whole number"),
        ({"start_clusters": 1}, "start_clusters=1 must be a whole number >= 2"),
        ({"start_clusters": 4, "merge_family": None}, "set merge_family"),
        ({"min_agreement": 0.5}, r"min_agreement=0.5 must be a number in \(0.5, 1\]"),
        ({"margin": -1}, "margin=-1 must be a number >= 0"),
        ({"ridge": 0}, "ridge=0 must be a number > 0"),
        ({"ridge": float("nan")}, "ridge=nan must be a number > 0"),
        ({"num_components": 0}, "num_components=0 must be a whole number >= 1"),
        ({"num_cells": 1}, "num_cells=1 must be a whole number >= 2"),
        ({"num_cells": "many"}, "num_cells='many' must be a whole number"),
        ({"scale": "robust"}, "scale='robust' must be one of"),
        ({"axis_ties": "last"}, "axis_ties='last' must be one of"),
        ({"duplicates": "drop"}, "duplicates='drop' must be one of"),
        ({"conservative": "yes"}, "conservative='yes' must be True or False"),
    ],
)
def test_wrong_parameters_are_named(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ProbabilisticPartition(**options).fit(np.zeros((20, 2)))


@pytest.mark.parametrize(
    ("rows", "weights", "message"),
    [
        ([[1.0, np.nan]] * 20, None, "NaN"),
        ([[1.0, np.inf]] * 20, None, "infinity"),
        ([[1.0, 2.0]], None, "minimum of 2"),
        (np.empty((20, 0)), None, "minimum of 1 is required"),
        ([1.0, 2.0], None, "2D array"),
        (np.eye(20) * 1e200, None, "squares overflow"),
        (np.eye(3), [1, 2], r"sample_weight has the shape \(2,\); it must be \(3,\)"),
        (np.eye(3), [1, 2, -1], "negative or infinite"),
        (np.eye(3), [0, 0, 0], "zero for all rows"),
    ],
)
def test_wrong_rows_are_named(rows: object, weights: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ProbabilisticPartition().fit(rows, sample_weight=weights)


@pytest.mark.parametrize("options", [{}, {"num_cells": 20}, {"test": ("bic", "dip", "cross_fit", "stability")}])
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
def test_it_is_an_estimator_of_scikit_learn(options: dict) -> None:
    results = check_estimator(ProbabilisticPartition(**options), on_fail=None)
    assert len(results) > 40
    wrong = [f"{result['check_name']}: {result['exception']}" for result in results if result["status"] == "failed"]
    assert not wrong, "\n".join(wrong)


def test_it_works_in_a_pipeline() -> None:
    rows = load_wine().data
    pipeline = make_pipeline(StandardScaler(), ProbabilisticPartition())
    labels = pipeline.fit_predict(rows)
    assert labels.tolist() == pipeline.predict(rows).tolist()
    assert labels.tolist() == ProbabilisticPartition().fit(real("wine")).labels_.tolist()
