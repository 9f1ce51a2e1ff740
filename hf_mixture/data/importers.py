"""Importers: a `Mixture` from the files of other projects.

Weights that other files leave outside the tolerance of a mixture (two of RegMix's published files sum to 0.787 and
0.815) are normalised only when the caller says so.
"""

from __future__ import annotations

import csv
import hashlib
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hf_mixture.data.export.trl import EXTRA, FIELDS
from hf_mixture.data.mixture import Mixture, Unit
from hf_mixture.data.mixture_file import MAX_FILE_BYTES, load_json
from hf_mixture.data.source import Source, shorten
from hf_mixture.hub.damage import naming
from hf_mixture.hub.reading import parse_yaml


FORMATS = ("trl", "csv", "json", "regmix", "olmix")
# Columns of an Olmix table that are no domains.
_OLMIX_FACTS = ("run", "run_id", "name", "index")
_REGMIX_PREFIX = "train_"
# What the weights of a format count, where the format decides it.
_UNITS: dict[str, Unit] = {"trl": "examples", "regmix": "tokens", "olmix": "tokens"}


def import_mixture(
    path: str | os.PathLike[str],
    format: str,
    *,
    unit: Unit | None = None,
    normalise: bool = False,
    names: Sequence[str] | None = None,
    run: str | None = None,
    seed: int = 0,
) -> Mixture:
    """Read a mixture from a file of another project.

    Args:
        path: The file.
        format: `"trl"`: YAML of a `DatasetMixtureConfig`; `"csv"`: a table with the columns name and weight;
            `"json"`: a list of {name, weight} or a map from name to weight; `"regmix"`: YAML with a map `train` of
            `train_<domain>`; `"olmix"`: a table with one row for each run and one column for each domain.
        unit: What the weights count. Default: what the format counts (TRL: examples; RegMix and Olmix: tokens). A
            plain list does not say it, so it must be given.
        normalise: Divide the weights by their sum, whatever it is. Default: False.
        names: Names of the domains, in the order of the file. Default: those of the file; for TRL, the path and the
            configuration.
        run: Id of the row of an Olmix table; may be left out when there is one row.
        seed: Seed of the order. Default: 0.

    Returns:
        The mixture; its provenance names the file and its sha256.

    Raises:
        ValueError: The file does not follow its format, the unit is missing, or the weights do not sum to 1.

    Example:
        ```python
        >>> import pathlib, tempfile
        >>> from hf_mixture.data.importers import import_mixture
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder, "human.yaml")
        ...     _ = path.write_text("train:\\n  train_wiki: 0.3\\n  train_code: 0.3\\n")
        ...     import_mixture(path, "regmix", normalise=True).weights
        {'wiki': 0.5, 'code': 0.5}

        ```
    """
    if format not in FORMATS:
        raise ValueError(f"format={format!r} is not one of {list(FORMATS)}; choose one")
    unit = unit or _UNITS.get(format)
    if unit is None:
        raise ValueError(f"unit is missing, and a {format} list does not say what its weights count; pass it")
    if run is not None and format != "olmix":
        raise ValueError(f"run={run!r} belongs to format='olmix', and the format is {format!r}; leave it out")
    where = os.fspath(path)
    if os.path.getsize(where) > MAX_FILE_BYTES:
        raise ValueError(f"{where}: more than {MAX_FILE_BYTES} bytes; check that it is the right file")
    data = Path(where).read_bytes()
    try:
        # Spreadsheets write a mark of the byte order.
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{where}: not UTF-8 text ({error}); check that it is the right file") from None
    sources: dict[str, Source] = {}
    extra: dict[str, Any] = {}
    with naming(where):
        if format == "trl":
            pairs, sources, extra = _trl(text, where, names)
        else:
            readers = {"csv": _csv, "json": _json, "regmix": _regmix}
            pairs = _olmix(text, where, run) if format == "olmix" else readers[format](text, where)
            if names is not None:
                pairs = list(zip(_check_count(names, pairs, where), [weight for _, weight in pairs], strict=True))
        weights: dict[str, Any] = {}
        for name, weight in pairs:
            if name in weights:
                raise ValueError(f"{where}: {name!r} stands twice; names must be unique: pass names=[...]")
            weights[name] = weight
    origin = {"file": os.path.basename(where), "sha256": hashlib.sha256(data).hexdigest()}
    provenance = {"method": "imported", "parameters": {"format": format, "run": run}, "table": origin}
    with naming(where):
        return Mixture(
            weights,
            unit=unit,
            seed=seed,
            sources=sources,
            metadata={"provenance": provenance, **extra},
            normalise=normalise,
        )


def _check_count(names: Sequence[str], entries: Sequence[Any], where: str) -> Sequence[str]:
    if isinstance(names, str) or len(names) != len(entries):
        raise ValueError(
            f"{where}: names={shorten(names)} must be a list of {len(entries)} names, one for each source"
        )
    return names


