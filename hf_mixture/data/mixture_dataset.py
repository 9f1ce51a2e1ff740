"""`MixtureDataset`: a mixture as a map-style dataset whose weights may change while it is read.

Letters: K sources, N positions, M rows of a batch, T tokens of a block.
"""

from __future__ import annotations

import operator
import warnings
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from hf_mixture.data.mixture import Mixture
from hf_mixture.data.mixture_sources import match_sources, source_fingerprint, source_lengths
from hf_mixture.data.order_guard import OrderGuard
from hf_mixture.data.pack import TokenBlocks
from hf_mixture.data.packed_rows import PackedRows
from hf_mixture.data.plan import BLOCK_SIZE, MixturePlan
from hf_mixture.data.stream_checks import check_column_is_free, check_weight_names


if TYPE_CHECKING:
    from numpy.typing import ArrayLike

Int64 = NDArray[np.int64]

VERSION = 1

_CHUNK = 4096
_CHUNKS_OF_A_SOURCE = 2
# Row numbers kept of all sources: with thousands of them, fewer of each.
_KEPT = 2**22


class MixtureDataset(Dataset[dict[str, Any]]):
    """The stream of a mixture, as a dataset with random access: item i is what stands at position i.

    Which row that is follows from the mixture alone (`MixturePlan`), so that the stream is the same for any number of
    processes and workers, and a run resumes without reading what came before. Batches are gathered source by source.
    Read it in order: under the Trainer with `train_sampling_strategy="sequential"`; another order raises.

    Args:
        sources: For each domain of the mixture a `datasets.Dataset`, a `TokenPack` (its documents) or blocks of one.
        mixture: Domains, shares, schedule and policies.
        num_examples: N, the length of the stream, >= 1.
        block_size: Positions of a block of the plan: weights can change between blocks only. None: 4096, or the
            samples of one optimizer step when training begins with a callback that changes weights.
        lengths: Tokens or bytes of each row, by name, for a mixture in that unit. Default: from the packs, and for
            other sources from `length_column`.
        length_column: As in `interleave_datasets`.
        provenance_column: Add a column of this name with the name of each row's domain.
        start_at: Position of item 0. For a run that continues another one with `ignore_data_skip=True`.

    Attributes:
        names (`tuple[str, ...]`): The domains, in the order of the mixture.
        mixture (`Mixture`): The mixture.
        plan (`MixturePlan`): What stands where; numbers of sources follow `names`.

    Raises:
        ValueError: The sources do not match the mixture or one another, a drawn one is empty, lengths are missing, or
            an argument breaks its rule.
        TypeError: A source is of another type.

    Example:
        ```python
        >>> from datasets import Dataset
        >>> from hf_mixture import Mixture
        >>> from hf_mixture.data.mixture_dataset import MixtureDataset
        >>> wiki = Dataset.from_dict({"text": [f"w{i}" for i in range(70)]})
        >>> code = Dataset.from_dict({"text": [f"c{i}" for i in range(300)]})
        >>> mixture = Mixture({"wiki": 0.75, "code": 0.25}, unit="examples")
        >>> mixed = MixtureDataset({"wiki": wiki, "code": code}, mixture, num_examples=16, block_size=8)
        >>> sum(mixed[i]["text"][0] == "w" for i in range(16))
        12
        >>> mixed.set_weights({"wiki": 0, "code": 1}, at=8)
        >>> sum(mixed[i]["text"][0] == "w" for i in range(16))
        6

        ```
    """

    def __init__(
        self,
        sources: Mapping[str, Any],
        mixture: Mixture,
        *,
        num_examples: int,
        block_size: int | None = None,
        lengths: Mapping[str, ArrayLike] | None = None,
        length_column: str | None = None,
        provenance_column: str | None = None,
        start_at: int = 0,
    ) -> None:
        _check_integer("num_examples", num_examples, 1)
        _check_integer("start_at", start_at, 0)
        if block_size is not None:
            _check_integer("block_size", block_size, 1)
        self.mixture, self.names = mixture, mixture.names
        self.sources = match_sources(sources, mixture, provenance_column)
        self.num_examples = int(num_examples)
        self.provenance_column = provenance_column
        self.start_at = int(start_at)
        self.fingerprints = {name: source_fingerprint(source) for name, source in self.sources.items()}
        self._lengths = source_lengths(self.sources, mixture, lengths, length_column)
        self._may_resize = block_size is None
        self._in_order = list(self.sources.values())
        self._width = self._common_width()
        self._guard = OrderGuard()
        self._chunks: dict[tuple[int, int], Int64] = {}
        self._chunk = max(1, min(_CHUNK, _KEPT // (_CHUNKS_OF_A_SOURCE * len(self.names))))
        self.plan = self._build_plan(block_size or BLOCK_SIZE)
        if self.start_at >= len(self.plan):
            raise ValueError(
                f"start_at={start_at} lies behind the end of the stream, {len(self.plan)}; raise num_examples, the "
                "length of the whole stream"
            )

    def _build_plan(self, block_size: int) -> MixturePlan:
        means: dict[str, float | Mapping[str, float]] = {}
        if self._lengths is not None:
            means[self.mixture.unit] = {
                name: float(np.mean(values)) if values is not None and len(values) else 1.0
                for name, values in zip(self.names, self._lengths, strict=True)
            }
        elif self._width is not None:
            means["tokens"] = self._width
        plan = MixturePlan.build(
            **self.mixture.plan_arguments(num_examples=self.num_examples, mean_lengths=means),
            sizes=[len(source) for source in self._in_order],
            num_examples=self.num_examples,
            lengths=self._lengths,
            seed=self.mixture.seed,
            block_size=block_size,
            names=self.names,
        )
        return plan.share_memory()

    def _common_width(self) -> int | None:
        """T where every source is blocks of T tokens; None otherwise."""
        widths = {source.block_size if isinstance(source, TokenBlocks) else None for source in self._in_order}
        if len(widths) > 1:
            sizes = {name: getattr(source, "block_size", None) for name, source in self.sources.items()}
            raise ValueError(
                f"the sources give blocks of different sizes, {sizes}; cut all packs with one pack.blocks(block_size)"
            )
        return widths.pop()

    def __len__(self) -> int:
        return len(self.plan) - self.start_at

    def __getitem__(self, index: int) -> dict[str, Any]:
        try:
            index = operator.index(index)
        except TypeError:
            raise TypeError(
                f"index {index!r} is a {type(index).__name__}; an item is one row, by an integer: use "
                "rows(np.arange(start, stop)) for several"
            ) from None
        if not -len(self) <= index < len(self):
            raise IndexError(f"index {index} lies outside [0, {len(self)})")
        row: dict[str, Any] = self.rows(np.asarray([index % len(self) + self.start_at]))[0]
        return row

    def __getitems__(self, indices: Sequence[int]) -> Sequence[dict[str, Any]]:
        """Return a batch of the stream, for a `DataLoader`.

        Args:
            indices: M consecutive numbers.

        Returns:
            M rows, in order: `PackedRows` where the sources are blocks of packs.

        Raises:
            ValueError: The numbers are not consecutive.
        """
        wanted = np.asarray(indices, dtype=np.int64)
        if self._guard.wraps(wanted, len(self)):
            warnings.warn(
                f"the {len(self)} samples of the mixture do not fill the last batches of all processes: samples from "
                "its beginning are repeated there. Use a num_examples that is a multiple of the samples of one "
                "optimizer step, or dataloader_drop_last=True",
                stacklevel=2,
            )
        return self.rows(wanted + self.start_at)

    def rows(self, positions: Int64) -> Sequence[dict[str, Any]]:
        """Return the rows at positions of the stream, in any order.

        Args:
            positions: int64 [M], each in [0, N).

        Returns:
            M rows, in the order of `positions`: `PackedRows` where the sources are blocks of packs.
        """
        sources, ranks = self.plan.draws(positions)
        extra = {}
        if self.provenance_column is not None:
            extra[self.provenance_column] = [self.names[source] for source in sources.tolist()]
        order = sources.argsort(kind="stable")
        ends = np.bincount(sources, minlength=len(self.names)).cumsum().tolist()
        parts = [(source, order[start:end]) for source, (start, end) in enumerate(pairwise([0, *ends])) if start < end]
        if self._width is not None:
            out = np.empty((len(positions), self._width), dtype=np.int64)
            for source, places in parts:
                self._in_order[source].gather_into(out, places, self._numbers(source, ranks[places]))
            return PackedRows(torch.from_numpy(out), extra)
        rows: list[dict[str, Any]] = [{}] * len(positions)
        for source, places in parts:
            numbers = self._numbers(source, ranks[places])
            in_disk_order = numbers.argsort(kind="stable")
            for place, row in zip(
                places[in_disk_order].tolist(),
                self._in_order[source].__getitems__(numbers[in_disk_order].tolist()),
                strict=True,
            ):
                rows[place] = row
        for column, domains in extra.items():
            for row, domain in zip(rows, domains, strict=True):
                # A transform may give it.
                check_column_is_free(column, row, domain)
            rows = [{**row, column: domain} for row, domain in zip(rows, domains, strict=True)]
        return rows

    def _numbers(self, source: int, ranks: Int64) -> Int64:
        """The rows that draws of a source take: `plan.rows`, which is slow for few draws, done for many and kept.

        Which row a draw takes does not depend on weights, so that nothing kept becomes wrong.
        """
        numbers, size = np.empty_like(ranks), self._chunk
        chunks = ranks // size
        for chunk in set(chunks.tolist()):
            if (source, chunk) not in self._chunks:
                if len(self._chunks) >= _CHUNKS_OF_A_SOURCE * len(self.names):
                    del self._chunks[next(iter(self._chunks))]
                drawn = np.arange(chunk * size, (chunk + 1) * size)
                self._chunks[source, chunk] = self.plan.rows(np.full(size, source), drawn)
            where = chunks == chunk
            numbers[where] = self._chunks[source, chunk][ranks[where] - chunk * size]
        return numbers

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_chunks": {}}

    def shares(self, positions: Sequence[int] | Int64 | range) -> NDArray[np.float64]:
        """Return the share of each domain at positions of the stream, in the unit of the mixture.

        Args:
            positions: [M] numbers in [0, N).

        Returns:
            float64 [K], sum 1, in the order of `names`.
        """
        sources, numbers = self.plan.locate(positions)
        amounts = np.ones(len(sources))
        if self._lengths is not None:
            for source in np.unique(sources).tolist():
                places = np.flatnonzero(sources == source)
                amounts[places] = self._lengths[source][numbers[places]]
        totals = np.bincount(sources, weights=amounts, minlength=len(self.names))
        return np.asarray(totals / totals.sum(), dtype=np.float64)

    def weights_at(self, position: int) -> dict[str, float]:
        """Return the weight of each domain, by name.

        Args:
            position: A position of the stream.
        """
        return dict(zip(self.names, self.plan.weights_at(position).tolist(), strict=True))

    def set_weights(self, weights: Mapping[str, float], *, at: int) -> None:
        """Change the weights from a position on; see `MixturePlan.set_weights`.

        Args:
            weights: Weight of every domain; normalised by their sum.
            at: A position that nobody has read yet, at the start of a block.

        Raises:
            ValueError: A domain is missing or unknown, or the plan refuses the weights or the position.
        """
        self.set_schedule([(at, weights)])

    def set_schedule(self, changes: Sequence[tuple[int, Mapping[str, float]]]) -> None:
        """Make several changes of `set_weights` at once; see `MixturePlan.set_schedule`.

        Args:
            changes: Position and weights of each change, in the order of the positions.

        Raises:
            ValueError: As in `set_weights`; nothing is changed then.
        """
        self.plan.set_schedule([(at, self._in_plan_order(weights)) for at, weights in changes])
        self._may_resize &= not changes

    def _in_plan_order(self, weights: Mapping[str, float]) -> list[float]:
        check_weight_names(weights, self.names)
        if empty := [name for name in self.names if weights[name] > 0 and not len(self.sources[name])]:
            raise ValueError(f"weights gives {empty} a share, and they have no rows; set their weights to 0")
        return [float(weights[name]) for name in self.names]

    def resize_blocks(self, block_size: int) -> None:
        """Cut the stream in blocks of another size, where the constructor was given none and nothing hangs on it yet.

        Args:
            block_size: Positions of a block.
        """
        if self._may_resize and block_size != self.plan.block_size:
            self.plan = self._build_plan(block_size)

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run must have in common with this one, and the changes of the weights: JSON values."""
        return {
            "version": VERSION,
            "names": list(self.names),
            "unit": self.mixture.unit,
            "sizes": {name: len(source) for name, source in self.sources.items()},
            "fingerprints": self.fingerprints,
            "plan": self.plan.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over the changes of the weights of an interrupted run.

        Args:
            state: From `state_dict`.

        Raises:
            ValueError: The run had other domains, other data, another unit, seed, schedule or block size.
        """
        if state.get("version") != VERSION:
            raise ValueError(
                f"the saved mixture is of version {state.get('version')!r}; this release reads version {VERSION}: "
                "resume with the release that wrote it"
            )
        saved, mine = list(state["names"]), list(self.names)
        if saved != mine:
            raise ValueError(
                f"the interrupted run mixed the domains {saved}, this one mixes {mine}; resume with the same domains "
                "in the same order: give one that is not to be drawn any more the weight 0 from here on"
            )
        if state["unit"] != self.mixture.unit:
            raise ValueError(
                f"the interrupted run counted {state['unit']}, this mixture counts {self.mixture.unit}; resume with "
                "the same mixture"
            )
        sizes = {name: len(source) for name, source in self.sources.items()}
        for what, then, now in (
            ("number of rows", state["sizes"], sizes),
            ("data", state["fingerprints"], self.fingerprints),
        ):
            if changed := [name for name in self.names if then[name] != now[name]]:
                raise ValueError(
                    f"the {what} of {changed} has changed since the interrupted run: "
                    f"{[then[name] for name in changed]} then, {[now[name] for name in changed]} now; resume with the "
                    "same data (datasets saved with save_to_disk and packs keep their fingerprint)"
                )
        self.resize_blocks(state["plan"]["block_size"])
        self.plan.load_state_dict(state["plan"])
        self._may_resize = False


def _check_integer(name: str, value: Any, low: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < low:
        raise ValueError(f"{name}={value!r} is not an integer >= {low}; correct it")
