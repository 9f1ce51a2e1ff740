"""Samplers of mixtures: points of the simplex.

Letters: n mixtures, K domains, q prior shares, s strength of a Dirichlet distribution.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from math import comb

import numpy as np
import numpy.typing as npt

from hf_mixture.data.search.constraints import project
from hf_mixture.data.search.ranks import FloatArray


STRENGTHS = (0.1, 5.0, 15)
"""Smallest and largest strength of RegMix, and how many log-spaced ones are tried."""


def check_prior(prior: npt.ArrayLike) -> FloatArray:
    """Return prior shares of shape (K,), divided by their sum.

    Raises:
        ValueError: A share is not a finite number >= 0, or all are 0.
    """
    shares = np.asarray(prior, dtype=np.float64)
    if shares.ndim != 1 or not len(shares) or not np.isfinite(shares).all() or (shares < 0).any() or shares.sum() == 0:
        raise ValueError(f"prior={prior!r} must be a list of finite numbers >= 0, at least one above 0: correct it")
    return shares / np.sum(shares)


def dirichlet(prior: npt.ArrayLike, num: int, *, strength: float = 1.0, seed: int | Sequence[int] = 0) -> FloatArray:
    """Draw mixtures from Dir(s * K * q): mean q, nearer to it as s grows; uniform for s = 1 and equal q.

    Args:
        prior: Shares q of shape (K,).
        num: Number n of mixtures.
        strength: s > 0. Default: 1.
        seed: Seed of the generator.

    Returns:
        Mixtures of shape (n, K).
    """
    shares = check_prior(prior)
    alive = shares > 0
    mixtures = np.zeros((num, len(shares)))
    mixtures[:, alive] = np.random.default_rng(seed).dirichlet(strength * len(shares) * shares[alive], num)
    return mixtures


def sobol(num_domains: int, num: int, *, seed: int = 0) -> FloatArray:
    """Spread mixtures evenly over the whole simplex: scrambled Sobol points, mapped by -log(u) / sum.

    Args:
        num_domains: Number K of domains.
        num: Number n of mixtures.
        seed: Seed of the scrambling.

    Returns:
        Mixtures of shape (n, K).
    """
    import torch

    points = (
        torch.quasirandom.SobolEngine(num_domains, scramble=True, seed=seed).draw(num, dtype=torch.float64).numpy()
    )
    return _spacings(points)


def latin(num_domains: int, num: int, *, seed: int = 0) -> FloatArray:
    """Draw a stratified sample of the simplex: a Latin hypercube, mapped by -log(u) / sum.

    Args:
        num_domains: Number K of domains.
        num: Number n of mixtures.
        seed: Seed of the generator.

    Returns:
        Mixtures of shape (n, K).
    """
    rng = np.random.default_rng(seed)
    strata = np.stack([rng.permutation(num) for _ in range(num_domains)], axis=1)
    return _spacings((strata + rng.random((num, num_domains))) / num)


def grid(num_domains: int, steps: int, *, max_points: int = 1_000_000) -> FloatArray:
    """List every mixture whose shares are multiples of 1 / `steps`.

    Args:
        num_domains: Number K of domains.
        steps: Number of steps from 0 to 1.
        max_points: Largest list that is built. Default: 1,000,000.

    Returns:
        Mixtures of shape (C(steps + K - 1, K - 1), K), in lexicographic order.

    Raises:
        ValueError: The grid has more than `max_points` points.

    Example:
        ```python
        >>> from hf_mixture.data.search.simplex import grid
        >>> grid(2, 2).tolist()
        [[0.0, 1.0], [0.5, 0.5], [1.0, 0.0]]

        ```
    """
    size = comb(steps + num_domains - 1, num_domains - 1)
    if size > max_points:
        raise ValueError(
            f"a grid of {steps} steps over {num_domains} domains has {size} points, above max_points={max_points}: "
            "use fewer steps, or sample"
        )
    counts = np.zeros((1, 0), dtype=np.int64)
    left = np.array([steps])
    for _ in range(num_domains - 1):
        repeats = left + 1
        first = np.arange(repeats.sum()) - np.repeat(np.cumsum(repeats) - repeats, repeats)
        counts = np.column_stack([np.repeat(counts, repeats, axis=0), first])
        left = np.repeat(left, repeats) - first
    return np.column_stack([counts, left]) / steps


def quantize(mixtures: FloatArray, step: float) -> FloatArray:
    """Round mixtures to multiples of a step by largest remainder, so that the sums stay 1.

    Args:
        mixtures: Mixtures of shape (n, K), rows sum to 1.
        step: A step that divides 1, for example 2e-4.

    Returns:
        Mixtures of shape (n, K).

    Raises:
        ValueError: 1 is no multiple of the step.
    """
    units = round(1 / step)
    if abs(units * step - 1) > 1e-9:
        raise ValueError(f"step={step!r} does not divide 1; use for example 2e-4 or 1/64")
    scaled = mixtures * units
    floors = np.floor(scaled + 1e-9).astype(np.int64)
    missing = units - floors.sum(axis=1)
    order = np.argsort(floors - scaled, axis=1, kind="stable")
    ranks = np.empty_like(order)
    np.put_along_axis(ranks, order, np.arange(mixtures.shape[1])[None, :], axis=1)
    return (floors + (ranks < missing[:, None])) / units


def regmix(
    prior: npt.ArrayLike,
    num: int,
    *,
    seed: int = 42,
    temperature: float = 0.5,
    max_usage: float | None = 15.0,
    minimum: float = 2e-4,
    on_grid: bool = True,
    lower: FloatArray | None = None,
    upper: FloatArray | None = None,
) -> FloatArray:
    """Draw mixtures by RegMix's recipe with its rounding repaired: sums are 1 and bounds hold after rounding.

    Each candidate is drawn from Dir(s * q~) with q~ ~ q^T and a strength s chosen from 15 log-spaced values in
    [0.1, 5]; it is dropped when a share exceeds min(`max_usage` * q_i, 1).

    Args:
        prior: Token shares q of shape (K,).
        num: Number n of mixtures.
        seed: Seed of both generators. Default: 42.
        temperature: Exponent T of the prior. Default: 0.5.
        max_usage: Largest number of epochs of a domain, or None for no bound. Default: 15.
        minimum: Smallest share that is kept; smaller ones become 0. Default: 2e-4.
        on_grid: Round shares to multiples of `minimum`, unless `lower` and `upper` are given. Default: True.
        lower: Smallest shares of shape (K,) that the mixtures are scaled into. Default: none.
        upper: Largest shares of shape (K,). Default: none.

    Returns:
        Mixtures of shape (n, K), without repetitions.

    Raises:
        ValueError: Fewer than `num` distinct mixtures obey the bounds.
    """
    shares = check_prior(prior)
    chooser = random.Random(seed)  # noqa: S311 - sampling, not cryptography
    rng = np.random.RandomState(seed)
    mixtures = _candidates(shares**temperature / np.sum(shares**temperature), 100 * num, rng, chooser)
    bound = np.ones(len(shares)) if max_usage is None else np.minimum(max_usage * shares, 1.0)
    mixtures = admit(mixtures, bound, minimum, on_grid=on_grid and lower is None)
    if lower is not None and upper is not None:
        mixtures = project(mixtures, lower, upper)
    mixtures = _drop_repeats(mixtures)
    if len(mixtures) < num:
        raise ValueError(
            f"only {len(mixtures)} distinct mixtures obey the bounds, {num} were asked for: "
            "raise max_usage or the caps, or ask for fewer"
        )
    return mixtures[chooser.sample(range(len(mixtures)), num)]


def admit(mixtures: FloatArray, bound: FloatArray, minimum: float, *, on_grid: bool) -> FloatArray:
    """Drop mixtures above a bound, zero tiny shares, round to a grid; sums are 1 and bounds hold afterwards too.

    Args:
        mixtures: Mixtures of shape (n, K).
        bound: Largest shares of shape (K,).
        minimum: Smallest share that is kept, and the step of the grid.
        on_grid: Whether to round.

    Returns:
        Mixtures of shape (m, K), m <= n.
    """
    mixtures = mixtures[(mixtures <= bound).all(axis=1)]
    mixtures = np.where(mixtures < minimum, 0.0, mixtures)
    mixtures = mixtures / mixtures.sum(axis=1, keepdims=True)
    if on_grid:
        mixtures = quantize(mixtures, minimum)
    return mixtures[(mixtures <= bound + 1e-9).all(axis=1)]


def regmix_reference(prior: npt.ArrayLike, num: int, *, seed: int = 42) -> FloatArray:
    """Draw mixtures bit-equal to RegMix's published script, with its rounding: sums may differ from 1 by some 1e-4.

    Args:
        prior: Token shares q of shape (K,).
        num: Number n of mixtures.
        seed: Seed of both generators; the published one is 42.

    Returns:
        Mixtures of shape (n, K).
    """
    shares = check_prior(prior)
    minimum = 2e-4
    tempered = shares**0.5
    rng, chooser = np.random.RandomState(seed), random.Random(seed)  # noqa: S311 - sampling, not cryptography
    mixtures = _candidates(tempered / np.sum(tempered), 100 * num, rng, chooser)
    mixtures = mixtures[(mixtures <= np.minimum(shares * 15, 1.0)).all(axis=1)]
    mixtures = np.where(mixtures < minimum, 0.0, mixtures)
    mixtures = np.round(mixtures / mixtures.sum(axis=1, keepdims=True) / minimum) * minimum
    mixtures = _drop_repeats(mixtures)
    return mixtures[chooser.sample(range(len(mixtures)), num)]


def _candidates(prior: FloatArray, num: int, rng: np.random.RandomState, chooser: random.Random) -> FloatArray:
    """Draw one mixture for each strength, keep one of them at random, `num` times over."""
    smallest, largest, count = STRENGTHS
    strengths = np.logspace(np.log10(smallest), np.log10(largest), count)
    shapes = prior * strengths[:, None]
    kept = np.empty((num, len(prior)))
    for start in range(0, num, 1024):
        size = min(1024, num - start)
        gammas = rng.standard_gamma(np.broadcast_to(shapes, (size, *shapes.shape)))
        # Summed from left to right and scaled by the inverse, as the generator's own Dirichlet does: equal to the bit.
        scale = 1 / np.cumsum(gammas, axis=-1)[..., -1:]
        picks = [chooser.choice(range(count)) for _ in range(size)]
        kept[start : start + size] = (gammas * scale)[np.arange(size), picks]
    return kept


def _drop_repeats(mixtures: FloatArray, threshold: float = 1e-5) -> FloatArray:
    """Sort mixtures and drop each that lies within an L1 distance of the one kept before it."""
    if not len(mixtures):
        return mixtures
    ordered = mixtures[np.lexsort(mixtures.T)]
    steps = np.abs(np.diff(ordered, axis=0)).sum(axis=1)
    # A chain of small steps is compared with its first member, which only a walk can do.
    kept, last = [0], 0
    for row in range(1, len(ordered)):
        if (row - last == 1 and steps[row - 1] > threshold) or (
            row - last > 1 and np.abs(ordered[row] - ordered[last]).sum() > threshold
        ):
            kept.append(row)
            last = row
    return ordered[kept]


def _spacings(points: FloatArray) -> FloatArray:
    gaps = -np.log(np.clip(points, 1e-12, 1 - 1e-12))
    return gaps / gaps.sum(axis=1, keepdims=True)