def _yaml(text: str, where: str) -> dict[str, Any]:
    values = parse_yaml(text, where)
    if not isinstance(values, dict):
        raise ValueError(f"{where}: the top level is a {type(values).__name__}; it must be a map: check the file")
    return values


def _trl(
    text: str, where: str, names: Sequence[str] | None
) -> tuple[list[tuple[str, Any]], dict[str, Source], dict[str, Any]]:
    config = _yaml(text, where)
    entries = config.get("datasets")
    if not isinstance(entries, list) or not entries or not all(isinstance(entry, dict) for entry in entries):
        raise ValueError(f"{where}: datasets={shorten(entries)} must be a non-empty list of maps: correct it")
    for i, entry in enumerate(entries):
        if unknown := sorted(set(map(str, entry)) - set(FIELDS)):
            raise ValueError(f"{where}: datasets[{i}] has unknown keys {unknown}; TRL has {list(FIELDS)}: remove them")
        if "path" not in entry:
            raise ValueError(f"{where}: datasets[{i}] has no 'path'; add it")
        if entry.get("fraction") is None:
            raise ValueError(
                f"{where}: datasets[{i}] has no fraction, so the shares are those of the sizes; give every data set a "
                "fraction, or use Mixture.natural"
            )
    if names is None:
        names = [" ".join(str(entry[key]) for key in ("path", "name") if entry.get(key)) for entry in entries]
    else:
        _check_count(names, entries, where)
    sources, columns = {}, {}
    for name, entry in zip(names, entries, strict=True):
        facts = {"config": "name", "data_dir": "data_dir", "data_files": "data_files", "split": "split"}
        fields = {field: entry[key] for field, key in facts.items() if entry.get(key) is not None}
        sources[name] = Source(entry["path"], **fields)
        if entry.get("columns"):
            columns[name] = list(entry["columns"])
    kept = {"columns": columns} if columns else {}
    kept |= {key: config[key] for key in ("streaming", "test_split_size") if config.get(key)}
    pairs = [(name, entry["fraction"]) for name, entry in zip(names, entries, strict=True)]
    return pairs, sources, {EXTRA: kept} if kept else {}


def _csv(text: str, where: str) -> list[tuple[str, Any]]:
    rows = list(csv.DictReader(io.StringIO(text)))
    if not rows or not {"name", "weight"} <= set(rows[0]):
        raise ValueError(f"{where}: a table with the columns name and weight is wanted; add the header line")
    return [(row["name"], _number(row["weight"], where, row["name"])) for row in rows]


def _json(text: str, where: str) -> list[tuple[str, Any]]:
    values = load_json(text, where)
    if isinstance(values, dict):
        return list(values.items())
    if isinstance(values, list) and all(map(_is_named_weight, values)):
        return [(item["name"], item["weight"]) for item in values]
    raise ValueError(f"{where}: a list of {{name, weight}} or a map from name to weight is wanted; correct the file")


def _is_named_weight(item: Any) -> bool:
    return isinstance(item, dict) and set(item) == {"name", "weight"} and isinstance(item["name"], str)


def _regmix(text: str, where: str) -> list[tuple[str, Any]]:
    train = _yaml(text, where).get("train")
    if not isinstance(train, dict) or not train:
        raise ValueError(f"{where}: train={shorten(train)} must be a map from train_<domain> to a weight: correct it")
    for key in train:
        if not (isinstance(key, str) and key.startswith(_REGMIX_PREFIX)):
            raise ValueError(f"{where}: train has the key {key!r}; RegMix names its domains train_<domain>: rename it")
    return [(key.removeprefix(_REGMIX_PREFIX), weight) for key, weight in train.items()]


def _olmix(text: str, where: str, run: str | None) -> list[tuple[str, Any]]:
    rows = list(csv.DictReader(io.StringIO(text)))
    id_column = next((name for name in ("run", "run_id") if rows and name in rows[0]), None)
    if id_column is None:
        raise ValueError(f"{where}: a table with a column run or run_id is wanted; add it")
    ids = [row[id_column] for row in rows]
    if run is None and len(rows) > 1:
        raise ValueError(f"{where}: has {len(rows)} runs, {shorten(ids)}; pass run=... to choose one")
    chosen = [row for row in rows if run is None or row[id_column] == run]
    if len(chosen) != 1:
        raise ValueError(f"{where}: run={run!r} stands {len(chosen)} times among {shorten(ids)}; it must stand once")
    domains = [key for key in chosen[0] if key and key not in _OLMIX_FACTS and not key.startswith("Unnamed")]
    return [(name, _number(chosen[0][name], where, name)) for name in domains]


def _number(text: str | None, where: str, name: str) -> float:
    try:
        return float(str(text))
    except ValueError:
        raise ValueError(f"{where}: weight of {name!r} is {text!r}, which is no number; correct it") from None
