"""Growing the tree of splits from the root.

Letters: n rows, d_in columns given, d axes.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from tqdm.auto import tqdm

from hf_mixture.data.clustering.gaussian import Moments, moments_of
from hf_mixture.data.clustering.judge import Rule, judge
from hf_mixture.data.clustering.rows import BoolArray, FloatArray, IntArray, Rows
from hf_mixture.data.clustering.split import Split, split_rows
from hf_mixture.data.clustering.tree import PartitionTree


@dataclass(eq=False)
class Leaf:
    """Rows that stay together.

    Args:
        index: Their numbers, increasing.
        moments: Their moments.
        depth: Number of splits above.
        parent: The split that made it (-1 for the root) and the side.
        stopped_by: Why it is not split further.
        gain: BIC gain per row of the split that was refused, if one was judged by BIC.
        agreement: Agreement of mixture and partition of that split.
    """

    index: IntArray
    moments: Moments
    depth: int = 0
    parent: tuple[int, int] = (-1, 0)
    stopped_by: str = ""
    gain: float | None = None
    agreement: float | None = None


Plane = tuple[FloatArray, FloatArray]


@dataclass(eq=False)
class Growth:
    """A tree while it grows.

    Args:
        rows: The rows, in canonical order.
        sides: From the plane of a split (midpoint and normal of shape (d,)), the rows' numbers and the side that
            Lloyd's algorithm gave them, to the plane in the user's columns and the side that counts.
        min_size: Least weight of a leaf.
    """

    rows: Rows
    sides: Callable[[Split, IntArray], tuple[Plane, BoolArray]]
    min_size: float
    planes: list[Plane] = field(default_factory=list)
    children: list[list[int]] = field(default_factory=list)
    leaves: list[Leaf] = field(default_factory=list)

    def root(self) -> Leaf:
        """All rows as one leaf."""
        return Leaf(np.arange(len(self.rows)), moments_of(self.rows))

    def halve(self, leaf: Leaf, axis_ties: str) -> tuple[Plane, BoolArray, list[Leaf]] | str:
        """Split a leaf without judging it, or say why that cannot be."""
        if leaf.moments.weight < 2 * self.min_size:
            return "min_size"
        part = self.rows.take(leaf.index)
        split = split_rows(part, leaf.moments, axis_ties=axis_ties)
        if isinstance(split, str):
            return split
        plane, second = self.sides(split, leaf.index)
        there = float(part.weights @ second)
        if min(there, leaf.moments.weight - there) < self.min_size or second.all() or not second.any():
            return "small_side"
        halves = [
            Leaf(leaf.index[mask], moments_of(part.take(mask)), leaf.depth + 1, (len(self.planes), side))
            for side, mask in ((0, ~second), (1, second))
        ]
        return plane, second, halves

    def plant(self, leaf: Leaf, plane: Plane, halves: list[Leaf]) -> None:
        """Put a split in the place of a leaf."""
        number = len(self.planes)
        self.planes.append(plane)
        self.children.append([0, 0])
        self._hang(leaf, number)
        for side, half in enumerate(halves):
            half.parent = (number, side)

    def close(self, leaf: Leaf, reason: str) -> None:
        """Keep a leaf as it is."""
        leaf.stopped_by = reason
        self._hang(leaf, -1 - len(self.leaves))
        self.leaves.append(leaf)

    def _hang(self, leaf: Leaf, child: int) -> None:
        parent, side = leaf.parent
        if parent >= 0:
            self.children[parent][side] = child

    def tree(self, clusters: IntArray, num_columns: int) -> PartitionTree:
        """The finished tree, with the cluster of each leaf."""
        shape = (len(self.planes), num_columns)
        return PartitionTree(
            np.reshape([plane[0] for plane in self.planes], shape),
            np.reshape([plane[1] for plane in self.planes], shape),
            np.reshape(np.asarray(self.children, np.int64), (len(self.planes), 2)),
            clusters,
        )


def grow(growth: Growth, rule: Rule) -> None:
    """Split leaves, depth first, as long as the rule accepts the split."""
    waiting = [growth.root()]
    with tqdm(total=len(growth.rows), desc="rows in leaves", unit="row", delay=2) as progress:
        while waiting:
            leaf = waiting.pop()
            found = growth.halve(leaf, rule.axis_ties)
            if isinstance(found, str):
                reason = found
            else:
                plane, second, halves = found
                part = growth.rows.take(leaf.index)
                sides = [half.moments for half in halves]
                verdict = judge(part, second, leaf.moments, sides, rule)
                if verdict.refused_by is None:
                    growth.plant(leaf, plane, halves)
                    waiting += halves[::-1]
                    continue
                reason, leaf.gain, leaf.agreement = verdict.refused_by, verdict.gain, verdict.agreement
            growth.close(leaf, reason)
            progress.update(len(leaf.index))


def bisect(growth: Growth, num_leaves: int, *, axis_ties: str = "stop") -> None:
    """Split the leaf with the largest sum of squares until there are so many leaves or none can be split."""
    waiting: list[tuple[float, int, Leaf]] = []

    def add(leaf: Leaf) -> None:
        scatter = leaf.moments.weight * np.trace(leaf.moments.covariance)
        # The first row of a leaf is in no other leaf: equal sums of squares are ordered by it.
        heapq.heappush(waiting, (-float(scatter), int(leaf.index[0]), leaf))

    add(growth.root())
    with tqdm(total=num_leaves, initial=1, desc="fine partition", unit="leaf", delay=2) as progress:
        while waiting and len(waiting) + len(growth.leaves) < num_leaves:
            leaf = heapq.heappop(waiting)[2]
            found = growth.halve(leaf, axis_ties)
            if isinstance(found, str):
                growth.close(leaf, found)
                continue
            plane, _, halves = found
            growth.plant(leaf, plane, halves)
            for half in halves:
                add(half)
            progress.update()
    for _, _, leaf in sorted(waiting, key=lambda entry: entry[1]):
        growth.close(leaf, "start_clusters")
