"""How far the routing of the same tokens has moved between two checkpoints.

Letters: T tokens, K experts chosen for a token.
"""

from typing import Any

import datasets
import evaluate
import numpy as np


_DESCRIPTION = """
Overlap of the experts that two checkpoints of a mixture-of-experts model choose for the same tokens, for each layer
and on average. The order of the experts of a token does not matter.
"""

_KWARGS_DESCRIPTION = """
Args:
    layer (list of int): Layer of each row.
    predictions (list of list of int): Experts that the later checkpoint chooses for a token, K of them.
    references (list of list of int): Experts that the earlier checkpoint chooses for the same token.
Returns:
    agreement: Mean over tokens of |A & B| / max(|A|, |B|), from 0 to 1 (no drift).
    jaccard: Mean over tokens of |A & B| / |A | B|.
    unchanged: Share of the tokens with the same set of experts.
    layers: A dictionary with these numbers for each layer, with its index as text. The numbers above are means.
Examples:
    >>> metric = evaluate.load("router_drift")
    >>> metric.compute(layer=[0, 0], predictions=[[0, 1], [2, 3]], references=[[1, 0], [2, 1]])["agreement"]
    0.75
"""

_NAMES = ("agreement", "jaccard", "unchanged")


def overlap(later: list[int], earlier: list[int]) -> tuple[float, float, float]:
    """Compare the experts of one token.

    Args:
        later: Expert ids.
        earlier: Expert ids.

    Returns:
        Agreement, Jaccard index, and whether the sets are equal.

    Raises:
        ValueError: If a token has no expert, or one twice.
    """
    a, b = set(later), set(earlier)
    if not a or not b or len(a) != len(later) or len(b) != len(earlier):
        raise ValueError(f"predictions has {list(later)}, references {list(earlier)}; give one or more, different ids")
    common = len(a & b)
    return common / max(len(a), len(b)), common / len(a | b), float(a == b)


class RouterDrift(evaluate.Metric):
    """Overlap of the experts chosen by two checkpoints."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation="",
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features(
                {
                    "layer": datasets.Value("int64"),
                    "predictions": datasets.Sequence(datasets.Value("int64")),
                    "references": datasets.Sequence(datasets.Value("int64")),
                }
            ),
        )

    def _compute(self, layer: list[int], predictions: list[list[int]], references: list[list[int]]) -> dict[str, Any]:
        if not layer:
            raise ValueError("layer has no rows; give the experts of at least one token")
        tokens: dict[int, list[tuple[float, float, float]]] = {}
        for place, later, earlier in zip(layer, predictions, references, strict=True):
            tokens.setdefault(int(place), []).append(overlap(later, earlier))
        layers = {
            str(place): dict(zip(_NAMES, np.mean(tokens[place], axis=0).tolist(), strict=True))
            for place in sorted(tokens)
        }
        means = {name: float(np.mean([values[name] for values in layers.values()])) for name in _NAMES}
        return {**means, "layers": layers}
