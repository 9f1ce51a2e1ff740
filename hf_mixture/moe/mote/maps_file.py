"""`prompts.safetensors`: the maps of single prompts, and what is known of each.

Letters: P prompts, N experts of all routers.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from hf_mixture.hub.atomic import write_atomic
from hf_mixture.hub.damage import reading
from hf_mixture.moe.mote.resonance_file import open_tensors
from hf_mixture.moe.mote.resonance_maps import FtriMaps, facts_from


FILE_NAME = "prompts.safetensors"
FORMAT = "hf_mixture.ftri_prompts"
VERSION = 1


def write_maps(
    folder: str | os.PathLike[str], maps: FtriMaps, labels: Sequence[str], columns: Mapping[str, Sequence[str]]
) -> str:
    """Write the maps of prompts.

    Args:
        folder: An existing folder.
        maps: The maps.
        labels: The class of each prompt.
        columns: More that is known of each prompt, such as its topic.

    Returns:
        Path of the file.
    """
    from safetensors.numpy import save

    tensors: dict[str, Any] = {"counts": maps.counts, "tokens": maps.tokens}
    if maps.values is not None:
        tensors["values"] = maps.values
    header = {
        "format": FORMAT,
        "version": VERSION,
        "facts": asdict(maps.facts),
        "statistic": maps.statistic,
        "positions": maps.positions,
        "labels": list(labels),
        "columns": {name: list(values) for name, values in columns.items()},
    }
    path = Path(folder) / FILE_NAME
    tensors = {name: np.ascontiguousarray(value) for name, value in tensors.items()}
    write_atomic(path, save(tensors, metadata={"hf_mixture": json.dumps(header)}))
    return str(path)


def read_maps(folder: str | os.PathLike[str]) -> tuple[FtriMaps, list[str], dict[str, list[str]]]:
    """Read the maps of prompts.

    Args:
        folder: The folder.

    Returns:
        Maps, labels and columns.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is damaged, or another one.
    """
    path = Path(folder) / FILE_NAME
    header, tensors = open_tensors(path, FORMAT, VERSION)
    with reading(path, "copy it again, or scan again"):
        return _maps(path, header, tensors)


def _maps(
    path: Path, header: dict[str, Any], tensors: dict[str, Any]
) -> tuple[FtriMaps, list[str], dict[str, list[str]]]:
    maps = FtriMaps(
        facts=facts_from(header["facts"]),
        counts=tensors["counts"],
        tokens=tensors["tokens"],
        values=tensors.get("values"),
        statistic=header["statistic"],
        positions=header["positions"],
    )
    labels, columns = list(header["labels"]), dict(header["columns"])
    num_experts = sum(router.num_experts for router in maps.facts.routers)
    if maps.counts.shape != (len(labels), num_experts) or maps.tokens.shape != (len(labels),):
        raise ValueError(
            f"{path} has counts of the shape {list(maps.counts.shape)} for {len(labels)} prompts and {num_experts} "
            "experts; the file was changed: scan again"
        )
    if any(len(values) != len(labels) for values in columns.values()):
        raise ValueError(f"{path} has columns of other lengths than its {len(labels)} prompts; scan again")
    return maps, labels, columns
