"""`curate`: from data sets to a published one, in parts that are journaled.

Parts, in order: the sources are read to shards; every shard is annotated; duplicates are found over all shards; every
shard is finished; files are written; configurations are mixed and packed; the report and the card are written. The
shards of a part are worked on by several processes. A run that is killed continues with the parts that are missing.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_mixture.data.curation import record
from hf_mixture.data.curation.annotate import Annotator, Shard
from hf_mixture.data.curation.assemble import Assembler
from hf_mixture.data.curation.dedup import Shards, find_duplicates, rank_rows
from hf_mixture.data.curation.finish import INDEX, Finisher
from hf_mixture.data.curation.journal import Journal
from hf_mixture.data.curation.reading import Reader, rows_of
from hf_mixture.data.curation.recipe import CurationRecipe
from hf_mixture.data.curation.tables import read_arrow, write_arrow


if TYPE_CHECKING:
    from hf_mixture.data.curation.curated import CuratedDataset

SHARD_CHARS = 64_000_000
"""Characters after which a shard ends although it has fewer rows: what bounds the memory when documents are long."""


def curate(
    dataset: Any = None,
    recipe: CurationRecipe | Mapping[str, Any] | str | Path | None = None,
    *,
    output_dir: str | Path | None = None,
    num_proc: int = 1,
    resume: bool = False,
) -> CuratedDataset:
    """Curate data sets by a recipe, with a provenance record for every document (MixtureVitae, arXiv 2509.25531).

    Every document of the input is either kept or in the reject table with one reason. The result is the same whatever
    `num_proc`, the order of the rows and the size of the shards are, and whether the run was interrupted.

    Args:
        dataset: A `Dataset` or `IterableDataset` for a recipe with one source, or a mapping from the names of sources
            to such data sets. Default: none; sources without one are loaded from the `path` of the recipe.
        recipe: The recipe: an object, plain data, or the path of a YAML file.
        output_dir: Where everything is written. Default: that of the recipe.
        num_proc: Processes that work on shards. Default: 1.
        resume: Whether to continue what is in the folder. Default: false.

    Returns:
        The curated data set on disk.

    Raises:
        ValueError: The recipe is wrong, a source has no data set or no column of its name, or the folder holds
            something else, or a source that was read in part has changed. Nothing has been written.
        TypeError: `dataset` is of another type.

    Example:
        >>> import tempfile
        >>> from datasets import Dataset
        >>> from hf_mixture import curate
        >>> notes = Dataset.from_dict({"text": ["The heron is a bird of the river and of the lake. " * 3, "no"]})
        >>> recipe = {
        ...     "format": "hf_mixture_curation",
        ...     "version": 1,
        ...     "name": "notes",
        ...     "sources": {"notes": {"facts": {"license": "CC0-1.0", "file_level_provenance": True}}},
        ... }
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     curated = curate(notes, recipe, output_dir=folder + "/out")
        ...     curated.report["sources"]["notes"]
        {'read': 2, 'kept': 1, 'rejected': {'quality/too_short': 1}}
    """
    resolved = _recipe(recipe)
    place = output_dir or resolved.output_dir
    if place is None:
        raise ValueError("output_dir is given neither here nor in the recipe; name a folder")
    if isinstance(num_proc, bool) or not isinstance(num_proc, int) or num_proc < 1:
        raise ValueError(f"num_proc={num_proc!r} must be an integer >= 1")
    given = _datasets(dataset, resolved)
    from hf_mixture.data.curation.inputs import check_columns, open_source

    folder = Path(place).resolve()
    for name, part in given.items():
        check_columns(name, part, resolved.sources[name])
    Annotator(resolved)  # whatever it cannot be built with is an error before anything is written
    identity = {key: value for key, value in resolved.to_dict().items() if key != "output_dir"}
    journal = Journal(folder, identity, resume=resume)
    run = _Run(recipe=resolved, folder=folder, journal=journal, num_proc=num_proc)
    if "done" not in journal.done:
        unread = [name for name in resolved.sources if f"source/{name}" not in journal.done]
        opened = {name: given[name] if name in given else open_source(name, resolved.sources[name]) for name in unread}
        journal.begin()
        for name, part in opened.items():
            run.read(name, part)
        run.process()
    # What a kill between the last line of the journal and the end has left.
    shutil.rmtree(run.work, ignore_errors=True)
    from hf_mixture.data.curation.curated import CuratedDataset

    return CuratedDataset(folder)


@dataclass(kw_only=True)
class _Run:
    """One run and where it stands."""

    recipe: CurationRecipe
    folder: Path
    journal: Journal
    num_proc: int

    @property
    def work(self) -> Path:
        return self.folder / "work"

    def read(self, name: str, dataset: Any) -> None:
        """Write the rows of a source to shards, from the first one that is missing."""
        from tqdm.auto import tqdm

        spec, done = self.recipe.sources[name], self.journal.done
        reader = Reader(columns=spec.columns, limits=self.recipe.limits)
        (self.work / "raw").mkdir(parents=True, exist_ok=True)
        number, skip = 0, 0
        while (facts := done.get(f"raw/{name}/{number}")) is not None:
            number, skip = number + 1, skip + facts["rows"]
        # Its last row says whether a source that is gone on with is the one that was begun.
        rows: Iterator[Any] = rows_of(dataset, skip=max(0, skip - 1))
        if skip:
            before = read_arrow(Shard(source=name, number=number - 1, folder=self.work).raw)
            if [reader(row)._asdict() for row in islice(rows, 1)] != before.slice(len(before) - 1).to_pylist():
                raise ValueError(
                    f"source {name!r} has changed since {self.folder} was begun: its row {skip - 1} is another one; "
                    "restore the source, or begin in another folder"
                )
        if spec.max_rows is not None:
            rows = islice(rows, max(0, spec.max_rows - skip))
        total = len(dataset) if hasattr(dataset, "__len__") else None
        shown = tqdm(map(reader, rows), desc=f"reading {name}", unit="doc", initial=skip, total=total, delay=2)
        while shard := list(_shard(shown, self.recipe.shard_rows)):
            path = Shard(source=name, number=number, folder=self.work).raw
            write_arrow(path, [row._asdict() for row in shard], record.RAW)
            self.journal.finish(f"raw/{name}/{number}", {"rows": len(shard)})
            number, skip = number + 1, skip + len(shard)
        self.journal.finish(f"source/{name}", {"shards": number, "rows": skip})

    def process(self) -> None:
        """Everything after reading."""
        from hf_mixture.data.curation.mixing import write_mixed
        from hf_mixture.data.curation.publish import write_publication
        from hf_mixture.data.curation.report import write_report

        shards, offsets = self._shards()
        self._build_index()
        self._each("annotate", _annotate, [(shard,) for shard in shards], [shard.name for shard in shards])
        self._resolve(shards, offsets)
        tasks = [(shard, first) for shard, first in zip(shards, offsets, strict=False)]
        self._each("finish", _finish, tasks, [shard.name for shard in shards])
        num_files = -(-offsets[-1] // self.recipe.rows_per_file)
        assembler = Assembler(shards, offsets, self.folder, self.recipe.rows_per_file)
        self._each("write", assembler.range, [(number,) for number in range(num_files)], list(range(num_files)))
        # What a killed process was writing must not be published.
        for partial in self.folder.rglob("*.partial"):
            partial.unlink()
        if "mixed" not in self.journal.done:
            self.journal.finish("mixed", write_mixed(self.recipe, self.folder))
        report = write_report(self.recipe, self.folder, self.journal.done)
        write_publication(self.recipe, self.folder, report)
        self.journal.finish("done", {"digest": report["digest"]})

    def _shards(self) -> tuple[list[Shard], list[int]]:
        """All shards, and the number of the first row of each in the whole."""
        shards, offsets = [], [0]
        for name in sorted(self.recipe.sources):
            for number in range(self.journal.done[f"source/{name}"]["shards"]):
                shards.append(Shard(source=name, number=number, folder=self.work))
                offsets.append(offsets[-1] + self.journal.done[f"raw/{name}/{number}"]["rows"])
        return shards, offsets

    def _build_index(self) -> None:
        options = self.recipe.stages.decontamination
        if options is None or "index" in self.journal.done:
            return
        from hf_mixture.data.curation.inputs import benchmark_index

        index = benchmark_index(options)
        index.save(self.work / INDEX)
        self.journal.finish("index", {"ngrams": index.sizes()})

    def _resolve(self, shards: list[Shard], offsets: list[int]) -> None:
        """Order all rows, and find the duplicates among those that are still kept."""
        if "resolve" in self.journal.done:
            return
        num_rows = offsets[-1]
        runs = Shards(folders=[shard.annotated for shard in shards], offsets=offsets)
        # An array on disk cannot be empty.
        order, rank, verdict = (
            np.lib.format.open_memmap(self.work / f"{name}.npy", mode="w+", dtype=dtype, shape=(max(1, num_rows),))
            for name, dtype in (("order", np.int64), ("rank", np.int64), ("verdict", np.uint8))
        )
        if num_rows:
            rank_rows(runs, order)
            rank[order] = np.arange(num_rows)
            if self.recipe.stages.dedup is not None:
                find_duplicates(runs, rank, verdict, self.recipe.stages.dedup)
        for array in (order, rank, verdict):
            array.flush()
        self.journal.finish("resolve", {"rows": num_rows})

    def _each(
        self, part: str, function: Callable[..., Any], tasks: Sequence[tuple[Any, ...]], names: Sequence[Any]
    ) -> None:
        """Call a function for every task that is not done yet, in several processes, and record what it returns."""
        from tqdm.auto import tqdm

        missing = [
            (name, task) for name, task in zip(names, tasks, strict=True) if f"{part}/{name}" not in self.journal.done
        ]
        bar = tqdm(total=len(tasks), initial=len(tasks) - len(missing), desc=part, unit="part", delay=2)
        with bar:
            for name, facts in self._results(function, missing):
                self.journal.finish(f"{part}/{name}", facts)
                bar.update()

    def _results(self, function: Callable[..., Any], missing: Sequence[tuple[Any, Any]]) -> Iterator[tuple[Any, Any]]:
        if self.num_proc == 1 or len(missing) < 2:
            _start(self.recipe, self.work)
            for name, task in missing:
                yield name, function(*task)
            return
        with ProcessPoolExecutor(self.num_proc, initializer=_start_worker, initargs=(self.recipe, self.work)) as pool:
            waiting: dict[Future[Any], Any] = {}
            todo = iter(missing)
            while True:
                for name, task in islice(todo, 2 * self.num_proc - len(waiting)):
                    waiting[pool.submit(function, *task)] = name
                if not waiting:
                    return
                for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                    yield waiting.pop(future), future.result()


_worker: dict[str, Any] = {}


def _start(recipe: CurationRecipe, work: Path) -> None:
    """Set up what this process needs to work on shards; the stages are made when they are needed."""
    _worker.clear()
    _worker.update(recipe=recipe, work=work)


def _start_worker(recipe: CurationRecipe, work: Path) -> None:
    from hf_mixture.data.encoding import leave_with_parent

    _start(recipe, work)
    threading.Thread(target=leave_with_parent, daemon=True).start()


def _annotate(shard: Shard) -> dict[str, Any]:
    if "annotator" not in _worker:
        _worker["annotator"] = Annotator(_worker["recipe"])
    return _worker["annotator"].shard(shard)


def _finish(shard: Shard, first: int) -> dict[str, Any]:
    if "finisher" not in _worker:
        _worker["finisher"] = Finisher(_worker["recipe"], _worker["work"])
    return _worker["finisher"].shard(shard, first)


def _shard(rows: Iterator[Any], num_rows: int) -> Iterator[Any]:
    """The next rows, until they are as many or as long as a shard may be."""
    chars = 0
    for row in islice(rows, num_rows):
        yield row
        chars += len(row.text)
        if chars >= SHARD_CHARS:
            return


def _recipe(recipe: Any) -> CurationRecipe:
    if isinstance(recipe, CurationRecipe):
        return recipe
    if isinstance(recipe, Mapping):
        return CurationRecipe.from_dict(recipe)
    if isinstance(recipe, str | Path):
        return CurationRecipe.from_file(recipe)
    raise TypeError(f"recipe is a {type(recipe).__name__}; pass a CurationRecipe, plain data or the path of a file")


def _datasets(dataset: Any, recipe: CurationRecipe) -> dict[str, Any]:
    """The data sets that were passed, by source."""
    from datasets import Dataset, IterableDataset

    if dataset is None:
        given: dict[str, Any] = {}
    elif isinstance(dataset, Dataset | IterableDataset):
        if len(recipe.sources) != 1:
            raise ValueError(
                f"one data set for the sources {list(recipe.sources)}; pass a mapping from source to data set"
            )
        given = {next(iter(recipe.sources)): dataset}
    elif isinstance(dataset, Mapping) and not hasattr(dataset, "num_rows"):
        given = dict(dataset)
    else:
        raise TypeError(
            f"dataset is a {type(dataset).__name__}; pass a Dataset, an IterableDataset, or a mapping from source to "
            "one; of a DatasetDict, choose a split"
        )
    for name, part in given.items():
        if name not in recipe.sources:
            raise ValueError(f"dataset has {name!r}, which is no source of the recipe: {list(recipe.sources)}")
        if not isinstance(part, Dataset | IterableDataset):
            raise TypeError(f"the data set of {name!r} is a {type(part).__name__}; pass a Dataset or IterableDataset")
    missing = [name for name, spec in recipe.sources.items() if name not in given and spec.path is None]
    if missing:
        raise ValueError(f"source {missing[0]!r} has no path in the recipe and no data set was passed for it")
    return given
