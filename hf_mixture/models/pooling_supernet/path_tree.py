"""The logits of many paths at once: what paths have in common is computed once.

Letters: B images, K classes, P paths.

Paths that begin alike share the layers up to where they part. The tree of all 36 paths of ResNet-20 has a quarter of
their layers, and nine of the 120 at full resolution.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import Tensor

from hf_mixture.models.pooling_supernet.modeling_pooling_resnet import PoolingResNetForImageClassification, halve
from hf_mixture.models.pooling_supernet.paths import Path


def logits_of_paths(
    network: PoolingResNetForImageClassification, pixel_values: Tensor, paths: Sequence[Path]
) -> Iterator[tuple[int, Tensor]]:
    """Compute the logits of each path; they are those that the path has alone.

    Args:
        network: The network.
        pixel_values: Images [B, C, H, W].
        paths: The paths [P][L], each once.

    Yields:
        The index of a path, in the order of the tree, and its logits [B, K].
    """
    layers = network.backbone.layers

    def descend(x: Tensor, depth: int, members: list[int]) -> Iterator[tuple[int, Tensor]]:
        if depth == len(layers):
            (member,) = members
            yield member, network.classify(x)
            return
        for pools in (0, 1):
            there = [member for member in members if paths[member][depth] == pools]
            if there:
                yield from descend(layers[depth](halve(x) if pools else x), depth + 1, there)

    yield from descend(pixel_values, 0, list(range(len(paths))))
