"""The tree of splits, in the user's columns: which leaf, and which cluster, a row falls into.

Letters: n rows, d_in columns, m splits, L = m + 1 leaves.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hf_mixture.data.clustering.rows import BoolArray, FloatArray, IntArray


_BLOCK = 4096


@dataclass(frozen=True, eq=False)
class PartitionTree:
    """Splits by hyperplanes, and the cluster of each leaf.

    A row x goes from split i to `children[i, 1]` if (x - offsets[i]) . normals[i] > 0, and to `children[i, 0]`
    otherwise. A child c >= 0 is a split, and c < 0 the leaf -1 - c. The root is split 0; without splits there is one
    leaf.

    Args:
        offsets: Points of the planes, of shape (m, d_in).
        normals: Their normals, from the first centre to the second; shape (m, d_in).
        children: Array of shape (m, 2).
        clusters: Cluster of each leaf, of shape (L,).
    """

    offsets: FloatArray
    normals: FloatArray
    children: IntArray
    clusters: IntArray

    def leaf_of(self, points: FloatArray) -> IntArray:
        """Leaf of each row of an array of shape (n, d_in)."""
        leaves = np.zeros(len(points), np.int64)
        if not len(self.children):
            return leaves
        waiting = [(0, np.arange(len(points)))]
        while waiting:
            node, index = waiting.pop()
            if node < 0:
                leaves[index] = -1 - node
            elif len(index):
                second = side_of(points[index], self.offsets[node], self.normals[node])
                waiting += [(int(self.children[node, side]), index[second == side]) for side in (0, 1)]
        return leaves

    def cluster_of(self, points: FloatArray) -> IntArray:
        """Cluster of each row of an array of shape (n, d_in)."""
        return self.clusters[self.leaf_of(points)]


def side_of(points: FloatArray, offset: FloatArray, normal: FloatArray) -> BoolArray:
    """Whether rows are on the second side of a plane.

    The products are added column by column. Unlike a matrix product, this gives each row the same bits whatever other
    rows are beside it, so that rows are predicted exactly where they were when the tree grew.

    Args:
        points: Rows of shape (n, d_in).
        offset: A point of the plane, of shape (d_in,).
        normal: Its normal, of shape (d_in,).
    """
    columns = np.flatnonzero(normal)
    second = np.empty(len(points), bool)
    for start in range(0, len(points), _BLOCK):
        block = np.ascontiguousarray(points[start : start + _BLOCK].T)
        total = np.zeros(block.shape[1])
        for column in columns:
            total += (block[column] - offset[column]) * normal[column]
        second[start : start + _BLOCK] = total > 0
    return second
