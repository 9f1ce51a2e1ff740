"""What the parts of `run_all.py` share: their arguments, and how they write a result."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any, NamedTuple

import torch


sys.path.insert(0, str(Path(__file__).parents[1]))

from common import RESULTS, write


class Part(NamedTuple):
    """Where and how large a part runs."""

    device: str
    tiny: bool
    folder: Path

    @property
    def dtype(self) -> torch.dtype:
        """bfloat16 on a GPU; float32 on a CPU, where others are slow."""
        return torch.float32 if self.device == "cpu" else torch.bfloat16

    def write(self, name: str, setting: dict[str, Any], result: dict[str, Any], ratios: dict[str, Any]) -> None:
        """Write a result with its device.

        Args:
            name: Name of the file.
            setting: What was measured.
            result: All that was measured.
            ratios: Medians and quartiles by what they compare: the table.
        """
        device = torch.cuda.get_device_name() if self.device == "cuda" else "cpu"
        about = {**setting, "dtype": str(self.dtype).removeprefix("torch."), **({"tiny": True} if self.tiny else {})}
        write(name, {"device": device, "setting": about, **result, "ratios": ratios}, self.folder)


def parse(description: str | None, argv: list[str] | None = None) -> Part:
    """Read the arguments of a part."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    return check(parser, parser.parse_args(argv))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that all parts have."""
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="sizes that only show that everything runs")
    parser.add_argument("--folder", type=Path, help="where results go (default: benchmarks/results)")


def check(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> Part:
    """Refuse what cannot run, and results that would be taken for measurements of a GPU."""
    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: PyTorch sees no CUDA device; try the parts with --device cpu --tiny --folder DIR")
    if arguments.folder is None and (arguments.device == "cpu" or arguments.tiny):
        parser.error("--folder is missing: results of a CPU or of tiny sizes do not belong to benchmarks/results")
    return Part(arguments.device, arguments.tiny, arguments.folder or RESULTS)
