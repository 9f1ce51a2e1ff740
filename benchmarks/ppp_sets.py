"""Data for the benchmark of PPP: real sets with labels, planted clusters, and data without clusters."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from sklearn.datasets import load_breast_cancer, load_digits, load_iris, load_wine, make_blobs
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler


Data = tuple[np.ndarray, np.ndarray]
CHOOSING, REPORTING = ("wine", "digits"), ("iris", "cancer")
PLANTED = ("8 blobs", "8 unequal")
NULLS = ("Gaussian", "correlated", "Student t", "uniform")
SEEDS = 5
# Seeds of the sets without clusters that report, after those that choose.
NEW = 1000


def real_sets() -> dict[str, Data]:
    """The real sets, prepared."""
    found = {}
    for name, load in (("iris", load_iris), ("wine", load_wine), ("cancer", load_breast_cancer)):
        data = load()
        found[name] = (StandardScaler().fit_transform(data.data), data.target)
    data = load_digits()
    found["digits"] = (PCA(10, svd_solver="full").fit_transform(data.data), data.target)
    return found


def drawn(name: str, seed: int, rows: int = 1000) -> Data:
    """A planted set, or one without clusters."""
    rng = np.random.default_rng([seed, len(name)])
    if name == "8 blobs":
        return make_blobs(2000, 16, centers=8, random_state=seed)
    nulls: dict[str, Callable[[], np.ndarray]] = {
        "Gaussian": lambda: rng.normal(size=(rows, 16)),
        "correlated": lambda: rng.normal(size=(rows, 16)) @ rng.normal(size=(16, 16)),
        "Student t": lambda: rng.standard_t(3, size=(rows, 8)),
        "uniform": lambda: rng.random((rows, 4)),
        "uniform, 1 column": lambda: rng.random((rows, 1)),
    }
    if name in nulls:
        return nulls[name](), np.zeros(rows, int)
    sizes = rng.integers(60, 400, 8)
    parts = [rng.normal(size=(size, 6)) @ (0.5 * rng.normal(size=(6, 6))) + 8 * rng.normal(size=6) for size in sizes]
    return np.concatenate(parts), np.repeat(np.arange(8), sizes)


def cases(names: tuple[str, ...], seeds: int, *, first: int = 0) -> dict[str, list[Data]]:
    """Drawn sets, of each a list of draws; of the Gaussian four times as many."""
    return {
        name: [drawn(name, first + seed) for seed in range(4 * seeds if name == "Gaussian" else seeds)]
        for name in names
    }


def all_cases(seeds: int) -> dict[str, list[Data]]:
    """All draws of all sets, for real sets the whole first."""
    found: dict[str, list[Data]] = {}
    for name, (rows, labels) in real_sets().items():
        found[name] = [(rows, labels)]
        for seed in range(seeds):
            kept = np.random.default_rng(seed).permutation(len(rows))[: int(0.8 * len(rows))]
            found[name].append((rows[kept], labels[kept]))
    return {**found, **cases((*NULLS, *PLANTED), seeds)}


def few_cases(seeds: int, times: int = 1) -> dict[str, list[Data]]:
    """The whole real sets, some times over, and few draws of the others."""
    real = {name: [data] * times for name, data in real_sets().items()}
    drawn_sets = cases((*NULLS, *PLANTED), min(2, seeds))
    return {**real, **drawn_sets, "Gaussian": drawn_sets["Gaussian"][:seeds]}
