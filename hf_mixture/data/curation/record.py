"""The provenance record: the columns that every document has, kept or rejected.

One row says where a document comes from, under which licence and how that is known, who generated it, what every stage
found, and whether it was kept.
"""

from __future__ import annotations

import pyarrow as pa


FACTS = (
    "url",
    "license",
    "card_license",
    "source_dataset",
    "source_revision",
    "retrieved_at",
    "generator_model",
    "generator_license",
    "seed_license",
)
"""What a source, or one of its rows, may say about the origin of a document; all text."""

FLAGS = ("government", "file_level_provenance")
"""The same, true or false."""

SIGNALS = ("robots_txt", "ai_txt", "tdmrep", "http_headers", "html_head")
"""Texts in which a publisher may reserve its rights, as they were fetched together with the document."""

COLUMNS = pa.schema(
    [
        ("id", pa.string()),
        ("source", pa.string()),
        ("text", pa.string()),
        ("url", pa.string()),
        ("license_spdx", pa.string()),
        ("license_source", pa.string()),
        ("license_confidence", pa.float64()),
        ("license_text_ref", pa.list_(pa.int64())),
        ("license_notice", pa.string()),
        ("license_reported", pa.list_(pa.string())),
        ("license_declared", pa.string()),
        ("tier", pa.string()),
        ("tier_reason", pa.string()),
        ("domain", pa.string()),
        ("source_dataset", pa.string()),
        ("source_revision", pa.string()),
        ("retrieved_at", pa.string()),
        ("generator_model", pa.string()),
        ("generator_license", pa.string()),
        ("seed_license", pa.string()),
        ("tdm_optout", pa.string()),
        ("language", pa.string()),
        ("language_score", pa.float64()),
        (
            "pii_spans",
            pa.list_(pa.struct([("start", pa.int64()), ("end", pa.int64()), ("kind", pa.string())])),
        ),
        ("num_tokens", pa.int64()),
        ("dedup_key", pa.string()),
        ("decontam_hits", pa.int64()),
        ("decontam_benchmarks", pa.list_(pa.string())),
        ("decision", pa.string()),
        ("reason", pa.string()),
        ("meta", pa.string()),
    ]
)
"""The columns of a document: `license_text_ref` is the span of the notice in the text, `license_notice` the notice
word for word, `license_reported` the licences that a card must name, such as share-alike ones; `meta` holds the other
columns of its source as JSON."""

RAW = pa.schema(
    [
        ("id", pa.string()),
        ("text", pa.string()),
        ("facts", pa.string()),
        ("meta", pa.string()),
        ("fault", pa.string()),
    ]
)
"""A document as it was read: `facts` as JSON, and `fault` says why it cannot be processed."""

OF_RAW = ("id", "text", "meta")
ADDED = pa.schema([field for field in COLUMNS if field.name not in ("meta", "id", "source")])
"""What the stages add to a raw document; a null text means that it was not changed."""

SAMPLE = pa.schema(
    [
        ("text", pa.string()),
        ("tier", pa.string()),
        ("domains", pa.list_(pa.string())),
        ("sources", pa.list_(pa.string())),
        ("ids", pa.list_(pa.string())),
        ("licenses", pa.list_(pa.string())),
        ("num_tokens", pa.int64()),
    ]
)
"""The columns of a packed sample."""
