"""What is published besides the documents: card, recipe, mixture and Croissant metadata."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hf_mixture._extras import is_installed
from hf_mixture.data.curation.assemble import tier_folder
from hf_mixture.data.curation.recipe import CurationRecipe
from hf_mixture.data.curation.record import COLUMNS
from hf_mixture.hub.atomic import write_atomic
from hf_mixture.hub.cards import markdown_table, package_versions, write_dataset_card


def write_publication(recipe: CurationRecipe, folder: Path, report: Mapping[str, Any]) -> None:
    """Write `README.md`, `recipe.yaml`, `mixture.json` and `croissant.json` to `dataset`.

    Args:
        recipe: The recipe.
        folder: The output folder.
        report: The content of `report.json`.

    Raises:
        ValueError: mlcroissant finds the metadata invalid.
    """
    place = folder / "dataset"
    published = recipe.to_dict() | {"output_dir": None}
    write_atomic(place / "recipe.yaml", _yaml(published))
    if recipe.mixture is not None and report["mixtures"]:
        from hf_mixture.data.mixture import Mixture

        Mixture(
            recipe.mixture.weights,
            unit=recipe.mixture.unit,
            seed=recipe.seed,
            normalise=True,
        ).save_pretrained(place)
    write_dataset_card(place, card_facts(recipe, place, report))
    if is_installed("mlcroissant"):
        write_atomic(place / "croissant.json", json.dumps(croissant(recipe, place, report), indent=2) + "\n")


def card_facts(recipe: CurationRecipe, place: Path, report: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the template of the card needs.

    Args:
        recipe: The recipe.
        place: The folder that is published.
        report: The content of `report.json`.

    Returns:
        Facts by name.
    """
    licenses = [(tier, name, number) for tier, names in report["licenses"].items() for name, number in names.items()]
    inside = {name for _, name, _ in licenses}
    rejects: dict[str, int] = {}
    for counts in report["sources"].values():
        for reason, number in counts["rejected"].items():
            rejects[reason] = rejects.get(reason, 0) + number
    return {
        "title": recipe.publish.title or recipe.name,
        "description": recipe.description.strip(),
        "metadata": _metadata(recipe, place, report, inside),
        "configurations": list(report["configurations"].items()),
        "first": next(iter(report["configurations"]), None),
        "has_training": bool(report["mixtures"]),
        "tiers": _table(
            {"tier": tier, "source": source, **counts}
            for tier, sources in report["tiers"].items()
            for source, counts in sources.items()
        ),
        "licenses": _table({"tier": t, "licence": name, "documents": number} for t, name, number in licenses),
        "share_alike": report["reported"],
        "sources": _table(
            {
                "source": name,
                "from": spec.facts.get("source_dataset") or spec.path or "passed to `curate`",
                "licence stated for all of it": spec.facts.get("license") or spec.facts.get("card_license"),
                "read": report["sources"][name]["read"],
                "kept": report["sources"][name]["kept"],
                "rejected": sum(report["sources"][name]["rejected"].values()),
            }
            for name, spec in recipe.sources.items()
        ),
        "rejects": _table({"reason": reason, "documents": number} for reason, number in sorted(rejects.items())),
        "mixtures": _table(
            {
                "configuration": name,
                "source": source,
                "asked": f"{share['asked']:.2%}",
                "realised": f"{share['realised']:.2%}",
                "documents": share["documents"],
                "drawn": share["drawn"],
            }
            for name, facts in report["mixtures"].items()
            for source, share in facts["sources"].items()
        ),
        "unit": recipe.mixture.unit if recipe.mixture is not None else "",
        "counted_by": recipe.tokenizer or "words and punctuation marks",
        "contamination": report["contamination"],
        "benchmarks": _table(
            {"benchmark": name, **facts}
            for name, facts in (report["contamination"] or {"benchmarks": {}})["benchmarks"].items()
        ),
        "redacts": recipe.stages.pii is not None and recipe.stages.pii.action == "redact",
        "packing": recipe.packing,
        "digest": report["digest"],
        "versions": markdown_table([{"package": name, "version": text} for name, text in package_versions().items()]),
    }


