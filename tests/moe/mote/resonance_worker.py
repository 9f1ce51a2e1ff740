"""Counts different numbers of prompts on two processes, and writes what they gather."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch


sys.path.insert(0, str(Path(__file__).parents[2] / "support"))

from accelerate import PartialState
from moe_families import build_tiny_moe
from test_resonance import prompts

from hf_mixture.moe.mote.resonance import FtriCollector


def main(folder: Path) -> None:
    state = PartialState(cpu=True)
    assert state.num_processes == 2
    model = build_tiny_moe("qwen3_moe").model
    rows = prompts(model.config.vocab_size)
    mine = rows[:3] if state.is_main_process else rows[3:]
    with FtriCollector(model, statistic="gate") as collector, torch.no_grad():
        for row in mine:
            model(row[None])
    assert len(collector.maps()) == len(mine)
    maps = collector.maps().gather()
    if state.is_main_process:
        np.savez(folder / "maps.npz", counts=maps.counts, tokens=maps.tokens, values=maps.values)
    state.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
