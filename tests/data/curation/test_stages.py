"""The stages that look at one document: what they add, and what they reject."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from curation_data import draws, text

from hf_mixture.data.curation.inclusion import Inclusion, InclusionOptions
from hf_mixture.data.curation.language import Language, LanguageOptions
from hf_mixture.data.curation.opt_outs import OptOutRules, default_opt_out_rules
from hf_mixture.data.curation.pii import Pii, PiiOptions, Span, redact
from hf_mixture.data.curation.quality import Quality, QualityOptions, special_ratio
from hf_mixture.data.curation.rules.files import read_rules
from hf_mixture.data.curation.safety import Safety, SafetyOptions, word_lists
from hf_mixture.data.curation.tiering import Tiering, TierOptions
from hf_mixture.data.curation.tokens import token_counter


PROSE = (
    "The heron stood in the shallow water of the lake and waited for the fish that came with the evening. "
    "It was not the first time that the people of the village had seen it there, and they let it be."
)


def row(body: str = PROSE, **more: Any) -> dict[str, Any]:
    return {"text": body, "source": "s", "id": "1", **more}


@pytest.fixture(scope="module")
def inclusion() -> Inclusion:
    return Inclusion(InclusionOptions())


def test_inclusion_records_licence_site_and_notice(inclusion: Inclusion) -> None:
    body = f"{PROSE}\n\nThis article is licensed under CC BY-SA 4.0."
    added, reason = inclusion(row(body, url="https://blog.example.co.uk/a", card_license="mit"))
    assert reason is None
    assert added["license_spdx"] == "CC-BY-SA-4.0"
    assert added["license_source"] == "text"
    start, end = added["license_text_ref"]
    assert body[start:end] == added["license_notice"]
    assert added["domain"] == "example.co.uk"
    assert added["tdm_optout"] is None


def test_inclusion_without_an_address_uses_the_source_as_the_domain(inclusion: Inclusion) -> None:
    added, _ = inclusion(row(card_license="MIT"))
    assert (added["domain"], added["license_source"]) == ("s", "card")
    assert (inclusion(row(license="MIT"))[0])["license_source"] == "header"


@pytest.mark.parametrize(
    "signal",
    [
        {"robots_txt": "User-agent: GPTBot\nDisallow: /"},
        {"http_headers": '{"TDM-Reservation": "1"}'},
        {"http_headers": "Content-Type: text/html\nTDM-Reservation: 1"},
        {"http_headers": '{"X-Robots-Tag": ["noai", "nofollow"]}'},
        {"http_headers": "X-Robots-Tag: noai\nX-Robots-Tag: nofollow"},
        {"html_head": '<meta name="robots" content="noai">'},
        {"tdmrep": '[{"location": "/*", "tdm-reservation": 1}]'},
        {"text": f"{PROSE} All rights for text and data mining are reserved by the publisher."},
    ],
)
def test_opt_outs_reject_and_are_only_recorded_on_request(inclusion: Inclusion, signal: dict[str, str]) -> None:
    given = row(url="https://a.org/x", license="MIT") | signal
    added, reason = inclusion(given)
    assert reason == "opt_out"
    assert added["tdm_optout"]
    lenient = Inclusion(InclusionOptions(respect_opt_outs=False))
    assert lenient(given) == (added, None)


def test_the_short_cut_before_opt_outs_in_words_misses_none() -> None:
    rules = default_opt_out_rules()
    phrases = [
        "Text and data mining is prohibited.",
        "The publisher reserves all rights for TDM.",
        "TDM: opted\u00a0out of.",
        "This page may not be used for the\ntraining of models.",
        "Use for artificial intelligence systems: not  permitted, as is training of AI models.",
        "Not allowed: machine learning models.",
        "It is forbidden to train AI on it.",
        "Text- und Data-Mining ist vorbehalten.",
        "Text und Data Mining: nicht gestattet.",
        "La fouille de données est interdite.",
        "La fouille de textes: l’auteur s’oppose.",
        "La miner\u00eda de textos está prohibida.",
        "La mineri\u0301a de datos, no está permitida.",
        "L'estrazione di testo è vietata.",
        "L’estrazione di testi non è consentita.",
        "\uff34\uff24\uff2d rights are reserved, TDM is prohibited.",
    ]
    file = read_rules("opt_outs")
    every = OptOutRules(**{name: file[name] for name in file.keys() - {"format", "version", "phrase_words"}})
    found = [every.check("", text=phrase) for phrase in phrases]
    assert sum(opt_out.reserved for opt_out in found) >= 12
    assert found == [rules.check("", text=phrase) for phrase in phrases]


def test_tiers_follow_from_the_whole_origin(inclusion: Inclusion) -> None:
    stage = Tiering(TierOptions())

    def tier(**facts: Any) -> tuple[Any, str | None]:
        given = row(**facts)
        given |= inclusion(given)[0]
        added, reason = stage(given)
        return added["tier"], reason

    assert tier(license="Apache-2.0", file_level_provenance=True) == ("1", None)
    assert tier(card_license="Apache-2.0") == ("2a", None)
    made = {"license": "Apache-2.0", "generator_model": "m", "file_level_provenance": True}
    assert tier(**made) == ("2b", None)
    assert tier(**made, generator_license="MIT", seed_license="CC-BY-4.0") == ("1", None)
    assert tier(government=True) == ("3", None)
    assert tier() == (None, "no_licence")
    assert tier(license="CC-BY-NC-4.0")[0] is None
    assert tier(license="GPL-3.0-only", file_level_provenance=True) == (None, "refused_licence")


def test_safety_rules() -> None:
    stage = Safety(SafetyOptions())

    def reason(body: str, **more: Any) -> str | None:
        return stage(row(body, **more))[1]

    assert reason(PROSE) is None
    assert reason("") is None
    assert reason("porn xxx nude " + "word " * 5) == "flagged_words"
    words = ["porn"] * 2 + ["lolita"] * 2 + ["word"] * 26
    assert reason(" ".join(words)) == "banned_words"
    assert reason("click here now, buy viagra. " + PROSE) == "spam"
    assert reason("click here. " + PROSE) is None
    assert reason("Click here, buy now, order now, act now. " + PROSE) == "spam"
    # The head is what counts.
    assert reason(PROSE * 10 + " porn" * 300) is None


def test_safety_lists_can_be_replaced_and_encyclopedias_may_say_more(tmp_path: Path) -> None:
    (tmp_path / "hate.txt").write_text("Grrr\n\n", encoding="utf-8")
    stage = Safety(SafetyOptions(lists={"hate": str(tmp_path / "hate.txt")}, encyclopedic=["wiki"]))
    assert stage(row("grrr word word word word"))[1] == "hate_words"
    flagged = " ".join(["porn"] * 22 + ["word"] * 78)
    assert stage(row(flagged))[1] == "flagged_words"
    assert stage(row(flagged) | {"source": "wiki"})[1] is None
    with pytest.raises(ValueError, match="'anger'; the lists are flagged"):
        word_lists({"anger": "x"})
    with pytest.raises(ValueError, match="cannot be read"):
        word_lists({"hate": str(tmp_path / "absent.txt")})


def test_language_of_real_sentences() -> None:
    stage = Language(LanguageOptions(keep=["en"]))
    assert stage(row())[0]["language"] == "en"
    assert stage(row())[1] is None
    added, reason = stage(row("Der Reiher stand im flachen Wasser des Sees und wartete auf die Fische des Abends."))
    assert (added["language"], reason) == ("de", "other_language")
    assert 0 < added["language_score"] <= 1
    assert Language(LanguageOptions())(row("Der Reiher stand im Wasser."))[1] is None
    assert Language(LanguageOptions(keep=["en"], min_score=1.0))(row())[1] == "uncertain"
    assert stage(row("\n\n"))[1] is not None


def test_quality_rules() -> None:
    stage = Quality(QualityOptions())

    def reason(body: str, **more: Any) -> str | None:
        return stage(row(body, **more))[1]

    assert reason(PROSE) is None
    assert reason("Short.") == "too_short"
    assert reason("#$%&/ word " * 30) == "special_characters"
    assert reason("heron lake winter river " * 20) == "stop_words"
    assert reason("heron lake winter river " * 20, language="de") is None
    assert reason("a b c d " * 40) == "word_length"
    assert reason("\n".join([PROSE] * 4)) == "duplicate_lines"


def test_special_ratio_is_the_same_on_both_ways() -> None:
    rng = draws(0)
    plain = [chr(code) for code in range(128)]
    for _ in range(200):
        body = "".join(rng.choices(plain, k=50))
        # A letter outside ASCII takes the other way, and is not special.
        longer = special_ratio(body + "é") * 51 / 50
        assert special_ratio(body) == pytest.approx(longer) == len(re.findall(r"[^\w\s]", body)) / 50


PII = [
    ("Write to ann.lee+x@mail.example.org today.", "email"),
    ("Call +44 20 7946 0958 or come.", "phone"),
    ("Host 8.8.8.8 answers.", "ip"),
    ("Pay with 4111 1111 1111 1111 now.", None),
    ("Pay with 4539 1488 0343 6467 now.", "card"),
    ("IBAN DE89 3704 0044 0532 0130 00 is theirs.", "iban"),
    ("His number is 536-90-4399.", "us_ssn"),
    ("Local 192.168.0.1 and 127.0.0.1 are nobody's.", None),
    ("In 1984 there were 12345678 of them; pi is 3.14159265358979.", None),
    ("Version 1.2.3 of user@localhost and a@b.", None),
    ("IBAN DE00 3704 0044 0532 0130 00 has wrong check digits.", None),
]


@pytest.mark.parametrize(("body", "kind"), PII)
def test_pii_patterns(body: str, kind: str | None) -> None:
    found = list(Pii(PiiOptions()).find(body))
    assert [span.kind for span in found] == ([] if kind is None else [kind])


def test_pii_is_redacted_and_spans_are_those_of_the_new_text() -> None:
    body = "Ann is ann@a-b.org, at 8.8.8.8; bob@c.de too."
    added, reason = Pii(PiiOptions())(row(body))
    assert reason is None
    assert added["text"] == "Ann is [EMAIL], at [IP]; [EMAIL] too."
    parts = [added["text"][span["start"] : span["end"]] for span in added["pii_spans"]]
    assert parts == ["[EMAIL]", "[IP]", "[EMAIL]"]


def test_pii_of_annotate_and_reject() -> None:
    body = "ann@a.org and bob@c.de"
    added, reason = Pii(PiiOptions(action="annotate"))(row(body))
    assert [body[s["start"] : s["end"]] for s in added["pii_spans"]] == ["ann@a.org", "bob@c.de"]
    assert ("text" in added, reason) == (False, None)
    assert Pii(PiiOptions(action="reject", max_spans=1))(row(body))[1] == "personal_data"
    assert Pii(PiiOptions(action="reject", max_spans=2))(row(body))[1] is None


def test_attribution_is_left_as_it_stands() -> None:
    credit = "Copyright (c) 2020 Ann Lee <ann@a.org>"
    assert Pii(PiiOptions())(row(f"{credit}\nmail bob@c.de"))[0]["text"] == f"{credit}\nmail [EMAIL]"
    body = "bob@c.de wrote: use as you like, ask ann@a.org. dan@d.fr"
    notice = [body.index("use"), body.index(" dan")]
    new, spans, moved = redact(body, list(Pii(PiiOptions()).find(body)), notice)
    assert new == "[EMAIL] wrote: use as you like, ask ann@a.org. [EMAIL]"
    assert moved is not None
    assert new[moved[0] : moved[1]] == body[notice[0] : notice[1]]
    assert [new[s.start : s.end] for s in spans] == ["[EMAIL]", "ann@a.org", "[EMAIL]"]
    assert spans[1].kind == "email"


def test_the_notice_moves_with_the_text_whatever_is_around_it() -> None:
    rng = draws(4)
    for _ in range(200):
        body = " ".join(rng.choice([text(rng, 1), "ann@lake.org"]) for _ in range(8))
        first = rng.randrange(len(body))
        notice = [first, rng.randint(first, len(body))]
        spans = [Span(m.start(), m.end(), "email") for m in re.finditer("ann@lake.org", body)]
        new, _, moved = redact(body, spans, notice)
        assert moved is not None
        assert new[moved[0] : moved[1]] == body[notice[0] : notice[1]] or notice[0] == notice[1]


def test_tokens_are_words_and_marks_or_those_of_a_tokenizer(tmp_path: Path) -> None:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import PreTrainedTokenizerFast

    assert token_counter(None)("It is, she said: 'yes'.") == 10
    model = Tokenizer(WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    model.pre_tokenizer = Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=model, unk_token="[UNK]").save_pretrained(tmp_path)
    assert token_counter(str(tmp_path))("one two three.") == 4
    with pytest.raises(ValueError, match="cannot be read"):
        token_counter(str(tmp_path / "absent"))
