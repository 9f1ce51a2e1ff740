"""`ftri.safetensors`: the maps of the classes, one tensor [L, E] of means (float64) and of counts (int64) for each.

Letters: L routers, E experts of the largest router, C classes.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from hf_mixture.hub.atomic import write_atomic
from hf_mixture.hub.damage import reading
from hf_mixture.hub.reading import parse_json, read_tensors
from hf_mixture.moe.mote.resonance_maps import FtriSummary, facts_from


FILE_NAME = "ftri.safetensors"
FORMAT = "hf_mixture.ftri"
VERSION = 1
_KEY = "hf_mixture"


def write(summary: FtriSummary, folder: str | os.PathLike[str]) -> str:
    """Write maps of classes.

    Args:
        summary: The maps.
        folder: The folder; made where it is missing.

    Returns:
        Path of the file.
    """
    from safetensors.numpy import save

    facts = summary.facts
    tensors: dict[str, Any] = {"num_prompts": summary.num_prompts, "num_tokens": summary.num_tokens}
    for place, name in enumerate(summary.classes):
        tensors[f"mean.{name}"] = facts.grid(summary.means[place])
        # Exact up to 2^53, far beyond any count.
        tensors[f"counts.{name}"] = np.nan_to_num(facts.grid(summary.counts[place])).astype(np.int64)
    header = {
        "format": FORMAT,
        "version": VERSION,
        "facts": asdict(facts),
        "classes": summary.classes,
        "statistic": summary.statistic,
        "positions": summary.positions,
        "normalise": summary.normalise,
        "provenance": dict(summary.provenance),
    }
    try:
        text = json.dumps(header, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"provenance is not plain JSON ({error}); use objects, lists, strings and numbers") from None
    directory = Path(folder)
    directory.mkdir(parents=True, exist_ok=True)
    write_atomic(directory / FILE_NAME, save(tensors, metadata={_KEY: text}))
    return str(directory / FILE_NAME)


def read(path: str | os.PathLike[str]) -> FtriSummary:
    """Read maps of classes.

    Args:
        path: The file, or the folder that holds it.

    Returns:
        The maps.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is truncated, not a map of this package, or of a newer format.
    """
    place = Path(path)
    if place.is_dir():
        place = place / FILE_NAME
    header, tensors = open_tensors(place, FORMAT, VERSION)
    with reading(place):
        return _summary(header, tensors)


def open_tensors(place: Path, form: str, version: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read the header and the tensors of a file of maps.

    Args:
        place: The file.
        form: Its format.
        version: Its version.

    Returns:
        Header and tensors.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is damaged, or of another format or version.
    """
    if not place.is_file():
        raise FileNotFoundError(f"there is no {place}; `hf-mixture mote scan` writes it")
    metadata, tensors = read_tensors(place, framework="numpy")
    header = parse_json(metadata.get(_KEY, "null"), f"the header of {place}")
    if not isinstance(header, dict) or header.get("format") != form:
        raise ValueError(f"{place} holds no maps of experts; `hf-mixture mote scan` writes them")
    if header.get("version") != version:
        raise ValueError(
            f"{place} has version {header.get('version')} of the format, and version {version} is read here; use the "
            "release of hf_mixture that wrote it"
        )
    return header, tensors


def _summary(header: dict[str, Any], tensors: dict[str, Any]) -> FtriSummary:
    facts = facts_from(header["facts"])
    shape = (len(facts.routers), max(router.num_experts for router in facts.routers))

    def rows(kind: str) -> Any:
        grids = [tensors[f"{kind}.{name}"] for name in header["classes"]]
        for name, grid in zip(header["classes"], grids, strict=True):
            if grid.shape != shape:
                raise ValueError(
                    f"{kind}.{name} has the shape {list(grid.shape)}, and the routers that the file names have "
                    f"{list(shape)}; the file was changed: make it again"
                )
        kept = [[grid[place, : router.num_experts] for place, router in enumerate(facts.routers)] for grid in grids]
        return np.stack([np.concatenate(row) for row in kept])

    return FtriSummary(
        facts=facts,
        classes=tuple(header["classes"]),
        means=rows("mean"),
        counts=rows("counts"),
        num_prompts=tensors["num_prompts"],
        num_tokens=tensors["num_tokens"],
        statistic=header["statistic"],
        positions=header["positions"],
        normalise=header["normalise"],
        provenance=header["provenance"],
    )
