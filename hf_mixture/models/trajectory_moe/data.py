"""Trajectories as arrays: what is measured, when, of whom; checked once, before anything is estimated.

Letters: N people, J occasions, D outcomes, P growth covariates, G cluster covariates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np


@dataclass(frozen=True, kw_only=True)
class TrajectoryData:
    """Trajectories of N people at times of their own.

    Args:
        values: Outcomes [N, J, D]; what `mask` leaves out may be anything.
        times: Time of each occasion [N, J].
        mask: What has been observed [N, J, D].
        growth_covariates: Covariates of the growth factors [N, P].
        cluster_covariates: Covariates of the classes [N, G].
        labels: Class of each person [N], -1 where it is not known. Default: no class is known.
    """

    values: Any
    times: Any
    mask: Any
    growth_covariates: Any
    cluster_covariates: Any
    labels: Any = None

    @property
    def num_people(self) -> int:
        """N."""
        return int(self.values.shape[0])

    @property
    def num_outcomes(self) -> int:
        """D."""
        return int(self.values.shape[2])

    @cached_property
    def num_observed(self) -> Any:
        """Observed values of each outcome [D]."""
        return self.mask.sum(axis=(0, 1))

    @cached_property
    def patterns(self) -> list[tuple[tuple[int, ...], Any]]:
        """Which outcomes an occasion has, with the occasions [J, N] that have exactly those."""
        codes = (self.mask * (1 << np.arange(self.num_outcomes))).sum(axis=2).T
        found = []
        for code in np.unique(codes):
            if code:
                outcomes = tuple(d for d in range(self.num_outcomes) if code >> d & 1)
                found.append((outcomes, (codes == code).astype(np.float64)))
        return found


def make_data(
    values: Any,
    times: Any,
    *,
    mask: Any = None,
    growth_covariates: Any = None,
    cluster_covariates: Any = None,
    labels: Any = None,
) -> TrajectoryData:
    """Check arrays and make trajectories of them.

    Args:
        values: Outcomes [N, J] or [N, J, D]. NaN, or None, is a value that is missing.
        times: Times [N, J], or [J] where everybody has the same; NaN where nothing has been measured.
        mask: What has been observed, of the shape of `values` or [N, J]. Default: all that is not NaN.
        growth_covariates: [N, P] or [N]. Default: none.
        cluster_covariates: [N, G] or [N]. Default: none.
        labels: Known class of each person, -1 where unknown. Default: unknown.

    Returns:
        The trajectories.

    Raises:
        ValueError: If shapes do not fit, a person has no observation, a value is infinite, an observed value has no
            time, times of a person are not increasing, or a covariate is missing.

    Example:
        >>> from hf_mixture.models.trajectory_moe.data import make_data
        >>> make_data([[1.0, 2.0], [2.0, None]], [0.0, 1.0]).num_observed
        array([3])
    """
    outcomes = np.array(values, dtype=np.float64)
    if outcomes.ndim == 2:
        outcomes = outcomes[:, :, None]
    if outcomes.ndim != 3 or not outcomes.size:
        raise ValueError(
            f"values has the shape {np.shape(values)}; give people x occasions, or a third axis of outcomes"
        )
    num_people, num_occasions, _ = outcomes.shape
    when = np.array(times, dtype=np.float64)
    if when.shape == (num_occasions,):
        when = np.broadcast_to(when, (num_people, num_occasions)).copy()
    if when.shape != (num_people, num_occasions):
        raise ValueError(f"times has the shape {when.shape}; values need {(num_people, num_occasions)}")
    observed = _mask(mask, outcomes)
    _check_observations(outcomes, when, observed)
    # What is not observed is multiplied by 0, which NaN would survive.
    return TrajectoryData(
        values=np.where(observed, outcomes, 0.0),
        times=np.where(observed.any(axis=2), when, 0.0),
        mask=observed,
        growth_covariates=_covariates(growth_covariates, "growth_covariates", num_people),
        cluster_covariates=_covariates(cluster_covariates, "cluster_covariates", num_people),
        labels=_labels(labels, num_people),
    )


def _mask(mask: Any, outcomes: Any) -> Any:
    if mask is None:
        return ~np.isnan(outcomes)
    given = np.array(mask).astype(bool)
    if given.shape == outcomes.shape[:2]:
        given = np.broadcast_to(given[:, :, None], outcomes.shape).copy()
    if given.shape != outcomes.shape:
        raise ValueError(f"mask has the shape {given.shape}; it must be that of values, {outcomes.shape}")
    return given


def _check_observations(outcomes: Any, when: Any, observed: Any) -> None:
    wrong = np.argwhere(observed & ~np.isfinite(outcomes))
    if len(wrong):
        person, occasion, outcome = wrong[0]
        raise ValueError(
            f"values[{person}, {occasion}, {outcome}] is {outcomes[tuple(wrong[0])]} and observed; values must be "
            "finite: give NaN and no mask, or mask = 0, for a value that is missing"
        )
    seen = observed.any(axis=2)
    alone = np.flatnonzero(~seen.any(axis=1))
    if len(alone):
        raise ValueError(f"person {alone[0]} has no observed value (one of {len(alone)}); leave such people out")
    wrong = np.argwhere(seen & ~np.isfinite(when))
    if len(wrong):
        raise ValueError(
            f"times[{wrong[0][0]}, {wrong[0][1]}] is not finite, and a value was observed then; give the time"
        )
    for person in range(len(when)):
        own = when[person, seen[person]]
        if (np.diff(own) <= 0).any():
            raise ValueError(
                f"the times of person {person} are {own.tolist()}; they must increase from occasion to occasion: sort "
                "each person's occasions, and keep one of two at the same time"
            )


def _covariates(given: Any, name: str, num_people: int) -> Any:
    if given is None:
        return np.zeros((num_people, 0))
    values = np.array(given, dtype=np.float64)
    values = values[:, None] if values.ndim == 1 else values
    if values.ndim != 2 or len(values) != num_people:
        raise ValueError(f"{name} has the shape {values.shape}; it must have {num_people} rows, one for each person")
    if not np.isfinite(values).all():
        row = int(np.argwhere(~np.isfinite(values))[0][0])
        raise ValueError(
            f"{name}[{row}] is not finite; covariates must be complete: impute them, or leave those people out"
        )
    return values


def _labels(given: Any, num_people: int) -> Any:
    if given is None:
        return None
    values = np.array(given, dtype=np.int64)
    if values.shape != (num_people,):
        raise ValueError(f"labels has the shape {values.shape}; it must be {(num_people,)}, one class for each person")
    return values


def data_of_dataset(
    dataset: Any, *, growth_covariates: Sequence[str] = (), cluster_covariates: Sequence[str] = ()
) -> TrajectoryData:
    """Read trajectories from a `datasets.Dataset`.

    Args:
        dataset: Columns `values` (a list of numbers for each person, or of lists with one number for each outcome) and
            `times`; optionally `mask`, `labels`, and covariates: either columns `growth_covariates` and
            `cluster_covariates` of lists, or columns with the names given here. A mapping of columns works too.
        growth_covariates: Names of the growth covariates.
        cluster_covariates: Names of the cluster covariates.

    Returns:
        The trajectories.

    Raises:
        ValueError: If a column is missing, or as `make_data`.
    """
    columns = list(dataset.keys()) if isinstance(dataset, dict) else list(dataset.column_names)
    for name in ("values", "times"):
        if name not in columns:
            raise ValueError(f"the data set has no column {name!r}, only {', '.join(columns)}; rename or add it")

    def read(name: str) -> Any:
        return list(dataset[name]) if name in columns else None

    def covariates(kind: str, names: Sequence[str]) -> Any:
        if not names:
            return None
        if kind in columns:
            return list(dataset[kind])
        missing = [name for name in names if name not in columns]
        if missing:
            raise ValueError(
                f"the data set has no column {missing[0]!r} of config.{kind}, only {', '.join(columns)}; add it"
            )
        return np.stack([np.array(list(dataset[name]), dtype=np.float64) for name in names], axis=1)

    return make_data(
        padded(read("values")),
        padded(read("times")),
        mask=None if "mask" not in columns else padded(read("mask"), 0.0),
        growth_covariates=covariates("growth_covariates", growth_covariates),
        cluster_covariates=covariates("cluster_covariates", cluster_covariates),
        labels=read("labels"),
    )


def padded(rows: Sequence[Any], fill: float = np.nan) -> Any:
    """Lists of different lengths as one array, filled up at the end.

    Args:
        rows: A list of numbers, or of lists of numbers, for each person.
        fill: What stands after the end of a list. Default: NaN.

    Returns:
        [N, J] or [N, J, D].

    Example:
        >>> from hf_mixture.models.trajectory_moe.data import padded
        >>> padded([[1, 2], [3]], 0.0).tolist()
        [[1.0, 2.0], [3.0, 0.0]]
    """
    arrays = [np.array(row, dtype=np.float64) for row in rows]
    longest = max((len(array) for array in arrays), default=0)
    found = np.full((len(arrays), longest, *(arrays[0].shape[1:] if arrays else ())), fill)
    for place, array in enumerate(arrays):
        found[place, : len(array)] = array
    return found
