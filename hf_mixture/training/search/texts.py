"""The text of a search: domains and targets by split, or clusters of the pooled text as domains."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hf_mixture.data.splits import SPLITS
from hf_mixture.hub.atomic import write_atomic
from hf_mixture.training.recipe import source_of
from hf_mixture.training.search.recipe import ClusterSpec, SearchRecipe


def load_texts(recipe: SearchRecipe) -> tuple[dict[str, Any], dict[str, Any]]:
    """Load the text of the domains and of the targets.

    Args:
        recipe: The recipe.

    Returns:
        For each domain, and for each target, a `DatasetDict` of train, validation and test with a column `text`.
        Domains are as they are named in the recipe: `cluster_texts` groups them anew.

    Raises:
        ValueError: If a domain cannot be read.
        FileNotFoundError: If a source does not exist.
    """
    from hf_mixture.data.domains import load_domains

    sources = {name: source_of(name, values) for name, values in {**recipe.domains, **recipe.targets}.items()}
    texts = dict(load_domains(sources))
    return {name: texts[name] for name in recipe.domains}, {name: texts[name] for name in recipe.targets}


def cluster_texts(spec: ClusterSpec, texts: Mapping[str, Any], *, seed: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Pool the text of all domains and group it by embedding and clustering; a document keeps its split.

    Args:
        spec: How to cluster.
        texts: For each domain its splits: datasets with a column `text`.
        seed: Seed of the embedding and of the clustering.

    Returns:
        For each cluster its splits, the largest first; and, for each cluster, how many documents came from where.

    Raises:
        ValueError: If the clusterer is unknown, or a cluster has no text in one of the splits.
    """
    from datasets import DatasetDict, concatenate_datasets

    from hf_mixture.data.search.clusters import cluster_domains, embed_texts

    pooled = {
        split: concatenate_datasets([_plain(part[split], domain) for domain, part in texts.items()])
        for split in SPLITS
    }
    everything = [text[: spec.max_chars] for split in SPLITS for text in pooled[split]["text"]]
    print(f"Clustering {len(everything):,} documents", flush=True)
    lengths = [len(text.encode("utf-8")) for split in SPLITS for text in pooled[split]["text"]]
    found = cluster_domains(
        embed_texts(everything, size=spec.size, seed=seed),
        clusterer=clusterer_of(spec, seed),
        lengths=lengths,
        num_domains=spec.num_domains,
        seed=seed,
    )
    starts = np.cumsum([0, *(len(pooled[split]) for split in SPLITS)])
    clusters, origins = {}, {}
    for index, name in enumerate(found.names):
        rows = {
            split: np.flatnonzero(found.labels[start:end] == index)
            for split, start, end in zip(SPLITS, starts[:-1], starts[1:], strict=True)
        }
        if empty := [split for split in SPLITS if not len(rows[split])]:
            raise ValueError(
                f"cluster {index} of {len(found.names)} has no {empty[0]} text; lower clusters.num_domains or add text"
            )
        part = DatasetDict({split: pooled[split].select(rows[split]) for split in SPLITS})
        names, counts = np.unique(part["train"]["domain"][:], return_counts=True)
        clusters[name] = part
        origins[name] = dict(zip(names.tolist(), counts.tolist(), strict=True))
    return clusters, origins


def clusterer_of(spec: ClusterSpec, seed: int) -> Any:
    """Build the clusterer of a recipe.

    Raises:
        ValueError: If scikit-learn has no such clusterer with a number of clusters.
    """
    import inspect

    from hf_mixture._extras import require

    module = require("sklearn.cluster", used_for="clusters")
    usable = [
        name
        for name in module.__all__
        if inspect.isclass(getattr(module, name))
        and "n_clusters" in inspect.signature(getattr(module, name)).parameters
    ]
    if spec.clusterer not in usable:
        raise ValueError(f"clusters.clusterer is {spec.clusterer!r}; choose one of {', '.join(usable)}")
    build = getattr(module, spec.clusterer)
    known = inspect.signature(build).parameters
    given = {"n_clusters": spec.num_clusters, "random_state": seed, "n_init": 1}
    return build(**{name: value for name, value in given.items() if name in known})


def save_clusters(clusters: Mapping[str, Any], folder: Path) -> None:
    """Write the text of each cluster as JSON lines, one file a split, for `mixture.json` to point to."""
    for name, part in clusters.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for split in SPLITS:
            lines = [json.dumps(row, ensure_ascii=False) for row in part[split]]
            write_atomic(folder / name / f"{split}.jsonl", "\n".join(lines) + "\n")


def read_clusters(folder: Path) -> dict[str, Any]:
    """Read what `save_clusters` wrote, in the order of the numbers of the clusters."""
    from hf_mixture.data.domains import load_domains

    names = sorted((path.name for path in folder.iterdir()), key=lambda name: int(name.rpartition("_")[2]))
    return dict(load_domains({name: str(folder / name) for name in names}))


def _plain(part: Any, domain: str) -> Any:
    """The columns that the pooled text keeps, with the name of the domain that a document came from."""
    from datasets import Value

    kept = [name for name in ("text", "license", "path") if name in part.column_names]
    part = part.select_columns(kept)
    if "path" not in kept:
        part = part.add_column("path", [""] * len(part), feature=Value("string"))
    return part.add_column("domain", [domain] * len(part), feature=Value("string"))
