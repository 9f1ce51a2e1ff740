"""A folder that keeps what is quantised, one file for each tensor, so that a run that was killed goes on."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import torch
from torch import Tensor

from hf_mixture.hub.atomic import write_tensors
from hf_mixture.hub.reading import read_tensors
from hf_mixture.moe.mwq.config import MwqConfig
from hf_mixture.moe.mwq.planes import NestedPlanes


class PartsFolder:
    """Quantised tensors by name, each bound to the weight it was made of.

    Args:
        folder: Where the files are.
        config: How the tensors are quantised; files made in another way are not used.
    """

    def __init__(self, folder: str | Path, config: MwqConfig) -> None:
        self._folder = Path(folder)
        self._folder.mkdir(parents=True, exist_ok=True)
        self._widths = config.widths
        self._how = json.dumps([config.widths, config.group_size, config.to_dict()["level_weights"]])

    def read(self, name: str, weight: Tensor) -> NestedPlanes | None:
        """The planes of a weight, if they are there.

        Args:
            name: Name of the weight.
            weight: The weight.

        Returns:
            The planes on the CPU; None if there are none, or of another weight.
        """
        path = self._path(name, weight)
        num_levels = len(self._widths)
        try:
            _, tensors = read_tensors(path)
            listed = [tensors[f"{place:02}"] for place in range(2 * num_levels + 1)]
        except (FileNotFoundError, ValueError, KeyError):
            return None
        base, offset, *rest = listed
        return NestedPlanes(base, offset, tuple(rest[:num_levels]), tuple(rest[num_levels:]), self._widths)

    def write(self, name: str, weight: Tensor, planes: NestedPlanes) -> None:
        """Keep the planes of a weight."""
        tensors = {f"{place:02}": tensor.cpu().contiguous() for place, tensor in enumerate(planes.tensors())}
        write_tensors(self._path(name, weight), tensors)

    def _path(self, name: str, weight: Tensor) -> Path:
        digest = hashlib.sha256(f"{name} {self._how} {weight.dtype} {tuple(weight.shape)}".encode())
        digest.update(weight.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
        return self._folder / f"{name[-80:]}-{digest.hexdigest()[:24]}.safetensors"
