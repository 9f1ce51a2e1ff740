"""Licences found in documents: by the words that they all have first, against looking for every name at every word.

The documents are 3,000 characters long, from the modules and the documentation of installed Python packages. The naive
reader is the oracle of the tests: it folds each document, and tries every expression of the rules at every place.
"""

from __future__ import annotations

import string
from collections.abc import Callable
from functools import partial
from pathlib import Path

from common import compare, print_table, summarise, time_interleaved, write

from hf_mixture.data.curation.licences import find_licences
from hf_mixture.data.curation.licences.fold import fold
from hf_mixture.data.curation.licences.names import name_at
from hf_mixture.data.curation.licences.notices import read_notices
from hf_mixture.data.curation.licences.prefilter import may_state_licence


LENGTH, DOCUMENTS, ROUNDS = 3000, 400, 9
OURS, READER, NAIVE = "find_licences", "all rules, no prefilter", "every name at every word"
ALPHANUMERIC = frozenset(string.ascii_lowercase + string.digits)


def documents() -> tuple[list[str], list[str]]:
    """Documents of the standard library and of installed packages, without and with words of licences."""
    plain: list[str] = []
    stating: list[str] = []
    root = Path(string.__file__).parent
    for path in sorted(root.rglob("*.py")) + sorted(root.rglob("*.md")) + sorted(root.rglob("*.rst")):
        text = path.read_text(encoding="utf-8", errors="ignore")
        for start in range(0, len(text) - LENGTH, LENGTH):
            document = text[start : start + LENGTH]
            target = stating if may_state_licence(document) else plain
            if len(target) < DOCUMENTS:
                target.append(document)
        if len(plain) == len(stating) == DOCUMENTS:
            break
    return plain, stating


def naive(document: str) -> int:
    """Try every name at every word, and every other rule everywhere."""
    text = fold(document).text
    names = 0
    for start in range(len(text)):
        if text[start] in ALPHANUMERIC and (start == 0 or text[start - 1] not in ALPHANUMERIC):
            end = start
            while end < len(text) and text[end] in ALPHANUMERIC:
                end += 1
            names += name_at(text, start, text[start:end]) is not None
    return names + len(read_notices(document))


def run(read: Callable[[str], object], texts: list[str]) -> None:
    for text in texts:
        read(text)


def main() -> None:
    plain, stating = documents()
    # As documents of the web have them: one in ten says something about a licence.
    mixed = plain[:360] + stating[:40]
    for text in mixed:
        assert list(find_licences(text).notices) == (
            [n for n, _ in read_notices(text)] if may_state_licence(text) else []
        )
    results = {}
    for name, texts in (("no word of a licence", plain), ("words of licences", stating), ("one in ten", mixed)):
        readers = {OURS: find_licences, READER: read_notices, NAIVE: naive}
        times = time_interleaved({key: partial(run, reader, texts) for key, reader in readers.items()}, rounds=ROUNDS)
        per_document = {key: summarise([s / len(texts) * 1e3 for s in samples]) for key, samples in times.cpu.items()}
        results[name] = {
            "documents": len(texts),
            "milliseconds_of_processor_per_document": per_document,
            "ratio_of_processor_time": compare(times.cpu, OURS),
        }
        print(name)
        print_table(["reader", "ms per document"], [[key, f"{r['median']:.3f}"] for key, r in per_document.items()])
    write(
        "licences",
        {
            "characters_of_a_document": LENGTH,
            "rounds": ROUNDS,
            "note": "processor time; other work ran on the machine at the same time",
            "documents": results,
        },
    )


if __name__ == "__main__":
    main()
