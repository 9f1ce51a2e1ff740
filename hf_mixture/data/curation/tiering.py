"""The tier of a document, from everything that is known about its licence and its origin."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache, partial

from hf_mixture.data.curation.licences.finding import LicenceFinding
from hf_mixture.data.curation.stage import Outcome, Row
from hf_mixture.data.curation.tiers import TierPolicy, assign_tier


UNKNOWN = "NOASSERTION"


@dataclass(frozen=True, kw_only=True)
class TierOptions:
    """Options of the stage `tier`.

    Args:
        policy: A file of the classes of licences and the tiers of origins, of the format of `rules/tier_policy.yaml`.
            Default: that file.
    """

    policy: str | None = None


class Tiering:
    """Gives every document a tier, or rejects it.

    Args:
        options: The policy.
    """

    name = "tier"

    def __init__(self, options: TierOptions) -> None:
        policy = TierPolicy.from_file(options.policy)
        # Many documents share one licence and origin; the words of the notice do not change the decision.
        self._decide = lru_cache(maxsize=4096)(partial(assign_tier, policy=policy))

    def __call__(self, row: Row) -> Outcome:
        """Add `tier`, `tier_reason` and `license_reported`; reject what has no tier."""
        finding: LicenceFinding = row["license_finding"]
        model, licence = row.get("generator_model"), row.get("generator_license")
        decision = self._decide(
            LicenceFinding(spdx=finding.spdx, source=finding.source, restrictive=finding.restrictive),
            generator_licence=licence or (UNKNOWN if model else None),
            seed_licence=row.get("seed_license"),
            file_level_provenance=bool(row.get("file_level_provenance")),
            government=row["government"],
        )
        added = {
            "tier": decision.tier,
            "tier_reason": decision.reason,
            "license_reported": list(decision.reported),
        }
        if decision.tier is not None:
            return added, None
        if finding.restrictive:
            return added, "restricted"
        return added, "no_licence" if finding.spdx is None else "refused_licence"
