"""The rules for what a mixture says next to its weights: sources, schedule, policies, budget."""

from __future__ import annotations

import dataclasses
import numbers
from collections.abc import Mapping, Sequence
from typing import Any

from hf_mixture.data.schedule import Segment, SourcePolicy
from hf_mixture.data.source import UNITS, Source, shorten
from hf_mixture.data.weights import EXACT_SUM, check_weights


SCHEDULE_UNITS = (*UNITS, "fraction")


def check_sources(names: tuple[str, ...], sources: Mapping[str, Any]) -> None:
    """Raise ValueError unless `sources` maps domains to `Source`."""
    for name, source in sources.items():
        if name not in names:
            raise ValueError(
                f"sources names {name!r}, which has no weight; the domains are {list(names)}: add a weight"
            )
        if not isinstance(source, Source):
            raise ValueError(f"sources[{name!r}] is a {type(source).__name__}; it must be a Source: build one")


def check_schedule(
    names: tuple[str, ...], shares: tuple[float, ...], schedule: Any, unit: Any, *, normalise: bool
) -> tuple[Segment, ...]:
    """Return the segments of a schedule with complete, normalised weights in the order of `names`.

    Args:
        names: The domains.
        shares: Their weights at the start.
        schedule: A sequence of `Segment`, or of tuples (start, weights) and (start, weights, interpolation).
        unit: What the starts count.
        normalise: Divide the weights of each segment by their sum, whatever it is.

    Returns:
        The segments.

    Raises:
        ValueError: The schedule breaks a rule; the message names the segment.
    """
    if unit not in SCHEDULE_UNITS:
        raise ValueError(f"schedule_unit={unit!r} is not one of {list(SCHEDULE_UNITS)}; choose what the starts count")
    if isinstance(schedule, str | Mapping) or not isinstance(schedule, Sequence) or not schedule:
        raise ValueError(
            f"schedule={shorten(schedule)} is not a non-empty list of segments; write [(0, {{...}}), (1000, {{...}})] "
            "or leave it out"
        )
    segments = tuple(_segment(names, entry, unit, f"schedule[{i}]", normalise) for i, entry in enumerate(schedule))
    if segments[0].start != 0:
        raise ValueError(f"schedule[0].start={segments[0].start} must be 0, where the run begins: correct it")
    for i in range(1, len(segments)):
        if segments[i].start <= segments[i - 1].start:
            raise ValueError(
                f"schedule[{i}].start={segments[i].start} does not lie after {segments[i - 1].start}, the start "
                "before it; starts must strictly increase: sort or remove segments"
            )
    if segments[-1].interpolation == "linear":
        raise ValueError(
            f'schedule[{len(segments) - 1}].interpolation="linear" has no next segment to move to; add one that '
            'begins where the line ends, or write "constant"'
        )
    first = segments[0].weights
    if any(abs(a - b) > EXACT_SUM for a, b in zip(first, shares, strict=True)):
        raise ValueError(
            f"schedule[0].weights {dict(zip(names, first, strict=True))} differ from the weights at the start, "
            f"{dict(zip(names, shares, strict=True))}: write the same in both"
        )
    return (dataclasses.replace(segments[0], weights=shares), *segments[1:])


def _segment(names: tuple[str, ...], entry: Any, unit: str, where: str, normalise: bool) -> Segment:
    if isinstance(entry, Segment):
        start, weights, interpolation = entry.start, entry.weights, entry.interpolation
    elif isinstance(entry, tuple | list) and len(entry) in (2, 3):
        start, weights, interpolation = (*entry, "constant")[:3]
    else:
        raise ValueError(f"{where}={shorten(entry)} is neither a Segment nor (start, weights): write one of them")
    values = _weights(names, weights, where)
    try:
        segment = Segment(start, check_weights(names, values, normalise), interpolation)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    if unit == "fraction":
        if segment.start >= 1:
            raise ValueError(f"{where}.start={start} is not a fraction of the run in [0, 1); correct it")
        return dataclasses.replace(segment, start=float(segment.start))
    if segment.start != int(segment.start):
        raise ValueError(f"{where}.start={start} is not a whole number of {unit}; round it")
    return dataclasses.replace(segment, start=int(segment.start))


def _weights(names: tuple[str, ...], weights: Any, where: str) -> tuple[Any, ...]:
    if isinstance(weights, Mapping):
        if missing := [name for name in names if name not in weights]:
            raise ValueError(
                f"{where}.weights has no weight for {missing}; name every source: write 0 to leave it out"
            )
        if unknown := [name for name in weights if name not in names]:
            raise ValueError(f"{where}.weights names {unknown}; the sources are {list(names)}: remove or rename them")
        return tuple(weights[name] for name in names)
    if isinstance(weights, str) or not isinstance(weights, Sequence) or len(weights) != len(names):
        raise ValueError(
            f"{where}.weights={shorten(weights)} must be one number for each of {list(names)}: write them"
        )
    return tuple(weights)


def check_policies(names: tuple[str, ...], policies: Any, segments: Sequence[Segment]) -> tuple[tuple[str, Any], ...]:
    """Return (name, policy) for each source whose policy is not the default one, in the order of `names`.

    Args:
        names: The domains.
        policies: A map from name to `SourcePolicy`.
        segments: The weights that the policies must agree with.

    Returns:
        The pairs.

    Raises:
        ValueError: A name is unknown, a value is no policy, or a weight lies below a minimum share.
    """
    if not isinstance(policies, Mapping):
        raise ValueError(f"policies is a {type(policies).__name__}; it must map domain names to SourcePolicy")
    for name, policy in policies.items():
        if name not in names:
            raise ValueError(
                f"policies names {name!r}, which has no weight; the domains are {list(names)}: correct it"
            )
        if not isinstance(policy, SourcePolicy):
            raise ValueError(f"policies[{name!r}] is a {type(policy).__name__}; it must be a SourcePolicy: build one")
        column = names.index(name)
        for segment in segments:
            # The rounding of a normalised weight does not break a floor that was written with the same digits.
            if segment.weights[column] < policy.min_weight - EXACT_SUM:
                raise ValueError(
                    f"min_weight={policy.min_weight} of {name!r} is above its weight {segment.weights[column]} from "
                    f"{segment.start} on; raise the weight or lower min_weight"
                )
    # Floats only, so that equal policies are written alike.
    exact = {
        name: dataclasses.replace(
            policy,
            max_epochs=None if policy.max_epochs is None else float(policy.max_epochs),
            min_weight=float(policy.min_weight),
        )
        for name, policy in policies.items()
    }
    return tuple((name, exact[name]) for name in names if exact.get(name, SourcePolicy()) != SourcePolicy())


def check_budget(budget: Any) -> tuple[int, str]:
    """Return the budget as (amount, unit).

    Raises:
        ValueError: It is not a pair of an integer >= 1 and a unit.
    """
    if isinstance(budget, tuple | list) and len(budget) == 2:
        amount, unit = budget
        whole = isinstance(amount, numbers.Integral) and not isinstance(amount, bool)
        if whole and 1 <= int(amount) < 2**63 and unit in UNITS:
            return int(amount), str(unit)
    raise ValueError(
        f"budget={shorten(budget)} must be an integer in [1, 2**63) and one of {list(UNITS)}: write for example "
        '(1_000_000, "tokens")'
    )
