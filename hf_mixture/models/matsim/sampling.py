"""Batches of whole groups of a material set: without them hardly any two images of a batch would be comparable.

Letters: S sets, R images of a set in a batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import BatchSampler, Sampler


class MaterialSampler(Sampler[int]):
    """Rows in groups of R images of one material set; a multiple of R rows in a batch keeps all groups whole.

    In every epoch each set is shuffled and cut into groups; first comes one group of each set, in random order, then
    the second groups, and so on. Rows that fill no group or batch are left out of that epoch. The order depends on
    seed and epoch alone, so that all processes agree on it.

    Args:
        set_ids: Material set of each row [N].
        images_per_set: R, at least 2.
        sets_per_batch: S, groups that make a batch, at least 1.
        seed: Seed.

    Raises:
        ValueError: A number is too small, a set has fewer than R images, or all sets make no batch.

    Example:
        >>> from hf_mixture.models.matsim.sampling import MaterialSampler
        >>> rows = list(MaterialSampler([0, 1, 0, 1, 2, 2], images_per_set=2, sets_per_batch=3))
        >>> sorted(sorted(rows[start : start + 2]) for start in (0, 2, 4))
        [[0, 2], [1, 3], [4, 5]]
    """

    def __init__(self, set_ids: Sequence[int], *, images_per_set: int, sets_per_batch: int = 1, seed: int = 0) -> None:
        if images_per_set < 2:
            raise ValueError(f"images_per_set={images_per_set} must be at least 2, to have pairs to compare; raise it")
        if sets_per_batch < 1:
            raise ValueError(f"sets_per_batch={sets_per_batch} must be at least 1; raise it")
        self.images_per_set = images_per_set
        self.sets_per_batch = sets_per_batch
        self.seed = seed
        self.epoch = 0
        self._rows: dict[int, list[int]] = {}
        for row, name in enumerate(set_ids):
            if name is None:
                raise ValueError(f"row {row} has no set_ids; add the material set of that image")
            self._rows.setdefault(int(name), []).append(row)
        for name, rows in self._rows.items():
            if len(rows) < images_per_set:
                raise ValueError(
                    f"set {name}, first seen in row {rows[0]}, has {len(rows)} images, fewer than images_per_set="
                    f"{images_per_set}; lower that, or leave the set out"
                )
        if not len(self):
            raise ValueError(
                f"{len(self._rows)} sets make no batch of sets_per_batch={sets_per_batch} groups of images_per_set="
                f"{images_per_set}; lower one of them"
            )

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of an epoch, as samplers of torch do.

        Args:
            epoch: The epoch, counted from 0.
        """
        self.epoch = epoch

    def __len__(self) -> int:
        groups = sum(len(rows) // self.images_per_set for rows in self._rows.values())
        return groups // self.sets_per_batch * self.sets_per_batch * self.images_per_set

    def __iter__(self) -> Iterator[int]:
        # Seeds of epochs that were neighbours would overlap between runs.
        generator = torch.Generator().manual_seed(hash((self.seed, self.epoch)) % 2**63)
        shuffled = [_permuted(rows, generator) for rows in self._rows.values()]
        size = self.images_per_set
        rounds = max(len(rows) // size for rows in shuffled)
        groups: list[list[int]] = []
        for turn in range(rounds):
            there = [rows[turn * size : (turn + 1) * size] for rows in shuffled]
            groups += _permuted([group for group in there if len(group) == size], generator)
        yield from [row for group in groups for row in group][: len(self)]


class MaterialBatchSampler(BatchSampler):
    """Batches of S groups of R images of one material set each, for `DataLoader(batch_sampler=...)`.

    Accelerate gives whole batches to processes. With `split_batches` it cuts a batch into equal parts, which keeps
    groups whole if the number of processes divides S.

    Args:
        set_ids: Material set of each row [N].
        sets_per_batch: S, at least 1.
        images_per_set: R, at least 2.
        seed: Seed of the order.

    Raises:
        ValueError: A number is too small, a set has fewer than R images, or all sets make no batch.

    Example:
        >>> from hf_mixture import MaterialBatchSampler
        >>> set_ids = [0, 0, 0, 1, 1, 1, 2, 2, 2]
        >>> batches = list(MaterialBatchSampler(set_ids, sets_per_batch=2, images_per_set=3))
        >>> [len(batch) for batch in batches], [len({set_ids[row] for row in batch}) for batch in batches]
        ([6], [2])
    """

    def __init__(self, set_ids: Sequence[int], *, sets_per_batch: int, images_per_set: int, seed: int = 0) -> None:
        self._sampler = MaterialSampler(
            set_ids, images_per_set=images_per_set, sets_per_batch=sets_per_batch, seed=seed
        )
        super().__init__(self._sampler, batch_size=sets_per_batch * images_per_set, drop_last=False)

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of an epoch, as samplers of torch do.

        Args:
            epoch: The epoch, counted from 0.
        """
        self._sampler.set_epoch(epoch)


def _permuted(items: list[Any], generator: torch.Generator) -> list[Any]:
    return [items[place] for place in torch.randperm(len(items), generator=generator).tolist()]
