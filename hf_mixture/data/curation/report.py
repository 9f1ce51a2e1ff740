"""The report of a curation: every document of every source accounted for, contamination, mixture, and a digest."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hf_mixture.data.curation.mixing import configurations
from hf_mixture.data.curation.recipe import CurationRecipe
from hf_mixture.data.curation.tiers import TIERS
from hf_mixture.hub.atomic import write_atomic


FORMAT = "hf_mixture_curation_report"
VERSION = 1


def write_report(recipe: CurationRecipe, folder: Path, done: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Count, check and write `dataset/report.json`, `manifest.json` and `throughput.json`.

    Args:
        recipe: The recipe.
        folder: The output folder.
        done: The finished parts.

    Returns:
        The content of `report.json`.

    Raises:
        RuntimeError: The documents that were read are not those that were kept and rejected.
    """
    sources = {name: _account(recipe, folder, name, done) for name in sorted(recipe.sources)}
    files = {
        str(path.relative_to(folder)): _sha256(path)
        for place in ("dataset/data", "rejected")
        for path in sorted((folder / place).rglob("*.parquet"))
    }
    lines = "".join(f"{digest}  {name}\n" for name, digest in files.items())
    report = {
        "format": FORMAT,
        "version": VERSION,
        "name": recipe.name,
        "sources": sources,
        "tiers": _tiers(done),
        "licenses": _licenses(folder),
        "reported": _reported(folder),
        "configurations": configurations(folder),
        "mixtures": done["mixed"],
        "contamination": _contamination(recipe, folder, done),
        "digest": hashlib.sha256(lines.encode()).hexdigest(),
    }
    (folder / "dataset").mkdir(exist_ok=True)
    write_atomic(folder / "manifest.json", json.dumps(files, indent=2) + "\n")
    write_atomic(folder / "dataset" / "report.json", json.dumps(report, indent=2) + "\n")
    write_atomic(folder / "throughput.json", json.dumps(throughput(done), indent=2) + "\n")
    return report


def throughput(done: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Return what each stage took.

    Args:
        done: The finished parts.

    Returns:
        For each stage the documents that it saw, its processor seconds, and documents per processor second.
    """
    seconds, documents = Counter[str](), Counter[str]()
    for facts in done.values():
        for stage, (spent, number) in facts.get("cpu", {}).items():
            seconds[stage] += spent
            documents[stage] += int(number)
    return {
        stage: {
            "documents": documents[stage],
            "cpu_seconds": seconds[stage],
            "documents_per_cpu_second": documents[stage] / seconds[stage] if seconds[stage] else 0.0,
        }
        for stage in seconds
    }


def _account(recipe: CurationRecipe, folder: Path, name: str, done: Mapping[str, Any]) -> dict[str, Any]:
    """What became of the documents of a source."""
    counts = Counter[str]()
    facts = done[f"source/{name}"]
    for number in range(facts["shards"]):
        counts.update(done[f"finish/{name}-{number:06d}"]["counts"])
    kept = counts.pop("kept", 0)
    written = sum(facts["documents"][tier].get(name, [0])[0] for facts in _written(done) for tier in TIERS)
    if facts["rows"] != kept + sum(counts.values()) or written != kept:
        raise RuntimeError(
            f"source {name!r}: {facts['rows']} documents were read, {kept} kept, {sum(counts.values())} rejected, and "
            f"{written} written; the work folder of the run is damaged: remove it and start again"
        )
    return {"read": facts["rows"], "kept": kept, "rejected": dict(sorted(counts.items()))}


def _written(done: Mapping[str, Any]) -> list[Any]:
    return [facts for part, facts in done.items() if part.startswith("write/")]


def _tiers(done: Mapping[str, Any]) -> dict[str, dict[str, dict[str, int]]]:
    """Documents and tokens by tier and source."""
    found: dict[str, dict[str, dict[str, int]]] = {tier: {} for tier in TIERS}
    for facts in _written(done):
        for tier, sources in facts["documents"].items():
            for source, (documents, tokens) in sources.items():
                entry = found[tier].setdefault(source, {"documents": 0, "tokens": 0})
                entry["documents"] += documents
                entry["tokens"] += tokens
    return {tier: dict(sorted(sources.items())) for tier, sources in found.items()}


def _licenses(folder: Path) -> dict[str, dict[str, int]]:
    """Documents by tier and licence."""
    import pyarrow.parquet as pq

    found: dict[str, dict[str, int]] = {}
    for tier in TIERS:
        counts = Counter[str]()
        for path in sorted((folder / "dataset" / "data" / f"tier{tier}").glob("*.parquet")):
            values = pq.read_table(path, columns=["license_spdx"]).column(0).value_counts().to_pylist()
            for entry in values:
                counts[entry["values"] or "NOASSERTION"] += entry["counts"]
        found[tier] = dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
    return found


def _reported(folder: Path) -> list[str]:
    """Licences inside that the policy wants to be named, such as share-alike ones."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    found: set[str] = set()
    for path in (folder / "dataset" / "data").glob("tier*/*.parquet"):
        if "license_reported" in pq.read_schema(path).names:
            column = pq.read_table(path, columns=["license_reported"]).column(0)
            found |= set(pc.unique(pc.list_flatten(column)).to_pylist())
    return sorted(found)


def _contamination(recipe: CurationRecipe, folder: Path, done: Mapping[str, Any]) -> dict[str, Any] | None:
    options = recipe.stages.decontamination
    if options is None:
        return None
    from hf_mixture.data.curation.decontaminate import DecontaminationIndex, contamination_report
    from hf_mixture.data.curation.finish import INDEX

    index = DecontaminationIndex.load(folder / "work" / INDEX)
    flagged = [names for part, facts in done.items() if part.startswith("finish/") for names in facts["flagged"]]
    entries = np.zeros(0, np.int64)
    for path in sorted((folder / "work" / "finished").glob("*.npy")):
        entries = np.union1d(entries, np.load(path)["key"].astype(np.int64))
    return contamination_report(index, flagged, entries, options)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
