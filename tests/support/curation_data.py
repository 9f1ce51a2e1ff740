"""Documents for the tests of curation: made of real words, with duplicates, faults and unwanted ones among them."""

from __future__ import annotations

import random
from typing import Any


_WORDS = """
the river and of a lake in winter is to heron bird was water with over stone for old boat which had they evening field
under light from north this small village when rain began by wood not but people where bridge it mill road
"""
WORDS = _WORDS.split()

RECIPE: dict[str, Any] = {
    "format": "hf_mixture_curation",
    "version": 1,
    "name": "test",
    "sources": {
        "open": {
            "columns": {"text": "text", "id": "name", "license": "license"},
            "facts": {"file_level_provenance": True},
        },
        "made": {
            "columns": {"text": "text"},
            "facts": {
                "license": "Apache-2.0",
                "generator_model": "a-model",
                "generator_license": "LicenseRef-llama3",
                "seed_license": "MIT",
            },
        },
    },
    "shard_rows": 50,
    "rows_per_file": 120,
}


def draws(seed: int) -> random.Random:
    """A generator of test data."""
    return random.Random(seed)  # noqa: S311


def sentence(rng: random.Random, length: int = 12) -> str:
    """A sentence of words that a stop-word test accepts."""
    return " ".join(rng.choices(WORDS, k=length)).capitalize() + "."


def text(rng: random.Random, sentences: int = 8) -> str:
    """A document."""
    return " ".join(sentence(rng) for _ in range(sentences))


def documents(number: int, seed: int = 0) -> list[dict[str, Any]]:
    """Documents of which about a third is unwanted: copies, repeated sentences, short ones, spam, other faults."""
    rng = draws(seed)
    rows: list[dict[str, Any]] = []
    for index in range(number):
        kind = rng.random()
        body = text(rng, rng.randint(3, 12))
        if rows and kind < 0.1:
            body = rng.choice(rows)["text"] or ""
            body = body if rng.random() < 0.5 else body.upper() + "  "
        elif rows and kind < 0.15:
            body = (rng.choice(rows)["text"] or "") + " " + sentence(rng)
        elif rows and kind < 0.17:
            # Another beginning of as many words: a copy by the words that follow.
            body = f"{sentence(rng)} {' '.join(rng.choice(rows)['text'].split()[12:])}"
        elif kind < 0.18:
            body = "Too short."
        elif kind < 0.2:
            body = "Buy now! Click here! Order now! Risk free! " + body
        elif kind < 0.22:
            body = "#$%&/()=?*+" * 30
        elif kind < 0.24:
            body += "\0"
        elif kind < 0.26:
            body = ""
        elif kind < 0.3:
            body += " Write to ann.lee@lake.org."
        rows.append(
            {
                "text": body,
                "name": f"document {index}",
                "license": rng.choice(["MIT", "Apache-2.0", "CC-BY-4.0", "CC-BY-SA-4.0", "CC-BY-NC-4.0"]),
                "number": index,
            }
        )
    return rows


def sources(number: int = 400, seed: int = 0) -> dict[str, list[dict[str, Any]]]:
    """Rows of the two sources of `RECIPE`."""
    made = [{"text": row["text"]} for row in documents(number // 2, seed + 1)]
    return {"open": documents(number, seed), "made": made}
