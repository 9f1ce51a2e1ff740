"""What a plan asks of weights and schedules."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hf_mixture.data.schedule import Segment, SourcePolicy


Float64 = NDArray[np.float64]


def check_weights(weights: Sequence[float] | Float64, num_sources: int | None) -> Float64:
    shares = np.asarray(weights, dtype=np.float64)
    if num_sources is not None and len(shares) != num_sources:
        raise ValueError(f"{len(shares)} weights for {num_sources} sources; give one for each")
    if not (np.isfinite(shares).all() and (shares >= 0).all() and shares.sum() > 0):
        raise ValueError(f"weights={shares.tolist()} must be finite numbers >= 0, one of them > 0; correct them")
    return shares / shares.sum()


def check_floors(weights: Sequence[float], policies: Sequence[SourcePolicy], names: Sequence[str]) -> None:
    for name, weight, policy in zip(names, weights, policies, strict=True):
        if weight < policy.min_weight - 1e-9:
            raise ValueError(
                f"weight {weight:.6g} of source {name!r} is below its min_weight={policy.min_weight}; raise the "
                "weight or lower the minimum"
            )


def check_schedule(weights: Sequence[float] | Float64, schedule: Sequence[Segment] | None) -> list[Segment]:
    """The segments of a plan, with normalised weights."""
    shares = check_weights(weights, None)
    segments = list(schedule or [Segment(0, tuple(shares.tolist()))])
    if segments[0].start != 0:
        raise ValueError(f"the schedule begins at {segments[0].start}; its first segment must start at 0: add one")
    for before, after in itertools.pairwise(segments):
        if not before.start < after.start:
            raise ValueError(f"a segment starts at {after.start}, not after {before.start}; put them in order")
    result = []
    for segment in segments:
        if segment.start != int(segment.start):
            raise ValueError(f"segment.start={segment.start!r} is not a whole position; round it")
        values = check_weights(segment.weights, len(shares))
        result.append(Segment(int(segment.start), tuple(values.tolist()), segment.interpolation))
    return result
