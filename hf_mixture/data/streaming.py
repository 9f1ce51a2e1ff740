"""`MixtureIterableDataset`: a mixture over streams, whose rows can only be read in order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch.utils.data import IterableDataset as TorchIterableDataset
from torch.utils.data import get_worker_info

from hf_mixture.data import plan as plans
from hf_mixture.data import stream_checks as checks
from hf_mixture.data.mixture import Mixture
from hf_mixture.data.permutation import MAX_ROWS
from hf_mixture.data.plan import MixturePlan
from hf_mixture.data.stream_credit import CreditReader
from hf_mixture.data.stream_cursor import Row
from hf_mixture.data.stream_order import Ending, Lanes, PlannedReader, Reader, SearchingReader
from hf_mixture.data.stream_sources import StreamSources


if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset

VERSION = 1
_MAX_WORKERS = 1024


class MixtureIterableDataset(TorchIterableDataset[Row]):
    """A mixture over streams: exact shares, one order for all processes and workers, exact resume.

    The stream is numbered: position p holds the same source for any number of processes and `DataLoader` workers. The
    readers (one for each process and worker) take chunks of `batch_size` positions in turn, so the draws of different
    readers are never the same draws, and never correlated.

    What holds for the shares:

    - Unit "examples": each source is within one row of its share at the end of every block, over all readers together.
    - Units "tokens" and "bytes": each source is within half a row of its share in every lane, hence within C half rows
      over all C lanes. The lengths of rows are not known before they are read, so the order follows from them: a
      source falls due when its credit reaches the middle of its next row.

    How a stream is read:

    - A stream with at least C shards is split: each of the C lanes gets shards of its own, and the passes over the
      shards of a lane follow one another. C is the number of readers unless `num_lanes` fixes it; fix it for a stream
      whose rows do not depend on the number of readers.
    - Any other stream is read by every reader in the same order, and each keeps the rows of its own positions (a
      warning names these). The same holds for a capped source and, without `num_examples`, for all: the stream then
      ends where the sources are exhausted, and every reader must see it.
    - Map-style sources are read by random access.

    A source that is exhausted is read again, as the next epoch of its dataset: in another order of its shards, and
    with another order of its shuffle buffer if it has one.

    Under `Trainer` and `Accelerator` it works as it is: one process reads and hands out the batches. For processes
    that read by themselves, see `MixtureStreamCallback`. Where nothing else splits the stream, call `set_layout`.

    It has no `map`, `filter`, `shuffle` or `take`: apply them to the sources. A real `datasets.IterableDataset` could
    not do this with its public surface: one made by `from_generator` counts the rows of a shard as its state and
    resumes by reading them all again, and it is split by shards, not by positions.

    Args:
        sources: By name, in any order: `datasets.IterableDataset`, or map-style `datasets.Dataset`.
        mixture: Names, shares, unit, seed, schedule and policies. A source that never has a weight above 0 is never
            opened. `SourcePolicy(shuffle=False)` reads every pass in the order of the first one. A schedule in
            fractions needs `num_examples`; `max_epochs` needs the unit "examples" and a size.
        num_examples: Length of the stream, in [1, 2**62). Default: decided by `stopping_strategy`.
        stopping_strategy: "first_exhausted": the stream ends before it would repeat a row of any source;
            "all_exhausted": it ends when every drawn source has given all its rows at least once.
        sizes: Rows of the streams whose number is known, by name. It is checked at the end of a pass.
        length_column: Column to take the lengths from, for the units "tokens" and "bytes": integers, token lists, or
            (for bytes) text. Default: "input_ids" for tokens, "text" for bytes.
        provenance_column: Add a column of this name with the name of each row's domain.
        batch_size: Positions that a reader takes in a row. With the batch size of the loader, each batch is a
            contiguous part of the stream. Default: 1.
        num_lanes: C, see above. A multiple of the number of readers reads nothing twice.
        block_size: Positions of a block of the plan; weights change between blocks. Default: 4096.
        start_at: First position that is given; the rows before are passed over.

    Raises:
        ValueError: The sources do not match the mixture or one another, or an argument breaks its rule; while
            reading, a source gives no rows, or only rows of length 0.
        TypeError: A source is neither an `IterableDataset` nor a `Dataset`.

    Example:
        ```python
        >>> from datasets import Dataset
        >>> from hf_mixture import Mixture
        >>> from hf_mixture.data.streaming import MixtureIterableDataset
        >>> wiki = Dataset.from_dict({"text": [f"w{i}" for i in range(70)]}).to_iterable_dataset()
        >>> code = Dataset.from_dict({"text": [f"c{i}" for i in range(300)]}).to_iterable_dataset()
        >>> mixture = Mixture({"wiki": 0.7, "code": 0.3}, unit="examples")
        >>> mixed = MixtureIterableDataset({"wiki": wiki, "code": code}, mixture, num_examples=100)
        >>> rows = iter(mixed)
        >>> first = [next(rows)["text"] for _ in range(40)]
        >>> state = mixed.state_dict()
        >>> rest = [row["text"] for row in rows]
        >>> mixed.load_state_dict(state)
        >>> [row["text"] for row in mixed] == rest
        True
        >>> sum(text[0] == "w" for text in first + rest)
        70

        ```
    """

    def __init__(
        self,
        sources: Mapping[str, IterableDataset | Dataset],
        mixture: Mixture,
        *,
        num_examples: int | None = None,
        stopping_strategy: Literal["first_exhausted", "all_exhausted"] = "first_exhausted",
        sizes: Mapping[str, int] | None = None,
        length_column: str | None = None,
        provenance_column: str | None = None,
        batch_size: int = 1,
        num_lanes: int | None = None,
        block_size: int = plans.BLOCK_SIZE,
        start_at: int = 0,
    ) -> None:
        checks.check_mixture(mixture, stopping_strategy)
        for name, value in (("num_examples", num_examples), ("num_lanes", num_lanes)):
            checks.check_count(name, value, 1)
        for name, value, least in (
            ("batch_size", batch_size, 1),
            ("block_size", block_size, 1),
            ("start_at", start_at, 0),
        ):
            checks.check_count(name, value, least, optional=False)
        self.names = mixture.names
        self.mixture = mixture
        self._sources = StreamSources(
            sources,
            mixture,
            sizes=sizes,
            length_column=length_column,
            provenance_column=provenance_column,
            may_split=num_examples is not None,
        )
        known = self._sources.sizes
        self._stopping_strategy, self._num_lanes, self._start_at = stopping_strategy, num_lanes, start_at
        is_unknown = mixture.unit != "examples" or any(known[name] is None for name in self._sources.drawn)
        self._searches = num_examples is None and is_unknown
        checks.check_caps(mixture, known, searches=self._searches)
        arguments: dict[str, Any] = {**mixture.plan_arguments(num_examples=num_examples)}
        plan_sizes: list[int] | None = None
        if mixture.unit == "examples" and not self._searches:
            plan_sizes = [MAX_ROWS if size is None else size for size in known.values()]
        self.plan = MixturePlan.build(
            sizes=plan_sizes,
            num_examples=num_examples,
            stopping_strategy=stopping_strategy,
            seed=mixture.seed,
            block_size=block_size,
            names=mixture.names,
            **arguments,
        ).share_memory()
        self._rank, self._world_size, self._chunk = 0, 1, batch_size
        # In shared memory, so that workers which outlive an epoch see a new one, and the frontier is seen here.
        self._epoch = torch.zeros(1, dtype=torch.int64).share_memory_()
        self._frontiers = torch.zeros(_MAX_WORKERS, dtype=torch.int64).share_memory_()
        self._reader: Reader | None = None
        self._resumed: Mapping[str, Any] | None = None
        self._history: tuple[int, Sequence[Any]] = (0, ())

    @property
    def epoch(self) -> int:
        """Number of times the whole stream was given before, as told by `set_epoch`."""
        return int(self._epoch[0])

    def set_epoch(self, epoch: int) -> None:
        """Give the rows of each source in the order of another epoch; loaders of the Hugging Face stack call this.

        Args:
            epoch: Number of the epoch, >= 0.

        Raises:
            ValueError: The stream is split by `set_layout`, and a loader of accelerate would split it once more.
        """
        if self._world_size > 1:
            checks.check_splits_once(self._world_size)
        if self._resumed is not None and epoch > self._resumed["epoch"]:
            # Workers took it up; those of the next epoch begin anew.
            self._resumed = None
        self._epoch[0] = epoch

    def set_layout(self, *, rank: int, world_size: int, batch_size: int | None = None) -> None:
        """Read the part of one process only.

        For processes that read by themselves, and where nothing else splits the stream: loaders of accelerate do, so
        with them leave this out, or use `MixtureStreamCallback`. The stream then ends with the last chunk that all
        processes have, so that none of them waits for another.

        Args:
            rank: Number of this process.
            world_size: Number of processes.
            batch_size: As in the constructor. Default: unchanged.

        Raises:
            ValueError: A number breaks its rule, or the length of the stream is not known.
        """
        checks.check_count("world_size", world_size, 1, optional=False)
        checks.check_count("batch_size", batch_size, 1)
        if not 0 <= rank < world_size:
            raise ValueError(f"rank={rank} is not in [0, {world_size}); it is the number of this process")
        if world_size > 1 and self._searches:
            raise ValueError(
                "the stream ends where its sources are exhausted, and processes that read by themselves would not end "
                "together; pass num_examples, or let one process read for all"
            )
        self._rank, self._world_size = rank, world_size
        if batch_size is not None:
            self._chunk = batch_size

    def set_weights(self, weights: Mapping[str, float], *, at: int) -> None:
        """Let other weights hold from a position on, also for workers that are reading already.

        Args:
            weights: Share of each domain, by name; normalised by their sum.
            at: The position: a multiple of the block size, ahead of what has been read. In a run with several
                processes, call it in each of them with the same arguments.

        Raises:
            ValueError: The names are not those of the mixture, a weight or the position breaks its rule.
        """
        checks.check_weight_names(weights, self.names)
        self.plan.advance_frontier(int(self._frontiers.max()))
        self.plan.set_weights([weights[name] for name in self.names], at=at)

    def weights_at(self, position: int) -> dict[str, float]:
        """Return the share of each domain, by name.

        Args:
            position: A position of the stream.
        """
        return dict(zip(self.names, self.plan.weights_at(position).tolist(), strict=True))

    def __len__(self) -> int:
        if self._searches:
            raise TypeError("a stream that ends where its sources are exhausted has no length; pass num_examples")
        return (self._end() - self._start_at) // self._world_size

    def _end(self) -> int:
        if self._world_size == 1:
            return len(self.plan)
        together = self._world_size * self._chunk
        return len(self.plan) // together * together

    def __iter__(self) -> Iterator[Row]:
        self._reader = reader = self._open_reader()
        for source, row in reader:
            yield self._sources.finish(source, row)

    def _lanes(self) -> Lanes:
        worker = get_worker_info()
        number, num_workers = (0, 1) if worker is None else (worker.id, worker.num_workers)
        num_readers = num_workers * self._world_size
        # Chunk c is batch c div W of process c mod W, and the loader takes its batches from the workers in turn.
        reader = number * self._world_size + self._rank
        num_lanes = 1 if self._searches else self._num_lanes or num_readers
        return Lanes(reader, num_readers, num_lanes, self._chunk)

    def _open_reader(self) -> Reader:
        lanes = self._lanes()
        if self._resumed is not None:
            self._check_state(self._resumed, lanes)
            # Loaders of accelerate count epochs from 0 again.
            self._epoch[0] = self._resumed["epoch"]
        if get_worker_info() is not None:
            import fsspec.asyn

            # Remote files hang in a forked process otherwise; datasets does the same for its own workers.
            fsspec.asyn.reset_lock()
        self._sources.tell_repeated(lanes)
        self._history = (0, ())
        opener = self._sources.opener(lanes, self.epoch)
        common: dict[str, Any] = {
            "split": self._sources.split(lanes),
            "end": plans.ENDLESS if self._searches else self._end(),
            "start_at": self._start_at,
            "on_block": self._enter_block,
        }
        ending = None
        if self._searches:
            ending = Ending([self.names.index(name) for name in self._sources.drawn], self._stopping_strategy)
        reader: Reader
        if self.mixture.unit != "examples":
            length_of = self._sources.length_of
            reader = CreditReader(self.plan, lanes, opener, length_of=length_of, ending=ending, **common)
        elif ending is not None:
            reader = SearchingReader(self.plan, lanes, opener, ending=ending, **common)
        else:
            reader = PlannedReader(self.plan, lanes, opener, **common)
        if self._resumed is not None:
            reader.load_state_dict(self._resumed["place"])
            self._resumed = None
        return reader

    def _enter_block(self, first: int, last: int) -> None:
        """Move the frontier, and make sure that no change of weights came too late for this reader."""
        read, seen = self._history
        segments = self.plan.segments
        if seen and [s for s in segments if s.start < read] != [s for s in seen if s.start < read]:
            raise RuntimeError(
                f"the weights of positions before {read} were changed after these positions had been read; change "
                "weights further ahead: by the batches that the workers prefetch, and one more"
            )
        self._history = (max(read, last), segments)
        self.plan.advance_frontier(last)
        worker = get_worker_info()
        number = 0 if worker is None else worker.id % _MAX_WORKERS
        self._frontiers[number] = max(int(self._frontiers[number]), last)

    def state_dict(self) -> dict[str, Any]:
        """Return the place of this reader: JSON values, apart from what a source puts into its own state.

        It is the place behind the last row that the iteration in this process gave. In a `DataLoader` with workers
        that is a place for each worker; a loader that stores the state of its workers (`StatefulDataLoader`) calls
        this there.
        """
        if self._resumed is not None:
            return dict(self._resumed)
        reader = self._reader if self._reader is not None else self._open_reader()
        lanes = reader.lanes
        return {
            "version": VERSION,
            "reader": [lanes.reader, lanes.num_readers, lanes.num_lanes, lanes.chunk],
            "epoch": self.epoch,
            "start_at": self._start_at,
            "names": list(self.names),
            "plan": self.plan.state_dict(),
            "place": reader.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Let the next iteration begin at a place that `state_dict` returned.

        Args:
            state: The state of the reader with the same number among as many; each worker takes its own.

        Raises:
            ValueError: The state belongs to another mixture, or other arguments. (Whether it belongs to this reader
                shows when the iteration begins.)
        """
        checks.check_state(state, version=VERSION, names=self.names, start_at=self._start_at)
        self.plan.load_state_dict(state["plan"])
        self._epoch[0] = state["epoch"]
        self._resumed, self._reader = state, None

    def _check_state(self, state: Mapping[str, Any], lanes: Lanes) -> None:
        mine = [lanes.reader, lanes.num_readers, lanes.num_lanes, lanes.chunk]
        if list(state["reader"]) != mine:
            raise ValueError(
                f"the state is that of reader, readers, lanes and batch size {list(state['reader'])}, and this reader "
                f"has {mine}; continue with the same layout, or pass start_at= with the position, which reads the "
                "rows before it again"
            )

    def __getstate__(self) -> dict[str, Any]:
        # An iteration belongs to its process.
        return {**self.__dict__, "_reader": None}
