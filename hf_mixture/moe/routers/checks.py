"""Checks of router options."""

from __future__ import annotations

import math


def check_number(
    name: str, value: float, *, above: float | None = None, at_least: float | None = None, at_most: float | None = None
) -> float:
    """Check one number.

    Args:
        name: Name of the option.
        value: Its value.
        above: Bound that the value must exceed.
        at_least: Smallest value.
        at_most: Largest value.

    Returns:
        The value.

    Raises:
        ValueError: If it is no finite number or out of range.
    """
    number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    low = number and (above is None or value > above) and (at_least is None or value >= at_least)
    if low and (at_most is None or value <= at_most):
        return value
    bounds = [("above", above), ("at least", at_least), ("at most", at_most)]
    rule = " and ".join(f"{word} {bound:g}" for word, bound in bounds if bound is not None)
    raise ValueError(f"{name}={value!r} must be a number{f' {rule}' if rule else ''}; give one")


def check_integer(name: str, value: int, *, at_least: int, at_most: int | None = None) -> int:
    """Check one integer.

    Args:
        name: Name of the option.
        value: Its value.
        at_least: Smallest value.
        at_most: Largest value.

    Returns:
        The value.

    Raises:
        ValueError: If it is no integer or out of range.
    """
    integer = isinstance(value, int) and not isinstance(value, bool)
    if integer and value >= at_least and (at_most is None or value <= at_most):
        return value
    rule = f"from {at_least} to {at_most}" if at_most is not None else f"of at least {at_least}"
    raise ValueError(f"{name}={value!r} must be an integer {rule}; give one")
