"""Saves an artefact of a format again and again, the old and the new one in turns, until it is killed.

The arguments are a name of `SAVERS` and a folder; a line says that a save begins.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch


def _mixture(folder: Path, turn: int) -> None:
    from hf_mixture import Mixture

    names = [f"domain{number}" for number in range(2000)]
    Mixture(dict.fromkeys(names, 1 / 2000), unit="tokens", seed=turn).save_pretrained(folder)


def _read_mixture(folder: Path) -> int:
    from hf_mixture import Mixture

    return int(Mixture.from_pretrained(folder).seed)


def _edits(folder: Path, turn: int) -> None:
    from hf_mixture import ExpertEdits
    from hf_mixture.moe.mote.edit import ExpertEdit

    edits = [ExpertEdit("model.layers.0.mlp.gate", expert, "scale", float(turn + 1)) for expert in range(5000)]
    ExpertEdits(edits, mode="scale").save_pretrained(folder)


def _read_edits(folder: Path) -> int:
    from hf_mixture import ExpertEdits

    (value,) = {edit.value for edit in ExpertEdits.from_pretrained(folder).edits}
    return int(value) - 1


def _residuals(folder: Path, turn: int) -> None:
    from hf_mixture.moe.routers.transforms.residual import ResidualExperts, save_residuals

    part = ResidualExperts(torch.full((256, 256), turn), torch.full((8, 256, 8), turn), torch.full((8, 8, 256), turn))
    save_residuals({"experts.up": part}, folder / "residuals.safetensors")


def _read_residuals(folder: Path) -> int:
    from hf_mixture.moe.routers.transforms.residual import load_residuals

    part = load_residuals(folder / "residuals.safetensors")["experts.up"]
    (value,) = {int(value) for tensor in (part.core, part.left, part.right) for value in tensor.unique()}
    return value


def _maps(folder: Path, turn: int) -> None:
    from hf_mixture.moe.mote.maps_file import write_maps
    from hf_mixture.moe.mote.resonance_maps import FtriMaps, ModelFacts
    from hf_mixture.moe.trace.trace import TracedRouter

    routers = (TracedRouter("layers.0.gate", 0, 0, 128, 2),)
    counts = np.full((500, 128), turn)
    maps = FtriMaps(facts=ModelFacts(routers), counts=counts, tokens=np.full(500, turn))
    write_maps(folder, maps, [str(turn)] * 500, {})


def _read_maps(folder: Path) -> int:
    from hf_mixture.moe.mote.maps_file import read_maps

    maps, labels, _ = read_maps(folder)
    (value,) = {*np.unique(maps.counts).tolist(), *np.unique(maps.tokens).tolist(), *map(int, labels)}
    return int(value)


def _run_journal(folder: Path, turn: int) -> None:
    from hf_mixture.training.journal import open_journal

    journal = open_journal(folder, "name: tiny\n", num_processes=1)
    journal.finish("part", [turn] * 5000)


def _read_run_journal(folder: Path) -> int:
    from hf_mixture.training.journal import open_journal

    (value,) = set(open_journal(folder, "name: tiny\n", num_processes=1).finished["part"])
    return int(value)


def _trace(folder: Path, turn: int) -> None:
    from hf_mixture.moe.trace.files import write_part

    routers = [{"path": "gate", "layer": 0, "ordinal": 0, "num_experts": 64, "top_k": 1}]
    header = {"routers": routers, "sample_every": 1, "num_ranks": 1, "per_rank": False, "model_type": "mixtral"}
    row = {"rank": None, "ordinal": 0, "layer": 0, "path": "gate", "tokens": turn, "unrouted": 0}
    write_part(folder, header, [{**row, "step": step, "counts": [turn] * 64} for step in range(1, 200)])


def _read_trace(folder: Path) -> int:
    from hf_mixture.moe.trace import load_trace

    trace = load_trace(folder)
    (value,) = {*np.unique(trace.tokens).tolist(), *np.unique(trace.counts[0]).tolist()}
    return int(value)


def _partition_files(folder: Path, turn: int) -> None:
    partitions()[turn].save_pretrained(folder)


def partitions() -> list[Any]:
    """Two fitted partitions, with one and two clusters."""
    if not _PARTITIONS:
        from hf_mixture import ProbabilisticPartition

        rng = np.random.default_rng(0)
        rows = np.concatenate([rng.normal(centre, 1.0, (40, 2)) for centre in (0, 8)])
        _PARTITIONS.extend(ProbabilisticPartition(min_size=10).fit(part) for part in (rows[:40], rows))
    return _PARTITIONS


_PARTITIONS: list[Any] = []


def _read_partition(folder: Path) -> int:
    from hf_mixture import ProbabilisticPartition

    return len(ProbabilisticPartition.from_pretrained(folder).mixture_.weights) - 1


def _folder(folder: Path, turn: int) -> None:
    from hf_mixture.hub.atomic import replaced_folder

    with replaced_folder(folder / "model") as place:
        for number in range(20):
            (place / f"{number}.txt").write_text(str(turn))


def _read_folder(folder: Path) -> int:
    from hf_mixture.hub.atomic import restore_folder

    restore_folder(folder / "model")
    (value,) = {(folder / "model" / f"{number}.txt").read_text() for number in range(20)}
    return int(value)


def _mos(folder: Path, turn: int) -> None:
    from formats_experts import mos_model

    model = mos_model()
    for name, parameter in model.named_parameters():
        if "mos_" in name:
            torch.nn.init.constant_(parameter, turn)
    model.save_pretrained(folder)


def _read_mos(folder: Path) -> int:
    from file_formats import FORMATS

    form = next(form for form in FORMATS if form.name == "MoS adapter")
    found = form.read(folder)
    values = {float(value) for name, pool in found.items() if "mos_bank" in name for row in pool for value in row}
    (value,) = values
    return int(value)


# Name to how it is saved, how it is read as the turn it is of, and whether a reader may be told of a half instead.
SAVERS: dict[str, tuple[Callable[[Path, int], None], Callable[[Path], int], bool]] = {
    "mixture": (_mixture, _read_mixture, False),
    "expert edits": (_edits, _read_edits, False),
    "residual experts": (_residuals, _read_residuals, False),
    "maps of prompts": (_maps, _read_maps, False),
    "run": (_run_journal, _read_run_journal, False),
    "router trace": (_trace, _read_trace, False),
    "folder": (_folder, _read_folder, False),
    # Two files that belong together: a hash tells whether they do.
    "partition": (_partition_files, _read_partition, True),
    # PEFT writes this one, straight to its place.
    "MoS adapter": (_mos, _read_mos, True),
}


if __name__ == "__main__":
    save, place = SAVERS[sys.argv[1]][0], Path(sys.argv[2])
    save(place, 0)
    print("ready", flush=True)
    turn = 1
    while True:
        print(f"saving {turn}", flush=True)
        save(place, turn)
        turn = 1 - turn
