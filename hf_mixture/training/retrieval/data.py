"""Users, items and edges of a retrieval run, and how they are split.

Letters: U users, I items, E edges.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hf_mixture.hub.damage import reading
from hf_mixture.hub.reading import read_arrays


SOURCES = ("graph", "movielens", "synthetic")
DIRECTIONS = ("as_given", "reversed")


@dataclass(frozen=True)
class Split:
    """Edges, split at random.

    Args:
        fit: What a candidate setting learns from, a `csr_array` of ones [U, I].
        validation: What settings are chosen on [U, I].
        train: Both together, what the final systems learn from [U, I].
        test: What the table is measured on [U, I].
        users: The users who are measured, rising.
    """

    fit: Any
    validation: Any
    train: Any
    test: Any
    users: Any


def load_graph(path: str, *, direction: str = "as_given") -> Any:
    """Read a citation graph: the citing papers are the users, the cited ones the items.

    Edges from a node to itself are left out.

    Args:
        path: An `.npz` file with `indptr` and `indices` of sparse rows, or a text file with the two node numbers of an
            edge on each line and comments after #, as the graphs of the SNAP collection have.
        direction: `"as_given"`, or `"reversed"`: given a cited paper, find those that cite it.

    Returns:
        A `scipy.sparse.csr_array` of ones [U, I].

    Raises:
        ValueError: If there is no such file, or it is malformed.
    """
    from scipy import sparse

    file = Path(path)
    if not file.is_file():
        raise ValueError(
            f"interactions.path={path!r} is not a file; give a citation graph with --interactions.path, for example "
            "cit-HepTh.txt of the SNAP collection"
        )
    with reading(file, "give indptr and indices of sparse rows, or two node numbers on each line"):
        sources, targets, number = _read_rows(file) if file.suffix == ".npz" else _read_lines(file)
        if direction == "reversed":
            sources, targets = targets, sources
        apart = sources != targets
        graph = sparse.coo_array((np.ones(int(apart.sum())), (sources[apart], targets[apart])), shape=(number, number))
        return _binary(graph)


def _read_rows(file: Path) -> tuple[Any, Any, int]:
    arrays = read_arrays(file)
    missing = {"indptr", "indices"} - set(arrays)
    if missing:
        raise ValueError(f"{file} has no array {sorted(missing)}; give indptr and indices of sparse rows")
    indptr, targets = arrays["indptr"], arrays["indices"].astype(np.int64)
    sources = np.repeat(np.arange(len(indptr) - 1), np.diff(indptr))
    return sources, targets, max(len(indptr) - 1, int(targets.max(initial=0)) + 1)


def _read_lines(file: Path) -> tuple[Any, Any, int]:
    pairs = np.loadtxt(file, dtype=np.int64, comments="#", ndmin=2)
    if pairs.shape[1] != 2:
        raise ValueError(f"{file} has {pairs.shape[1]} numbers on a line; give two, the nodes of an edge")
    names, dense = np.unique(pairs, return_inverse=True)
    sources, targets = dense.reshape(pairs.shape).T
    return sources, targets, len(names)


def make_synthetic(*, seed: int, num_users: int = 300, num_items: int = 240, num_groups: int = 8) -> Any:
    """Draw users who each have some of several groups of items as their interests.

    Args:
        seed: Seed of the draws.
        num_users: U.
        num_items: I.
        num_groups: Groups of items.

    Returns:
        A `scipy.sparse.csr_array` of ones [U, I].
    """
    from scipy import sparse

    rng = np.random.default_rng(seed)
    group = np.arange(num_items) % num_groups
    popularity = rng.pareto(2.0, num_items) + 0.2
    rows, columns = [], []
    for user in range(num_users):
        interests = rng.permutation(num_groups)[: rng.integers(1, 4)]
        weight = popularity * np.where(np.isin(group, interests), 1.0, 0.01)
        number = int(rng.integers(8, 25))
        rows += [user] * number
        columns += rng.choice(num_items, number, replace=False, p=weight / weight.sum()).tolist()
    return _binary(sparse.coo_array((np.ones(len(rows)), (rows, columns)), shape=(num_users, num_items)))


def split_edges(
    edges: Any, *, seed: int, test_share: float, validation_share: float, min_history: int, max_users: int | None
) -> Split:
    """Split edges at random into those to learn from, to choose settings by, and to test with.

    Args:
        edges: A `csr_array` of ones [U, I].
        seed: Seed of the draw.
        test_share: Share of the edges in the test.
        validation_share: Share of the other edges in validation.
        min_history: Users with fewer training edges are not measured.
        max_users: Largest number of users who are measured, drawn at random; None for all.

    Returns:
        The split.

    Raises:
        ValueError: If no user can be measured.
    """
    coo = edges.tocoo()
    users, items = coo.coords
    order = np.random.default_rng(seed).permutation(len(users))
    num_test = round(test_share * len(users))
    num_validation = round(validation_share * (len(users) - num_test))
    parts = np.split(order, [num_test, num_test + num_validation])

    def matrix(chosen: Any) -> Any:
        from scipy import sparse

        ones = np.ones(len(chosen))
        return _binary(sparse.coo_array((ones, (users[chosen], items[chosen])), shape=edges.shape))

    test, validation, fit = (matrix(part) for part in parts)
    train = matrix(np.concatenate(parts[1:]))
    able = (np.diff(train.indptr) >= min_history) & (np.diff(test.indptr) > 0) & (np.diff(fit.indptr) > 0)
    chosen = able.nonzero()[0]
    if not len(chosen):
        raise ValueError(f"no user has {min_history} training edges and a test edge; lower interactions.min_history")
    if max_users is not None and len(chosen) > max_users:
        chosen = np.sort(np.random.default_rng(seed + 1).permutation(chosen)[:max_users])
    return Split(fit, validation, train, test, chosen)


def rows_of(matrix: Any, users: Any) -> list[list[int]]:
    """The items of some users, as lists."""
    return [matrix.indices[matrix.indptr[user] : matrix.indptr[user + 1]].tolist() for user in users]


def _binary(matrix: Any) -> Any:
    rows = matrix.tocsr()
    rows.sum_duplicates()
    rows.data[:] = 1
    rows.sort_indices()
    return rows
