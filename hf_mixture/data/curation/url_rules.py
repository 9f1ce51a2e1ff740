"""Rules on sites: which are governments', which state a licence, which are left out; never a substring of an address.

A host is compared label by label from the right, after userinfo, port and spelling are out of the way: names are put
in their ASCII form (IDNA, UTS 46), so that a name that only looks like another is another. What a registrable domain
is comes from the public suffix list that `tldextract` carries; nothing is downloaded.
"""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

from hf_mixture._extras import require
from hf_mixture.data.curation.rules.files import read_rules


Group = Literal["government", "licensed", "excluded"]
Kind = Literal["domain", "host", "tld", "second_level_label", "public_suffix", "path_prefix"]
_BAD = re.compile(r"[\x00-\x20\x7f\\<>\"^`{|}]")
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*:", re.IGNORECASE)
_LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)")


@dataclass(frozen=True)
class Address:
    """The parts of an address that rules look at.

    Args:
        host: Host in its ASCII form, lower case, without a final dot.
        domain: Registrable domain, such as "example.co.uk", or None when the host is itself a public suffix.
        suffix: Public suffix, such as "co.uk", or "" for a host without one.
        path: Path with its escapes and dots resolved; "/" at least.
    """

    host: str
    domain: str | None
    suffix: str
    path: str


@dataclass(frozen=True)
class DomainRule:
    """One rule.

    Args:
        kind: "domain" (the domain and all below it), "host" (this host alone), "tld" (a top-level domain),
            "second_level_label" (a label that is a public suffix under a country: "gov" for gov.br), "public_suffix"
            (all that is registered under it) or "path_prefix" (a domain and all below it, under one path).
        value: What the kind says; for "path_prefix" domain and path, such as "example.org/docs".
        group: "government", "licensed" or "excluded".
        licence: Licence that the site states, as an SPDX expression, or None.
        basis: Why the rule is there.
    """

    kind: Kind
    value: str
    group: Group
    licence: str | None = None
    basis: str = ""


@dataclass(frozen=True)
class DomainMatch:
    """The rule that an address meets.

    Args:
        rule: The rule.
        address: The address.
    """

    rule: DomainRule
    address: Address

    @property
    def group(self) -> Group:
        """The group of the rule."""
        return self.rule.group

    @property
    def licence(self) -> str | None:
        """The licence that the site states, or None."""
        return self.rule.licence


@cache
def _extract() -> Any:
    library = require("tldextract", used_for="reading domains", extra="curation")
    return library.TLDExtract(suffix_list_urls=(), cache_dir=None)


def read_address(url: str) -> Address | None:
    """Return the parts of an address, or None for one that is not the address of a web page.

    Args:
        url: An address with or without `http://` or `https://`.

    Example:
        ```python
        >>> read_address("https://user@WWW.Example.co.uk:8080/a/../b?c")
        Address(host='www.example.co.uk', domain='example.co.uk', suffix='co.uk', path='/b')
        >>> read_address("https://www.python.org@example.com/").host
        'example.com'
        >>> read_address("mailto:someone@example.org") is None
        True

        ```
    """
    if not isinstance(url, str) or _BAD.search(url := url.strip()) or not url:
        return None
    if "://" not in url.split("?", 1)[0].split("#", 1)[0]:
        if _SCHEME.match(url) and not re.match(r"[^/:@]+:\d{1,5}(?:[/?#]|$)", url):
            return None
        url = "http://" + url.removeprefix("//")
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        return None
    if parts.scheme.lower() not in ("http", "https") or not host or "%" in host or (host := _ascii(host)) is None:
        return None
    found = _extract().extract_str(host)
    path = posixpath.normpath("/" + unquote(parts.path).lstrip("/")) if parts.path else "/"
    return Address(host, found.top_domain_under_public_suffix or None, found.suffix, path)


def _ascii(host: str) -> str | None:
    """The host in ASCII, or None for one that no name server knows; addresses of machines are none of our sites."""
    host = host.removesuffix(".")
    if not host.isascii():
        idna = require("idna", used_for="reading domains", extra="curation")
        try:
            host = idna.encode(host, uts46=True).decode("ascii")
        except idna.IDNAError:
            return None
    host = host.lower()
    labels = host.split(".")
    if len(host) > 253 or not all(_LABEL.fullmatch(label) for label in labels) or labels[-1].isdigit():
        return None
    return host


