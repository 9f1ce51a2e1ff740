"""Inclusion: which site a document is from, which licence it states, and whether its publisher has opted out."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from hf_mixture.data.curation.licences import find_licences
from hf_mixture.data.curation.opt_outs import OptOutRules
from hf_mixture.data.curation.stage import Outcome, Row
from hf_mixture.data.curation.url_rules import DomainRules, read_address


@dataclass(frozen=True, kw_only=True)
class InclusionOptions:
    """Options of the stage `inclusion`.

    Args:
        domain_rules: A file of rules on sites, of the format of `rules/domain_rules.yaml`. Default: that file.
        opt_out_rules: A file of rules on opt-outs, of the format of `rules/opt_outs.yaml`. Default: that file.
        respect_opt_outs: Whether documents whose publisher has opted out are rejected; it is recorded in any case.
            Default: true.
    """

    domain_rules: str | None = None
    opt_out_rules: str | None = None
    respect_opt_outs: bool = True


class Inclusion:
    """Records site, licence and opt-out of a document; rejects excluded sites and opt-outs.

    Args:
        options: The rules.
    """

    name = "inclusion"

    def __init__(self, options: InclusionOptions) -> None:
        self._options = options
        self._sites = DomainRules.from_file(options.domain_rules)
        self._opt_outs = OptOutRules.from_file(options.opt_out_rules)

    def __call__(self, row: Row) -> Outcome:
        """Add what was found about the licence, `domain`, `government` and `tdm_optout`."""
        url = row.get("url")
        match = self._sites.match(url) if url else None
        address = match.address if match is not None else read_address(url) if url else None
        finding = find_licences(
            row["text"],
            header=row.get("license"),
            card=row.get("card_license"),
            url=match.licence if match is not None else None,
        )
        opt_out = self._opt_outs.check(
            url or "",
            robots_txt=row.get("robots_txt"),
            headers=_headers(row.get("http_headers")),
            html=row.get("html_head"),
            tdmrep=row.get("tdmrep"),
            ai_txt=row.get("ai_txt"),
            text=row["text"],
        )
        added: dict[str, Any] = {
            "license_spdx": finding.spdx,
            "license_source": finding.source,
            "license_confidence": finding.confidence,
            "license_text_ref": None if finding.text_ref is None else list(finding.text_ref),
            "license_notice": finding.notice,
            "license_finding": finding,
            # Documents without an address are their source's.
            "domain": row["source"] if address is None else address.domain or address.host,
            "government": bool(row.get("government")) or (match is not None and match.group == "government"),
            "tdm_optout": "; ".join(opt_out.reasons) if opt_out.reserved else None,
        }
        if match is not None and match.group == "excluded":
            return added, "excluded_site"
        return added, "opt_out" if opt_out.reserved and self._options.respect_opt_outs else None


def _headers(text: str | None) -> dict[str, list[str]]:
    """The headers of a response: a JSON object from names to a value or several, or lines of `name: value`."""
    if not text:
        return {}
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if isinstance(found, dict):
        return {
            name: [str(one) for one in (value if isinstance(value, list) else [value])]
            for name, value in found.items()
        }
    headers: dict[str, list[str]] = {}
    for name, _, value in (line.partition(":") for line in text.splitlines() if ":" in line):
        headers.setdefault(name.strip().lower(), []).append(value.strip())
    return headers
