"""Packing: joining documents to samples of a length, inside one tier and one domain.

Documents of one group are joined in the order in which they come, until the next one would pass the length. A sample
has the maximum tier of its parts, whatever the groups are, and lists where every part comes from.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from hf_mixture.data.curation.decontaminate import SEPARATOR
from hf_mixture.data.curation.schema import Count
from hf_mixture.data.curation.tiers import max_tier


MAX_OPEN = 1000


@dataclass(frozen=True, kw_only=True)
class PackingOptions:
    """Options of packing.

    Args:
        max_tokens: Length of a sample, in the tokens that documents are counted in. A longer document is a sample of
            its own and is not cut. Default: 2048.
        within: What the parts of a sample have in common: any of `tier`, `domain` and `source`. Default: `tier` and
            `domain`.
        separator: Text between two parts. Default: `<|endoftext|>`.
    """

    max_tokens: Count = 2048
    within: list[Literal["tier", "domain", "source"]] = field(default_factory=lambda: ["tier", "domain"])
    separator: str = SEPARATOR


@dataclass
class _Open:
    """A sample that is being filled."""

    parts: list[Mapping[str, Any]] = field(default_factory=list)
    num_tokens: int = 0


def pack(
    documents: Iterable[Mapping[str, Any]], options: PackingOptions, *, max_open: int = MAX_OPEN
) -> Iterator[dict[str, Any]]:
    """Join documents to samples.

    Args:
        documents: Rows of the record, with `text`, `tier`, `domain`, `source`, `id`, `license_spdx` and `num_tokens`.
        options: How to pack.
        max_open: Samples that are filled at once; when more are needed, the one that was begun first is finished as it
            is, which bounds the memory.

    Yields:
        Samples with `text`, `tier` (the maximum of the parts), `domains`, `sources`, `ids`, `licenses`, one for each
        part, and `num_tokens`.

    Example:
        ```python
        >>> row = {"tier": "1", "domain": "a.org", "source": "s", "license_spdx": "MIT", "num_tokens": 2}
        >>> rows = [{**row, "text": text, "id": text} for text in ("one", "two", "three")]
        >>> [sample["ids"] for sample in pack(rows, PackingOptions(max_tokens=4))]
        [['one', 'two'], ['three']]

        ```
    """
    waiting: dict[tuple[Any, ...], _Open] = {}
    for document in documents:
        key = tuple(document[name] for name in options.within)
        sample = waiting.get(key)
        if sample is not None and sample.num_tokens + document["num_tokens"] > options.max_tokens:
            yield _finish(waiting.pop(key), options)
            sample = None
        if sample is None:
            if len(waiting) >= max_open:
                yield _finish(waiting.pop(next(iter(waiting))), options)
            sample = waiting[key] = _Open()
        sample.parts.append(document)
        sample.num_tokens += document["num_tokens"]
    for sample in waiting.values():
        yield _finish(sample, options)


def _finish(sample: _Open, options: PackingOptions) -> dict[str, Any]:
    parts = sample.parts
    return {
        "text": options.separator.join(part["text"] for part in parts),
        "tier": max_tier(part["tier"] for part in parts),
        "domains": [part["domain"] for part in parts],
        "sources": [part["source"] for part in parts],
        "ids": [part["id"] for part in parts],
        "licenses": [part["license_spdx"] for part in parts],
        "num_tokens": sample.num_tokens,
    }
