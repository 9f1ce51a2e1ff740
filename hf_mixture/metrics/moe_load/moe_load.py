"""How evenly the experts of a sparse model are loaded.

Letters: E experts, n_e number of tokens that expert e serves.
"""

from typing import Any

import datasets
import evaluate
import numpy as np
from numpy.typing import ArrayLike


_DESCRIPTION = """
How evenly the tokens of a mixture-of-experts model are spread over its experts, for each layer and on average:
largest load over mean load, coefficient of variation, Gini coefficient, normalised entropy, share of dead experts.
"""

_KWARGS_DESCRIPTION = """
Args:
    layer (list of int): Layer of each row; rows of one layer are added up.
    counts (list of list of int): Number of tokens that each expert of that layer served.
Returns:
    max_over_mean: max n_e / mean n_e, from 1 (even) to E (one expert serves all).
    coefficient_of_variation: Standard deviation of n_e (of the population) / mean n_e, from 0 to sqrt(E - 1).
    gini: Gini coefficient of n_e, from 0 to (E - 1) / E.
    entropy: Entropy of n_e / sum n_e, divided by log E, from 0 to 1 (even).
    dead_share: Share of the experts that served no token.
    layers: A dictionary with these numbers for each layer, with its index as text. The numbers above are means.
Examples:
    >>> metric = evaluate.load("moe_load")
    >>> metric.compute(layer=[0], counts=[[6, 2, 0, 0]])["max_over_mean"]
    3.0
"""


def load_statistics(counts: ArrayLike) -> dict[str, float]:
    """Compute the statistics of one layer.

    Args:
        counts: Tokens of each expert [E].

    Returns:
        The statistics by name.

    Raises:
        ValueError: If a count is negative, or all are 0.
    """
    loads = np.asarray(counts, dtype=np.int64)
    if loads.ndim != 1 or loads.size == 0 or loads.min() < 0 or loads.sum() == 0:
        raise ValueError(f"counts={loads.tolist()} must be one or more numbers, none negative and not all 0")
    num_experts, total = loads.size, loads.sum()
    ranks = 2 * np.arange(1, num_experts + 1) - num_experts - 1
    shares = loads[loads > 0] / total
    entropy = float(-(shares * np.log(shares)).sum() / np.log(num_experts)) if num_experts > 1 else 1.0
    return {
        "max_over_mean": float(loads.max() * num_experts / total),
        "coefficient_of_variation": float(loads.std() * num_experts / total),
        "gini": float((ranks * np.sort(loads)).sum() / (num_experts * total)),
        "entropy": abs(entropy),
        "dead_share": float((loads == 0).mean()),
    }


def sum_by_layer(layers: list[int], counts: list[list[int]]) -> dict[int, Any]:
    """Add up the rows of each layer; all rows of a layer have one length."""
    sums: dict[int, Any] = {}
    for layer, numbers in zip(layers, counts, strict=True):
        row = np.asarray(numbers, dtype=np.int64)
        if sums.setdefault(int(layer), np.zeros_like(row)).shape != row.shape:
            raise ValueError(f"layer {layer} has rows of {len(sums[int(layer)])} and of {len(row)} experts; give one")
        sums[int(layer)] += row
    return dict(sorted(sums.items()))


class MoeLoad(evaluate.Metric):
    """Evenness of the load of experts."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation="",
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features(
                {"layer": datasets.Value("int64"), "counts": datasets.Sequence(datasets.Value("int64"))}
            ),
        )

    def _compute(self, layer: list[int], counts: list[list[int]]) -> dict[str, Any]:
        if not layer:
            raise ValueError("layer has no rows; give the counts of at least one layer")
        layers = {str(name): load_statistics(row) for name, row in sum_by_layer(layer, counts).items()}
        names = next(iter(layers.values()))
        means = {name: float(np.mean([values[name] for values in layers.values()])) for name in names}
        return {**means, "layers": layers}
