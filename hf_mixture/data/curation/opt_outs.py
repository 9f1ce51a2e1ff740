"""Opt-outs: what a site says about mining and training, read from what was fetched with a page; fetches nothing.

Read are robots.txt (RFC 9309) for the crawlers of the rules, its Content-Signal lines, the TDM Reservation Protocol
(https://www.w3.org/2022/tdmrep/) as file, header and meta tag, ai.txt, the
values "noai" and "noimageai" of robots meta tags and X-Robots-Tag, and reservations in words. One reservation is
enough: where two sources disagree, the one that reserves counts.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from html.parser import HTMLParser
from typing import Any
from urllib.parse import unquote, urlsplit

from hf_mixture._extras import require
from hf_mixture.data.curation.licences.fold import fold
from hf_mixture.data.curation.licences.language import folded_pattern
from hf_mixture.data.curation.rules.files import read_rules


Headers = Mapping[str, str | Iterable[str]]
_META = re.compile(r"tdm-reservation|noai|noimageai|noml", re.IGNORECASE)
_SIGNAL = re.compile(r"^\s*content-signal\s*:(.*)$", re.IGNORECASE | re.MULTILINE)
_BOT_PREFIX = re.compile(r"^\s*([A-Za-z0-9_-]+)\s*:(?!//)")
_RULE = re.compile(r"^\s*(user-agent|allow|disallow)\s*:\s*([^#\r\n]*)", re.IGNORECASE | re.MULTILINE)


@dataclass(frozen=True)
class OptOut:
    """What a page and its site reserve.

    Args:
        reserved: Whether the text of the page is opted out.
        media_reserved: Whether its pictures are.
        reasons: What says so, one entry for each source.
        policy: Address of a policy by which a licence can be had, when one is given.
    """

    reserved: bool = False
    media_reserved: bool = False
    reasons: tuple[str, ...] = ()
    policy: str | None = None


class OptOutRules:
    """Reads the opt-outs of a page from given material.

    Args:
        user_agents: Crawlers that robots.txt may name.
        robots_values: Values of robots tags that opt the "text" or the "media" of a page out.
        content_signals: Values of Content-Signal that opt a site out.
        ai_txt_extensions: Kinds of files of ai.txt that mean text.
        phrases: Expressions of reservations in words.
        phrase_words: Lists of words, of each of which every text with such a phrase has one. Most texts have not, and
            that is found sooner than that no phrase matches. Default: none, to look for the phrases in every text.

    Example:
        ```python
        >>> rules = OptOutRules.from_file()
        >>> page = "https://example.org/a"
        >>> rules.check(page, robots_txt="User-agent: GPTBot\\nDisallow: /").reasons
        ('robots.txt: GPTBot may not fetch the page',)
        >>> rules.check(page, headers={"TDM-Reservation": "1", "TDM-Policy": "https://example.org/tdm"}).policy
        'https://example.org/tdm'
        >>> rules.check(page, html='<meta name="robots" content="noimageai">')
        OptOut(reserved=False, media_reserved=True, reasons=('meta tag: noimageai',), policy=None)

        ```
    """

    def __init__(
        self,
        *,
        user_agents: Iterable[str],
        robots_values: Mapping[str, Iterable[str]],
        content_signals: Iterable[str] = (),
        ai_txt_extensions: Iterable[str] = (),
        phrases: Iterable[str] = (),
        phrase_words: Iterable[Iterable[str]] = (),
    ) -> None:
        self.user_agents = tuple(user_agents)
        self._text = frozenset(value.lower() for value in robots_values["text"])
        self._media = frozenset(value.lower() for value in robots_values["media"])
        self._signals = frozenset(signal.lower() for signal in content_signals)
        self._extensions = frozenset(extension.lower() for extension in ai_txt_extensions)
        self._phrases = tuple(re.compile(rf"(?<![a-z]){folded_pattern(phrase)}") for phrase in phrases)
        self._phrase_words = tuple(tuple(words) for words in phrase_words)

    @classmethod
    def from_file(cls, path: str | os.PathLike[str] | None = None) -> OptOutRules:
        """Read rules.

        Args:
            path: A YAML file of the format of `rules/opt_outs.yaml`. Default: that file.

        Returns:
            The rules.

        Raises:
            FileNotFoundError: There is no file at `path`.
            ValueError: The file breaks its schema.
        """
        document = read_rules("opt_outs", path)
        return cls(**{key: value for key, value in document.items() if key not in ("format", "version")})

    def check(
        self,
        url: str,
        *,
        robots_txt: str | None = None,
        headers: Headers | None = None,
        html: str | None = None,
        tdmrep: str | bytes | None = None,
        ai_txt: str | None = None,
        text: str | None = None,
    ) -> OptOut:
        """Read the opt-outs of a page.

        Args:
            url: Address of the page; one that cannot be read counts as the root of its site.
            robots_txt: Content of the site's robots.txt.
            headers: Headers of the HTTP response, in any case; a value is a string or several.
            html: The page as HTML, for its meta tags.
            tdmrep: Content of the site's /.well-known/tdmrep.json. A file that is not valid declares nothing.
            ai_txt: Content of the site's ai.txt.
            text: Text of the page or of the site's terms, for reservations in words.

        Returns:
            The opt-outs.
        """
        url = _readable(url)
        found = [
            *self._robots(url, robots_txt or ""),
            *self._tdmrep(url, tdmrep),
            *self._headers(headers or {}),
            *self._html(html or ""),
            *self._ai_txt(url, ai_txt or ""),
            *self._words(text or ""),
        ]
        return OptOut(
            any(not media for media, _, _ in found),
            any(media for media, _, _ in found),
            tuple(dict.fromkeys(reason for _, reason, _ in found)),
            next((policy for _, _, policy in found if policy), None),
        )

    def _robots(self, url: str, robots_txt: str) -> Iterator[tuple[bool, str, str | None]]:
        if not robots_txt.strip():
            return
        parsed = _parse_robots(robots_txt)
        for agent in self.user_agents:
            if not parsed.can_fetch(url, agent):
                yield False, f"robots.txt: {agent} may not fetch the page", None
        for line in _SIGNAL.findall(robots_txt):
            for signal in re.split(r"[,;\s]+", line.lower().replace(" =", "=").replace("= ", "=")):
                if signal in self._signals:
                    yield False, f"robots.txt: Content-Signal {signal}", None

    def _tdmrep(self, url: str, tdmrep: str | bytes | None) -> Iterator[tuple[bool, str, str | None]]:
        try:
            rules = json.loads(tdmrep) if tdmrep else []
        except (ValueError, RecursionError):
            return
        if not isinstance(rules, list):
            return
        path = _path(url)
        for rule in rules:
            # The first rule whose location fits decides.
            if isinstance(rule, dict) and isinstance(rule.get("location"), str) and _fits(rule["location"], path):
                if _is_one(rule.get("tdm-reservation")):
                    yield False, f"tdmrep.json: {rule['location']} is reserved", _policy(rule.get("tdm-policy"))
                return

    def _headers(self, headers: Headers) -> Iterator[tuple[bool, str, str | None]]:
        values: dict[str, list[str]] = {}
        for name, value in headers.items():
            values.setdefault(name.lower(), []).extend([value] if isinstance(value, str) else map(str, value))
        if any(map(_is_one, values.get("tdm-reservation", []))):
            yield False, "header: tdm-reservation", _policy(next(iter(values.get("tdm-policy", [])), None))
        for value in values.get("x-robots-tag", []):
            yield from self._tag(_BOT_PREFIX.sub("", value), "X-Robots-Tag")

    def _html(self, html: str) -> Iterator[tuple[bool, str, str | None]]:
        if not _META.search(html):
            return
        tags = _MetaTags()
        tags.feed(html)
        if any(_is_one(content) for name, content in tags.found if name == "tdm-reservation"):
            yield False, "meta tag: tdm-reservation", _policy(dict(tags.found).get("tdm-policy"))
        agents = {"robots", *(agent.lower() for agent in self.user_agents)}
        for name, content in tags.found:
            if name in agents:
                yield from self._tag(content, "meta tag")

    def _tag(self, content: str, where: str) -> Iterator[tuple[bool, str, str | None]]:
        for value in re.split(r"[,;\s]+", content.lower()):
            if value in self._text:
                yield False, f"{where}: {value}", None
            elif value in self._media:
                yield True, f"{where}: {value}", None

    def _ai_txt(self, url: str, ai_txt: str) -> Iterator[tuple[bool, str, str | None]]:
        if not ai_txt.strip():
            return
        if not _parse_robots(ai_txt).can_fetch(url, "*"):
            yield False, "ai.txt: the page is disallowed", None
            return
        agent, last = "*", ""
        for name, value in _RULE.findall(ai_txt):
            agent = value.strip() if name.lower() == "user-agent" else agent
            extension = re.fullmatch(r"/?\*\.(\w+)\$?", value.strip())
            if name.lower() == "disallow" and agent == "*" and extension and extension[1].lower() in self._extensions:
                last = extension[1].lower()
        if last:
            yield False, f"ai.txt: files of text such as *.{last} are disallowed", None

    def _words(self, text: str) -> Iterator[tuple[bool, str, str | None]]:
        if not text:
            return
        lower = text.lower() if text.isascii() else fold(text).text
        if not all(any(map(lower.__contains__, words)) for words in self._phrase_words):
            return
        folded = fold(text)
        for phrase in self._phrases:
            if match := phrase.search(folded.text):
                start, end = folded.original(*match.span())
                yield False, f"text: {' '.join(text[start:end].split())}", None


class _MetaTags(HTMLParser):
    """Collects names and contents of meta tags, in lower case and as written."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.found: list[tuple[str, str]] = []

    def parse_marked_section(self, i: int, report: bool = True) -> int:
        """Read `<![...>` as a comment, as browsers do; the parser that this stands on fails at unknown words in it."""
        return self.parse_bogus_comment(i)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note a meta tag."""
        if tag == "meta":
            values = dict(attrs)
            self.found.append(((values.get("name") or "").strip().lower(), (values.get("content") or "").strip()))


@lru_cache(maxsize=256)
def _parse_robots(content: str) -> Any:
    return require("protego", used_for="reading robots.txt", extra="curation").Protego.parse(content)


def _readable(url: str) -> str:
    """An address as it is, or "", which stands for the whole site, for what no parser of addresses reads."""
    try:
        urlsplit(url if "://" in url else f"http://{url}")
        urlsplit(url)
    except ValueError:
        return ""
    return url


def _path(url: str) -> str:
    parts = urlsplit(url if "://" in url else f"http://{url}")
    return unquote(parts.path or "/") + (f"?{parts.query}" if parts.query else "")


def _fits(location: str, path: str) -> bool:
    """Whether a location pattern of tdmrep.json, with "*" and a final "$", fits a path."""
    # Not by a regular expression: one with many ".*" takes time without end.
    ends = location.endswith("$")
    first, *rest = unquote(location.removesuffix("$")).split("*")
    if not path.startswith(first):
        return False
    position, last = len(first), rest.pop() if rest and ends else None
    for piece in rest:
        if (found := path.find(piece, position)) < 0:
            return False
        position = found + len(piece)
    if last is None:
        return not ends or position == len(path)
    return path.endswith(last) and len(path) - len(last) >= position


def _is_one(value: object) -> bool:
    return str(value).strip() == "1"


def _policy(value: object) -> str | None:
    return value.strip() if isinstance(value, str) and value.strip() else None


@cache
def default_opt_out_rules() -> OptOutRules:
    """Return the rules of `rules/opt_outs.yaml`."""
    return OptOutRules.from_file()
