"""Every rule of the data files fires on an example, through everything that stands between it and a text.

The examples are made from the rules as written, with their accents and capitals, so that a rule that folding makes
unreachable fails.
"""

from __future__ import annotations

import re
from typing import Any

import pytest
from regex_samples import samples

from hf_mixture.data.curation.licences import find_licences, normalise_licence
from hf_mixture.data.curation.licences.fold import fold
from hf_mixture.data.curation.licences.language import language
from hf_mixture.data.curation.licences.names import find_names
from hf_mixture.data.curation.licences.prefilter import may_state_licence
from hf_mixture.data.curation.opt_outs import default_opt_out_rules
from hf_mixture.data.curation.rules.files import read_rules
from hf_mixture.data.curation.tiers import default_policy
from hf_mixture.data.curation.url_rules import DomainRule, default_domain_rules


NAMES, WORDS = read_rules("licence_names"), read_rules("licence_language")


def flat(rules: dict[str, list[str]] | list[str]) -> list[str]:
    return [rule for part in rules.values() for rule in part] if isinstance(rules, dict) else rules


@pytest.mark.parametrize("rule", NAMES["names"] + NAMES["urls"], ids=lambda rule: rule["pattern"][:40])
def test_names_and_addresses(rule: dict[str, Any]) -> None:
    found = {name.spdx for text in samples(rule["pattern"]) for name in find_names(fold(text).text)}
    assert rule["spdx"] in found


@pytest.mark.parametrize("rule", NAMES["names"], ids=lambda rule: rule["pattern"][:40])
def test_first_words_of_names(rule: dict[str, Any]) -> None:
    starts = {re.findall("[a-z0-9]+", text)[0] for text in samples(rule["pattern"])}
    assert set(rule["first"]) & starts


@pytest.mark.parametrize("element", ["nc", "sa", "nd"])
def test_elements_of_creative_commons(element: str) -> None:
    for pattern in NAMES["creative_commons"][element]:
        for text in samples(pattern):
            name = normalise_licence(f"Creative Commons Attribution-{text} 4.0")
            assert name is not None, text
            assert f"-{element.upper()}-" in name, text


def test_attribution_and_zero_in_all_languages() -> None:
    for pattern in NAMES["creative_commons"]["by"]:
        for text in samples(pattern):
            assert normalise_licence(f"Creative Commons {text} 4.0") == "CC-BY-4.0", text
    for pattern in NAMES["creative_commons"]["zero"]:
        assert normalise_licence(f"CC{pattern}") == "CC0-1.0"


def test_aliases_and_exceptions() -> None:
    assert {key: normalise_licence(key) for key in NAMES["aliases"]} == NAMES["aliases"]
    for short, exception in NAMES["exceptions"].items():
        assert normalise_licence(f"GPL-2.0-only WITH {short}") == f"GPL-2.0-only WITH {exception}"


@pytest.mark.parametrize("rule", NAMES["texts"], ids=lambda rule: f"{rule['spdx']}")
def test_licence_texts(rule: dict[str, Any]) -> None:
    text = samples(rule["opening"])[0] + ": " + samples(rule.get("followed_by", ""))[0]
    assert rule["spdx"] in {notice.spdx for notice in find_licences(text).notices if notice.kind == "licence text"}


@pytest.mark.parametrize(
    ("key", "field"),
    [
        ("verbs", "verb"),
        ("self", "self_reference"),
        ("auxiliaries", "auxiliary"),
        ("detours", "detour"),
        ("negations", "negation"),
        ("harmless", "harmless"),
        ("revocations", "revocation"),
        ("media", "media"),
        ("texts", "texts"),
        ("parts", "parts"),
        ("exemptions", "exemption"),
        ("public_domain", "public_domain"),
        ("us_government", "us_government"),
    ],
)
def test_words_of_sentences(key: str, field: str) -> None:
    for pattern in flat(WORDS[key]):
        text = f" {samples(pattern)[0]} "
        assert getattr(language(), field).search(fold(text).text), pattern


