"""Rules on sites: what each kind admits, and what only looks like it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_mixture.data.curation.rules.files import read_rules
from hf_mixture.data.curation.url_rules import DomainRule, DomainRules, default_domain_rules, read_address


PUBLISHED = Path(__file__).parents[4] / "shared" / "data" / "mixturevitae" / "domain_allowlist.yaml"
RULES = DomainRules(
    [
        DomainRule("domain", "python.org", "licensed", "PSF-2.0"),
        DomainRule("host", "www.gob.example", "government"),
        DomainRule("tld", "gov", "government"),
        DomainRule("second_level_label", "gov", "government"),
        DomainRule("public_suffix", "go.jp", "government"),
        DomainRule("path_prefix", "huggingface.co/docs", "licensed", "Apache-2.0"),
        DomainRule("domain", "bücher.example".encode("idna").decode(), "licensed", "CC-BY-4.0"),
        DomainRule("domain", "loc.gov", "excluded"),
        DomainRule("path_prefix", "python.org/psf", "excluded"),
        DomainRule("path_prefix", "python.org/dev/peps", "licensed", "CC0-1.0"),
    ]
)


@pytest.mark.parametrize(
    ("url", "value"),
    [
        ("https://python.org", "python.org"),
        ("https://docs.python.org/3/", "python.org"),
        ("http://PYTHON.ORG./x", "python.org"),
        ("python.org/x", "python.org"),
        ("python.org:8080/x", "python.org"),
        ("//python.org/x", "python.org"),
        ("https://user:word@python.org:443/x?y#z", "python.org"),
        ("https://ｐｙｔｈｏｎ.org/", "python.org"),
        ("https://www.gob.example/x", "www.gob.example"),
        ("https://nih.gov", "gov"),
        ("https://www.ncbi.nlm.nih.gov/pmc/", "gov"),
        ("https://www.planalto.gov.br/", "gov"),
        ("https://cao.go.jp/", "go.jp"),
        ("https://huggingface.co/docs", "huggingface.co/docs"),
        ("https://huggingface.co/docs/transformers", "huggingface.co/docs"),
        ("https://huggingface.co/blog/../docs/x", "huggingface.co/docs"),
        ("https://bücher.example/", "xn--bcher-kva.example"),
        ("https://www.python.org/dev/peps/pep-0008", "python.org/dev/peps"),
        ("https://www.loc.gov/x", "loc.gov"),
        ("https://www.python.org/psf/x", "python.org/psf"),
    ],
)
def test_what_a_rule_admits(url: str, value: str) -> None:
    found = RULES.match(url)
    assert found is not None
    assert found.rule.value == value


@pytest.mark.parametrize(
    "url",
    [
        "https://notpython.org/",
        "https://python.org.example.com/",
        "https://python.org@example.com/",
        "https://example.com/python.org/",
        "https://example.com/?u=https://python.org/",
        "https://example.com#python.org",
        "https://example.com\\@python.org/",
        "https://pythοn.org/",  # a Greek omicron
        "https://xn--pythn-gxe.org/",
        "https://py\u00adthon.org.evil.example/",
        "https://python%2eorg.example.com/",
        "https://%70ython.org/",
        "https://python.org%00.example.com/",
        "https://python.org\n.example.com/",
        "https://python..org/",
        "https://-python.org/",
        "https://gob.example/",
        "https://sub.www.gob.example/",
        "https://gov.example.com/",
        "https://nih.gov.example.com/",
        "https://nihgov/",
        "https://www.gov.com/",
        "https://gov.de/",
        "https://go.jp.example.com/",
        "https://www.go.com/",
        "https://huggingface.co/docsearch",
        "https://huggingface.co/docs/../spaces",
        "https://huggingface.co/docs/%2e%2e/spaces",
        "https://huggingface.co/Docs",
        "ftp://python.org/",
        "mailto:someone@python.org",
        "javascript:python.org",
        "https://10.0.0.1/",
        "https://[::1]/",
        "https://[python.org]/",
        "https://python.org:port/",
        "https://",
        "",
        "   ",
        "/docs/python.org",
    ],
)
def test_what_only_looks_like_it(url: str) -> None:
    assert RULES.match(url) is None


@settings(max_examples=500, deadline=None)
@given(st.text(max_size=60))
def test_any_text_is_read_without_fault(text: str) -> None:
    for url in (text, "https://" + text, f"https://python.org.{text}/", f"https://{text}python.org/"):
        address = read_address(url)
        if address is not None:
            assert address.host == read_address(f"https://{address.host}/").host  # type: ignore[union-attr]
            assert address.path.startswith("/")


def test_a_private_suffix_is_not_a_public_one() -> None:
    address = read_address("https://someone.github.io/x")
    assert address is not None
    assert (address.domain, address.suffix) == ("github.io", "io")


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("domain", "https://python.org"),
        ("domain", "Python.org"),
        ("domain", "org"),
        ("domain", "bücher.example"),
        ("domain", "python.org/x"),
        ("tld", ".gov"),
        ("second_level_label", "gov.br"),
        ("path_prefix", "python.org"),
        ("path_prefix", "python.org/x/"),
    ],
)
def test_a_rule_of_the_wrong_form_is_refused(kind: Any, value: str) -> None:
    with pytest.raises(ValueError, match="must be"):
        DomainRules([DomainRule(kind, value, "licensed")])


def test_the_same_rule_twice_is_refused() -> None:
    rule = DomainRule("domain", "python.org", "licensed")
    with pytest.raises(ValueError, match=r"two rules are domain 'python\.org'"):
        DomainRules([rule, rule])


def test_a_file_of_the_user(tmp_path: Path) -> None:
    path = tmp_path / "rules.yaml"
    document = {"format": "hf_mixture.domain-rules", "version": 1, "government": [], "licensed": [], "excluded": []}
    document["licensed"] = [{"kind": "domain", "value": "example.org", "licence": "MIT", "basis": "ours"}]
    path.write_text(yaml.safe_dump(document))
    found = DomainRules.from_file(path).match("https://a.example.org/")
    assert found is not None
    assert (found.group, found.licence, found.address.domain) == ("licensed", "MIT", "example.org")
    path.write_text(yaml.safe_dump(document | {"licensed": [{"kind": "substring", "value": ".gov", "basis": "x"}]}))
    with pytest.raises(ValueError, match=r"\['licensed'\]\[0\]\['kind'\].*the kinds are domain, host"):
        DomainRules.from_file(path)


def test_what_ships_is_written_for_this_package() -> None:
    """Each rule says why it is there; sites whose licence belongs to media or forbids uses are left out."""
    rules = default_domain_rules()
    assert all(rule.basis for rule in rules.rules)
    for url, group in (
        ("https://en.wikipedia.org/wiki/Mixture", "licensed"),
        ("https://wikipedia.org/", "licensed"),
        ("https://huggingface.co/docs/datasets", "licensed"),
        ("https://www.un.org/en/", "government"),
        ("https://www.nih.gov", "government"),
        ("https://www.loc.gov/item/1", "excluded"),
        ("https://www.nltk.org/book/ch01.html", "excluded"),
        ("https://commons.wikimedia.org/wiki/File:X.jpg", "excluded"),
    ):
        found = rules.match(url)
        assert found is not None
        assert found.group == group
    assert rules.match("https://huggingface.co/spaces") is None


def published_rules() -> DomainRules:
    """The published list of domains, as rules."""
    if not PUBLISHED.exists():
        pytest.skip(
            f"the published list of domains is not at {PUBLISHED.parent.name}/{PUBLISHED.name}; it is not ours to ship"
        )
    document = yaml.safe_load(PUBLISHED.read_text(encoding="utf-8"))
    rules = []
    governmental = document["governmental"]
    for entry in [*governmental["us_federal"], *governmental["label_patterns"], *governmental["international"]]:
        pattern = entry["pattern"].rstrip(".")
        if entry["kind"] == "domain_any_suffix":
            stem = pattern.removesuffix("*").rstrip(".")
            rules += [
                DomainRule("domain", f"{stem}.{suffix}", "government") for suffix in entry["suffixes_named_in_code"]
            ]
        else:
            rules.append(DomainRule(entry["kind"], pattern, "government"))
    for entry in document["permissive"]:
        path = entry.get("path_prefix")
        kind: Any = "path_prefix" if path else "domain"
        rules.append(DomainRule(kind, entry["domain"] + (path or ""), "licensed", entry["licence"]))
    rules += [DomainRule("domain", name, "excluded") for name in document["explicit_exclusions_in_code"]]
    return DomainRules(rules)


def test_the_published_list_is_read_by_labels() -> None:
    """Every published domain admits its bare host, which the published script misses, and no look-alike."""
    rules = published_rules()
    assert sum(rule.group == "licensed" for rule in rules.rules) >= 48
    for rule in rules.rules:
        if rule.kind not in ("domain", "path_prefix"):
            continue
        for url in (f"https://{rule.value}", f"http://www.{rule.value}/"):
            found = rules.match(url)
            assert found is not None
            assert found.group == rule.group
        if rule.group != "licensed":
            continue
        name, _, path = rule.value.partition("/")
        for url in (
            f"https://not{name}/{path}",
            f"https://{name}.example.com/{path}",
            f"https://example.com/{rule.value}",
        ):
            assert rules.match(url) is None, url
    for url in ("https://ministry.gov.example.com/", "https://example.int.com/", "https://www.un/"):
        found = rules.match(url)
        assert found is None or found.rule.value == "un"
    # The Nations' own domain is not in the published list; ours has it.
    assert rules.match("https://www.un.org/") is None


def test_schema_of_the_rules_that_ship() -> None:
    assert read_rules("domain_rules")["version"] == 1
