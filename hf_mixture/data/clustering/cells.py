"""Many rows as the cells of a fine partition, each with its weight and centroid.

Letters: n rows, d axes, c cells.
"""

from __future__ import annotations

import numpy as np

from hf_mixture.data.clustering.gaussian import moments_of
from hf_mixture.data.clustering.growth import Growth, bisect
from hf_mixture.data.clustering.rows import Rows, distinct_rows


# Up to so many distinct rows are looked at one by one; more become so many cells.
ROWS_AT_ONCE = 1_000_000
NUM_CELLS = 4096


def cells_of(rows: Rows, num_cells: int) -> Rows:
    """Replace rows by the centroids of a fine partition, made by bisecting k-means.

    The covariance that the cells lose is kept as the blur of the result, so that the moments of all rows are those of
    all cells exactly.

    Args:
        rows: Rows of shape (n, d), in canonical order.
        num_cells: Number of cells c.

    Returns:
        Cells in canonical order.
    """
    growth = Growth(rows, lambda split, _: ((split.midpoint, split.normal), split.second), min_size=0)
    bisect(growth, num_cells, axis_ties="first")
    centroids = np.stack([leaf.moments.mean for leaf in growth.leaves])
    weights = np.array([leaf.moments.weight for leaf in growth.leaves])
    centroids, weights, _ = distinct_rows(centroids, weights)
    cells = Rows(centroids, weights)
    return Rows(centroids, weights, moments_of(rows).covariance - moments_of(cells).covariance)
