"""Tiers: expressions over the policy, and what provenance makes of an accepted licence."""

from __future__ import annotations

import pytest

from hf_mixture.data.curation.tiers import assign_tier


@pytest.mark.parametrize(
    ("licence", "tier"),
    [("MIT OR GPL-3.0", "1"), ("CC-BY-4.0 AND CC-BY-NC-4.0", None), ("Apache-2.0 WITH LLVM-exception", "1")],
)
def test_or_passes_with_one_member_and_fails_with_one(licence: str, tier: str | None) -> None:
    assert assign_tier(licence, file_level_provenance=True, government=False).tier == tier
