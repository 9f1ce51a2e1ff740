"""Cells of the tables of docs/results.md."""

from __future__ import annotations

from typing import Any


Rows = list[dict[str, Any]]


def subject(result: dict[str, Any]) -> str:
    """The adapter that the others are compared with."""
    return next(name for name in result["methods"] if name.startswith("MoS"))


def quartiles(row: dict[str, float]) -> str:
    """Median and quartiles of a ratio, to three decimals."""
    return f"{row['median']:.3f} ({row['quartile_1']:.3f} to {row['quartile_3']:.3f})"


def number(ratios: dict[str, float], key: str) -> str:
    """A ratio, or nothing where there is none."""
    return f"{ratios[key]:.3f}" if key in ratios else ""


def spread(ratios: dict[str, dict[str, float]], key: str) -> str:
    """Median and quartiles of a ratio, to two decimals, or nothing where there is none."""
    if key not in ratios:
        return ""
    row = ratios[key]
    return f"{row['median']:.2f} ({row['quartile_1']:.2f} to {row['quartile_3']:.2f})"
