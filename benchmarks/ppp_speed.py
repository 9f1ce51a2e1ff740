"""How fast PPP is beside others, and whether its runs agree."""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from common import compare, summarise, time_interleaved
from ppp_sets import real_sets
from sklearn.cluster import HDBSCAN, BisectingKMeans, KMeans
from sklearn.datasets import make_blobs
from sklearn.metrics import adjusted_rand_score
from sklearn.mixture import GaussianMixture

from hf_mixture import ProbabilisticPartition


def repeats(runs: int) -> dict[str, Any]:
    """Smallest adjusted Rand index between runs on digits: shuffled rows and new seeds for PPP, seeds for k-means."""
    points, _ = real_sets()["digits"]

    def smallest(labels: list[np.ndarray]) -> float:
        return min(float(adjusted_rand_score(one, two)) for one, two in combinations(labels, 2))

    shuffled = []
    for seed in range(runs):
        np.random.seed(seed)
        random.seed(seed)
        order = np.random.default_rng(seed).permutation(len(points))
        labels = np.empty(len(points), int)
        labels[order] = ProbabilisticPartition().fit(points[order]).labels_
        shuffled.append(labels)
    kmeans = [KMeans(10, n_init=1, random_state=seed).fit_predict(points) for seed in range(runs)]
    return {"runs": runs, "PPP": smallest(shuffled), "k-means, true k": smallest(kmeans)}


def speed(rounds: int) -> dict[str, Any]:
    """Time of a fit beside scikit-learn's, and beside the slow reference of the tests."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))
    from slow_partition import SlowPartition

    found = {}
    blobs = make_blobs(4000, 16, centers=8, random_state=0)[0]
    many = make_blobs(20_000, 16, centers=20, random_state=0)[0]
    for name, points in (("digits", real_sets()["digits"][0]), ("8 blobs", blobs), ("20 blobs, 20,000 rows", many)):
        ours = ProbabilisticPartition().fit(points)
        k, least = ours.n_clusters_, max(10, int(np.ceil(np.sqrt(len(points)) / 2)))
        candidates: dict[str, Callable[[], Any]] = {
            "PPP": lambda points=points: ProbabilisticPartition().fit(points),
            "HDBSCAN": lambda points=points, least=least: HDBSCAN(min_cluster_size=least, copy=True).fit(points),
            "BisectingKMeans, k of PPP": lambda points=points, k=k: BisectingKMeans(k, random_state=0).fit(points),
            "GaussianMixture, k of PPP": lambda points=points, k=k: GaussianMixture(
                n_components=k, random_state=0
            ).fit(points),
        }
        times = time_interleaved(candidates, rounds=rounds, warmup=1, title=name)
        found[name] = {
            "rows": len(points),
            "columns": points.shape[1],
            "clusters": k,
            "cpu_seconds": {key: summarise(values) for key, values in times.cpu.items()},
            "cpu_time_ratios": compare(times.cpu, "PPP"),
        }
    wine = real_sets()["wine"][0]
    pair = {"PPP": lambda: ProbabilisticPartition().fit(wine), "slow reference": lambda: SlowPartition().fit(wine)}
    times = time_interleaved(pair, rounds=max(3, rounds // 2), warmup=1, title="reference")
    equal = bool((SlowPartition().fit(wine) == ProbabilisticPartition().fit(wine).labels_).all())
    found["wine"] = {
        "rows": len(wine),
        "columns": wine.shape[1],
        "same_labels": equal,
        "cpu_seconds": {key: summarise(values) for key, values in times.cpu.items()},
        "cpu_time_ratios": compare(times.cpu, "PPP"),
    }
    return found


def large(rows: int) -> list[dict[str, Any]]:
    """One fit of many rows, row by row and by the cells of a fine partition."""
    points, labels = make_blobs(rows, 16, centers=32, cluster_std=1.5, random_state=0)
    found = []
    for name, cells in (("every row", None), ("4096 cells", 4096)):
        wall, cpu = time.perf_counter(), time.process_time()
        fitted = ProbabilisticPartition(num_cells=cells).fit(points)
        found.append(
            {
                "rows": rows,
                "columns": points.shape[1],
                "what": name,
                "wall_seconds": time.perf_counter() - wall,
                "cpu_seconds": time.process_time() - cpu,
                "clusters": fitted.n_clusters_,
                "ari": adjusted_rand_score(labels, fitted.labels_),
            }
        )
    return found
