"""The plan of a mixture: a pure function from global position to (source, row).

The stream is cut in blocks. `hf_mixture.data.quotas` says how many rows of each source a block holds; a shuffle keyed
by (seed, block) orders them; the j-th draw of a source takes row perm(j mod n) of its epoch j div n, where perm is a
keyed bijection that needs no table. Any position can therefore be computed alone, from the K prefix counts of its
block.

The weights may follow a schedule, and they may be changed while the stream is being read, from a block start ahead of
the readers on.

Letters: K sources, T blocks, N positions, n rows of one source, B block length.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hf_mixture.data import quotas
from hf_mixture.data.ledger import UNCAPPED, ExampleLedger, Ledger, LengthLedger, Section
from hf_mixture.data.order import occurrences
from hf_mixture.data.permutation import MAX_ROWS, permute, permute_range
from hf_mixture.data.plan_checks import check_floors, check_schedule, check_weights
from hf_mixture.data.plan_reader import ReadAhead, Reader, arrange
from hf_mixture.data.schedule import Segment, SourcePolicy
from hf_mixture.data.segment_table import SegmentTable
from hf_mixture.data.timeline import Grid, Timeline


Int64 = NDArray[np.int64]
Float64 = NDArray[np.float64]
Bool = NDArray[np.bool_]

BLOCK_SIZE = 4096
ENDLESS = 2**62
VERSION = 2

_MAX_CHANGES = 16384
_MAX_CELLS = 2**21
_STRETCH = 2**20
_SHOW_PROGRESS = 10_000_000


class MixturePlan:
    """Which row of which source stands at each position of a mixed stream.

    Build one with `MixturePlan.build`. A plan is a pure function of its arguments and of the changes made by
    `set_weights`: the same on every machine, in any order of access, for any number of readers.

    Args:
        schedule: Segments with integer starts in positions and K weights each; the first starts at 0.
        sizes: K numbers of rows, or None when they are not known.
        length: N, the length of the stream unless a cap ends it earlier.
        lengths: K int64 arrays [n] where the shares count tokens or bytes; None where they count rows.
        seed: Seed of the orders.
        block_size: B, positions of a block.
        policies: K policies of repetition.
        names: K names, for messages.

    Example:
        ```python
        >>> from hf_mixture.data.plan import MixturePlan
        >>> plan = MixturePlan.build([0.75, 0.25], sizes=[100, 10], num_examples=8, seed=0)
        >>> plan.counts.tolist()
        [6, 2]
        >>> source, row = plan.locate([7])
        >>> all_sources, all_rows = plan.locate(range(8))
        >>> (source[0], row[0]) == (all_sources[7], all_rows[7])
        True

        ```
    """

    def __init__(
        self,
        schedule: Sequence[Segment],
        sizes: Sequence[int] | None,
        length: int,
        *,
        lengths: Sequence[Int64] | None,
        seed: int,
        block_size: int,
        policies: Sequence[SourcePolicy],
        names: Sequence[str],
    ) -> None:
        self.schedule = tuple(schedule)
        self.sizes = None if sizes is None else tuple(int(size) for size in sizes)
        self.seed, self.block_size = seed, block_size
        self.policies, self.names = tuple(policies), tuple(names)
        self.frontier = 0
        self._num_rows = self.sizes or (0,) * len(names)
        # 0.3 epochs of 10 rows are 3 draws, though the product is a little less.
        self._caps = {
            i: math.floor(policy.max_epochs * self._num_rows[i] * (1 + 1e-12))
            for i, policy in enumerate(policies)
            if policy.max_epochs is not None
        }
        self._length = length
        self._lengths = None if lengths is None else list(lengths)
        self._timeline = Timeline(self.schedule)
        # The table is kept small for many sources: 16 MB, or 64 changes.
        capacity = min(length // block_size + 64, _MAX_CHANGES, max(64, _MAX_CELLS // (1 + len(names))))
        self._table = SegmentTable(len(names), capacity)
        self._changes: list[tuple[int, Float64]] = []
        self._seen = self._table.version
        self._sections = [Section(0, self._timeline)]
        self._draw_reader = Reader(seed, _draw_numbers, np.int64)
        self._rows_ahead, self._lengths_ahead = ReadAhead(self._row_range), ReadAhead(self._length_range)
        self._row_reader = Reader(seed, self._rows_ahead, np.uint32)
        self._ledger = self._new_ledger(length)

    @classmethod
    def build(
        cls,
        weights: Sequence[float] | Float64,
        sizes: Sequence[int] | None,
        *,
        num_examples: int | None = None,
        stopping_strategy: str = "first_exhausted",
        lengths: Sequence[NDArray[np.integer] | None] | None = None,
        seed: int = 0,
        block_size: int = BLOCK_SIZE,
        schedule: Sequence[Segment] | None = None,
        policies: Sequence[SourcePolicy | None] | None = None,
        names: Sequence[str] | None = None,
    ) -> MixturePlan:
        """Plan a stream.

        Args:
            weights: K shares; normalised by their sum. A source of share 0 is never drawn.
            sizes: K numbers of rows; None when they are not known, which leaves `draws` only.
            num_examples: N, the length of the stream. Default: decided by `stopping_strategy`; without `sizes` the
                stream has no end.
            stopping_strategy: "first_exhausted": the stream ends before any source repeats a row; "all_exhausted": it
                ends when each drawn source has given every row at least once.
            lengths: For each source an int array [n] with the tokens or bytes of its rows: the shares then count these
                instead of rows. An entry of a source that is never drawn is not read.
            seed: Seed of the orders.
            block_size: Positions of a block. Default: 4096.
            schedule: Segments with integer starts in positions and K weights each. The first starts at 0 and takes
                the place of `weights`. Default: `weights`, all along.
            policies: K policies of repetition; None for a source without one.
            names: K names of the sources, for messages. Default: their numbers.

        Returns:
            The plan.

        Raises:
            ValueError: The stream would be empty, or too long, a source has more than 2**32 rows, a weight is below
                the minimum of its source, or a source would pass a cap whose overflow is "error".
        """
        segments = check_schedule(weights, schedule)
        num_sources = len(segments[0].weights)
        names = [str(i) for i in range(num_sources)] if names is None else names
        rules = [policy or SourcePolicy() for policy in policies or [None] * num_sources]
        if sizes is not None and max(sizes) > MAX_ROWS:
            raise ValueError(f"a source has {max(sizes)} rows; a plan numbers at most {MAX_ROWS}: split the source")
        if sizes is None and (lengths is not None or any(rule.max_epochs is not None for rule in rules)):
            raise ValueError("lengths and max_epochs need the sizes of the sources; pass sizes")
        for segment in segments:
            check_floors(segment.weights, rules, names)
        arrays = None
        if lengths is not None:
            arrays = [np.zeros(0, np.int64) if values is None else np.asarray(values, np.int64) for values in lengths]
        plan = cls(
            segments,
            sizes,
            ENDLESS if num_examples is None else int(num_examples),
            lengths=arrays,
            seed=seed,
            block_size=block_size,
            policies=rules,
            names=names,
        )
        if num_examples is None and sizes is not None:
            plan._set_length(plan._natural_length(stopping_strategy))
        plan._check_caps(plan._ledger)
        return plan

    def __len__(self) -> int:
        self._refresh()
        return self._ledger.extend_to_end() if self._ledger.is_bounded else self._length

    @property
    def counts(self) -> Int64:
        """int64 [K]: draws of each source in the whole stream."""
        end = len(self)
        if end == ENDLESS:
            raise ValueError("the plan has no end, so it has no counts; pass num_examples to build")
        last = self._ledger.grid.block_of(end - 1)
        self._ledger.extend(last)
        inside = end - self._ledger.grid.start(last)
        sources, _ = self._arrange(last, *self._ledger.prefix[last : last + 2])
        counts: Int64 = self._ledger.prefix[last] + np.bincount(sources[:inside], minlength=len(self.names))
        return counts

    @property
    def segments(self) -> tuple[Segment, ...]:
        """The schedule up to the first change, and the changes that hold: starts in positions, weights normalised.

        A linear segment that a change cuts short moves, up to there, towards the weights it was going to.
        """
        self._refresh()
        changes = [section for section in self._sections if section.timeline is not self._timeline]
        kept = [segment for segment in self.schedule if not changes or segment.start < changes[0].start]
        return (*kept, *(Segment(s.start, tuple(s.timeline.first[0].tolist())) for s in changes))

    def weights_at(self, position: int) -> Float64:
        """The weights at a position, before any cap is applied.

        Args:
            position: A number >= 0.

        Returns:
            float64 [K], sum 1.
        """
        self._refresh()
        return self._ledger.section(position).timeline.weights(position)

    def mean_weights(self) -> Float64:
        """Return the mean of the weights over the stream, before any cap is applied: float64 [K]."""
        end = len(self)
        sections = [section for section in self._ledger.sections if section.start < end]
        stops = [*(section.start for section in sections[1:]), end]
        parts = [
            np.diff(section.timeline.targets(np.array([section.start, stop])), axis=0)[0]
            for section, stop in zip(sections, stops, strict=True)
        ]
        mean: Float64 = np.sum(parts, axis=0) / end
        return mean

    def mass(self, source: int, num_draws: int) -> int:
        """Return what the first draws of a source hold, in the unit of the weights: rows, tokens or bytes.

        Args:
            source: Number of the source.
            num_draws: How many of its draws.

        Returns:
            The amount.
        """
        if self._lengths is None or num_draws == 0:
            return num_draws
        lengths = self._lengths[source]
        num_epochs, rest = divmod(num_draws, len(lengths))
        first = num_epochs * len(lengths)
        drawn = self._lengths_in_order(source, first, first + rest)
        return num_epochs * int(lengths.sum()) + int(drawn.sum())

    def advance_frontier(self, position: int) -> None:
        """Say that all positions before this one may have been read; the frontier never moves back.

        Args:
            position: The first position that nobody has read.
        """
        self.frontier = max(self.frontier, int(position))

    def set_weights(self, weights: Sequence[float] | Float64, *, at: int) -> None:
        """Let other weights hold from a position on, in place of all that was planned for later.

        Args:
            weights: K shares; normalised by their sum.
            at: The position: a multiple of the block size, not before the frontier.

        Raises:
            ValueError: An argument breaks its rule, or a source would pass a cap whose overflow is "error"; the plan
                is then unchanged.
        """
        self.set_schedule([(at, weights)])

    def set_schedule(self, changes: Sequence[tuple[int, Sequence[float] | Float64]]) -> None:
        """Make several changes of `set_weights` at once: caps are checked for the whole, not for each change in turn.

        Args:
            changes: Position and K weights of each change, in the order of the positions.

        Raises:
            ValueError: As for `set_weights`; the plan is then unchanged.
        """
        self._refresh()
        checked = []
        for at, weights in changes:
            self._check_position(at)
            shares = check_weights(weights, len(self.names))
            check_floors(shares.tolist(), self.policies, self.names)
            checked.append((int(at), shares))
        if any(self._may_overflow(shares) for _, shares in checked):
            trial = self._new_ledger(self._length)
            sections = _overlaid(self._sections, checked)
            trial.reset(self._grid(sections), sections, 0)
            self._check_caps(trial)
        self._table.extend(checked)
        self._refresh()

    def _check_position(self, at: int) -> None:
        """Refuse a position at which the weights cannot be changed."""
        if at % self.block_size:
            raise ValueError(
                f"at={at} is not a multiple of the block size {self.block_size}; weights change between blocks: "
                f"use at={-(-at // self.block_size) * self.block_size}, or build the plan with a smaller block_size"
            )
        if at < self.frontier:
            raise ValueError(
                f"at={at} lies before the frontier {self.frontier}: these positions may have been read; "
                f"use at={-(-self.frontier // self.block_size) * self.block_size} or later"
            )
        if at > self._length:
            raise ValueError(f"at={at} lies behind the end of the stream, {self._length}; choose an earlier position")

    def share_memory(self) -> MixturePlan:
        """Keep the changes in shared memory, so that processes forked or spawned from now on see later ones.

        Returns:
            The plan itself.
        """
        self._table.share_memory()
        return self

    def draws(self, positions: Sequence[int] | Int64 | range) -> tuple[Int64, Int64]:
        """Return the source at each position, and which of its draws it is.

        Args:
            positions: [M] numbers in [0, N), in any order.

        Returns:
            Two int64 arrays [M]: the number of the source, and the number of the draw within it.

        Raises:
            IndexError: A position lies outside the stream.
        """
        return self._draw_reader.read(self._ledger, *self._check_inside(positions))

    def locate(self, positions: Sequence[int] | Int64 | range) -> tuple[Int64, Int64]:
        """Return the source and the row at each position.

        Args:
            positions: [M] numbers in [0, N), in any order.

        Returns:
            Two int64 arrays [M]: the number of the source and the row in it.

        Raises:
            IndexError: A position lies outside the stream.
            ValueError: The plan was built without sizes.
        """
        wanted, in_order = self._check_inside(positions)
        if in_order and self.sizes is not None:
            return self._row_reader.read(self._ledger, wanted, in_order)
        sources, ranks = self._draw_reader.read(self._ledger, wanted, in_order)
        return sources, self.rows(sources, ranks)

    def _check_inside(self, positions: Sequence[int] | Int64 | range) -> tuple[Int64 | range, bool]:
        """The positions, and whether each follows the one before."""
        self._refresh()
        wanted: Int64 | range
        if isinstance(positions, range) and positions.step == 1:
            wanted, low, high = positions, positions.start, positions.stop - 1
        else:
            # NumPy converts a range number by number.
            given = (
                np.arange(positions.start, positions.stop, positions.step)
                if isinstance(positions, range)
                else positions
            )
            wanted = array = np.asarray(given, dtype=np.int64)
            low, high = (int(array.min()), int(array.max())) if len(array) else (0, -1)
        if not len(wanted):
            return range(0), True
        ledger = self._ledger
        inside = low >= 0 and high < self._length
        if inside:
            ledger.extend(ledger.grid.block_of(high))
            inside = ledger.end is None or high < ledger.end
        if not inside:
            raise IndexError(f"position {low} or {high} lies outside [0, {len(self)})")
        if isinstance(wanted, range):
            return wanted, True
        return wanted, high - low == len(wanted) - 1 and bool((np.diff(wanted) == 1).all())

    def rows(self, sources: Int64, ranks: Int64) -> Int64:
        """Return the row that each draw takes.

        Args:
            sources: int64 [M]. Numbers of the sources.
            ranks: int64 [M]. Numbers of the draws within them.

        Returns:
            int64 [M].

        Raises:
            ValueError: The plan was built without sizes.
        """
        if self.sizes is None:
            raise ValueError("the plan was built without the sizes of its sources, so rows are unknown; use draws")
        rows = np.empty_like(ranks)
        order, counts = occurrences(sources, len(self.names))
        for source, where in self._groups(order, counts):
            num_rows = self.sizes[source]
            if self.policies[source].shuffle:
                rows[where] = permute(ranks[where], num_rows, seed=self.seed, source=source)
            else:
                rows[where] = ranks[where] % num_rows
        return rows

    def materialise(self) -> tuple[Int64, Int64]:
        """Return the source and the row at every position: `locate(range(len(plan)))`, faster.

        Returns:
            Two int64 arrays [N]: the number of the source and the row in it.

        Raises:
            ValueError: The plan was built without sizes, or has no end.
        """
        from tqdm.auto import tqdm

        end = len(self)
        if self.sizes is None or end == ENDLESS:
            raise ValueError(
                "only a plan with sizes and an end can be written out; pass sizes and num_examples to build"
            )
        sources, rows = np.empty(end, dtype=np.int64), np.empty(end, dtype=np.int64)
        with tqdm(total=end, desc="planning the mixture", unit_scale=True, disable=end < _SHOW_PROGRESS) as bar:
            for start in range(0, end, _STRETCH):
                stop = min(start + _STRETCH, end)
                self._row_reader.fill(self._ledger, start, sources[start:stop], rows[start:stop])
                bar.update(stop - start)
        return sources, rows

    def state_dict(self) -> dict[str, Any]:
        """Return what makes the plan: JSON values."""
        self._refresh()
        return {
            "version": VERSION,
            "seed": self.seed,
            "sizes": None if self.sizes is None else list(self.sizes),
            "block_size": self.block_size,
            "schedule": [[s.start, list(s.weights), s.interpolation] for s in self.schedule],
            "changes": [[at, weights.tolist()] for at, weights in self._changes],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over the changes of another plan with the same arguments.

        Args:
            state: From `state_dict`.

        Raises:
            ValueError: The plans differ in seed, sizes, block size, schedule or version.
        """
        mine = self.state_dict()
        for key in ("version", "seed", "sizes", "block_size", "schedule"):
            if key not in state:
                raise ValueError(f"the state of the plan has no {key!r}; its keys are {sorted(state)}")
            if state[key] != mine[key]:
                raise ValueError(
                    f"the state of the plan has {key}={state[key]!r} and this plan has {mine[key]!r}; resume with the "
                    "mixture, the data and the arguments of the first run"
                )
        changes = [(int(at), np.array(weights, dtype=np.float64)) for at, weights in state["changes"]]
        known = len(self._changes)
        if _same(changes[:known], self._changes):
            self._table.extend(changes[known:])
        else:
            self._table.replace(changes)
        self._refresh()

    def _refresh(self) -> None:
        """Take notice of changes, from whichever process."""
        version = self._table.version
        if version == self._seen:
            return
        if version[1] != self._seen[1]:
            affected = [at for at, _ in self._changes]
            self._changes, self._sections = [], [Section(0, self._timeline)]
        else:
            affected = []
        self._seen = version
        new = self._table.rows(len(self._changes), version[0])
        self._changes.extend(new)
        self._sections = _overlaid(self._sections, new)
        self._ledger.reset(self._grid(self._sections), self._sections, min([*affected, *(at for at, _ in new)]))
        # The rows of a source do not depend on the weights, so they are kept.
        self._draw_reader.clear()
        self._row_reader.clear()

    def _grid(self, sections: Sequence[Section]) -> Grid:
        """The blocks: the schedule cuts them up to the first change."""
        end = next((section.start for section in sections if section.timeline is not self._timeline), ENDLESS)
        return Grid(self.block_size, [int(segment.start) for segment in self.schedule if segment.start < end])

    def _new_ledger(self, length: int) -> Ledger:
        num = len(self.names)
        caps, stops = np.full(num, UNCAPPED), np.full(num, UNCAPPED)
        for i, cap in self._caps.items():
            if self.policies[i].overflow != "error":
                (caps if self.policies[i].overflow == "renormalise" else stops)[i] = cap
        common: dict[str, Any] = {"caps": caps, "stops": stops, "find_stop": self._find_stop}
        if self._lengths is None:
            return ExampleLedger(num, length, self._grid(self._sections), self._sections, **common)
        means = np.array([values.mean() if len(values) else 1.0 for values in self._lengths])
        return LengthLedger(
            self._lengths_in_order, means, num, length, self._grid(self._sections), self._sections, **common
        )

    def _set_length(self, length: int) -> None:
        self._length = length
        self._ledger = self._new_ledger(length)

    def _may_overflow(self, shares: Float64) -> bool:
        return any(self.policies[i].overflow == "error" and shares[i] > 0 for i in self._caps)

    def _check_caps(self, ledger: Ledger) -> None:
        """Refuse a stream in which a source passes a cap whose overflow is "error"."""
        strict = [i for i in self._caps if self.policies[i].overflow == "error"]
        if not strict or ledger.length == ENDLESS:
            return
        end = ledger.extend_to_end()
        counts = ledger.prefix[ledger.num_blocks]
        for i in strict:
            if counts[i] > self._caps[i]:
                needed = counts[i] / self._num_rows[i]
                raise ValueError(
                    f"source {self.names[i]!r} would be repeated: {end} examples draw {counts[i]} of its "
                    f"{self._num_rows[i]} rows, {needed:.4g} epochs, above max_epochs={self.policies[i].max_epochs}; "
                    "lower its weight or the number of examples, raise the cap, or let overflow be 'renormalise' or "
                    "'stop'"
                )

    def _natural_length(self, stopping_strategy: str) -> int:
        shares = self._timeline.first[0]
        if len(self.schedule) == 1 and self._lengths is None:
            return quotas.num_examples(shares, self._num_rows, stopping_strategy)
        if len(self.schedule) == 1 and self._lengths is not None:
            return quotas.num_examples_by_lengths(shares, self._lengths, self._lengths_in_order, stopping_strategy)
        return self._exhausted(stopping_strategy)

    def _exhausted(self, stopping_strategy: str) -> int:
        """The length under a schedule, by following the stream."""
        ledger, sizes = self._new_ledger(quotas.MAX_EXAMPLES + 1), np.array(self._num_rows)
        drawn = np.asarray((self._timeline.first > 0).any(axis=0))
        block, first = 0, stopping_strategy == "first_exhausted"
        while True:
            if not ledger.extend(block):
                return quotas.check_length(ledger.extend_to_end(), stopping_strategy)
            after = ledger.prefix[block + 1]
            if (after > sizes)[drawn].any() if first else (after >= sizes)[drawn].all():
                break
            if ledger.grid.start(block) <= self._timeline.starts[-1] < ledger.grid.start(block + 1):
                self._check_ends(ledger.grid.start(block), after, drawn, stopping_strategy)
            block += 1
        sources, ranks = self._arrange(block, ledger.prefix[block], after)
        done = ranks >= sizes[sources] if first else ranks == sizes[sources] - 1
        inside = int(np.flatnonzero(done)[0]) if first else int(np.flatnonzero(done)[-1]) + 1
        length = quotas.check_length(ledger.grid.start(block) + inside, stopping_strategy)
        # The last block is shared out as the last, which may move a row to or from a source.
        while True:
            ledger = self._new_ledger(length)
            ledger.extend_to_end()
            counts = ledger.prefix[ledger.num_blocks]
            if (counts <= sizes)[drawn].all() if first else (counts >= sizes)[drawn].all():
                return quotas.check_length(length, stopping_strategy)
            length += -1 if first else 1

    def _check_ends(self, start: int, counts: Int64, drawn: Bool, stopping_strategy: str) -> None:
        """Refuse a length that the last weights of a schedule put out of reach, before following the stream there."""
        sizes = np.array(self._num_rows)
        rates = self._timeline.first[-1].copy()
        if self._lengths is not None:
            rates /= [values.mean() if len(values) else 1.0 for values in self._lengths]
            rates /= rates.sum()
        caps = {i: cap for i, cap in self._caps.items() if self.policies[i].overflow != "error"}
        if any(self.policies[i].overflow == "stop" for i in caps) or set(np.flatnonzero(rates).tolist()) <= set(caps):
            # A cap ends the stream.
            return
        rates[[i for i, cap in caps.items() if cap < sizes[i]]] = 0.0
        missing = np.maximum(sizes - counts, 0).astype(np.float64)
        left = np.divide(missing, rates, out=np.where(missing > 0, np.inf, 0.0), where=rates > 0)
        needed = start + (left[drawn].min() if stopping_strategy == "first_exhausted" else left[drawn].max())
        if needed == math.inf:
            never = [self.names[i] for i in np.flatnonzero(drawn & (left == needed)).tolist()]
            raise ValueError(
                f"stopping_strategy={stopping_strategy!r} never ends: under the last weights of the schedule, and the "
                f"caps, {never} are not exhausted; pass num_examples"
            )
        # Close to the limit the stream itself decides.
        if needed > 2 * quotas.MAX_EXAMPLES:
            quotas.check_length(needed, stopping_strategy)

    def _arrange(self, block: int, before: Int64, after: Int64) -> tuple[Int64, Int64]:
        """The source and the draw at each position of one block."""
        stretch = arrange(self.seed, block, np.stack([before, after]), start=0, values=_draw_numbers, dtype=np.int64)
        return stretch.sources.astype(np.int64), stretch.values.astype(np.int64)

    def _find_stop(self, block: int, before: Int64, after: Int64) -> int:
        sources, ranks = self._arrange(block, before, after)
        return int(np.flatnonzero(ranks >= self._ledger.stops[sources])[0])

    def _lengths_in_order(self, source: int, start: int, stop: int) -> Int64:
        return self._lengths_ahead(source, start, stop).astype(np.int64, copy=False)

    def _length_range(self, source: int, start: int, stop: int) -> Int64:
        """The lengths of the rows that the draws `start` to `stop` of a source take."""
        return (self._lengths or [])[source][self._row_range(source, start, stop)]

    def _row_range(self, source: int, start: int, stop: int) -> NDArray[np.integer]:
        """The rows that the draws `start` to `stop` of a source take."""
        if not self.policies[source].shuffle:
            return np.arange(start, stop) % self._num_rows[source]
        return permute_range(start, stop, self._num_rows[source], seed=self.seed, source=source)

    @staticmethod
    def _groups(order: Int64, counts: Int64) -> Iterator[tuple[int, Int64]]:
        """Each source that occurs, with the positions where it does."""
        ends = np.cumsum(counts)
        for source in np.flatnonzero(counts).tolist():
            yield source, order[ends[source] - counts[source] : ends[source]]

    def __getstate__(self) -> dict[str, Any]:
        self.clear()
        return self.__dict__

    def clear(self) -> None:
        """Forget what was computed ahead of the readers."""
        for ahead in (self._draw_reader, self._row_reader, self._rows_ahead, self._lengths_ahead):
            ahead.clear()


def _draw_numbers(source: int, start: int, stop: int) -> Int64:
    return np.arange(start, stop)


def _overlaid(sections: Sequence[Section], changes: Sequence[tuple[int, Float64]]) -> list[Section]:
    """The sections after some changes; each takes the place of all that was planned for later."""
    result = list(sections)
    for at, weights in changes:
        while result and result[-1].start >= at:
            result.pop()
        result.append(Section(at, Timeline([Segment(0, tuple(weights.tolist()))])))
    return result


def _same(first: Sequence[tuple[int, Float64]], second: Sequence[tuple[int, Float64]]) -> bool:
    """Whether two lists of changes are equal."""
    return len(first) == len(second) and all(
        a == b and np.array_equal(v, w) for (a, v), (b, w) in zip(first, second, strict=True)
    )
