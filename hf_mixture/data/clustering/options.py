"""The parameters of the estimator, checked."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import numpy as np

from hf_mixture.data.clustering.cells import NUM_CELLS, ROWS_AT_ONCE
from hf_mixture.data.clustering.gaussian import FAMILIES
from hf_mixture.data.clustering.judge import TESTS, Rule


# What `conservative=True` stands for: these families, the test by cross-fitting beside the others, and at least this
# margin in nats per row.
CONSERVATIVE_FAMILIES = ("full", "pdiag")
CONSERVATIVE_MARGIN = 0.1


@dataclass(frozen=True, kw_only=True)
class Options:
    """As in `ProbabilisticPartition`, with tuples of families and tests."""

    family: tuple[str, ...]
    merge_family: tuple[str, ...] | None
    test: tuple[str, ...]
    em_steps: int | None
    min_agreement: float
    margin: float
    min_size: int | None
    start_clusters: int | None
    conservative: bool
    scale: str
    num_components: int
    ridge: float
    axis_ties: str
    duplicates: str
    num_cells: int | str | None

    @classmethod
    def checked(cls, **parameters: Any) -> Options:
        """Check the parameters.

        Raises:
            ValueError: A parameter breaks its rule.
        """
        families = (*FAMILIES, "auto")
        parameters["family"] = _names("family", parameters["family"], families)
        if parameters["merge_family"] is not None:
            parameters["merge_family"] = _names("merge_family", parameters["merge_family"], families)
        parameters["test"] = _names("test", parameters["test"], TESTS)
        for name, least in (("em_steps", 1), ("min_size", 1), ("start_clusters", 2)):
            if parameters[name] is not None:
                _whole(name, parameters[name], least)
        _whole("num_components", parameters["num_components"], 1)
        if parameters["num_cells"] not in ("auto", None):
            _whole("num_cells", parameters["num_cells"], 2)
        _number("min_agreement", parameters["min_agreement"], "in (0.5, 1]", lambda value: 0.5 < value <= 1)
        _number("margin", parameters["margin"], ">= 0", lambda value: value >= 0)
        _number("ridge", parameters["ridge"], "> 0", lambda value: value > 0)
        for name, choices in (
            ("scale", ("none", "standard")),
            ("axis_ties", ("stop", "first")),
            ("duplicates", ("count", "once")),
        ):
            if parameters[name] not in choices:
                raise ValueError(f"{name}={parameters[name]!r} must be one of {choices}: choose one")
        if not isinstance(parameters["conservative"], bool | np.bool_):
            raise ValueError(f"conservative={parameters['conservative']!r} must be True or False: choose one")
        if parameters["start_clusters"] is not None and parameters["merge_family"] is None:
            raise ValueError(
                f"start_clusters={parameters['start_clusters']} without merge_family would be a fixed number of "
                "clusters: set merge_family"
            )
        if parameters["conservative"]:
            parameters |= {
                "family": CONSERVATIVE_FAMILIES,
                "test": tuple(dict.fromkeys((*parameters["test"], "cross_fit"))),
                "margin": max(parameters["margin"], CONSERVATIVE_MARGIN),
            }
        return cls(**parameters)

    def rule(self, families: tuple[str, ...], variance: float) -> Rule:
        """How splits are judged, by some families.

        Args:
            families: The families.
            variance: Mean variance of a column, the unit of `ridge`.
        """
        return Rule(
            families=families,
            tests=self.test,
            # Rows that are all equal have no variance, and are not split.
            ridge=self.ridge * (variance or 1.0),
            em_steps=self.em_steps,
            min_agreement=self.min_agreement,
            margin=self.margin,
            axis_ties=self.axis_ties,
        )

    def least_size(self, total: float) -> float:
        """Least weight of a leaf, of so many rows in all."""
        return max(10, np.ceil(np.sqrt(total) / 2)) if self.min_size is None else self.min_size

    def cells(self, num_rows: int) -> int | None:
        """Number of cells for so many distinct rows; None for the rows themselves."""
        wanted = self.num_cells
        if wanted == "auto":
            wanted = NUM_CELLS if num_rows > ROWS_AT_ONCE else None
        return None if wanted is None or int(wanted) >= num_rows else int(wanted)


def _names(name: str, value: Any, choices: tuple[str, ...]) -> tuple[str, ...]:
    found = (value,) if isinstance(value, str) else value
    if not isinstance(found, tuple | list) or not found or any(one not in choices for one in found):
        raise ValueError(f"{name}={value!r} must be one of {', '.join(choices)}, or a tuple of these: choose one")
    return tuple(found)


def _whole(name: str, value: Any, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, Integral) or int(value) < least:
        raise ValueError(f"{name}={value!r} must be a whole number >= {least}: correct it")


def _number(name: str, value: Any, rule: str, holds: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, Real) or not np.isfinite(float(value)) or not holds(value):
        raise ValueError(f"{name}={value!r} must be a number {rule}: correct it")
