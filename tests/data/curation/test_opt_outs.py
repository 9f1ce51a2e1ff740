"""Opt-outs, read from given material: robots.txt, TDMRep, ai.txt, meta tags, X-Robots-Tag and words."""

from __future__ import annotations

import json
import re
import socket
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_mixture.data.curation.opt_outs import OptOut, OptOutRules
from hf_mixture.data.curation.rules.files import read_rules


RULES = OptOutRules.from_file()
PAGE = "https://example.org/news/a.html"


@pytest.mark.parametrize(
    ("given_", "reserved"),
    [
        ({}, False),
        ({"robots_txt": "User-agent: *\nDisallow: /"}, True),
        ({"robots_txt": "User-agent: *\nDisallow: /private"}, False),
        ({"robots_txt": "User-agent: GPTBot\nDisallow: /news/"}, True),
        ({"robots_txt": "user-agent: gptbot\ndisallow: /news/"}, True),
        ({"robots_txt": "User-agent: GPTBot\nDisallow: /sport/"}, False),
        ({"robots_txt": "User-agent: CCBot\nDisallow: /*.html$"}, True),
        ({"robots_txt": "User-agent: CCBot\nDisallow: /\nAllow: /news/"}, False),
        ({"robots_txt": "User-agent: SearchOnlyBot\nDisallow: /"}, False),
        ({"robots_txt": "User-agent: *\nContent-Signal: ai-train=yes\nAllow: /"}, False),
        ({"robots_txt": "User-agent: *\nContent-Signal: search=yes, ai-train=no\nAllow: /"}, True),
        ({"headers": {"TDM-Reservation": "1"}}, True),
        ({"headers": {"tdm-reservation": ["1"]}}, True),
        ({"headers": {"tdm-reservation": "0"}}, False),
        ({"headers": {"X-Robots-Tag": "noindex"}}, False),
        ({"headers": {"X-Robots-Tag": "noindex, noai"}}, True),
        ({"headers": {"X-Robots-Tag": ["nofollow", "GPTBot: noai"]}}, True),
        ({"headers": {"X-Robots-Tag": "noimageai"}}, False),
        ({"html": "<head><meta name='robots' content='NOAI, noimageai'></head>"}, True),
        ({"html": "<meta content=noai name=robots />"}, True),
        ({"html": '<meta name="GPTBot" content="noai">'}, True),
        ({"html": '<meta name="description" content="noai">'}, False),
        ({"html": '<meta name="robots" content="index,follow"> noai'}, False),
        ({"html": '<meta name="tdm-reservation" content="1">'}, True),
        ({"html": '<meta name="tdm-reservation" content="0">'}, False),
        ({"html": "<p>tdm-reservation: 1</p>"}, False),
        ({"tdmrep": '[{"location": "/", "tdm-reservation": 1}]'}, True),
        ({"tdmrep": b'[{"location": "/news/*.html$", "tdm-reservation": 1}]'}, True),
        ({"tdmrep": '[{"location": "/sport", "tdm-reservation": 1}]'}, False),
        ({"tdmrep": '[{"location": "/news", "tdm-reservation": 0}, {"location": "/", "tdm-reservation": 1}]'}, False),
        ({"tdmrep": '[{"location": "/news/a", "tdm-reservation": 1}, {"location": "/", "tdm-reservation": 0}]'}, True),
        ({"tdmrep": "not json"}, False),
        ({"tdmrep": '{"location": "/"}'}, False),
        ({"tdmrep": '[1, {"location": 2}, null]'}, False),
        ({"ai_txt": "User-Agent: *\nDisallow: /"}, True),
        ({"ai_txt": "User-Agent: *\nDisallow: *.txt\nAllow: *.jpg"}, True),
        ({"ai_txt": "User-Agent: *\nDisallow: *.jpg\nDisallow: *.mp3"}, False),
        ({"ai_txt": "User-Agent: *\nAllow: /"}, False),
        ({"text": "All rights, also for text and data mining and training of AI models, are reserved."}, True),
        ({"text": "The use of this text for the purpose of text and data mining is not permitted."}, True),
        ({"text": "Nutzungen für Text und Data Mining bleiben vorbehalten."}, True),
        ({"text": "Text and data mining is a field of research."}, False),
        ({"text": "Seats are reserved."}, False),
    ],
)
def test_what_reserves_the_text(given_: dict[str, Any], reserved: bool) -> None:
    assert RULES.check(PAGE, **given_).reserved is reserved


