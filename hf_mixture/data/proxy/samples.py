"""Token samples of fixed length by domain: what proxies train on and are scored on.

Letters: M samples of a batch, T tokens of a sample, n samples of one domain.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from hf_mixture._compat.datasets import fingerprint_of
from hf_mixture.data.packed_rows import PackedRows, collate_packed
from hf_mixture.data.plan import MixturePlan


Int64 = NDArray[np.int64]

_HASH_ROWS = 4096
_SHOW_PROGRESS = 100_000


class Samples:
    """Samples of one domain, read in batches.

    Args:
        what: What error messages call it, for example "train['wiki']".
        source: int tensor [n, T]; or a map-style dataset whose rows have `input_ids` of T tokens: blocks of a
            `TokenPack`, a `datasets.Dataset`, or anything with `__len__` and `__getitem__` or `__getitems__`.

    Attributes:
        length (`int`): T.

    Raises:
        ValueError: It is empty, has no `input_ids`, or its samples have fewer than 2 tokens.
        TypeError: It is none of these.
    """

    def __init__(self, what: str, source: Any) -> None:
        if isinstance(source, torch.Tensor):
            if source.dim() != 2 or source.is_floating_point():
                raise ValueError(
                    f"{what} is a tensor of shape {tuple(source.shape)} and type {source.dtype}; it must hold whole "
                    "numbers in the shape [samples, tokens]: reshape it"
                )
        elif not (hasattr(source, "__len__") and hasattr(source, "__getitem__")):
            raise TypeError(
                f"{what} is a {type(source).__name__}; it must be a tensor [samples, tokens] or a map-style dataset "
                "of samples with 'input_ids': for a stream, pack it first"
            )
        if len(source) == 0:
            raise ValueError(f"{what} is empty; add samples or leave the domain out")
        self.what = what
        self.source = source
        self.length = self.take(np.zeros(1, np.int64)).shape[1]
        if self.length < 2:
            raise ValueError(
                f"{what} has samples of {self.length} token; predicting needs at least 2: cut longer ones"
            )

    def __len__(self) -> int:
        return len(self.source)

    def take(self, rows: Int64) -> torch.Tensor:
        """Return samples as int64 [M, T].

        Raises:
            ValueError: The samples have no `input_ids`, or are not equally long.
        """
        if isinstance(self.source, torch.Tensor):
            return self.source[torch.from_numpy(rows)].long()
        if hasattr(self.source, "__getitems__"):
            batch = self.source.__getitems__(rows.tolist())
        else:
            batch = [self.source[row] for row in rows.tolist()]
        if isinstance(batch, PackedRows | Mapping):
            return torch.as_tensor(batch["input_ids"]).long()
        if not isinstance(batch[0], Mapping) or "input_ids" not in batch[0]:
            found = sorted(batch[0]) if isinstance(batch[0], Mapping) else type(batch[0]).__name__
            raise ValueError(f"{self.what} has no column 'input_ids', but {found}; tokenise it and cut blocks first")
        ids = [torch.as_tensor(row["input_ids"]) for row in batch]
        lengths = {len(row) for row in ids}
        if len(lengths) > 1:
            raise ValueError(
                f"{self.what} has samples of {sorted(lengths)[:5]} tokens; all must be equally long: cut blocks of "
                "one size, for example with pack.blocks(block_size)"
            )
        return torch.stack(ids).long()

    def fingerprint(self) -> str:
        """Return a text that is equal for equal content."""
        known = getattr(self.source, "fingerprint", None)
        if isinstance(known, str):
            return known
        from datasets import Dataset as Table
        from tqdm.auto import tqdm

        if isinstance(self.source, Table):
            return fingerprint_of(self.source)
        digest = hashlib.sha256(repr((len(self), self.length)).encode())
        starts = range(0, len(self), _HASH_ROWS)
        for start in tqdm(starts, desc=f"hashing {self.what}", leave=False, disable=len(self) < _SHOW_PROGRESS):
            rows = np.arange(start, min(start + _HASH_ROWS, len(self)))
            digest.update(self.take(rows).numpy().astype("<i8").tobytes())
        return digest.hexdigest()


class ProxyData:
    """Training and validation samples by domain, checked.

    Args:
        train: For each domain what `Samples` takes.
        validation: The same for each domain whose loss is measured; other names than those of `train` are allowed.
        eval_samples: Samples used of each validation domain; None: all.

    Attributes:
        domains (`tuple[str, ...]`): Names of the training domains.
        length (`int`): T, the same everywhere.

    Raises:
        ValueError: There is no domain, one is empty, or the lengths of samples differ.
    """

    def __init__(self, train: Mapping[str, Any], validation: Mapping[str, Any], eval_samples: int | None) -> None:
        for argument, given in (("train", train), ("validation", validation)):
            if not given:
                raise ValueError(f"{argument} has no domain; pass samples of at least one")
        self.train = {name: Samples(f"train[{name!r}]", source) for name, source in train.items()}
        self.validation = {name: Samples(f"validation[{name!r}]", source) for name, source in validation.items()}
        everything = [*self.train.values(), *self.validation.values()]
        lengths = {samples.what: samples.length for samples in everything}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"the samples have different lengths, {lengths}; cut all into blocks of one size")
        self.domains = tuple(self.train)
        self.length = everything[0].length
        self.eval_samples = eval_samples

    def fingerprints(self) -> dict[str, dict[str, str]]:
        """The fingerprint of each domain, for training and validation."""
        return {
            "train": {name: samples.fingerprint() for name, samples in self.train.items()},
            "validation": {name: samples.fingerprint() for name, samples in self.validation.items()},
        }

    def plan(self, weights: Sequence[float], num_examples: int, seed: int) -> MixturePlan:
        """Return which sample of which domain stands where in a run."""
        sizes = [len(samples) for samples in self.train.values()]
        return MixturePlan.build(weights, sizes, num_examples=num_examples, seed=seed)

    def gather(self, sources: Int64, rows: Int64) -> torch.Tensor:
        """Return training samples.

        Args:
            sources: int64 [M], numbers of domains.
            rows: int64 [M], numbers of samples in them.

        Returns:
            int64 [M, T].
        """
        out = torch.empty(len(sources), self.length, dtype=torch.int64)
        for number, samples in enumerate(self.train.values()):
            places = np.flatnonzero(sources == number)
            if len(places):
                out[torch.from_numpy(places)] = samples.take(rows[places])
        return out

    def validation_samples(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield the name and the samples, int64 [n, T], of each validation domain."""
        for name, samples in self.validation.items():
            num = len(samples) if self.eval_samples is None else min(self.eval_samples, len(samples))
            yield name, samples.take(np.arange(num))


