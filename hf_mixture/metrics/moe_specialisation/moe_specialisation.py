"""How much the chosen expert says about the domain of a token.

Letters: E experts, D domains, n_de number of tokens of domain d that expert e serves.
"""

from typing import Any

import datasets
import evaluate
import numpy as np
from numpy.typing import ArrayLike


_DESCRIPTION = """
Mutual information of expert and domain, for each layer of a mixture-of-experts model and on average: 0 where all
domains use the experts alike, and as large as the entropy of the domains where each domain has experts of its own.
"""

_KWARGS_DESCRIPTION = """
Args:
    layer (list of int): Layer of each row.
    domain (list of str): Domain of each row; rows of one layer and domain are added up.
    counts (list of list of int): Number of tokens of that domain that each expert of that layer served.
Returns:
    mutual_information: I(expert; domain) in bits, with the probabilities n_de / sum n_de.
    normalised: I / min(H(expert), H(domain)), from 0 to 1; 0 where one of the entropies is 0.
    layers: A dictionary with these numbers for each layer, with its index as text. The numbers above are means.
Note:
    The estimate from few tokens is biased upwards, by about (E - 1)(D - 1) / (2 N ln 2) bits for N assignments.
Examples:
    >>> metric = evaluate.load("moe_specialisation")
    >>> metric.compute(layer=[0, 0], domain=["code", "prose"], counts=[[8, 0], [0, 8]])["mutual_information"]
    1.0
"""


def entropy(counts: Any) -> float:
    """Return the entropy of counts in bits."""
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log2(shares)).sum())


def specialisation(joint: ArrayLike) -> dict[str, float]:
    """Compute the mutual information of one layer.

    Args:
        joint: Tokens of each domain and expert [D, E].

    Returns:
        The numbers by name.

    Raises:
        ValueError: If a count is negative, or all are 0.
    """
    table = np.asarray(joint, dtype=np.int64)
    if table.ndim != 2 or table.size == 0 or table.min() < 0 or table.sum() == 0:
        raise ValueError(f"counts={table.tolist()} must be one or more numbers, none negative and not all 0")
    of_domains, of_experts = entropy(table.sum(axis=1)), entropy(table.sum(axis=0))
    # Rounding can leave a negative zero.
    information = max(of_domains + of_experts - entropy(table.ravel()), 0.0)
    bound = min(of_domains, of_experts)
    return {"mutual_information": information, "normalised": min(information / bound, 1.0) if bound > 0 else 0.0}


class MoeSpecialisation(evaluate.Metric):
    """Mutual information of expert and domain."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation="",
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features(
                {
                    "layer": datasets.Value("int64"),
                    "domain": datasets.Value("string"),
                    "counts": datasets.Sequence(datasets.Value("int64")),
                }
            ),
        )

    def _compute(self, layer: list[int], domain: list[str], counts: list[list[int]]) -> dict[str, Any]:
        if not layer:
            raise ValueError("layer has no rows; give the counts of at least one layer")
        rows: dict[int, dict[str, Any]] = {}
        for place, name, numbers in zip(layer, domain, counts, strict=True):
            row = np.asarray(numbers, dtype=np.int64)
            domains = rows.setdefault(int(place), {})
            if any(len(other) != len(row) for other in domains.values()):
                raise ValueError(f"layer {place} has rows of different numbers of experts; give one")
            domains[name] = domains.get(name, 0) + row
        layers = {str(place): specialisation(list(rows[place].values())) for place in sorted(rows)}
        means = {
            name: float(np.mean([values[name] for values in layers.values()]))
            for name in ("mutual_information", "normalised")
        }
        return {**means, "layers": layers}
