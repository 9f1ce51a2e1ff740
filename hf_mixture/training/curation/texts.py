"""Training text of a curated data set: one domain for each source and tier, with held-out documents."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from hf_mixture.data.curation.curated import CuratedDataset
from hf_mixture.data.splits import SPLITS, split_of


def domain_texts(curated: CuratedDataset, held_out: float) -> dict[str, Any]:
    """Take the documents apart by source and tier, and hold some out by a hash of their ids.

    Args:
        curated: The curated data set.
        held_out: Share of the documents for validation, and for test.

    Returns:
        For each `<source>-tier<tier>` its splits. One with too few documents to hold some out is left out.

    Raises:
        ValueError: Nothing is left.
    """
    from datasets import DatasetDict

    names = list(curated.report["configurations"])
    if not names:
        raise ValueError("the curation kept no document; nothing can be trained on")
    rows = curated.load(names[-1])
    key = np.array(
        [f"{source}-tier{tier}" for source, tier in zip(rows["source"], rows["tier"], strict=True)], dtype=object
    )
    split = np.array([split_of(name, held_out) for name in rows["id"]])
    found = {}
    for name in sorted(set(key)):
        parts = {part: np.flatnonzero((key == name) & (split == part)) for part in SPLITS}
        if all(map(len, parts.values())):
            found[name] = DatasetDict({part: rows.select(indices) for part, indices in parts.items()})
        else:
            print(f"{name} has too few documents to hold some out; no model is trained on it", flush=True)
    if not found:
        raise ValueError("no source has enough documents to hold some out; lower training.held_out or add documents")
    return found


def shares(texts: Mapping[str, Any], tiers: list[str], weights: Mapping[str, float] | None) -> dict[str, float]:
    """Return the share of each domain in the training text of some tiers.

    Args:
        texts: What `domain_texts` returned.
        tiers: The tiers to train on.
        weights: Shares of the sources. Default: by their tokens.

    Returns:
        Shares that sum to one; 0 for the domains of other tiers.

    Raises:
        ValueError: No domain is of these tiers.
    """
    tokens = {name: sum(parts["train"]["num_tokens"]) for name, parts in texts.items()}
    wanted = {name: tokens[name] for name in texts if name.rpartition("-tier")[2] in tiers}
    of_source: dict[str, int] = {}
    for name, number in wanted.items():
        source = name.rpartition("-tier")[0]
        of_source[source] = of_source.get(source, 0) + number
    found = {}
    for name in texts:
        source = name.rpartition("-tier")[0]
        whole = of_source.get(source, 0) if weights is None else weights[source]
        found[name] = whole * wanted[name] / of_source[source] if name in wanted else 0.0
    total = math.fsum(found.values())
    if not total:
        raise ValueError(f"tiers {tiers} have no text to train on")
    return {name: share / total for name, share in found.items()}
