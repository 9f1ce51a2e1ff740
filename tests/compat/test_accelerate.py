from __future__ import annotations

from accelerate.data_loader import IterableDatasetShard, prepare_data_loader
from torch.utils.data import DataLoader, IterableDataset

from hf_mixture._compat.accelerate import is_called_by_splitting_loader


class Told(IterableDataset[int]):
    """Notes who calls `set_epoch`."""

    def __init__(self) -> None:
        self.by_splitting_loader: list[bool] = []

    def set_epoch(self, epoch: int) -> None:
        self.by_splitting_loader.append(is_called_by_splitting_loader(1))

    def __iter__(self):
        yield from range(8)


def test_loaders_of_accelerate_that_split_say_so_before_they_read() -> None:
    dataset = Told()
    loader = prepare_data_loader(DataLoader(dataset, batch_size=2), num_processes=2, process_index=1)
    assert isinstance(loader.dataset, IterableDatasetShard)
    first = next(iter(loader))
    assert first.tolist() == [2, 3]
    assert dataset.by_splitting_loader == [True]
    # The way in which a stream that is split already passes through.
    loader.dataset.num_processes, loader.dataset.process_index = 1, 0
    assert next(iter(loader)).tolist() == [0, 1]
    assert dataset.by_splitting_loader == [True, False]


def test_other_callers_do_not_count() -> None:
    dataset = Told()
    dataset.set_epoch(1)
    list(prepare_data_loader(DataLoader(dataset, batch_size=2), num_processes=1, process_index=0))
    assert dataset.by_splitting_loader == [False, False]
