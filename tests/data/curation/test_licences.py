"""Finding licences: where a notice may stand, what it is kept as, which statement counts, and what never passes."""

from __future__ import annotations

import re
import string
from typing import Any

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from licence_labels import labelled

from hf_mixture.data.curation.licences import find_licences, names, normalise_licence
from hf_mixture.data.curation.licences.fold import fold
from hf_mixture.data.curation.licences.names import Name, find_names, name_at
from hf_mixture.data.curation.licences.notices import read_notices
from hf_mixture.data.curation.licences.prefilter import may_state_licence
from hf_mixture.data.curation.tiers import assign_tier


NOTICE = "This article is licensed under CC BY-SA 4.0"
PROSE = "The river rose in spring, and the mill at its bend stood still for a week. "
KINDS = ("BY", "BY-SA", "BY-ND", "BY-NC", "BY-NC-SA", "BY-NC-ND")
TEXTS = [row["text"] for row in labelled() if "text" in row]


def every_name(text: str) -> list[Name]:
    """Oracle of `find_names`: every word of the text is tried, whatever it is."""
    found: list[Name] = []
    for start in range(len(text)):
        end = start
        while end < len(text) and text[end] in string.ascii_lowercase + string.digits:
            end += 1
        begins = end > start and (start == 0 or text[start - 1] not in string.ascii_lowercase + string.digits)
        if begins and (not found or start >= found[-1].end):
            name = name_at(text, start, text[start:end])
            found += [name] if name is not None else []
    return found


@pytest.mark.parametrize("text", TEXTS)
def test_the_prefilter_and_the_table_of_first_words_miss_nothing(text: str) -> None:
    assert list(find_names(fold(text).text)) == every_name(fold(text).text)
    notices = [notice for notice, _ in read_notices(text)]
    granted = [notice for notice in notices if notice.kind != "mention"]
    assert may_state_licence(text) or not granted
    if may_state_licence(text) and normalise_licence(text.strip()) is None:
        assert list(find_licences(text).notices) == notices


WORDS = sorted({word for text in TEXTS for word in text.split()})


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(WORDS), max_size=12).map(" ".join))
@example("distributed sous MIT")
@example("This text is distributed with Apache 2.0")
def test_the_prefilter_misses_nothing_in_shuffled_words(text: str) -> None:
    assert list(find_names(fold(text).text)) == every_name(fold(text).text)
    if not may_state_licence(text):
        assert [notice for notice, _ in read_notices(text) if notice.kind != "mention"] == []


@settings(deadline=None)
@given(st.text(st.sampled_from(" \t\u00a0\n\raß\u00ad"), max_size=40))
def test_blanks_in_a_row_are_one_and_every_character_knows_where_it_was(text: str) -> None:
    folded = fold(text)
    spelled = text.translate({0xAD: "", ord("ß"): "ss", **dict.fromkeys(map(ord, "\t\u00a0\r"), " ")})
    expected = re.sub(r" *\n *", "\n", re.sub(" +", " ", spelled))
    assert folded.text == re.sub(r"\n{3,}", "\n\n", expected)
    assert folded.original(0, len(folded.text))[1] == len(text)
    for place, char in enumerate(folded.text):
        start, _ = folded.original(place, place)
        assert text[start].isspace() if char.isspace() else fold(text[start]).text[0] == char


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=300))
def test_random_text_is_never_accepted(text: str) -> None:
    # A text that is the name of a licence and nothing else states it.
    assume(normalise_licence(text.strip()) is None)
    finding = find_licences(text)
    assert assign_tier(finding, file_level_provenance=True, government=False).tier is None


ALPHABET = st.sampled_from([*"cbynds0 -./:()\n", "mit", "by", "license", "under", "this", "and", "or", "4.0"])


@settings(max_examples=500, deadline=None)
@given(st.lists(ALPHABET, max_size=30).map("".join))
def test_junk_of_licence_words_is_read_without_fault_and_kept_word_for_word(text: str) -> None:
    for notice in find_licences(text).notices:
        assert text[notice.start : notice.end] == notice.text


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(TEXTS), st.randoms(use_true_random=False))
def test_case_and_white_space_do_not_matter(text: str, random: Any) -> None:
    blanks = [" ", "  ", "\t", "\u00a0", " \t ", " " * 9]
    changed = "".join(random.choice(blanks) if char == " " else char for char in text)
    changed = "".join(char.upper() if random.random() < 0.5 and len(char.upper()) == 1 else char for char in changed)
    before, after = find_licences(text), find_licences(changed)
    assert (after.spdx, after.source, after.scope) == (before.spdx, before.source, before.scope)
    assert (after.restrictive is None) == (before.restrictive is None)


@pytest.mark.parametrize("blank", ["\n", " " * 9, " \n\t"])
@pytest.mark.parametrize("text", TEXTS)
def test_blanks_do_not_make_a_refused_text_pass(text: str, blank: str) -> None:
    known = {"file_level_provenance": True, "government": False}
    # "Software licence: MIT" is of the software; on a line of its own "licence: MIT" is a field of the text.
    if assign_tier(find_licences(text), **known).tier is None and not text.startswith("Software licence"):
        wrapped = text.replace(" ", blank)
        assert assign_tier(find_licences(wrapped), **known).tier is None


