"""The ranking losses of MatSim by loops over images, written from the equations alone."""

from __future__ import annotations

import math


def slow_label(sets: list[int], ratios: list[float], i: int, j: int) -> float:
    return 1 - abs(ratios[i] - ratios[j]) if sets[i] == sets[j] else 0.0


def slow_ranking_loss(
    cosines: list[list[float]], sets: list[int], ratios: list[float], *, temperature: float, mode: str
) -> tuple[float, list[list[float]], dict[str, int]]:
    """Loss, its gradient by the cosines, and how many terms of each sign of d count."""
    number = len(sets)
    gradient = [[0.0] * number for _ in range(number)]
    total, counts = 0.0, {"positive": 0, "negative": 0}
    for i in range(number):
        for j in range(number):
            s_ij = slow_label(sets, ratios, i, j)
            if j == i or s_ij <= 0:
                continue
            for k in range(number):
                s_ik = slow_label(sets, ratios, i, k)
                d = s_ij - s_ik
                if abs(d) < 1e-6 or k == i:
                    continue
                if mode == "reference" and k < i and s_ik > 0:
                    continue
                # Each pair of two positives is visited once, from either side.
                if mode == "symmetric" and s_ik > 0 and k < j:
                    continue
                first = math.exp(cosines[i][j] / temperature)
                second = math.exp(cosines[i][k] / temperature)
                p_0, p_1 = first / (first + second), second / (first + second)
                if d > 0:
                    right, is_kept = p_0, p_1 + d / 4 > 0.5
                else:
                    right, is_kept = p_1, p_0 + (d if mode == "reference" else -d) / 4 > 0.5
                if not is_kept:
                    continue
                floor = 1e-7 if mode == "reference" else 0.0
                total -= math.log(right + floor)
                slope = -right * (1 - right) / (right + floor) / temperature
                sign = 1 if d > 0 else -1
                gradient[i][j] += sign * slope
                gradient[i][k] -= sign * slope
                counts["positive" if d > 0 else "negative"] += 1
    terms = max(1, sum(counts.values()))
    return total / terms, [[value / terms for value in row] for row in gradient], counts
