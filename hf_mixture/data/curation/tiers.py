"""Tiers: how sure it is that a document may be trained on, as a function of licences and provenance.

The tier follows from the licence of the document, the licences of the model and of the seed data that made it, whether
its provenance is known by file, and whether it is a government's (https://arxiv.org/abs/2509.25531, section 3); never
from the card of its data set alone. Which licence counts as what is a table that users may replace.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal, cast

from hf_mixture.data.curation.licences.expressions import is_exception, is_known_key, normalise_licence, parse
from hf_mixture.data.curation.licences.finding import LicenceFinding
from hf_mixture.data.curation.rules.files import read_rules


Tier = Literal["1", "2a", "2b", "3"]
TIERS: tuple[Tier, ...] = ("1", "2a", "2b", "3")


@dataclass(frozen=True)
class Verdict:
    """What a policy says about a licence.

    Args:
        accepted: Whether it is accepted.
        listed: Whether the policy knows every licence that the verdict depends on.
        reason: The licences that decide, and their class.
        reported: Licences of the decision that a card must name, such as share-alike ones.
    """

    accepted: bool
    listed: bool
    reason: str
    reported: tuple[str, ...] = ()


@dataclass(frozen=True)
class TierDecision:
    """The tier of a document, or why it has none.

    Args:
        tier: "1", "2a", "2b", "3", or None for a document that is refused.
        reason: What decided.
        reported: Licences inside that a card must name, such as share-alike ones.
    """

    tier: Tier | None
    reason: str
    reported: tuple[str, ...] = ()


@dataclass(frozen=True)
class TierPolicy:
    """The table behind `assign_tier`: classes of licences, and the tier of each kind of provenance.

    Args:
        name: Name of the policy.
        classes: For each class whether it is accepted and whether a card must report it.
        licences: The class of each licence, by SPDX identifier.
        with_exceptions: The class of each "LICENCE WITH EXCEPTION" that differs from that of the licence.
        tiers: The tier of each kind of provenance; None refuses.

    Example:
        ```python
        >>> policy = TierPolicy.from_file()
        >>> policy.judge("MIT OR GPL-3.0-only").accepted, policy.judge("MIT AND GPL-3.0-only").accepted
        (True, False)
        >>> policy.judge("CC-BY-SA-4.0").reported
        ('CC-BY-SA-4.0',)

        ```
    """

    name: str
    classes: Mapping[str, Mapping[str, bool]] = field(repr=False)
    licences: Mapping[str, str] = field(repr=False)
    with_exceptions: Mapping[str, str] = field(repr=False)
    tiers: Mapping[str, Tier | None] = field(repr=False)

    @classmethod
    def from_file(cls, path: str | os.PathLike[str] | None = None) -> TierPolicy:
        """Read a policy.

        Args:
            path: A YAML file of the format of `rules/tier_policy.yaml`. Default: that file.

        Returns:
            The policy.

        Raises:
            FileNotFoundError: There is no file at `path`.
            ValueError: The file breaks its schema, names a licence twice, or names a class or a licence that does not
                exist.
        """
        where = "tier_policy.yaml" if path is None else os.fspath(path)
        document = read_rules("tier_policy", path)
        licences: dict[str, str] = {}
        for name, keys in document["licences"].items():
            if name not in document["classes"]:
                raise ValueError(
                    f"{where}: licences has the class {name!r}, which classes does not have; add it there"
                )
            for key in keys:
                if key in licences:
                    raise ValueError(f"{where}: {key} stands in {licences[key]!r} and in {name!r}; keep one of them")
                if not is_known_key(key) and not key.startswith("LicenseRef-"):
                    raise ValueError(
                        f"{where}: {key!r} in {name!r} is no SPDX identifier; correct it, or write LicenseRef-{key}"
                    )
                licences[key] = name
        exceptions = {}
        for text, name in document["with_exceptions"].items():
            key = normalise_licence(text)
            if key is None or " WITH " not in key or name not in document["classes"]:
                raise ValueError(
                    f"{where}: with_exceptions has {text!r}: {name!r}; write "
                    '"GPL-2.0-only WITH Classpath-exception-2.0": permissive, with a class of this file'
                )
            exceptions[key] = name
        return cls(document["name"], document["classes"], licences, exceptions, document["tiers"])

    def judge(self, licence: str) -> Verdict:
        """Judge a licence: OR passes with one accepted member, AND fails with one refused member.

        Args:
            licence: A normalised SPDX expression.

        Returns:
            The verdict.
        """
        return self._judge(parse(licence))

    def _judge(self, node: Any) -> Verdict:
        operator = getattr(node, "operator", "").strip().upper()
        if operator == "OR":
            verdicts = [self._judge(child) for child in node.args]
            passing = [verdict for verdict in verdicts if verdict.accepted]
            # The choice is the user's: of two that pass the one with less to report is taken.
            return min(passing, key=lambda verdict: len(verdict.reported)) if passing else _joined(verdicts)
        if operator == "AND":
            verdicts = [self._judge(child) for child in node.args]
            failing = [verdict for verdict in verdicts if not verdict.accepted]
            return failing[0] if failing else _joined(verdicts)
        return self._judge_symbol(node)

    def _judge_symbol(self, node: Any) -> Verdict:
        if not hasattr(node, "exception_symbol"):
            return self._verdict(node.key, self.licences.get(node.key))
        text, exception = str(node.render()), node.exception_symbol.key
        if text in self.with_exceptions:
            return self._verdict(text, self.with_exceptions[text])
        if not is_exception(exception):
            return Verdict(False, False, f"{text}: {exception} is not an exception that only adds permissions")
        return self._verdict(text, self.licences.get(node.license_symbol.key))

    def _verdict(self, key: str, name: str | None) -> Verdict:
        if name is None:
            return Verdict(False, False, f"{key} is not in the policy")
        rule = self.classes[name]
        return Verdict(rule["accept"], True, f"{key} is {name}", (key,) if rule["accept"] and rule["report"] else ())


def _joined(verdicts: list[Verdict]) -> Verdict:
    return Verdict(
        all(verdict.accepted for verdict in verdicts),
        all(verdict.listed for verdict in verdicts),
        "; ".join(verdict.reason for verdict in verdicts),
        tuple(dict.fromkeys(key for verdict in verdicts for key in verdict.reported)),
    )


@cache
def default_policy() -> TierPolicy:
    """Return the policy of `rules/tier_policy.yaml`."""
    return TierPolicy.from_file()


def assign_tier(
    data_licence: str | LicenceFinding | None,
    *,
    generator_licence: str | None = None,
    seed_licence: str | None = None,
    file_level_provenance: bool,
    government: bool,
    policy: TierPolicy | None = None,
) -> TierDecision:
    """Decide the tier of a document.

    Args:
        data_licence: Licence of the document: what `find_licences` found, or an SPDX expression, or None. A finding
            that rests on the card of the data set, and a restriction that was found, count as what they are.
        generator_licence: Licence or terms of the model that wrote it; "NOASSERTION" when a model wrote it and its
            licence is not known. Default: None, no model wrote it.
        seed_licence: Licence of the data that it was made from; "NOASSERTION" when it was made from data whose licence
            is not known. Default: None, which for the text of a model means the same, and else that it was not made
            from other data.
        file_level_provenance: Whether the licence is known for this document and not only for its data set.
        government: Whether it is published by a government, as `DomainRules` says.
        policy: The table. Default: `rules/tier_policy.yaml`.

    Returns:
        The decision.

    Raises:
        TypeError: A flag is not a bool, or the licence is neither text nor a finding.

    Example:
        ```python
        >>> known = {"file_level_provenance": True, "government": False}
        >>> assign_tier("Apache-2.0", **known).tier
        '1'
        >>> assign_tier("Apache-2.0", generator_licence="llama3.1", seed_licence="CC-BY-4.0", **known).tier
        '2b'
        >>> assign_tier("CC-BY-NC-4.0", **known)
        TierDecision(tier=None, reason='data licence: CC-BY-NC-4.0 is noncommercial', reported=())

        ```
    """
    for name, flag in (("file_level_provenance", file_level_provenance), ("government", government)):
        if not isinstance(flag, bool):
            raise TypeError(f"{name}={flag!r} is a {type(flag).__name__}; it must be True or False")
    policy = policy or default_policy()
    licence, refusal, by_file = _read(data_licence, file_level_provenance)
    verdict = None if licence is None else _judge_text(policy, licence)
    if refusal is None and verdict is not None and not verdict.accepted:
        refusal = f"data licence: {verdict.reason}"
    seed = None if seed_licence is None else _judge_text(policy, seed_licence)
    if refusal is not None:
        return (
            _decide(policy, "government with a refused licence", refusal)
            if government
            else TierDecision(None, refusal)
        )
    if verdict is None:
        if government:
            return _decide(policy, "government", "no licence is stated")
        if seed is None or not seed.accepted:
            return TierDecision(None, "no licence is stated")
        verdict, kind = seed, "licence of the seeds"
        reason = f"no licence is stated; seed licence: {seed.reason}"
    else:
        kind, reason = ("stated" if by_file else "no file-level provenance"), f"data licence: {verdict.reason}"
    candidates = [(kind, reason, verdict.reported)]
    if seed is not None and not seed.accepted:
        candidates.append(("refused seeds" if seed.listed else "unaudited seeds", f"seed licence: {seed.reason}", ()))
    if generator_licence is not None:
        generator = _judge_text(policy, generator_licence)
        if not generator.accepted:
            candidates.append(("restricted generator", f"generator licence: {generator.reason}", ()))
        if seed is None:
            candidates.append(("unaudited seeds", "a model wrote it, and no licence of its seeds is stated", ()))
    return _lowest(policy, candidates, (*verdict.reported, *(seed.reported if seed else ())))


def _read(licence: str | LicenceFinding | None, by_file: bool) -> tuple[str | None, str | None, bool]:
    """The licence as an expression, why it is refused already, and whether it is known for the document."""
    if licence is None:
        return None, None, by_file
    if isinstance(licence, str):
        return licence, None, by_file
    if not isinstance(licence, LicenceFinding):
        raise TypeError(
            f"data_licence is a {type(licence).__name__}; it must be an SPDX expression, what "
            "find_licences returns, or None"
        )
    # What a document states of itself is known for the document; what its card states is not.
    if licence.source == "card":
        by_file = False
    return licence.spdx, licence.restrictive and f"restriction: {licence.restrictive}", by_file


def _judge_text(policy: TierPolicy, licence: str) -> Verdict:
    expression = normalise_licence(licence)
    if expression is None:
        return Verdict(False, False, f"{licence!r} is not understood")
    return policy.judge(expression)


def _decide(policy: TierPolicy, kind: str, reason: str) -> TierDecision:
    return TierDecision(policy.tiers[kind], f"{kind}: {reason}")


def _lowest(
    policy: TierPolicy, candidates: list[tuple[str, str, tuple[str, ...]]], reported: tuple[str, ...]
) -> TierDecision:
    """The worst of what applies: refusal, then the highest tier; the first of equals gives the reason."""
    rank: dict[str | None, int] = {None: len(TIERS), **{tier: index for index, tier in enumerate(TIERS)}}
    kind, reason, _ = max(candidates, key=lambda item: rank[policy.tiers[item[0]]])
    tier = policy.tiers[kind]
    return TierDecision(tier, f"{kind}: {reason}", tuple(dict.fromkeys(reported)) if tier is not None else ())


def max_tier(tiers: Iterable[str]) -> Tier:
    """Return the tier of a sample that is packed from several documents: the highest of theirs.

    Args:
        tiers: Tiers of the documents, at least one.

    Returns:
        The tier.

    Raises:
        ValueError: There is none, or one is not a tier, such as that of a refused document.

    Example:
        ```python
        >>> max_tier(["1", "2b", "2a"])
        '2b'

        ```
    """
    found = list(tiers)
    unknown = [tier for tier in found if tier not in TIERS]
    if unknown or not found:
        raise ValueError(
            f"tiers={found!r} must hold at least one of {list(TIERS)} and nothing else; leave out what was refused"
        )
    return cast(Tier, max(found, key=TIERS.index))
