"""Bounds on the shares of a mixture: caps, floors, fixed weights.

Letters: n mixtures, K domains.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hf_mixture.data.search.ranks import FloatArray


@dataclass(frozen=True)
class Constraints:
    """Smallest and largest share of each domain.

    Args:
        floors: Smallest share by domain, in [0, 1]. Default: 0.
        caps: Largest share by domain, in [0, 1]. Default: 1.
        fixed: Exact share by domain, in [0, 1].

    Example:
        ```python
        >>> from hf_mixture.data.search import Constraints
        >>> limits = Constraints.from_sizes({"wiki": 2e9, "web": 90e9}, budget=20e9, max_epochs=4)
        >>> limits.caps
        {'wiki': 0.4, 'web': 1.0}

        ```
    """

    floors: Mapping[str, float] = field(default_factory=dict)
    caps: Mapping[str, float] = field(default_factory=dict)
    fixed: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def from_sizes(
        cls,
        sizes: Mapping[str, float],
        *,
        budget: float,
        max_epochs: float,
        floors: Mapping[str, float] | None = None,
        fixed: Mapping[str, float] | None = None,
    ) -> Constraints:
        """Cap each domain so that a run of `budget` repeats it at most `max_epochs` times.

        Args:
            sizes: Available amount of each domain, for example in tokens.
            budget: Amount that the target run consumes, in the same unit.
            max_epochs: Largest number of passes over a domain; fractional values are allowed.
            floors: As for the class.
            fixed: As for the class.

        Returns:
            The bounds, with a cap for every domain.

        Raises:
            ValueError: A size is negative, or the budget or `max_epochs` is not above 0.
        """
        if not budget > 0 or not max_epochs > 0:
            raise ValueError(f"budget={budget!r} and max_epochs={max_epochs!r} must both be above 0: correct them")
        for name, size in sizes.items():
            if not size >= 0:
                raise ValueError(f"size of {name!r} is {size!r}; it must be a number >= 0: correct it")
        caps = {name: min(max_epochs * size / budget, 1.0) for name, size in sizes.items()}
        return cls(floors=floors or {}, caps=caps, fixed=fixed or {})

    def bounds(self, domains: Sequence[str]) -> tuple[FloatArray, FloatArray]:
        """Return the smallest and the largest share of each domain.

        Args:
            domains: Names of the K domains.

        Returns:
            Two arrays of shape (K,).

        Raises:
            ValueError: A name is no domain, a bound lies outside [0, 1], or no mixture obeys all bounds.
        """
        lower, upper = np.zeros(len(domains)), np.ones(len(domains))
        order = {name: column for column, name in enumerate(domains)}
        for argument, bounds, targets in (
            ("floors", self.floors, (lower,)),
            ("caps", self.caps, (upper,)),
            ("fixed", self.fixed, (lower, upper)),
        ):
            for name, value in bounds.items():
                if name not in order:
                    raise ValueError(f"{argument} names {name!r}, which is none of {list(domains)}: correct the name")
                if not (math.isfinite(value) and 0 <= value <= 1):
                    raise ValueError(f"{argument}[{name!r}]={value!r} is not a share in [0, 1]: correct it")
                for target in targets:
                    target[order[name]] = value
        for name, column in order.items():
            if lower[column] > upper[column]:
                raise ValueError(
                    f"the floor of {name!r}, {lower[column]:g}, is above its cap, {upper[column]:g}: "
                    "lower it or raise the cap"
                )
        if lower.sum() > 1 + 1e-12 or upper.sum() < 1 - 1e-12:
            raise ValueError(
                f"floors sum to {lower.sum():.6g} and caps to {upper.sum():.6g}; a mixture needs floors <= 1 <= caps: "
                "lower floors, raise caps, allow more epochs or a smaller budget"
            )
        return lower, upper

    def to_dict(self) -> dict[str, Any]:
        """Return the bounds that are set, as plain JSON values."""
        parts = {"floors": self.floors, "caps": self.caps, "fixed": self.fixed}
        return {name: {key: float(value) for key, value in part.items()} for name, part in parts.items() if part}


def project(weights: FloatArray, lower: FloatArray, upper: FloatArray) -> FloatArray:
    """Scale mixtures into bounds: find c with sum_i clip(c * w_i, lower_i, upper_i) = 1.

    Shares that no bound touches keep their ratios. Mixtures inside the bounds return unchanged.

    Args:
        weights: Mixtures of shape (n, K), >= 0, rows sum to 1.
        lower: Smallest shares of shape (K,).
        upper: Largest shares of shape (K,).

    Returns:
        Mixtures of shape (n, K) inside the bounds, rows sum to 1.
    """
    outside = ((weights < lower) | (weights > upper)).any(axis=1)
    if not outside.any():
        return weights
    # A trace of every domain, so that a row whose support is capped below 1 can still be filled.
    rows = (1 - 1e-9) * weights[outside] + 1e-9 * upper / upper.sum()
    low, high = np.full(len(rows), -50.0), np.full(len(rows), 50.0)
    for _ in range(80):
        middle = (low + high) / 2
        total = np.clip(np.exp(middle)[:, None] * rows, lower, upper).sum(axis=1)
        low, high = np.where(total < 1, middle, low), np.where(total < 1, high, middle)
    fitted = np.clip(np.exp(high)[:, None] * rows, lower, upper)
    projected = weights.copy()
    projected[outside] = _spread(fitted, lower, upper)
    return projected


def _spread(weights: FloatArray, lower: FloatArray, upper: FloatArray) -> FloatArray:
    """Give the last rounding error to the shares with room for it."""
    excess = weights.sum(axis=1, keepdims=True) - 1
    room = np.where(excess > 0, weights - lower, upper - weights)
    total = room.sum(axis=1, keepdims=True)
    return np.asarray(np.clip(weights - excess * room / np.where(total > 0, total, 1), lower, upper))
