"""The matrix A of linear mixing optimisation (Aioli, arXiv 2411.05735): how it is measured, scaled and compared.

`A[i, j]` says how much training on domain j lowers the loss of domain i: rows are validation domains, columns are
training domains, and the solvers read column sums.

Letters: n validation domains, m training domains, f one-hot factor.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from hf_mixture.data.search.ranks import FloatArray, spearman


def one_hot_shares(num_domains: int, factor: float) -> FloatArray:
    """The smoothed one-hot mixtures W of LearnParams: `factor` on the diagonal, the rest spread evenly.

    Args:
        num_domains: m, at least 2.
        factor: f, in (1/m, 1]. At 1/m all mixtures are the same and the effects cannot be told apart.

    Returns:
        Mixtures of shape (m, m), one a row.

    Raises:
        ValueError: There is one domain only, or `factor` lies outside (1/m, 1].

    Example:
        ```python
        >>> from hf_mixture.data.online.effects import one_hot_shares
        >>> one_hot_shares(3, 0.5).tolist()
        [[0.5, 0.25, 0.25], [0.25, 0.5, 0.25], [0.25, 0.25, 0.5]]

        ```
    """
    if num_domains < 2:
        raise ValueError(f"there is {num_domains} training domain; effects are told apart between at least 2: add one")
    if not 1 / num_domains < factor <= 1:
        raise ValueError(
            f"one_hot_factor={factor!r} is not in (1/m, 1], above {1 / num_domains:.4g} for m = {num_domains}; "
            "raise it: .625 to 1 keep mixtures apart"
        )
    shares = np.full((num_domains, num_domains), (1 - factor) / (num_domains - 1))
    np.fill_diagonal(shares, factor)
    return shares


def condition_number(num_domains: int, factor: float) -> float:
    """By how much `one_hot_shares` can magnify errors of measurement: (m - 1) / (m f - 1).

    Args:
        num_domains: m, at least 2.
        factor: f, in (1/m, 1].

    Returns:
        The condition number, 1 at f = 1.
    """
    return (num_domains - 1) / (num_domains * factor - 1)


def block_order(num_domains: int, sweeps: int, *, seed: int, turn: int) -> list[int]:
    """Which domain each block of LearnParams favours: `sweeps` random permutations, a function of (seed, turn).

    Args:
        num_domains: m.
        sweeps: Number of blocks of each domain.
        seed: Seed of the run.
        turn: Number of the round.

    Returns:
        m * sweeps domains.
    """
    # Sorted raw output, because NumPy keeps the streams of its bit generators stable, not those of its shuffles.
    keys = np.random.Philox(key=[seed, turn]).random_raw(sweeps * num_domains).reshape(sweeps, num_domains)
    return [int(domain) for domain in np.argsort(keys, axis=1, kind="stable").ravel()]


def solve_effects(drops: FloatArray, shares: FloatArray) -> FloatArray:
    """Find the effects A that explain the measured drops: `drops[i, b] = sum_j shares[b, j] A[i, j]`.

    Args:
        drops: Loss before less loss after, of shape (n, m): column b belongs to the blocks that favour domain b,
            averaged over sweeps.
        shares: Mixture of those blocks as it was drawn, of shape (m, m), averaged over sweeps.

    Returns:
        A of shape (n, m).

    Example:
        ```python
        >>> import numpy as np
        >>> from hf_mixture.data.online.effects import one_hot_shares, solve_effects
        >>> effects = np.array([[0.3, 0.05], [-0.02, 0.2]])
        >>> shares = one_hot_shares(2, 0.75)
        >>> np.allclose(solve_effects(effects @ shares.T, shares), effects)
        True

        ```
    """
    return np.asarray(np.linalg.solve(shares, drops.T).T, dtype=np.float64)


def diagonal_effects(drops: FloatArray, shares: FloatArray) -> FloatArray:
    """The diagonal ablation of Aioli: each domain acts on its own loss only, `A[i, i] = drops[i, i] / shares[i, i]`.

    Args:
        drops: As for `solve_effects`, with n = m.
        shares: As for `solve_effects`.

    Returns:
        A of shape (m, m).
    """
    return np.diag(np.diag(drops) / np.diag(shares))


def normalise(effects: FloatArray) -> FloatArray:
    """Shift A so that no entry is negative, and scale it to sum 1.

    Args:
        effects: A of shape (n, m).

    Returns:
        A new array of shape (n, m). Entries that are all equal and not positive give equal entries: such an A says
        nothing about the domains.

    Example:
        ```python
        >>> import numpy as np
        >>> from hf_mixture.data.online.effects import normalise
        >>> normalise(np.array([[0.3, 0.05], [-0.02, 0.2]])).round(5).tolist()
        [[0.52459, 0.11475], [0.0, 0.36066]]

        ```
    """
    shifted = effects - min(effects.min(), 0.0)
    total = shifted.sum()
    return shifted / total if total > 0 else np.full_like(shifted, 1 / shifted.size)


def smooth(effects: FloatArray, previous: FloatArray | None, ema: float | None) -> FloatArray:
    """Average A over the rounds: `(1 - ema) A + ema A_previous`.

    Args:
        effects: A of this round, of shape (n, m).
        previous: The average so far. None in the first round.
        ema: Weight of the past, in [0, 1). None: no averaging.

    Returns:
        The new average, of shape (n, m).
    """
    return effects if ema is None or previous is None else (1 - ema) * effects + ema * previous


def relative_effects(before: npt.ArrayLike, after: npt.ArrayLike) -> FloatArray:
    """The skills graph of Skill-It (arXiv 2307.14430) from one-domain runs: the relative drop of each loss.

    Args:
        before: Losses of the n validation domains at the start, of shape (n,).
        after: Losses after training on one domain only, of shape (m, n): row j belongs to the run on domain j.

    Returns:
        A of shape (n, m). The published graphs are stored as its transpose.

    Example:
        ```python
        >>> from hf_mixture.data.online.effects import relative_effects
        >>> relative_effects([2.0, 4.0], [[1.0, 3.0], [2.0, 2.0]]).tolist()
        [[0.5, 0.0], [0.25, 0.5]]

        ```
    """
    start = np.asarray(before, dtype=np.float64)
    return ((start - np.asarray(after, dtype=np.float64)) / start).T


def similarity(effects: npt.ArrayLike, target: npt.ArrayLike) -> float:
    """How well two matrices A agree: half the cosine and half the rank correlation of their column sums (Aioli).

    Args:
        effects: A of shape (n, m).
        target: A of shape (n', m).

    Returns:
        A number in [-1, 1].

    Example:
        ```python
        >>> from hf_mixture.data.online.effects import similarity
        >>> round(similarity([[3.0, 0.0], [0.0, 1.0]], [[6.0, 2.0]]), 6)
        1.0

        ```
    """
    left, right = (np.asarray(matrix, dtype=np.float64).sum(axis=0) for matrix in (effects, target))
    cosine = left @ right / (np.linalg.norm(left) * np.linalg.norm(right))
    return float(0.5 * cosine + 0.5 * spearman(left, right))
