"""The rules for the names and weights of a mixture."""

from __future__ import annotations

import logging
import math
import numbers
from collections.abc import Iterable
from typing import Any

from hf_mixture.data.source import check_text


logger = logging.getLogger(__name__)

EXACT_SUM = 1e-9
ROUNDED_SUM = 1e-2


def check_names(names: Iterable[Any]) -> tuple[str, ...]:
    """Return the domain names as a tuple; raise ValueError when there is none or one is not a proper string."""
    checked = tuple(names)
    if not checked:
        raise ValueError("weights is empty; a mixture needs at least one domain: add one")
    for name in checked:
        check_text("domain name", name)
    return checked


def check_weights(names: tuple[str, ...], weights: tuple[Any, ...], normalise: bool) -> tuple[float, ...]:
    """Return the weights as floats that sum to 1 within 1e-9.

    Raises:
        ValueError: A weight is not a finite number >= 0, all are 0, or the sum is more than 1e-2 away from 1 and
            `normalise` is False.
    """
    values = []
    for name, weight in zip(names, weights, strict=True):
        if isinstance(weight, bool) or not isinstance(weight, numbers.Real):
            raise ValueError(
                f"weight of {name!r} is {weight!r}, a {type(weight).__name__}; a weight must be a number: correct it"
            )
        try:
            value = float(weight)
        except OverflowError:
            value = math.inf
        if not math.isfinite(value) or value < 0:
            raise ValueError(
                f"weight of {name!r} is {value!r}; a weight must be a finite number >= 0: "
                "correct it, or use 0 to leave the domain out"
            )
        values.append(abs(value))
    largest = max(values)
    if largest == 0:
        raise ValueError(
            f"all {len(values)} weights are 0; at least one domain must be drawn: give one a weight above 0"
        )
    # Scaled by the largest, so that the sum of huge weights does not overflow.
    total = math.fsum(value / largest for value in values)
    distance = abs(total * largest - 1)
    if distance <= EXACT_SUM:
        return tuple(values)
    if distance > ROUNDED_SUM and not normalise:
        raise ValueError(
            f"weights {dict(zip(names, values, strict=True))} sum to {total * largest:.6g}; they must sum to 1: "
            "correct them or pass normalise=True"
        )
    if not normalise:
        logger.warning("The weights sum to %.12g and are divided by that sum.", total * largest)
    return tuple(value / largest / total for value in values)
