"""Where tokens want to go: routing that is drawn, or that was recorded.

Letters: I iterations, L layers, E experts of a layer, D devices, S traced steps, W traced processes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from hf_mixture.moe.parallel.placement import Counts
from hf_mixture.moe.parallel.simulate.flow import Floats
from hf_mixture.moe.trace.trace import RouterTrace


def zipf_popularity(
    num_experts: int, *, exponent: float, drift: float, num_layers: int, seed: int
) -> Iterator[Floats]:
    """Popularity of experts that follows Zipf's law at each iteration, while experts slowly change their ranks.

    Each expert has a score that is a stationary Gaussian autoregression, other in each layer; the expert with the
    n-th largest score has a share in proportion to n to the minus `exponent`.

    Args:
        num_experts: E.
        exponent: At least 0; 0 is even.
        drift: Iterations in which the correlation of a score falls to 1 / e; infinity for popularity that stays.
        num_layers: L.
        seed: Of the scores.

    Yields:
        Shares [L, E], which sum to 1 for each layer.

    Example:
        >>> from hf_mixture.moe.parallel.simulate.loads import zipf_popularity
        >>> shares = next(zipf_popularity(4, exponent=1.0, drift=100.0, num_layers=1, seed=0))
        >>> sorted(shares[0].round(2).tolist())
        [0.12, 0.16, 0.24, 0.48]
    """
    generator = np.random.default_rng(seed)
    shares = np.arange(1, num_experts + 1, dtype=np.float64) ** -exponent
    shares /= shares.sum()
    keeps = np.exp(-1 / drift)
    scores = generator.standard_normal((num_layers, num_experts))
    while True:
        popularity = np.empty_like(scores)
        np.put_along_axis(popularity, np.argsort(-scores, axis=1), np.broadcast_to(shares, scores.shape), axis=1)
        yield popularity
        scores = keeps * scores + np.sqrt(1 - keeps**2) * generator.standard_normal(scores.shape)


def traced_popularity(trace: RouterTrace, *, num_devices: int, num_layers: int) -> Iterator[Floats]:
    """Popularity of experts at the steps of a trace, apart for the processes that it keeps apart.

    Device d has the routing of process `d * W // D`, so devices of one process are alike.

    Args:
        trace: The trace.
        num_devices: D.
        num_layers: L; routers at even distances are taken.

    Yields:
        Shares [L, D, E], at each of the S steps.
    """
    ordinals = chosen_layers(len(trace.routers), num_layers)
    for step in range(len(trace.steps)):
        layers: list[Any] = []
        for ordinal in ordinals:
            if trace.rank_counts is None:
                counts = trace.counts[ordinal][step][None]
            else:
                counts = trace.rank_counts[ordinal][step]
            total = counts.sum(axis=1, keepdims=True)
            # A process without tokens at this step is taken to route like all.
            counts = np.where(total > 0, counts, counts.sum(axis=0) + (total.sum() == 0))
            shares = counts / counts.sum(axis=1, keepdims=True)
            layers.append(shares[np.arange(num_devices) * len(shares) // num_devices])
        yield np.stack(layers)


def chosen_layers(number: int, num_layers: int) -> list[int]:
    """Layers at even distances, of those that there are."""
    return [layer * number // num_layers for layer in range(num_layers)]


def draw_tokens(popularity: Iterator[Floats], *, num_devices: int, num_choices: int, seed: int) -> Iterator[Counts]:
    """Draw the tokens of each device for each expert.

    All choices are independent: that the experts of one token differ is left out.

    Args:
        popularity: Shares [L, E], or [L, D, E], at each iteration.
        num_devices: D.
        num_choices: Tokens of a device, times the experts of a token.
        seed: Of the draws.

    Yields:
        [L, D, E]; every device has `num_choices` in every layer.
    """
    generator = np.random.default_rng(seed)
    for shares in popularity:
        of_devices = shares if shares.ndim == 3 else np.repeat(shares[:, None], num_devices, axis=1)
        yield generator.multinomial(num_choices, of_devices)
