"""What of a curation is done: one line for each finished part, on the disk before the run goes on.

Every part writes its files whole before its line, so that a run killed at any moment repeats at most the parts that
were being worked on, with the same result.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hf_mixture.hub.atomic import is_partial_of
from hf_mixture.hub.damage import reading
from hf_mixture.hub.reading import check_format, parse_json


FORMAT = "hf_mixture_curation_journal"
VERSION = 1


class Journal:
    """The journal of one output folder.

    Args:
        folder: The folder; made by `begin` when it is missing.
        recipe: The recipe as plain data, without its output folder.
        resume: Whether to continue what is there.

    Raises:
        ValueError: The folder holds something else, another recipe, or this one without `resume`.
    """

    def __init__(self, folder: Path, recipe: Mapping[str, Any], *, resume: bool) -> None:
        self.path = folder / "journal.jsonl"
        self.done: dict[str, dict[str, Any]] = {}
        header = {"format": FORMAT, "version": VERSION, "recipe": json.loads(json.dumps(recipe))}
        self._header: dict[str, Any] | None = None
        self._num_bytes = 0
        lines = self._lines(folder, header)
        if lines:
            check_format(lines[0], FORMAT, VERSION, where=str(self.path), remedy="choose another output_dir")
            with reading(self.path, "choose another output_dir"):
                saved = dict(lines[0]["recipe"])
                self.done = {line["part"]: dict(line["facts"]) for line in lines[1:]}
            _check(folder, saved, header["recipe"], resume=resume)
        else:
            self._header = header

    def begin(self) -> None:
        """Write the head of a new journal, or take off what a kill has torn; before, nothing is changed."""
        if self.path.exists():
            os.truncate(self.path, self._num_bytes)
        if self._header is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._append(self._header)
            self._header = None

    def finish(self, part: str, facts: Mapping[str, Any]) -> None:
        """Record a part as finished.

        Args:
            part: Its name.
            facts: What it counted and measured.
        """
        self.done[part] = dict(facts)
        self._append({"part": part, "facts": facts})

    def _lines(self, folder: Path, header: Mapping[str, Any]) -> list[Any]:
        content = self.path.read_bytes() if self.path.exists() else b""
        # A kill may have torn the last line.
        self._num_bytes = content.rfind(b"\n") + 1
        if self._num_bytes == 0:
            items = list(folder.iterdir()) if folder.is_dir() else []
            strange = [item for item in items if item != self.path and not is_partial_of(item, self.path)]
            if strange or folder.is_file() or not _line(header).startswith(content):
                raise ValueError(
                    f"output_dir={str(folder)!r} exists and is not the folder of a curation; choose another one"
                )
        remedy = "choose another output_dir"
        return [parse_json(line, str(self.path), remedy=remedy) for line in content[: self._num_bytes].splitlines()]

    def _append(self, line: Mapping[str, Any]) -> None:
        with self.path.open("ab") as file:
            file.write(_line(line))
            file.flush()
            os.fsync(file.fileno())


def _line(line: Mapping[str, Any]) -> bytes:
    return (json.dumps(line, allow_nan=False) + "\n").encode()


def _check(folder: Path, old: Mapping[str, Any], new: Mapping[str, Any], *, resume: bool) -> None:
    if old != new:
        different = sorted(key for key in {*old, *new} if old.get(key) != new.get(key))
        raise ValueError(
            f"output_dir={str(folder)!r} holds a curation by another recipe; it differs in {', '.join(different)}. "
            "Choose another output_dir, or remove that one"
        )
    if not resume:
        raise ValueError(
            f"output_dir={str(folder)!r} holds a curation by this recipe; resume it, or choose another output_dir"
        )
