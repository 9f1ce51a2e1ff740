"""Private surface of datasets that this package relies on."""

from __future__ import annotations

from typing import Any


def fingerprint_of(dataset: Any) -> str:
    """Return the fingerprint of a `datasets.Dataset`: equal fingerprints mean equal content."""
    return str(dataset._fingerprint)
