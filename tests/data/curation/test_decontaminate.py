"""Decontamination: parity of normal form and hashes, the index, the scan, and the report."""

from __future__ import annotations

import hashlib
import re
import sys
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from curation_data import WORDS, draws

from hf_mixture.data.curation import grams
from hf_mixture.data.curation.decontaminate import (
    Decontamination,
    DecontaminationIndex,
    DecontaminationOptions,
    contamination_report,
)
from hf_mixture.data.curation.scaffolding import SCAFFOLDS, is_scaffolding


_STOP = """
not,else,then,if,or,those,these,this,how,why,where,when,who,which,what,with,will,were,was,to,the,that,on,of,its,it,is,
in,he,has,from,for,by,be,at,as,are,and,an,a
"""
TWIN_STOP_WORDS = _STOP.replace("\n", "").split(",")


def twin_words(text: str) -> list[str]:
    """The published rule, written again from its description: one character after the other, without a pattern."""
    text = unicodedata.normalize("NFKC", text).lower()
    alphabet = "abcdefghijklmnopqrstuvwxyz0123456789"
    words, place = [], 0
    while place < len(text):
        end = place
        while end < len(text) and text[end] in alphabet:
            end += 1
        if end == place:
            place += 1
            continue
        tail = end + 1
        while tail < len(text) and text[tail] in alphabet:
            tail += 1
        if end < len(text) and text[end] == "'" and tail > end + 1:
            end = tail
        words.append(text[place:end])
        place = end
    return [word for word in words if word not in TWIN_STOP_WORDS]


def twin_hashes(text: str) -> set[int]:
    words = twin_words(text)
    found = set()
    for start in range(len(words)):
        window = words[start : start + 13]
        if len(window) == 13:
            found.add(int.from_bytes(hashlib.blake2b(" ".join(window).encode(), digest_size=8).digest()[::-1], "big"))
    return found


def random_string(rng: Any) -> str:
    """Words, numbers, apostrophes, and any characters of Unicode, compatibility forms among them."""
    special = "'’ﬁ①Ａ１ß²İ\u0130\u212aǅ½\u00a0\n\t-_.\u200d"
    parts = []
    for _ in range(rng.randint(0, 60)):
        draw = rng.random()
        if draw < 0.5:
            parts.append(rng.choice(WORDS))
        elif draw < 0.7:
            parts.append("".join(rng.choices("abcXYZ019'", k=rng.randint(1, 8))))
        elif draw < 0.85:
            parts.append("".join(rng.choices(special, k=rng.randint(1, 4))))
        else:
            code = rng.randrange(sys.maxunicode + 1)
            parts.append(" " if 0xD800 <= code < 0xE000 else chr(code))
        parts.append(rng.choice([" ", " ", " ", "", "'", "\n"]))
    return "".join(parts)


def test_check_2_hashes_are_those_of_an_independent_twin_on_10000_strings() -> None:
    rng = draws(0)
    with_grams = 0
    for _ in range(10_000):
        text = random_string(rng)
        assert grams.content_words(text) == twin_words(text)
        hashes = grams.gram_hashes(text)
        assert hashes.dtype == np.uint64
        found = set(hashes.tolist())
        assert found == twin_hashes(text)
        with_grams += bool(found)
    assert with_grams > 3000


def test_the_stop_words_are_the_forty_of_the_rule() -> None:
    assert set(TWIN_STOP_WORDS) == grams.STOP_WORDS
    assert len(grams.STOP_WORDS) == 40


@pytest.mark.parametrize("name", SCAFFOLDS)
def test_check_6_every_reject_expression_fires_on_its_example_in_the_raw_window(name: str) -> None:
    filler = " ".join(f"word{number}" for number in range(6))
    item = f"{filler} {SCAFFOLDS[name].example} {filler} {filler}"
    assert SCAFFOLDS[name].pattern.search(grams.lowered(item))
    others = [entry.pattern for other, entry in SCAFFOLDS.items() if other != name]
    windows = [window for _, window in grams.windows(item)]
    fired = [window for window in windows if SCAFFOLDS[name].pattern.search(window)]
    assert fired, "the expression fires in no window of an item with its example"
    index = DecontaminationIndex.build({"quiz": ([item], [])})
    left = set(index.hashes.tolist())
    for gram, window in grams.windows(item):
        rejected = SCAFFOLDS[name].pattern.search(window) or any(other.search(window) for other in others)
        assert (grams.gram_hash(gram) in left) == (not rejected)


def test_the_reference_mode_misses_expressions_that_need_stop_words() -> None:
    filler = " ".join(f"word{number}" for number in range(13))
    item = f"Which of the following holds if and only if {filler}"
    repaired = DecontaminationIndex.build({"quiz": ([item], [])}, mode="repaired")
    reference = DecontaminationIndex.build({"quiz": ([item], [])}, mode="reference")
    assert len(reference) == len(grams.windows(item)) > len(repaired)
    dead = [name for name, entry in SCAFFOLDS.items() if not fires_on_filtered(entry)]
    assert {"which_of_following", "if_and_only_if", "option_letter", "answer_label"} <= set(dead)


def fires_on_filtered(entry: Any) -> bool:
    return entry.pattern.search(" ".join(grams.content_words(entry.example))) is not None


