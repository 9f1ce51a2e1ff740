"""Ranking the experts of all layers together, and how firm a ranking is.

Letters: P prompts, N experts of all routers, D draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from hf_mixture.moe.mote.resonance_maps import Floats, FtriMaps, FtriSummary
from hf_mixture.moe.mote.scorers import SCORERS


Direction = Literal["positive", "negative", "absolute"]


@dataclass(frozen=True)
class RankedExpert:
    """An expert of a ranking.

    Args:
        path: Path of its router.
        layer: Index of the model layer.
        ordinal: Position of the router among the routers.
        expert: The expert.
        score: Its score, with its sign.
    """

    path: str
    layer: int | None
    ordinal: int
    expert: int
    score: float


def rank_experts(
    summary: FtriSummary, target: str, *, scorer: str = "difference", direction: Direction = "positive"
) -> list[RankedExpert]:
    """Rank the experts of all layers together by how much they go with a class.

    Ties are in the order of layer and expert. Experts that no counted token was routed to come last.

    Args:
        summary: Maps of the classes.
        target: The class.
        scorer: `"difference"` (MoTE, arXiv 2502.11096), `"risk_difference"`, `"npmi"` or `"saliency"`.
            Default: `"difference"`.
        direction: `"positive"`: experts that go with the class first. `"negative"`: those that go with the others.
            `"absolute"`: by size, whatever the sign. Default: `"positive"`.

    Returns:
        All N experts, best first.

    Raises:
        ValueError: If the class, the scorer or the direction is unknown, or the maps do not suit the scorer.

    Example:
        >>> import numpy as np
        >>> from hf_mixture.moe.mote.ranking import rank_experts
        >>> from hf_mixture.moe.mote.resonance_maps import FtriMaps, ModelFacts
        >>> from hf_mixture.moe.trace.trace import TracedRouter
        >>> facts = ModelFacts((TracedRouter("model.layers.0.mlp.gate", 0, 0, 3, 1),))
        >>> maps = FtriMaps(
        ...     facts=facts, counts=np.array([[3, 1, 0], [4, 0, 0], [0, 1, 3], [0, 2, 2]]), tokens=np.full(4, 4)
        ... )
        >>> best = rank_experts(maps.summarise(["no", "no", "yes", "yes"]), "yes")[0]
        >>> best.expert, best.score
        (2, 0.625)
    """
    if scorer not in SCORERS:
        raise ValueError(f"scorer={scorer!r} must be one of {', '.join(SCORERS)}")
    if direction not in get_args(Direction):
        raise ValueError(f"direction={direction!r} must be one of {', '.join(get_args(Direction))}")
    scores = SCORERS[scorer](summary, target)
    unseen = summary.counts.sum(axis=0) == 0
    # A stable sort of rising keys keeps ties in the order of the columns: by router, then by expert.
    order = np.lexsort((_key(scores, direction), unseen))
    columns = summary.facts.columns
    return [
        RankedExpert(router.path, router.layer, router.ordinal, expert, float(scores[place]))
        for place in order
        for router, expert in (columns[place],)
    ]


@dataclass(frozen=True, eq=False)
class Stability:
    """How often the experts of a ranking are found again.

    Args:
        shares: Share of the draws in which each expert is among the first `top` [N].
        overlap: Mean share of the first `top` of the whole data that a draw finds again.
        top: Number of experts.
        num_draws: Number of draws.
    """

    shares: Floats
    overlap: float
    top: int
    num_draws: int


def bootstrap_stability(
    maps: FtriMaps,
    labels: Sequence[str],
    target: str,
    *,
    top: int = 10,
    num_draws: int = 1000,
    direction: Direction = "positive",
    normalise: bool = True,
    seed: int = 0,
) -> Stability:
    """Draw the prompts of each class anew, with replacement, and rank by the differential map (SAFEx, 2506.17368).

    Args:
        maps: Maps of the prompts.
        labels: The class of each prompt.
        target: The class.
        top: Number of experts that are looked at, from 1 to N. Default: 10.
        num_draws: Number of draws. Default: 1000.
        direction: As in `rank_experts`. Default: `"positive"`.
        normalise: As in `FtriMaps.rows`. Default: True.
        seed: Seed of the draws. Default: 0.

    Returns:
        How often each expert is among the first.

    Raises:
        ValueError: If `top` or `num_draws` is out of range, or as `FtriMaps.summarise`.
    """
    num_experts = maps.counts.shape[1]
    if not 1 <= top <= num_experts:
        raise ValueError(f"top={top} must be from 1 to {num_experts}, the number of experts")
    if num_draws < 1:
        raise ValueError(f"num_draws={num_draws} must be >= 1")
    summary = maps.summarise(labels, normalise=normalise)
    whole = _first(summary.differential(target)[None], top, direction)[0]
    rows = maps.rows(normalise=normalise)
    names = np.asarray(labels, dtype=object)
    sides = [np.flatnonzero(names == name) for name in summary.classes]
    place = summary.place(target)
    rest = sum(len(side) for number, side in enumerate(sides) if number != place)
    generator = np.random.default_rng(seed)
    found = np.zeros(num_experts)
    shared = 0
    # Draws as weights of prompts [D, P]: the differential maps of many draws are one product.
    for start in range(0, num_draws, 128):
        size = min(128, num_draws - start)
        weights = np.zeros((size, len(maps)))
        for number, side in enumerate(sides):
            drawn = generator.multinomial(len(side), np.full(len(side), 1 / len(side)), size=size)
            weights[:, side] = drawn / len(side) if number == place else -drawn / rest
        firsts = _first(weights @ rows, top, direction)
        np.add.at(found, firsts.reshape(-1), 1)
        shared += int(np.isin(firsts, whole).sum())
    return Stability(found / num_draws, shared / (num_draws * top), top, num_draws)


def _key(scores: Floats, direction: Direction) -> Floats:
    # Equal sums of fractions differ in their last bits, by the order in which they are added.
    scores = scores.round(12)
    return {"positive": -scores, "negative": scores, "absolute": -np.abs(scores)}[direction]


def _first(scores: Floats, top: int, direction: Direction) -> np.ndarray:
    return np.argsort(_key(scores, direction), axis=1, kind="stable")[:, :top]
