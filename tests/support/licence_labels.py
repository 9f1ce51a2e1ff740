"""The statements of licences that are labelled by hand, and what the package decides about one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from hf_mixture.data.curation.licences import LicenceFinding, find_licences
from hf_mixture.data.curation.tiers import TierDecision, assign_tier


_FILE = Path(__file__).parents[1] / "data" / "curation" / "licence_labels.yaml"


def labelled() -> list[dict[str, Any]]:
    """Return the rows of all groups."""
    groups = yaml.safe_load(_FILE.read_text(encoding="utf-8"))
    return [row for name, rows in groups.items() if name not in ("format", "version") for row in rows]


def find(row: dict[str, Any]) -> LicenceFinding:
    """Return what is found for a row."""
    return find_licences(row.get("text", ""), header=row.get("header"), card=row.get("card"), url=row.get("url"))


def decide(row: dict[str, Any]) -> TierDecision:
    """Return the tier of a document of which nothing but the row is known."""
    return assign_tier(find(row), file_level_provenance=True, government=False)