def slow_scan(
    index_sets: dict[str, set[int]], text: str, min_hits: int, min_coverage: float
) -> tuple[set[int], set[str]]:
    """The rule with sets alone."""
    hits: set[int] = set()
    names: set[str] = set()
    everything = set().union(*index_sets.values())
    for piece in text.split("<|endoftext|>"):
        mine = twin_hashes(piece)
        found = mine & everything
        hits |= found
        if found and len(found) >= min_hits and len(found) / len(mine) >= min_coverage:
            names |= {name for name, grams_of in index_sets.items() if grams_of & found}
    return hits, names


def test_scan_is_that_of_the_slow_twin() -> None:
    rng = draws(1)
    vocabulary = [word for word in WORDS if word not in grams.STOP_WORDS] + [f"n{i}" for i in range(30)]
    items = {name: [" ".join(rng.choices(vocabulary, k=40)) for _ in range(20)] for name in "abc"}
    items["b"][0] = items["a"][0]
    index = DecontaminationIndex.build({name: (texts, []) for name, texts in items.items()})
    sets = {name: set().union(*map(twin_hashes, texts)) for name, texts in items.items()}
    flagged = 0
    for _ in range(300):
        pieces = []
        for _ in range(rng.randint(1, 3)):
            body = rng.choices([*vocabulary, "unseen", "the", "of"], k=rng.randint(0, 300))
            if rng.random() < 0.6:
                taken = rng.choice(items[rng.choice("abc")]).split()[: rng.randint(10, 40)]
                start = rng.randrange(len(body) + 1)
                body[start:start] = taken
            pieces.append(" ".join(body))
        text = "<|endoftext|>".join(pieces)
        min_hits, coverage = rng.choice([(1, 0.0), (3, 0.001), (3, 0.1)])
        hits = index.scan(text, min_hits=min_hits, min_coverage=coverage)
        expected, names = slow_scan(sets, text, min_hits, coverage)
        assert set(index.hashes[hits.entries].tolist()) == expected
        assert {name for bit, name in enumerate(index.names) if hits.benchmarks >> bit & 1} == names
        flagged += hits.flagged
    assert 50 < flagged < 300


def test_ngrams_of_the_train_split_do_not_count() -> None:
    text = " ".join(f"w{i}" for i in range(20))
    index = DecontaminationIndex.build({"quiz": ([text], [text[: text.index("w15")]])})
    assert len(index) == len(grams.windows(text)) - 3


def test_min_hits_and_coverage_decide() -> None:
    item = " ".join(f"w{i}" for i in range(15))
    index = DecontaminationIndex.build({"quiz": ([item], [])})
    assert len(index) == 3
    two = " ".join(f"w{i}" for i in range(14))
    assert not index.scan(two, min_hits=3, min_coverage=0).flagged
    assert index.scan(two, min_hits=2, min_coverage=0).flagged
    diluted = item + " " + " ".join(f"x{i}" for i in range(2000))
    assert index.scan(diluted, min_hits=3, min_coverage=0.001).flagged
    assert not index.scan(diluted, min_hits=3, min_coverage=0.01).flagged
    # The hits of two pieces are not added up.
    halves = f"{two} <|endoftext|> {item[3:]}"
    assert len(index.scan(halves).entries) == 3
    assert not index.scan(halves).flagged


def test_check_7_distinct_documents_are_counted_apart_from_those_of_each_benchmark() -> None:
    shared = " ".join(f"s{i}" for i in range(20))
    index = DecontaminationIndex.build({"one": ([shared], []), "two": ([shared], [])})
    options = DecontaminationOptions()
    stage = Decontamination(index, options)
    flagged, entries = [], []
    for text in (shared, "nothing of the kind " * 20):
        columns, reason = stage({"text": text})
        entries += columns["entries"]
        if reason is not None:
            flagged.append(columns["decontam_benchmarks"])
    report = contamination_report(index, flagged, np.array(entries), options)
    assert report["flagged_documents"] == 1
    documents = [facts["documents"] for facts in report["benchmarks"].values()]
    assert sum(documents) == report["flagged_documents"] + 1
    assert report["rule"] == {"min_hits": 3, "min_coverage": 0.001, "mode": "repaired"}
    assert report["benchmarks"]["one"] == {
        "documents": 1,
        "indexed_ngrams": 8,
        "leaked_ngrams": 8,
        "leak_percent": 100.0,
    }


def test_an_index_is_the_same_after_saving(tmp_path: Path) -> None:
    texts = [" ".join(f"w{i * j}" for i in range(30)) for j in range(1, 5)]
    index = DecontaminationIndex.build({"a": (texts, []), "b": (texts[:1], [])})
    index.save(tmp_path / "index.safetensors")
    again = DecontaminationIndex.load(tmp_path / "index.safetensors")
    assert again.names == index.names
    assert np.array_equal(again.hashes, index.hashes)
    assert again.scan(texts[0]).benchmarks == index.scan(texts[0]).benchmarks == 3


def test_empty_and_too_many_benchmarks_are_refused() -> None:
    with pytest.raises(ValueError, match="give 1 to 64"):
        DecontaminationIndex.build({})
    with pytest.raises(ValueError, match="65 benchmarks"):
        DecontaminationIndex.build({str(i): ([], []) for i in range(65)})
    index = DecontaminationIndex.build({"empty": ([], [])})
    assert not index.scan("some words " * 50, min_hits=1, min_coverage=0).flagged


def test_scaffolding_needs_lower_case() -> None:
    assert is_scaffolding("which of the following")
    assert re.fullmatch(r"[a-z_]+", "".join(SCAFFOLDS))
