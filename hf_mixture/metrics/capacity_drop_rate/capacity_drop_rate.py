"""Which choices of experts would be dropped if every expert had a capacity.

Letters: T tokens of one layer, E experts, K experts chosen for a token.
"""

import math
from fractions import Fraction
from typing import Any

import datasets
import evaluate
import numpy as np
from numpy.typing import ArrayLike


_DESCRIPTION = """
Share of the (token, expert) choices of a mixture-of-experts model that exceed the capacity
ceil(capacity_factor * T * K / E) of their expert, for each layer and on average.
"""

_KWARGS_DESCRIPTION = """
Args:
    layer (list of int): Layer of each row; the rows of a layer are its T tokens, in their order in the batch.
    experts (list of list of int): The K experts of a token; an id of num_experts or more is no expert, and is ignored.
    weights (list of list of float): The gate weights of these experts.
    num_experts (int): E.
    capacity_factor (float): From above 0 on. Default: 1.0.
    policy (str): Who is served first. "position": earlier tokens; "probability": larger weights, and earlier tokens
        among equal ones. It decides which choices are dropped, never how many. Default: "position".
Returns:
    drop_rate: Dropped choices / all choices.
    dropped_weight: Gate weight of the dropped choices / gate weight of all.
    tokens_without_expert: Share of the tokens all choices of which are dropped.
    layers: For each layer, with its index as text, these numbers and the integers capacity, num_dropped and
        num_choices. The numbers above are means.
Note:
    The capacity is that of the batch given: compute each training batch on its own. It is exact in integers: 1.1 means
    11/10.
Examples:
    >>> metric = evaluate.load("capacity_drop_rate")
    >>> rows = {"layer": [0] * 4, "experts": [[0], [0], [0], [1]], "weights": [[0.5], [0.6], [0.9], [0.8]]}
    >>> metric.compute(**rows, num_experts=2)["drop_rate"]
    0.25
"""

_NAMES = ("drop_rate", "dropped_weight", "tokens_without_expert")


def expert_capacity(num_choices: int, num_experts: int, capacity_factor: float) -> int:
    """Return ceil(factor * T * K / E), exactly."""
    return math.ceil(Fraction(str(capacity_factor)) * num_choices / num_experts)


def drop_statistics(
    experts: ArrayLike, weights: ArrayLike, *, num_experts: int, capacity_factor: float, policy: str
) -> dict[str, Any]:
    """Drop what exceeds the capacity of one layer.

    Args:
        experts: Expert ids [T, K].
        weights: Gate weights [T, K].
        num_experts: E.
        capacity_factor: Factor of the even load.
        policy: `"position"` or `"probability"`.

    Returns:
        The numbers by name.
    """
    ids, shares = np.asarray(experts, dtype=np.int64), np.asarray(weights, dtype=np.float64)
    if ids.ndim != 2 or ids.shape != shares.shape or ids.size == 0 or ids.min() < 0:
        raise ValueError(
            f"experts has the shape {list(ids.shape)} and weights {list(shares.shape)}; both are [tokens, K], "
            "with ids from 0 on"
        )
    capacity = expert_capacity(ids.size, num_experts, capacity_factor)
    flat, gates = ids.ravel(), shares.ravel()
    token = np.repeat(np.arange(len(ids)), ids.shape[1])
    order = np.lexsort((token, -gates)) if policy == "probability" else np.arange(flat.size)
    by_expert = order[np.argsort(flat[order], kind="stable")]
    starts = np.searchsorted(flat[by_expert], flat[by_expert])
    queue = np.empty(flat.size, dtype=np.int64)
    queue[by_expert] = np.arange(flat.size) - starts
    routed = flat < num_experts
    dropped = routed & (queue >= capacity)
    served = np.zeros(len(ids), dtype=bool)
    np.logical_or.at(served, token, routed & ~dropped)
    lost = ~served & np.isin(np.arange(len(ids)), token[routed])
    num_choices, weight = int(routed.sum()), float(gates[routed].sum())
    return {
        "drop_rate": int(dropped.sum()) / num_choices if num_choices else 0.0,
        "dropped_weight": float(gates[dropped].sum()) / weight if weight else 0.0,
        "tokens_without_expert": float(lost.mean()),
        "capacity": capacity,
        "num_dropped": int(dropped.sum()),
        "num_choices": num_choices,
    }


class CapacityDropRate(evaluate.Metric):
    """Share of the choices above the capacity of their expert."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation="",
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features(
                {
                    "layer": datasets.Value("int64"),
                    "experts": datasets.Sequence(datasets.Value("int64")),
                    "weights": datasets.Sequence(datasets.Value("float64")),
                }
            ),
        )

    def _compute(
        self,
        layer: list[int],
        experts: list[list[int]],
        weights: list[list[float]],
        *,
        num_experts: int,
        capacity_factor: float = 1.0,
        policy: str = "position",
    ) -> dict[str, Any]:
        if policy not in ("position", "probability"):
            raise ValueError(f'policy={policy!r} must be "position" or "probability"')
        if num_experts < 1 or not 0 < capacity_factor < float("inf"):
            raise ValueError(
                f"num_experts={num_experts} must be at least 1, and capacity_factor={capacity_factor} above 0 and "
                "finite"
            )
        if not layer:
            raise ValueError("layer has no rows; give the experts of at least one token")
        rows: dict[int, tuple[list[list[int]], list[list[float]]]] = {}
        for place, ids, gates in zip(layer, experts, weights, strict=True):
            tokens = rows.setdefault(int(place), ([], []))
            if len(ids) != len(gates) or (tokens[0] and len(ids) != len(tokens[0][0])):
                raise ValueError(
                    f"layer {place} has tokens of different numbers of experts or weights; give K of each"
                )
            tokens[0].append(ids)
            tokens[1].append(gates)
        layers = {
            str(place): drop_statistics(
                *rows[place], num_experts=num_experts, capacity_factor=capacity_factor, policy=policy
            )
            for place in sorted(rows)
        }
        means = {name: float(np.mean([values[name] for values in layers.values()])) for name in _NAMES}
        return {**means, "layers": layers}