def test_pictures_are_kept_apart_from_text() -> None:
    found = RULES.check(PAGE, html='<meta name="robots" content="noimageai">')
    assert (found.reserved, found.media_reserved) == (False, True)


def test_one_reservation_is_enough_and_all_are_named() -> None:
    found = RULES.check(
        PAGE,
        robots_txt="User-agent: GPTBot\nDisallow: /",
        headers={"tdm-reservation": "0", "x-robots-tag": "noai"},
        html='<meta name="tdm-reservation" content="1"><meta name="tdm-policy" content="https://example.org/p">',
        tdmrep=json.dumps([{"location": "/", "tdm-reservation": 1, "tdm-policy": "https://example.org/q"}]),
    )
    assert found == OptOut(
        True,
        False,
        (
            "robots.txt: GPTBot may not fetch the page",
            "tdmrep.json: / is reserved",
            "X-Robots-Tag: noai",
            "meta tag: tdm-reservation",
        ),
        "https://example.org/q",
    )


def test_nothing_is_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    assert RULES.check(PAGE, robots_txt="User-agent: *\nDisallow: /", ai_txt="User-Agent: *", tdmrep="[]").reserved


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=200))
def test_any_material_is_read_without_fault(text: str) -> None:
    RULES.check(
        PAGE,
        robots_txt=text,
        html="<meta noai " + text,
        tdmrep=text,
        ai_txt=text,
        text=text,
        headers={"x-robots-tag": text},
    )


@pytest.mark.parametrize("url", ["http://[", "//[", "http://[::1]:x/", "http://\u2100.com/", "\0", ""])
def test_an_address_that_cannot_be_read_is_the_root_of_its_site(url: str) -> None:
    robots_txt, tdmrep = "User-agent: GPTBot\nDisallow: /", '[{"location": "/", "tdm-reservation": 1}]'
    assert not RULES.check(url, headers={"a": "b"}).reserved
    assert RULES.check(url, robots_txt=robots_txt).reserved
    assert RULES.check(url, tdmrep=tdmrep).reserved
    assert RULES.check(url, ai_txt="User-agent: *\nDisallow: /").reserved


@pytest.mark.parametrize("declaration", ["<![foo[", "<![if noai]", "<![CDATA[", "<![", "<!DOCTYPE [", "<!x["])
def test_a_declaration_that_html_does_not_have_hides_nothing(declaration: str) -> None:
    html = f'{declaration} x><meta name="robots" content="noai">'
    assert RULES.check(PAGE, html=html).reasons == ("meta tag: noai",)


@given(st.text("/ab*", max_size=12), st.booleans(), st.text("/ab", max_size=12))
def test_locations_fit_as_their_regular_expressions_do(location: str, ends: bool, path: str) -> None:
    pattern = ".*".join(map(re.escape, location.split("*"))) + ("$" if ends else "")
    tdmrep = json.dumps([{"location": location + "$" * ends, "tdm-reservation": 1}])
    reserved = RULES.check(f"http://example.org/{path}", tdmrep=tdmrep).reserved
    assert reserved == (re.match(pattern, f"/{path}") is not None)


def test_a_location_of_many_stars_takes_time_in_proportion() -> None:
    tdmrep = json.dumps([{"location": "/" + "*a" * 30 + "*x", "tdm-reservation": 1}])
    assert not RULES.check("https://example.org/" + "a" * 400, tdmrep=tdmrep).reserved


def test_rules_of_the_user(tmp_path: Path) -> None:
    path = tmp_path / "opt_outs.yaml"
    path.write_text(yaml.safe_dump(read_rules("opt_outs") | {"user_agents": ["OurBot"]}))
    rules = OptOutRules.from_file(path)
    assert not rules.check(PAGE, robots_txt="User-agent: GPTBot\nDisallow: /").reserved
    assert rules.check(PAGE, robots_txt="User-agent: OurBot\nDisallow: /").reserved
    path.write_text(yaml.safe_dump(read_rules("opt_outs") | {"user_agents": "GPTBot"}))
    with pytest.raises(ValueError, match=r"\['user_agents'\]: 'GPTBot' is not of type 'array'"):
        OptOutRules.from_file(path)
    path.write_text("a: [")
    with pytest.raises(ValueError, match="is not valid YAML"):
        OptOutRules.from_file(path)