class DomainRules:
    """A list of rules, looked up by address.

    Excluded sites come first; then the most specific rule counts: a path before a host before a domain, a longer
    domain before a shorter one, and labels last.

    Args:
        rules: The rules.

    Raises:
        ValueError: A rule is not of the form that its kind asks for, or two have the same kind and value.

    Example:
        ```python
        >>> rules = DomainRules([
        ...     DomainRule("domain", "python.org", "licensed", "PSF-2.0"),
        ...     DomainRule("second_level_label", "gov", "government"),
        ... ])
        >>> rules.match("https://docs.python.org/3/").licence
        'PSF-2.0'
        >>> rules.match("https://www.gov.br/planalto").group
        'government'
        >>> rules.match("https://notpython.org/"), rules.match("https://python.org.example.com/")
        (None, None)

        ```
    """

    def __init__(self, rules: Iterable[DomainRule]) -> None:
        self.rules = tuple(rules)
        self._table: dict[tuple[Kind, str], list[tuple[str, DomainRule]]] = {}
        for rule in self.rules:
            name, path = _check(rule)
            entries = self._table.setdefault((rule.kind, name), [])
            if any(known == path for known, _ in entries):
                raise ValueError(f"two rules are {rule.kind} {rule.value!r}; keep one of them")
            entries.append((path, rule))
        for entries in self._table.values():
            entries.sort(key=lambda entry: -len(entry[0]))

    @classmethod
    def from_file(cls, path: str | os.PathLike[str] | None = None) -> DomainRules:
        """Read rules.

        Args:
            path: A YAML file of the format of `rules/domain_rules.yaml`. Default: that file.

        Returns:
            The rules.

        Raises:
            FileNotFoundError: There is no file at `path`.
            ValueError: The file breaks its schema, or a rule is not of the form that its kind asks for.
        """
        document = read_rules("domain_rules", path)
        return cls(
            DomainRule(entry["kind"], entry["value"], group, entry.get("licence"), entry.get("basis", ""))
            for group in ("government", "licensed", "excluded")
            for entry in document[group]
        )

    def match(self, url: str) -> DomainMatch | None:
        """Return the rule that an address meets, or None.

        Args:
            url: The address of a document.
        """
        address = read_address(url)
        if address is None:
            return None
        rules = list(self._matches(address))
        excluded = [rule for rule in rules if rule.group == "excluded"]
        return DomainMatch((excluded or rules)[0], address) if rules else None

    def _matches(self, address: Address) -> Iterable[DomainRule]:
        """The rules that an address meets, the most specific first."""
        labels = address.host.split(".")
        names = [".".join(labels[index:]) for index in range(len(labels))]
        for name in names:
            for path, rule in self._table.get(("path_prefix", name), ()):
                if address.path == path or address.path.startswith(path + "/"):
                    yield rule
        yield from self._rules("host", address.host)
        for name in names:
            yield from self._rules("domain", name)
        suffix = address.suffix.split(".")
        yield from self._rules("public_suffix", address.suffix)
        if len(suffix) == 2 and len(suffix[1]) == 2:
            yield from self._rules("second_level_label", suffix[0])
        yield from self._rules("tld", labels[-1])

    def _rules(self, kind: Kind, name: str) -> Iterable[DomainRule]:
        return (rule for _, rule in self._table.get((kind, name), ()))


def _check(rule: DomainRule) -> tuple[str, str]:
    """The name and the path that a rule is looked up by."""
    name, _, path = rule.value.partition("/")
    single = rule.kind in ("tld", "second_level_label")
    wanted = {"tld": "one label", "second_level_label": "one label", "path_prefix": "a domain, a slash and a path"}
    labels = name.split(".")
    right = _ascii(name) == name and (len(labels) == 1 if single else len(labels) > 1)
    if not right or bool(path) != (rule.kind == "path_prefix") or path.endswith("/"):
        raise ValueError(
            f"the rule {rule.kind} {rule.value!r} must be {wanted.get(rule.kind, 'a domain')}, in lower case and "
            "ASCII (xn--... for other letters), without scheme and final slash"
        )
    return name, f"/{path}" if path else ""


@cache
def default_domain_rules() -> DomainRules:
    """Return the rules of `rules/domain_rules.yaml`."""
    return DomainRules.from_file()
