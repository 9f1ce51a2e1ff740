"""The weights of a mixture along the stream: a schedule as a function of the position, and its integral.

Letters: K sources, S segments.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hf_mixture.data.schedule import Segment


Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]


class Timeline:
    """Weights that are constant or move in a straight line between given positions.

    Args:
        segments: In order of their starts, which are integers; the first is 0. The weights of the last hold for ever.
    """

    def __init__(self, segments: Sequence[Segment]) -> None:
        self.starts = np.array([segment.start for segment in segments], dtype=np.int64)
        self.first = np.array([segment.weights for segment in segments], dtype=np.float64)
        self.first /= self.first.sum(axis=1, keepdims=True)
        spans = np.diff(self.starts).astype(np.float64)[:, None]
        linear = np.array([segment.interpolation == "linear" for segment in segments[:-1]], dtype=bool)[:, None]
        # The rate at which the weights move: w(x) = first + slope (x - start).
        self.slope = np.zeros_like(self.first)
        self.slope[:-1] = np.where(linear, np.diff(self.first, axis=0) / spans, 0.0)
        self.integral = np.zeros_like(self.first)
        np.cumsum(self.first[:-1] * spans + self.slope[:-1] * spans**2 / 2, axis=0, out=self.integral[1:])

    def weights(self, position: float) -> Float64:
        """float64 [K]: the weights at a position."""
        segment = self._segment(position)
        return np.maximum(self.first[segment] + self.slope[segment] * (position - self.starts[segment]), 0.0)

    def targets(self, positions: Int64) -> Float64:
        """The integral of the weights from 0 to each position.

        Args:
            positions: int64 [T].

        Returns:
            float64 [T, K].
        """
        segments = np.searchsorted(self.starts, positions, side="right") - 1
        x = (positions - self.starts[segments]).astype(np.float64)[:, None]
        return self.integral[segments] + self.first[segments] * x + self.slope[segments] * (x * x / 2)

    def reach(self, values: Float64, positions: Int64) -> Float64:
        """Where the integral of each source first is a value, at a given position or later; inf for never.

        Args:
            values: float64 [T, K].
            positions: int64 [T]. Where to begin to look.

        Returns:
            float64 [T, K].
        """
        segment = np.zeros(values.shape, dtype=np.int64)
        if len(self.starts) > 1:
            now = np.searchsorted(self.starts, positions, side="right") - 1
            for row, first in enumerate(now.tolist()):
                segment[row] = first + (self.integral[first + 1 :] <= values[row]).sum(axis=0)
        source = np.arange(values.shape[1])
        first, slope = self.first[segment, source], self.slope[segment, source]
        missing = values - self.integral[segment, source]
        # The root of slope / 2 x^2 + first x = missing, in the form that does not cancel and allows a slope of 0.
        root = first + np.sqrt(np.maximum(first * first + 2 * slope * missing, 0.0))
        x = np.divide(2 * missing, root, out=np.full(values.shape, np.inf), where=root > 0)
        return np.maximum(self.starts[segment] + x, positions[:, None])

    def _segment(self, position: float) -> int:
        return int(np.searchsorted(self.starts, position, side="right")) - 1


class Grid:
    """Where blocks begin: at the multiples of the block size, and at the starts of segments between them.

    Args:
        block_size: B.
        starts: Starts of segments.
    """

    def __init__(self, block_size: int, starts: Sequence[int]) -> None:
        self.block_size = block_size
        self.cuts = np.array([start for start in starts if start % block_size], dtype=np.int64)
        # Block number of each cut.
        self.numbers = self.cuts // block_size + 1 + np.arange(len(self.cuts))

    def block_of(self, position: int) -> int:
        """The number of the block that holds a position."""
        num_cuts = int(np.searchsorted(self.cuts, position, side="right")) if len(self.cuts) else 0
        return position // self.block_size + num_cuts

    def start(self, block: int) -> int:
        """The first position of a block."""
        if not len(self.cuts):
            return block * self.block_size
        num_cuts = int(np.searchsorted(self.numbers, block, side="right"))
        if num_cuts and self.numbers[num_cuts - 1] == block:
            return int(self.cuts[num_cuts - 1])
        return (block - num_cuts) * self.block_size