def test_links_fields_openings_fillers_and_works() -> None:
    rules = language()
    for pattern in flat(WORDS["links"]):
        assert rules.link.search(fold(f"x {samples(pattern)[0]} the ").text), pattern
    for pattern in WORDS["links"]["strong"]:
        assert rules.strong_link.search(f"x {pattern} the "), pattern
    for pattern in WORDS["fields"]:
        assert rules.field.search(fold(f"{samples(pattern)[0]}: ").text), pattern
    for pattern in flat(WORDS["openings"]):
        assert rules.opening.match(fold(samples(pattern)[0]).text), pattern
    for word in WORDS["fillers"]:
        assert rules.link.search(fold(f"under {samples(word)[0]} ").text), word
        assert rules.joiner.fullmatch(fold(f" {samples(word)[0]} ").text), word
    for pattern in WORDS["works"]["nouns"]:
        assert rules.works.search(fold(samples(pattern)[0]).text), pattern
    for word in WORDS["works"]["demonstratives"]:
        assert rules.this_work.search(f"{word} software"), word
    assert all(fold(word).text in rules.wholes for word in WORDS["wholes"])


@pytest.mark.parametrize(
    ("reason", "pattern"),
    [(rule["reason"], pattern) for rule in WORDS["restrictions"] for pattern in rule["patterns"]],
)
def test_restrictions(reason: str, pattern: str) -> None:
    """Each phrase refuses a document that its card would admit, also through the test that comes before it."""
    for text in samples(pattern):
        finding = find_licences(f"We say: {text}.", card="mit")
        assert finding.restrictive is not None, text
        assert finding.restrictive.startswith(reason) or reason in {notice.restrictive for notice in finding.notices}


def test_what_takes_restrictions_back() -> None:
    for text in (
        "for commercial and non-commercial use",
        "for non-commercial and commercial use",
        "not limited to non-commercial use only",
        "Some rights reserved.",
        "No rights reserved.",
    ):
        assert find_licences(text, card="mit").restrictive is None, text


def test_anchors() -> None:
    for anchor in WORDS["anchors"]:
        assert may_state_licence(f"some {anchor} text"), anchor
    for pattern in WORDS["anchor_patterns"]:
        for text in samples(pattern):
            assert may_state_licence(f"some {text} text"), text


def test_licences_of_the_policy() -> None:
    policy = default_policy()
    for key, name in policy.licences.items():
        assert normalise_licence(key.lower()) == key
        assert policy.judge(key).accepted == policy.classes[name]["accept"]
    assert set(policy.licences.values()) == set(policy.classes)


@pytest.mark.parametrize("rule", default_domain_rules().rules, ids=lambda rule: rule.value)
def test_domain_rules(rule: DomainRule) -> None:
    country = {"gub": "uy", "govt": "nz", "gouv": "fr", "gob": "mx", "gv": "at", "gov": "br"}
    host = {"tld": f"example.{rule.value}", "second_level_label": f"www.{rule.value}.{country.get(rule.value)}"}
    host["public_suffix"] = f"www.example.{rule.value}"
    found = default_domain_rules().match("https://" + host.get(rule.kind, rule.value) + "/page")
    assert found is not None
    assert found.rule == rule
    if rule.licence is not None:
        assert default_policy().judge(str(normalise_licence(rule.licence))).accepted


def test_opt_out_rules() -> None:
    rules, file = default_opt_out_rules(), read_rules("opt_outs")
    url = "https://example.org/a"
    for agent in file["user_agents"]:
        reasons = rules.check(url, robots_txt=f"User-agent: {agent}\nDisallow: /").reasons
        assert f"robots.txt: {agent} may not fetch the page" in reasons
    for value in file["robots_values"]["text"]:
        assert rules.check(url, html=f'<META content="{value}" name="ROBOTS">').reserved
    for value in file["robots_values"]["media"]:
        assert rules.check(url, headers={"x-robots-tag": value.upper()}).media_reserved
    for signal in file["content_signals"]:
        assert rules.check(url, robots_txt=f"User-agent: *\nContent-Signal: search=yes, {signal}\nAllow: /").reserved
    for extension in file["ai_txt_extensions"]:
        assert rules.check(url, ai_txt=f"User-Agent: *\nDisallow: *.{extension}").reserved
    for phrase in file["phrases"]:
        for text in samples(phrase):
            assert rules.check(url, text=f"Note: {text}.").reserved, text