@pytest.mark.parametrize("position", [0, 0.5, 1])
def test_a_notice_counts_wherever_it_stands(position: float) -> None:
    paragraphs = [PROSE * 20] * 40
    paragraphs.insert(round(position * 40), NOTICE + ".")
    text = "\n\n".join(paragraphs)
    finding = find_licences(text)
    assert (finding.spdx, finding.source) == ("CC-BY-SA-4.0", "text")
    assert finding.text_ref is not None
    assert text[slice(*finding.text_ref)] == finding.notice == NOTICE


def test_positions_are_those_of_the_original() -> None:
    text = "Straße ﬁn ½ 📷\u200b — „Größe“ …\n\nDieser Text steht unter der Lizenz CC\u00a0BY\u2011SA\u00a04.0."
    finding = find_licences(text)
    assert finding.notice == "Dieser Text steht unter der Lizenz CC\u00a0BY\u2011SA\u00a04.0"
    assert finding.spdx == "CC-BY-SA-4.0"


def test_the_most_specific_statement_counts() -> None:
    text = NOTICE + "."
    assert find_licences(text, card="mit", url="https://creativecommons.org/licenses/by/4.0/").source == "text"
    assert find_licences("x", card="mit", url="https://creativecommons.org/licenses/by/4.0/").source == "url"
    assert find_licences("x", card="mit").source == "card"
    both = find_licences(text, header="MIT", card="apache-2.0")
    assert (both.spdx, both.source) == ("CC-BY-SA-4.0 AND MIT", "header")


def test_a_restriction_refuses_whatever_states_the_licence() -> None:
    text = "Commercial use of this page is strictly prohibited."
    for stated in ({"header": "MIT"}, {"card": "mit"}, {"url": "https://creativecommons.org/licenses/by/4.0/"}):
        finding = find_licences(text, **stated)
        assert finding.restrictive is not None
        assert assign_tier(finding, file_level_provenance=True, government=False).tier is None


def test_several_licences_of_a_text_all_count() -> None:
    text = f"{NOTICE}.\n\n{PROSE}\n\nThis article is also licensed under the GPL-3.0."
    assert find_licences(text).spdx == "CC-BY-SA-4.0 AND GPL-3.0-only"


def test_attribution_is_kept() -> None:
    text = f"{PROSE}\n\nPhoto: Jane Doe, CC BY 2.0\n\n{NOTICE}."
    assert [(notice.text, notice.scope) for notice in find_licences(text).notices] == [
        ("Photo: Jane Doe, CC BY 2.0", "media"),
        (NOTICE, "text"),
    ]


def test_bytes_are_refused() -> None:
    with pytest.raises(TypeError, match="text is a bytes; it must be a string"):
        find_licences(b"MIT")  # type: ignore[arg-type]


def test_a_text_of_many_names_takes_time_in_proportion() -> None:
    text = "under the " * 3000 + "MIT " * 3000 + "cc by " * 3000
    assert len(list(find_names(fold(text).text))) > 0
    assert names.find_names is find_names
    find_licences(text)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("CC BY-SA 2.1", "LicenseRef-CC-BY-SA-unversioned"),
        ("CC-BY-SA-2.1-JP", "CC-BY-SA-2.1-JP"),
        ("CC BY 5.0", None),
        ("CC BY-NC-ND-SA 4.0", "CC-BY-NC-ND-4.0"),
        ("GPLv2+", "GPL-2.0-or-later"),
        ("GPL version 2 only", "GPL-2.0-only"),
        ("GNU Affero General Public License v3.0", "AGPL-3.0-only"),
        ("GNU Free Documentation License", "GFDL-1.1-or-later"),
        ("LicenseRef-llama-community", "LicenseRef-Llama-Community"),
        ("MIT OR (MIT AND GPL-3.0-only)", "MIT"),
        ("", None),
        ("x" * 500, None),
    ],
)
def test_normal_forms(name: str, expected: str | None) -> None:
    assert normalise_licence(name) == expected


@pytest.mark.parametrize(
    "text",
    [
        "()license",
        "MIT AND ()",
        "(()",
        "( AND MIT",
        "( OR license )",
        "MIT WITH ()",
        "()" * 60 + "gpl",
    ],
)
def test_a_malformed_expression_states_nothing(text: str) -> None:
    assert normalise_licence(text) is None
    assert assign_tier(text, file_level_provenance=True, government=False).tier is None
    for line in (text, f"SPDX-License-Identifier: {text}", f"{PROSE * 10}SPDX-License-Identifier: {text}"):
        finding = find_licences(line, header=text, card=text)
        assert assign_tier(finding, file_level_provenance=True, government=False).tier is None


@pytest.mark.parametrize(
    "statement", ["This program is licensed under the GPL-3.0.\n\n", "Licensed under the GPL-3.0, "]
)
def test_a_licence_counts_however_often_it_is_stated(statement: str) -> None:
    finding = find_licences(statement * 60)
    assert finding.spdx == "GPL-3.0-only"
    assert assign_tier(finding, file_level_provenance=True, government=True).tier is None
    assert find_licences(f"{NOTICE}.\n\n" * 60, header="MIT").spdx == "CC-BY-SA-4.0 AND MIT"
    names_of_many = [f"CC {kind} {version}" for kind in KINDS for version in ("2.0", "2.5", "3.0", "4.0")]
    grants = "".join(f"This text is licensed under {name}.\n\n" for name in names_of_many)
    finding = find_licences(grants)
    assert len(finding.spdx or "") > 400
    assert assign_tier(finding, file_level_provenance=True, government=True).tier is None
