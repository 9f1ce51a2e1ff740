"""The statements of licences labelled by hand (acceptance check 4): nothing that a hand refuses is accepted."""

from __future__ import annotations

from typing import Any

import pytest
from licence_labels import decide, find, labelled


ROWS = labelled()


def name_of(row: dict[str, Any]) -> str:
    return " ".join(str(row[key]) for key in ("header", "card", "url", "text") if key in row)[:60]


def test_there_are_enough_of_them() -> None:
    assert len(ROWS) >= 120
    assert sum(row["tier"] is None for row in ROWS) >= 60
    assert len({str(row) for row in ROWS}) == len(ROWS)


def test_nothing_is_accepted_that_a_hand_refuses() -> None:
    """Acceptance check 4: 0 false accepts, and the false rejects are the ones that the file names."""
    decided = [(row, decide(row).tier) for row in ROWS]
    assert [row for row, tier in decided if row["tier"] is None and tier is not None] == []
    rejects = [row for row, tier in decided if row["tier"] is not None and tier is None]
    assert rejects == [row for row in ROWS if row.get("known_false_reject")]


@pytest.mark.parametrize("row", ROWS, ids=name_of)
def test_the_tier_is_the_one_given_by_hand(row: dict[str, Any]) -> None:
    assert decide(row).tier == (None if row.get("known_false_reject") else row["tier"])
    if "spdx" in row:
        assert find(row).spdx == row["spdx"]
