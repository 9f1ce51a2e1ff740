"""The state of a run on disk: `recipe.yaml` says what it is, `journal.json` which parts of it are finished.

A run killed at any moment leaves both files whole, because each is written beside its place and renamed into it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any

from hf_mixture.hub.atomic import is_partial_of, write_atomic
from hf_mixture.hub.damage import reading, shorten
from hf_mixture.hub.reading import read_document
from hf_mixture.training.recipe import PlainRecipe
from hf_mixture.training.strict import parse_yaml


FORMAT = "hf_mixture_run"
VERSION = 1


def write_json(path: Path, value: Any) -> None:
    """Write JSON as `write_atomic` does."""
    write_atomic(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


class Journal:
    """Which parts of a run are finished, and what each of them measured.

    Args:
        folder: The run folder.
        finished: Part to its measurements.
        num_processes: Processes of the run; the order of the data depends on it.
    """

    def __init__(self, folder: Path, finished: dict[str, Any], num_processes: int) -> None:
        self.folder = folder
        self.finished = finished
        self.num_processes = num_processes

    def measure(self, part: str, work: Callable[[], Any]) -> None:
        """Do a part of a run, unless it is finished; what `work` returns is recorded, and its checkpoints go."""
        if part in self.finished:
            return
        print(f"\n== {part}", flush=True)
        self.finish(part, work())
        shutil.rmtree(self.folder / "checkpoints" / part, ignore_errors=True)

    def forget(self, parts: Iterable[str]) -> None:
        """Record that parts have to be done again, on disk."""
        self.finished = {part: measured for part, measured in self.finished.items() if part not in set(parts)}
        self._write()

    def finish(self, part: str, measured: Any) -> None:
        """Record a part as finished, on disk, before the run goes on."""
        self.finished[part] = measured
        self._write()

    def _write(self) -> None:
        write_json(
            self.folder / "journal.json",
            {"format": FORMAT, "version": VERSION, "num_processes": self.num_processes, "finished": self.finished},
        )


def check_folder(
    folder: Path, recipe_yaml: str, *, resume: bool, num_processes: int, free: Collection[str] = ()
) -> None:
    """Refuse a run folder that this run may not write to; nothing is written.

    Args:
        folder: The run folder, which need not exist.
        recipe_yaml: The resolved recipe.
        resume: Whether to continue what is there.
        num_processes: Processes of this run.
        free: Keys of the recipe that may differ from those of the run. Default: none.

    Raises:
        ValueError: If the folder holds something else than a run, a run of another recipe or with another number of
            processes, or a run of this recipe without `resume`.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    saved = folder / "recipe.yaml"
    if not saved.is_file():
        # A run killed before its first file leaves only partial ones.
        if folder.is_dir() and all(is_partial_of(item, saved) for item in folder.iterdir()):
            return
        raise ValueError(
            f"output_dir={str(folder)!r} exists and is not the folder of a run; choose another with --output_dir"
        )
    with reading(saved, "choose another folder with --output_dir"):
        before = parse_yaml(saved.read_text(encoding="utf-8"), str(saved))
    # A run folder may have been moved, or be named in another way.
    different = [
        f"{shorten(path, 80)} ({shorten(repr(old), 80)} there, {shorten(repr(new), 80)} now)"
        for path, old, new in _differences(before, parse_yaml(recipe_yaml))
        if path not in {"output_dir", *free}
    ]
    if different:
        raise ValueError(
            f"output_dir={str(folder)!r} holds a run of another recipe; it differs in {'; '.join(different[:5])}. "
            "Choose another folder with --output_dir, or remove that one"
        )
    if not resume:
        raise ValueError(
            f"output_dir={str(folder)!r} holds a run of this recipe; add --resume to continue it, or choose another "
            "folder with --output_dir"
        )
    started_with = _read(folder, num_processes).num_processes
    if started_with != num_processes:
        raise ValueError(
            f"the run in {str(folder)!r} was started with {started_with} processes, this one has {num_processes}, "
            "and the order of the data depends on the number; start as many"
        )


def open_journal(folder: Path, recipe_yaml: str, *, num_processes: int) -> Journal:
    """Open the journal of a folder that `check_folder` accepted, or begin one.

    Args:
        folder: The run folder.
        recipe_yaml: The resolved recipe.
        num_processes: Processes of this run.

    Returns:
        The journal.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "recipe.yaml").exists():
        write_atomic(folder / "recipe.yaml", recipe_yaml)
    return _read(folder, num_processes)


def begin(recipe: PlainRecipe, *, resume: bool, free: Collection[str] = ()) -> Journal:
    """Open the journal of a run of one process, or begin one.

    Args:
        recipe: The resolved recipe.
        resume: Whether to continue what is in its output folder.
        free: Keys of the recipe that may differ from those of the run; the folder then has the new ones.

    Returns:
        The journal.

    Raises:
        ValueError: As `check_folder`; nothing has been written.
    """
    folder = Path(recipe.output_dir).resolve()
    check_folder(folder, recipe.to_yaml(), resume=resume, num_processes=1, free=free)
    if free and (folder / "recipe.yaml").exists():
        write_atomic(folder / "recipe.yaml", recipe.to_yaml())
    return open_journal(folder, recipe.to_yaml(), num_processes=1)


def _read(folder: Path, num_processes: int) -> Journal:
    path = folder / "journal.json"
    if not path.exists():
        return Journal(folder, {}, num_processes)
    remedy = "choose another folder with --output_dir"
    content = read_document(path, FORMAT, VERSION, remedy=remedy)
    with reading(path, remedy):
        finished, started_with = content["finished"], content["num_processes"]
        if not isinstance(finished, dict) or type(started_with) is not int:
            raise ValueError("finished must be an object, and num_processes a whole number")
        return Journal(folder, finished, started_with)


def _differences(old: Any, new: Any, path: str = "") -> list[tuple[str, Any, Any]]:
    if isinstance(old, dict) and isinstance(new, dict):
        keys = [*old, *(key for key in new if key not in old)]
        found = []
        for key in keys:
            found += _differences(old.get(key), new.get(key), f"{path}.{key}" if path else str(key))
        return found
    return [] if old == new else [(path, old, new)]