class MixedSamples(Dataset[dict[str, Any]]):
    """The stream of one run as a map-style dataset, to be read in order.

    Args:
        data: The samples.
        plan: What stands where.
    """

    def __init__(self, data: ProxyData, plan: MixturePlan) -> None:
        self.data = data
        self.sources, self.rows = plan.locate(np.arange(len(plan)))

    def __len__(self) -> int:
        return len(self.sources)

    def __getitem__(self, position: int) -> dict[str, Any]:
        row: dict[str, Any] = self.__getitems__([position])[0]
        return row

    def __getitems__(self, positions: Sequence[int]) -> PackedRows:
        """Return a batch."""
        return PackedRows(self.data.gather(self.sources[positions], self.rows[positions]))


class FixedSamples(Dataset[dict[str, Any]]):
    """Samples held in one tensor, as a map-style dataset.

    Args:
        input_ids: int64 [n, T].
    """

    def __init__(self, input_ids: torch.Tensor) -> None:
        self.input_ids = input_ids

    def __len__(self) -> int:
        return len(self.input_ids)

    def __getitem__(self, position: int) -> dict[str, Any]:
        return {"input_ids": self.input_ids[position]}

    def __getitems__(self, positions: Sequence[int]) -> PackedRows:
        """Return a batch."""
        return PackedRows(self.input_ids[positions])


def collate(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Make a batch with `labels`, in which the first token of each sample does not count: nothing predicts it."""
    batch = collate_packed(rows)
    labels = batch["labels"].clone()
    # Also where a model does not tell the Trainer that its loss shifts the labels, the mean is over what is predicted.
    labels[:, 0] = -100
    return {**batch, "labels": labels}
