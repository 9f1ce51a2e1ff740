"""One fit of PPP: distinct rows, preparation, growth, merging, and the mixture of the clusters.

Letters: n rows, d_in columns, d axes, k clusters, L leaves.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from hf_mixture.data.clustering.cells import cells_of
from hf_mixture.data.clustering.gaussian import Moments, pooled
from hf_mixture.data.clustering.growth import Growth, Leaf, Plane, bisect, grow
from hf_mixture.data.clustering.merge import merge_leaves
from hf_mixture.data.clustering.options import Options
from hf_mixture.data.clustering.posterior import JointMixture, joint_mixture
from hf_mixture.data.clustering.preparation import Preparation, prepare
from hf_mixture.data.clustering.rows import BoolArray, FloatArray, IntArray, Rows, distinct_rows
from hf_mixture.data.clustering.split import Split
from hf_mixture.data.clustering.tree import PartitionTree, side_of


# Sums of squares of so large values, of 10^8 rows, are still finite.
LARGEST = 1e145


class Fitted(NamedTuple):
    """What a fit finds, without the rows: `separability` has shape (k,), `leaf_report` L entries."""

    preparation: Preparation
    tree: PartitionTree
    mixture: JointMixture
    separability: FloatArray
    leaf_report: list[dict[str, Any]]


def fit_partition(points: FloatArray, weights: FloatArray, options: Options) -> Fitted:
    """Find clusters; see `ProbabilisticPartition`.

    Args:
        points: Finite rows of shape (n, d_in).
        weights: Weights >= 0 of shape (n,), not all 0.
        options: The checked parameters.

    Returns:
        The fit.

    Raises:
        ValueError: Values are so large that their squares overflow.
    """
    kept = weights > 0
    given, weights, _ = distinct_rows(points[kept], weights[kept])
    if np.abs(given).max() > LARGEST:
        raise ValueError(f"X has values beyond {LARGEST:g}, whose squares overflow: divide its columns by a constant")
    if options.duplicates == "once":
        weights = np.ones(len(given))
    preparation = prepare(given, weights, scale=options.scale, num_components=options.num_components)
    rows = Rows(preparation(given), weights)
    num_cells = options.cells(len(rows))
    if num_cells is not None:
        rows = cells_of(rows, num_cells)

    def sides(split: Split, index: IntArray) -> tuple[Plane, BoolArray]:
        plane = preparation.plane(split.midpoint, split.normal)
        # The side that `predict` will find, so that it is the one of the fit to the last bit.
        return plane, split.second if num_cells is not None else side_of(given[index], *plane)

    growth = Growth(rows, sides, options.least_size(rows.total))
    root = growth.root().moments
    variance = float(np.trace(root.covariance)) / max(1, len(root.mean))
    rule = options.rule(options.family, variance)
    if options.start_clusters is None:
        grow(growth, rule)
    else:
        bisect(growth, options.start_clusters, axis_ties=options.axis_ties)
    clusters = np.arange(len(growth.leaves))
    if options.merge_family is not None:
        clusters = merge_leaves(rows, growth.leaves, options.rule(options.merge_family, variance))
    clusters, parts = _ordered(growth.leaves, clusters)
    tree = growth.tree(clusters, points.shape[1])
    mixture = joint_mixture(parts, rule.ridge)
    labels = clusters[_leaf_of_rows(growth.leaves, len(rows))]
    largest = mixture.posterior(rows.points).max(axis=1)
    sizes = np.bincount(labels, rows.weights)
    separability = np.bincount(labels, rows.weights * largest) / sizes
    return Fitted(preparation, tree, mixture, separability, _report(growth.leaves, clusters))


def _ordered(leaves: list[Leaf], clusters: IntArray) -> tuple[IntArray, list[Moments]]:
    """Number clusters by size, the largest first, then by centroid; with the moments of each."""
    parts = [
        pooled([leaf.moments for leaf, cluster in zip(leaves, clusters, strict=True) if cluster == number])
        for number in range(int(clusters.max()) + 1)
    ]
    order = sorted(range(len(parts)), key=lambda number: (-parts[number].weight, *parts[number].mean.tolist()))
    position = np.argsort(order)
    return position[clusters], [parts[number] for number in order]


def _leaf_of_rows(leaves: list[Leaf], num_rows: int) -> IntArray:
    found = np.empty(num_rows, np.int64)
    for number, leaf in enumerate(leaves):
        found[leaf.index] = number
    return found


def _report(leaves: list[Leaf], clusters: IntArray) -> list[dict[str, Any]]:
    return [
        {
            "leaf": number,
            "cluster": int(cluster),
            "size": leaf.moments.weight,
            "depth": leaf.depth,
            "stopped_by": leaf.stopped_by,
            "gain": leaf.gain,
            "agreement": leaf.agreement,
        }
        for number, (leaf, cluster) in enumerate(zip(leaves, clusters, strict=True))
    ]
