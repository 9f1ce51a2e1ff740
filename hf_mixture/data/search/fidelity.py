"""Whether small runs rank mixtures as large ones do: the assumption that every proxy search rests on."""

from __future__ import annotations

import numpy as np

from hf_mixture.data.search.protocol import Objective
from hf_mixture.data.search.ranks import spearman
from hf_mixture.data.search.table import RunTable


LOW_AGREEMENT = 0.3


def fidelity_agreement(table: RunTable, objective: Objective, *, decimals: int = 6) -> dict[float, tuple[float, int]]:
    """Rank correlation of each lower fidelity with the highest, on the mixtures that both ran.

    Args:
        table: Runs of several fidelities; they are joined by mixture, never by row.
        objective: What is ranked.
        decimals: Shares that agree to this many decimals are equal. Default: 6.

    Returns:
        Spearman correlation and number of shared mixtures, by fidelity.

    Example:
        ```python
        >>> from hf_mixture.data.search import Objective, RunTable
        >>> from hf_mixture.data.search.fidelity import fidelity_agreement
        >>> mixtures = [[0.1, 0.9], [0.5, 0.5], [0.9, 0.1]]
        >>> table = RunTable(
        ...     range(6),
        ...     ["a", "b"],
        ...     mixtures + mixtures[::-1],
        ...     {"loss": [3, 2, 1, 9, 8, 7]},
        ...     fidelity=[0.1] * 3 + [1] * 3,
        ... )
        >>> fidelity_agreement(table, Objective("loss", "minimize"))
        {0.1: (-1.0, 3)}

        ```
    """
    values = objective.values(table)
    keys = [tuple(row) for row in np.round(table.weights, decimals).tolist()]
    levels = sorted(set(table.fidelity.tolist()))
    by_level = {level: {keys[row]: values[row] for row in np.flatnonzero(table.fidelity == level)} for level in levels}
    top = by_level[levels[-1]]
    agreement = {}
    for level in levels[:-1]:
        shared = [key for key in by_level[level] if key in top]
        rho = (
            spearman([by_level[level][key] for key in shared], [top[key] for key in shared])
            if len(shared) > 2
            else float("nan")
        )
        agreement[level] = (rho, len(shared))
    return agreement


def fidelity_warnings(table: RunTable, objective: Objective, *, min_shared: int = 8) -> tuple[str, ...]:
    """Warnings for fidelities whose ranking disagrees with the target's, on at least `min_shared` mixtures."""
    return tuple(
        f"runs at fidelity {level:g} rank {shared} shared mixtures with correlation {rho:.3f} to the target's: "
        "small runs say little about this objective"
        for level, (rho, shared) in fidelity_agreement(table, objective).items()
        if shared >= min_shared and not rho >= LOW_AGREEMENT
    )
