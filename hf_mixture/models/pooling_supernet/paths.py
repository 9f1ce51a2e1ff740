"""Pooling paths: before which layers of a network the feature map is halved.

Letters: L layers, S scales (resolutions), P paths.

A path is a vector of L zeros and ones. A 1 at place i halves the map before layer i; the first entry is 0. The same
path as numbers of layers at each scale, [4, 3, 3], has S entries that add up to L.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence


Path = tuple[int, ...]


def enumerate_paths(num_layers: int, num_scales: int) -> list[Path]:
    """List all paths of a search space, those that pool early first (arXiv 2306.11982, section 3).

    The order is that of the combinations of the S - 1 places to pool at, of L - 1 possible ones.

    Args:
        num_layers: L, the stem counted; at least 1.
        num_scales: S, from 1 to L.

    Returns:
        (L - 1 choose S - 1) paths [P][L].

    Raises:
        ValueError: A number is out of range.

    Example:
        >>> from hf_mixture.models.pooling_supernet.paths import enumerate_paths
        >>> enumerate_paths(4, 2)
        [(0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1)]
        >>> len(enumerate_paths(10, 3)), len(enumerate_paths(9, 4)), len(enumerate_paths(17, 4))
        (36, 56, 560)
    """
    if not 1 <= num_scales <= num_layers:
        raise ValueError(
            f"num_scales={num_scales} must be from 1 to the number of layers, {num_layers}; there is at most one "
            "pooling before each layer after the first"
        )
    combinations = itertools.combinations(range(1, num_layers), num_scales - 1)
    return [tuple(int(place in pooled) for place in range(num_layers)) for pooled in combinations]


def num_paths(num_layers: int, num_scales: int) -> int:
    """Count the paths of a search space.

    Args:
        num_layers: L.
        num_scales: S.

    Returns:
        P.
    """
    return math.comb(num_layers - 1, num_scales - 1)


def layers_of(path: Sequence[int]) -> tuple[int, ...]:
    """Count the layers at each scale of a path.

    Args:
        path: The path [L].

    Returns:
        The numbers [S].

    Example:
        >>> from hf_mixture.models.pooling_supernet.paths import layers_of
        >>> layers_of((0, 0, 0, 0, 1, 0, 0, 1, 0, 0))
        (4, 3, 3)
    """
    starts = [0, *(place for place, pools in enumerate(path) if pools), len(path)]
    return tuple(end - start for start, end in itertools.pairwise(starts))


def path_of(layers: Sequence[int]) -> Path:
    """Make the path that has given numbers of layers at each scale.

    Args:
        layers: The numbers [S], each at least 1.

    Returns:
        The path [L].

    Raises:
        ValueError: A number is below 1.

    Example:
        >>> from hf_mixture.models.pooling_supernet.paths import path_of
        >>> path_of([4, 3, 3])
        (0, 0, 0, 0, 1, 0, 0, 1, 0, 0)
    """
    if not layers or any(number < 1 for number in layers):
        raise ValueError(f"layers={list(layers)} must be numbers of layers at each scale, each at least 1")
    starts = set(itertools.accumulate(layers[:-1]))
    return tuple(int(place in starts) for place in range(sum(layers)))


def check_path(path: Sequence[int], num_layers: int) -> None:
    """Refuse what is no path of a network.

    Args:
        path: The path.
        num_layers: L of the network.

    Raises:
        ValueError: It has another length, other entries than 0 and 1, or a 1 in the first place.
    """
    if len(path) != num_layers or any(entry not in (0, 1) for entry in path) or path[0] != 0:
        raise ValueError(
            f"pooling_path={list(path)} must be {num_layers} zeros and ones, one for each layer, and begin with 0: a "
            "1 halves the feature map before its layer; path_of([4, 3, 3]) makes one from numbers of layers"
        )
