"""The journal of proxy runs: one line a finished run, on the disk before the next one starts.

A folder holds `proxies.json`, which says what the runs have in common, and `runs-NNNNN.jsonl`, one file a process.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hf_mixture.data.source import shorten
from hf_mixture.hub.atomic import write_atomic
from hf_mixture.hub.reading import parse_json, read_document


FORMAT = "hf_mixture_proxy_runs"
VERSION = 1
HEADER = "proxies.json"


class RunJournal:
    """Finished runs of one folder.

    Args:
        folder: The folder; made when it is missing.
        identity: What all runs share: JSON values.
        process: Number of this process, >= 0. Each process writes a file of its own.

    Raises:
        ValueError: The folder holds runs with another identity, or something else.
    """

    def __init__(self, folder: str | os.PathLike[str], identity: Mapping[str, Any], *, process: int = 0) -> None:
        self.folder = Path(folder)
        self.process = process
        header = {"format": FORMAT, "version": VERSION, **identity}
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / HEADER
        if path.exists():
            _check_header(path, header)
        elif any(self.folder.glob("runs-*.jsonl")):
            raise ValueError(f"{str(self.folder)!r} has runs and no {HEADER}; choose another folder")
        else:
            write_atomic(path, json.dumps(header, indent=2) + "\n")

    @property
    def path(self) -> Path:
        """The file that this process writes."""
        return self.folder / f"runs-{self.process:05d}.jsonl"

    def read(self) -> dict[str, dict[str, Any]]:
        """Return the records of all processes by trial id. A line that was torn by a kill is ignored.

        Raises:
            ValueError: Another line than the last one of a file is not JSON.
        """
        records: dict[str, dict[str, Any]] = {}
        for path in sorted(self.folder.glob("runs-*.jsonl")):
            for record in _lines(path):
                records.setdefault(record["trial_id"], record)
        return records

    def append(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Write finished runs and wait until they are on the disk."""
        text = "".join(json.dumps(record, allow_nan=False) + "\n" for record in records)
        # The line that a kill has torn must not run into the next one.
        with open(self.path, "ab+") as file:
            file.truncate(_end_of_lines(self.path))
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())


def _end_of_lines(path: Path) -> int:
    return path.read_bytes().rfind(b"\n") + 1


def _lines(path: Path) -> list[dict[str, Any]]:
    records = []
    content = path.read_bytes()[: _end_of_lines(path)]
    for number, line in enumerate(content.splitlines(), start=1):
        try:
            record = parse_json(line, "it")
            record["trial_id"], record["key"]
            {record["trial_id"]: record}
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(
                f"line {number} of {str(path)!r} is not a record of a run ({error}); remove that line, and its run is "
                "repeated"
            ) from error
        records.append(record)
    return records


def _check_header(path: Path, mine: Mapping[str, Any]) -> None:
    saved = read_document(path, FORMAT, VERSION, remedy="choose another folder")
    different = _differences(saved, mine)
    if different:
        raise ValueError(
            f"{str(path.parent)!r} holds runs of another experiment: {'; '.join(different[:5])}. Their losses cannot "
            "be compared with new ones: choose another folder, or restore the old settings and data"
        )


def _differences(saved: Any, mine: Any, path: str = "") -> list[str]:
    if isinstance(saved, Mapping) and isinstance(mine, Mapping):
        found = []
        for key in [*saved, *(key for key in mine if key not in saved)]:
            name = f"{path}.{key}" if path else str(key)
            if key in saved and key in mine:
                found += _differences(saved[key], mine[key], name)
            else:
                found.append(f"{name} is {'missing now' if key in saved else 'new'}")
        return found
    return [] if saved == mine else [f"{path} was {shorten(saved)}, is {shorten(mine)}"]
