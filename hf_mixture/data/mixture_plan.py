"""From what a mixture says to what a plan needs: positions for its schedule, draws and epochs at its budget.

A plan counts positions: one position is one example. Where a schedule or a budget counts tokens or bytes, the mean
length of an example of each source turns one into the other.

Letters: K sources; w_i shares in the mixture's unit u; m_i^u mean u per example of source i (1 for examples). The
share of source i in the positions is r_i = (w_i / m_i^u) / sum_j (w_j / m_j^u); a position holds sum_i r_i m_i^v of
unit v.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import numbers
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from hf_mixture.data.schedule import Segment, SourcePolicy


if TYPE_CHECKING:
    from hf_mixture.data.mixture import Mixture

Float = NDArray[np.float64]
MeanLengths = Mapping[str, float | Mapping[str, float]]

# Gauss-Legendre nodes on [0, 1]: exact to rounding for the smooth ratios that are integrated along a linear segment.
_NODES, _NODE_WEIGHTS = np.polynomial.legendre.leggauss(32)
_NODES, _NODE_WEIGHTS = (_NODES + 1) / 2, _NODE_WEIGHTS / 2


class PlanArguments(TypedDict):
    """Keyword arguments of `MixturePlan.build`."""

    weights: tuple[float, ...]
    schedule: tuple[Segment, ...] | None
    policies: tuple[SourcePolicy, ...] | None


def plan_arguments(
    mixture: Mixture, *, num_examples: int | None = None, mean_lengths: MeanLengths | None = None
) -> PlanArguments:
    """Resolve names, fractions and tokens; see `Mixture.plan_arguments`."""
    policies = mixture.policies
    return {
        "weights": mixture.shares,
        "schedule": None if mixture.schedule is None else _positions(mixture, num_examples, mean_lengths),
        "policies": tuple(policies.get(name, SourcePolicy()) for name in mixture.names) if policies else None,
    }


def _positions(mixture: Mixture, num_examples: int | None, mean_lengths: MeanLengths | None) -> tuple[Segment, ...]:
    """The schedule with integer positions as starts."""
    schedule = mixture.schedule or ()
    if mixture.schedule_unit == "fraction":
        if num_examples is None:
            raise ValueError(
                "the schedule counts fractions of the stream, whose length is not known; pass num_examples"
            )
        starts = [round(segment.start * num_examples) for segment in schedule]
    else:
        starts = [round(start) for start in exact_positions(mixture, mean_lengths)]
    for i in range(1, len(starts)):
        if starts[i] <= starts[i - 1]:
            raise ValueError(
                f"segments {i - 1} and {i} of the schedule both begin at position {starts[i]}; a segment must be at "
                "least one example long: lengthen the run or remove a segment"
            )
    return tuple(dataclasses.replace(segment, start=start) for segment, start in zip(schedule, starts, strict=True))


def exact_positions(mixture: Mixture, mean_lengths: MeanLengths | None) -> list[float]:
    """Where the segments of a schedule in examples, tokens or bytes begin, in positions that are not rounded."""
    schedule, unit = mixture.schedule or (), mixture.schedule_unit or "examples"
    if unit == "examples":
        return [float(segment.start) for segment in schedule]
    means, counts = mean_array(mixture, mixture.unit, mean_lengths), mean_array(mixture, unit, mean_lengths)
    starts = [0.0]
    for this, following in itertools.pairwise(schedule):
        per_position = float(_mean_rows(this, following, means) @ counts)
        starts.append(starts[-1] + (following.start - this.start) / per_position)
    return starts


def path(this: Segment, following: Segment | None, end: float = 1.0) -> Float:
    """float64 [32, K]: the weights at the nodes of a segment, from its start to the fraction `end` of it."""
    first = np.asarray(this.weights, dtype=np.float64)
    last = first if this.interpolation == "constant" or following is None else np.asarray(following.weights)
    return first + end * _NODES[:, None] * (last - first)


def row_shares(weights: Float, means: Float) -> Float:
    """Shares of the positions: [..., K] shares that count the unit of `means` [K], divided by it and normalised."""
    rows = weights / means
    return np.asarray(rows / rows.sum(axis=-1, keepdims=True))


def shares_in(
    mixture: Mixture, unit: str, mean_lengths: MeanLengths | None = None, weights: Sequence[float] | None = None
) -> tuple[float, ...]:
    """Return what shares that count the unit of a mixture are when they count another unit.

    The share of source i in unit v is proportional to w_i m_i^v / m_i^u.

    Args:
        mixture: The mixture.
        unit: The other unit.
        mean_lengths: As in `mean_array`.
        weights: K shares in the unit of the mixture. Default: those of the mixture.

    Returns:
        K shares, sum 1; the given ones, unchanged, when the units are the same.

    Raises:
        ValueError: A mean length is needed and not known.

    Example:
        ```python
        >>> from hf_mixture import Mixture
        >>> from hf_mixture.data.mixture_plan import shares_in
        >>> mixture = Mixture({"short": 0.5, "long": 0.5}, unit="examples")
        >>> shares_in(mixture, "tokens", {"tokens": {"short": 100, "long": 300}})
        (0.25, 0.75)

        ```
    """
    given = tuple(mixture.shares if weights is None else weights)
    if unit == mixture.unit:
        return given
    factors = mean_array(mixture, unit, mean_lengths) / mean_array(mixture, mixture.unit, mean_lengths)
    converted = np.asarray(given) * factors
    return tuple((converted / converted.sum()).tolist())


def starts_in(mixture: Mixture, unit: str, mean_lengths: MeanLengths | None = None) -> list[float]:
    """Return where the segments of a schedule begin, in a unit; those of a schedule in fractions stay fractions.

    Args:
        mixture: A mixture with a schedule.
        unit: "examples", "tokens" or "bytes".
        mean_lengths: As in `mean_array`.

    Returns:
        The starts, not rounded.

    Raises:
        ValueError: A mean length is needed and not known.
    """
    segments = mixture.schedule or ()
    if mixture.schedule_unit in (unit, "fraction"):
        return [float(segment.start) for segment in segments]
    positions = exact_positions(mixture, mean_lengths)
    means, counts = mean_array(mixture, mixture.unit, mean_lengths), mean_array(mixture, unit, mean_lengths)
    starts = [0.0]
    for i, (this, following) in enumerate(itertools.pairwise(segments)):
        length = positions[i + 1] - positions[i]
        starts.append(starts[-1] + length * float(_mean_rows(this, following, means) @ counts))
    return starts


def mean_array(mixture: Mixture, unit: str, mean_lengths: MeanLengths | None = None) -> Float:
    """Mean tokens or bytes per example of each source, in the order of the mixture.

    Args:
        mixture: The mixture; without `mean_lengths` for the unit, the sizes that its sources record are used.
        unit: "examples", "tokens" or "bytes"; an example has 1 example.
        mean_lengths: By unit: one number for all sources, or a map from name to number.

    Returns:
        float64 [K]. A source that is never drawn has 1 when nothing is known.

    Raises:
        ValueError: A drawn source has no mean length, or it is not a finite number > 0.
    """
    if unit == "examples":
        return np.ones(len(mixture.names))
    given: Any = (mean_lengths or {}).get(unit, {})
    if isinstance(given, Mapping):
        known = {**_recorded(mixture, unit), **given}
    else:
        known = dict.fromkeys(mixture.names, given)
    names = drawn(mixture)
    for name in names:
        if name not in known:
            raise ValueError(
                f"source {name!r} has no mean number of {unit} per example, which converts examples and {unit}; "
                f'record size={{"examples": ..., "{unit}": ...}} in its Source, or pass mean_lengths'
            )
        value: Any = known[name]
        if isinstance(value, bool) or not isinstance(value, numbers.Real) or not 0 < float(value) < math.inf:
            raise ValueError(
                f"mean length of {name!r} is {value!r} {unit}; it must be a finite number > 0: correct it"
            )
    return np.array([known[name] if name in names else 1.0 for name in mixture.names], dtype=np.float64)


def drawn(mixture: Mixture) -> list[str]:
    """The sources that have a weight above 0 at some time, in order."""
    tables = [mixture.shares, *(segment.weights for segment in mixture.schedule or ())]
    return [name for i, name in enumerate(mixture.names) if any(weights[i] > 0 for weights in tables)]


def _recorded(mixture: Mixture, unit: str) -> dict[str, float]:
    sizes = {name: dict(source.size or ()) for name, source in mixture.sources.items()}
    return {
        name: size[unit] / size["examples"] for name, size in sizes.items() if size.get("examples") and unit in size
    }


def expected_amounts(
    mixture: Mixture, amount: float, unit: str, mean_lengths: MeanLengths | None = None
) -> dict[str, float]:
    """Return how much of each source a run of a given length draws, caps left out of account.

    Args:
        mixture: The mixture.
        amount: Length of the run.
        unit: What `amount` counts.
        mean_lengths: As in `mean_array`; needed where the schedule or the budget counts another unit than the shares.

    Returns:
        By name, in the unit of the mixture.

    Raises:
        ValueError: A mean length is needed and not known.
    """
    segments: Sequence[Segment] = mixture.schedule or (Segment(0, mixture.shares),)
    if len(segments) == 1 and unit == mixture.unit:
        return {name: share * amount for name, share in mixture.weights.items()}
    means, counts = mean_array(mixture, mixture.unit, mean_lengths), mean_array(mixture, unit, mean_lengths)
    pieces = list(zip(segments, [*segments[1:], None], strict=True))
    rows = np.array([_mean_rows(this, following, means) for this, following in pieces])
    if mixture.schedule_unit == "fraction":
        lengths = np.diff([segment.start for segment in segments] + [1.0])
        lengths *= amount / (lengths @ rows @ counts)
        draws = lengths @ rows
    else:
        draws = np.zeros(len(mixture.names))
        starts = exact_positions(mixture, mean_lengths) if mixture.schedule else [0.0]
        for (this, following), row, length in zip(pieces, rows, np.diff([*starts, math.inf]), strict=True):
            left = amount - draws @ counts
            if length * (row @ counts) < left:
                draws += length * row
                continue
            if this.interpolation == "linear":
                end = _where_spent(this, following, means, counts, left / length)
                draws += end * length * _mean_rows(this, following, means, end)
            else:
                draws += left / (row @ counts) * row
            break
    return dict(zip(mixture.names, (draws * means).tolist(), strict=True))


def _mean_rows(this: Segment, following: Segment | None, means: Float, end: float = 1.0) -> Float:
    """float64 [K]: mean shares of the positions from the start of a segment to the fraction `end` of it."""
    return np.asarray(_NODE_WEIGHTS @ row_shares(path(this, following, end), means))


def _where_spent(this: Segment, following: Segment | None, means: Float, counts: Float, amount: float) -> float:
    """The fraction of a segment of length 1 after which `amount` is spent, by bisection."""
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        if middle * (_mean_rows(this, following, means, middle) @ counts) < amount:
            low = middle
        else:
            high = middle
    return high


def check_caps(mixture: Mixture) -> None:
    """Raise ValueError when the budget passes a cap with `overflow="error"`, as far as sizes are recorded."""
    if mixture.budget is None:
        return
    amount, unit = mixture.budget
    try:
        amounts = expected_amounts(mixture, amount, unit)
    except ValueError:
        # Without recorded lengths the epochs are not known; the dry run asks for them.
        return
    for name, policy in mixture.policies.items():
        source = mixture.sources.get(name)
        size = dict(source.size or ()).get(mixture.unit) if source else None
        if policy.max_epochs is None or policy.overflow != "error" or size is None:
            continue
        # One unit of slack: the plan rounds to whole examples.
        if amounts[name] > policy.max_epochs * size + 1:
            epochs = amounts[name] / size if size else math.inf
            raise ValueError(
                f"budget of {amount} {unit} draws source {name!r} for {epochs:.4g} epochs, above its "
                f'max_epochs={policy.max_epochs:g}; lower the budget or the weight, or choose overflow="renormalise" '
                'or "stop"'
            )