def croissant(recipe: CurationRecipe, place: Path, report: Mapping[str, Any]) -> dict[str, Any]:
    """Return Croissant metadata of the documents of each configuration, checked by mlcroissant.

    Args:
        recipe: The recipe.
        place: The folder that is published.
        report: The content of `report.json`.

    Returns:
        JSON-LD.

    Raises:
        ValueError: mlcroissant finds it invalid.
    """
    import mlcroissant as mlc

    context = mlc.Context(is_live_dataset=False)
    distribution: list[Any] = [
        mlc.FileObject(
            ctx=context, id="repo", name="repo", content_url=".", encoding_formats=["git+https"], sha256="main"
        )
    ]
    records = []
    for name, tiers in report["configurations"].items():
        folders = [tier_folder(tier) for tier in tiers]
        distribution.append(
            mlc.FileSet(
                ctx=context,
                id=f"files-{name}",
                name=f"files-{name}",
                contained_in=["repo"],
                encoding_formats=["application/x-parquet"],
                includes=[f"data/{folder}/*.parquet" for folder in folders],
            )
        )
        records.append(
            mlc.RecordSet(ctx=context, id=name, name=name, fields=list(_fields(mlc, context, name, f"files-{name}")))
        )
    metadata = mlc.Metadata(
        ctx=context,
        name=recipe.name,
        description=recipe.description.strip() or recipe.name,
        license=sorted({name for names in report["licenses"].values() for name in names}) or None,
        url=f"https://huggingface.co/datasets/{recipe.publish.repo_id}" if recipe.publish.repo_id else None,
        distribution=distribution,
        record_sets=records,
    )
    if metadata.ctx.issues.errors:
        raise ValueError(f"the Croissant metadata is invalid: {sorted(metadata.ctx.issues.errors)}")
    return dict(json.loads(json.dumps(metadata.to_json(), default=str)))


def _fields(mlc: Any, context: Any, record: str, files: str) -> Iterator[Any]:
    kinds = {"int64": mlc.DataType.INTEGER, "double": mlc.DataType.FLOAT}
    for column in COLUMNS:
        kind = str(column.type)
        if kind not in (*kinds, "string"):
            continue
        yield mlc.Field(
            ctx=context,
            id=f"{record}/{column.name}",
            name=column.name,
            data_types=[kinds.get(kind, mlc.DataType.TEXT)],
            source=mlc.Source(ctx=context, file_set=files, extract=mlc.Extract(column=column.name)),
        )


def _metadata(recipe: CurationRecipe, place: Path, report: Mapping[str, Any], licenses: set[str]) -> str:
    """The YAML head of the card: licence, configurations and their files."""
    from huggingface_hub import DatasetCardData

    single = next(iter(licenses)).lower() if len(licenses) == 1 else None
    configs = [
        {"config_name": name, "data_files": [f"data/{tier_folder(tier)}/*.parquet" for tier in tiers]}
        for name, tiers in report["configurations"].items()
    ]
    configs += [
        {"config_name": f"{name}_training", "data_files": [f"data/{name}_training/*.parquet"]}
        for name, facts in report["mixtures"].items()
        if facts["rows"]
    ]
    if any((place / "data" / "rejected").glob("*.parquet")):
        configs.append({"config_name": "rejected", "data_files": ["data/rejected/*.parquet"]})
    return DatasetCardData(
        license=single or "other",
        license_name=None if single else recipe.publish.license_name,
        language=recipe.publish.languages or None,
        pretty_name=recipe.publish.title or recipe.name,
        tags=["hf-mixture", "mixturevitae", "licence-tiers", "provenance"],
        configs=configs or None,
    ).to_yaml()


def _table(rows: Any) -> str:
    listed = list(rows)
    return markdown_table(listed) if listed else ""


def _yaml(values: Mapping[str, Any]) -> str:
    import yaml

    return str(yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True))
