"""Planes of experts on disk, read one expert and one level at a time."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from hf_mixture.moe.mwq.compute import LevelTensors
from hf_mixture.moe.mwq.files import TensorPlace, check_range, read_header


class PlaneKey(NamedTuple):
    """One level of one expert.

    Args:
        layer: Place of its experts module among those of the model.
        expert: The expert.
        level: Place of the width among the widths.
    """

    layer: int
    expert: int
    level: int


Plane = tuple[LevelTensors, LevelTensors]


class PlaneStore:
    """The files of a nested model, open for reading.

    Args:
        files: Files of planes.
        layers: For each experts module, for each level, the names of the tensors of both matrices.
        keep_page_cache: Whether the system may keep what has been read in memory that it has to spare. With False it
            is told to drop it after every read, so that memory and times are those of the disk. Default: True.

    Raises:
        ValueError: If a tensor is missing, or a file is damaged.
    """

    def __init__(
        self,
        files: Sequence[Path],
        layers: Sequence[Sequence[tuple[Sequence[str], Sequence[str]]]],
        *,
        keep_page_cache: bool = True,
    ) -> None:
        self.keep_page_cache = keep_page_cache
        self._places: dict[str, TensorPlace] = {}
        for file in files:
            self._places.update(read_header(file))
        self._layers = layers
        for name in (name for layer in layers for level in layer for matrix in level for name in matrix):
            if name not in self._places:
                raise ValueError(f"{name} is in none of the files of the model; download or save the model again")
            if not self._places[name].checksums:
                raise ValueError(f"{name} in {self._places[name].file} has no checksums; save the model again")
        self._sizes = [
            [sum(self._places[name].num_bytes for matrix in level for name in matrix) for level in layer]
            for layer in layers
        ]
        self._checked: set[tuple[str, int]] = set()
        self._descriptors: dict[Path, int] = {}

    def num_bytes(self, key: PlaneKey) -> int:
        """Bytes of a plane."""
        return self._sizes[key.layer][key.level]

    def largest_plane(self) -> int:
        """Bytes of the largest plane."""
        return max(size for sizes in self._sizes for size in sizes)

    def total_bytes(self) -> int:
        """Bytes of all planes of all experts."""
        return sum(
            place.shape[0] * place.num_bytes
            for layer in self._layers
            for level in layer
            for matrix in level
            for place in (self._places[name] for name in matrix)
        )

    def read(self, key: PlaneKey) -> Plane:
        """Read a plane; when it is read for the first time, compare it with its checksums.

        Args:
            key: Which.

        Returns:
            Its tensors on the CPU.

        Raises:
            OSError: If the disk fails.
            ValueError: If the bytes are not those that were saved.
        """
        up, down = self._layers[key.layer][key.level]
        return tuple(self._read(name, key.expert) for name in up), tuple(self._read(name, key.expert) for name in down)

    def _read(self, name: str, expert: int) -> Tensor:
        place = self._places[name]
        data = torch.empty(place.num_bytes, dtype=torch.uint8)
        view = data.numpy().data
        descriptor = self._descriptor(place.file)
        start = place.start + expert * place.num_bytes
        done = 0
        while done < place.num_bytes:
            count = os.preadv(descriptor, [view[done:]], start + done)
            if count == 0:
                raise OSError(f"{place.file} ends within the planes of expert {expert} of {name}")
            done += count
        if not self.keep_page_cache:
            os.posix_fadvise(descriptor, start, place.num_bytes, os.POSIX_FADV_DONTNEED)
        if (name, expert) not in self._checked:
            check_range(view, name, place, expert)
            self._checked.add((name, expert))
        return data.view(place.dtype).view(place.shape[1:])

    def _descriptor(self, file: Path) -> int:
        if file not in self._descriptors:
            self._descriptors[file] = os.open(file, os.O_RDONLY)
            if not self.keep_page_cache:
                # Only pages that are on the disk already can be dropped. Without read-ahead, the system reads what
                # it is asked for.
                os.fdatasync(self._descriptors[file])
                os.posix_fadvise(self._descriptors[file], 0, 0, os.POSIX_FADV_DONTNEED)
                os.posix_fadvise(self._descriptors[file], 0, 0, os.POSIX_FADV_RANDOM)
        return self._descriptors[file]

    def close(self) -> None:
        """Close the files; the next read opens them again."""
        for descriptor in self._descriptors.values():
            os.close(descriptor)
        self._descriptors.clear()

    def __del__(self) -> None:
        self.close()
