"""The recommender one pair, one user and one node at a time: slow and obvious."""

from __future__ import annotations

import math
from typing import Any

import torch


def score(model: Any, user: int, item: int) -> torch.Tensor:
    """p_u . q_i + m_u . W f_i, with p and q propagated where the backbone does so."""
    half = model.config.embedding_size
    if model.config.backbone == "vbpr":
        p, q = model.users.weight[user, :half], model.items.weight[item]
    else:
        rows = propagated(model)
        p, q = rows["user", user], rows["item", item]
    visual = model.projection.weight @ model.features[item]
    return (p * q).sum() + (model.users.weight[user, half:] * visual).sum()


def propagated(model: Any) -> dict[tuple[str, int], torch.Tensor]:
    """LightGCN node by node: the mean over layers of sums over neighbours over roots of both degrees."""
    half = model.config.embedding_size
    neighbours: dict[tuple[str, int], list[tuple[str, int]]] = {}
    for user in range(model.config.num_users):
        neighbours["user", user] = []
    for item in range(model.config.num_items):
        neighbours["item", item] = []
    for user, item in model.graph.T.tolist():
        neighbours["user", user].append(("item", item))
        neighbours["item", item].append(("user", user))
    layer = {
        node: model.users.weight[node[1], :half] if node[0] == "user" else model.items.weight[node[1]]
        for node in neighbours
    }
    total = dict(layer)
    for _ in range(model.config.num_propagation_layers):
        following = {}
        for node, around in neighbours.items():
            following[node] = torch.zeros(half, dtype=model.dtype)
            for other in around:
                following[node] = following[node] + layer[other] / math.sqrt(len(around) * len(neighbours[other]))
        layer = following
        total = {node: total[node] + layer[node] for node in total}
    return {node: rows / (model.config.num_propagation_layers + 1) for node, rows in total.items()}


def recall_and_ndcg(scores: Any, wanted: Any, k: int, masked: Any = (), left_out: Any = ()) -> tuple[float, float]:
    """Means over the users with something to find; `wanted` and `masked` are sets of (user, item)."""
    recalls, gains = [], []
    for user in sorted({user for user, _ in wanted}):
        items = [i for i in range(len(scores[user])) if (user, i) not in masked and i not in left_out]
        best = sorted(items, key=lambda item: -scores[user][item])[:k]
        goal = {item for other, item in wanted if other == user}
        recalls.append(sum(item in goal for item in best) / len(goal))
        gain = sum(1 / math.log2(place + 2) for place, item in enumerate(best) if item in goal)
        gains.append(gain / sum(1 / math.log2(place + 2) for place in range(min(k, len(goal)))))
    return sum(recalls) / len(recalls), sum(gains) / len(gains)


def area_under_curve(positives: list[float], negatives: list[float]) -> float:
    """Every pair of a positive and a negative; a tie counts half."""
    wins = [(p > n) + 0.5 * (p == n) for p in positives for n in negatives]
    return sum(wins) / len(wins)
