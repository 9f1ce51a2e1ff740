"""The systems that can be simulated, by the names of the command line."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from hf_mixture.moe.parallel.simulate.hardware import Machine
from hf_mixture.moe.parallel.simulate.systems.base import System, SystemSettings
from hf_mixture.moe.parallel.simulate.systems.fastermoe import Shadowing
from hf_mixture.moe.parallel.simulate.systems.flexmoe import PersistentReplicas
from hf_mixture.moe.parallel.simulate.systems.fssdp import Fssdp
from hf_mixture.moe.parallel.simulate.systems.replicate import OnTheFly
from hf_mixture.moe.parallel.simulate.systems.smartmoe import Permutation
from hf_mixture.moe.parallel.simulate.systems.stock import ExpertParallel


@dataclass(frozen=True)
class SystemEntry:
    """A system that can be simulated.

    Args:
        build: Makes it for a machine.
        purpose: What it is, in a line.
    """

    build: Callable[[Machine, SystemSettings], System]
    purpose: str


SYSTEMS: Mapping[str, SystemEntry] = {
    "ep": SystemEntry(ExpertParallel, "stock expert parallelism"),
    "fssdp": SystemEntry(Fssdp, "owners by algorithm 2, copies by the better way of algorithm 1"),
    "fssdp-all": SystemEntry(partial(Fssdp, branch="all"), "the same, always the busiest experts to all devices"),
    "fssdp-share": SystemEntry(partial(Fssdp, branch="share"), "the same, always slots in proportion to loads"),
    "fssdp-shard-only": SystemEntry(partial(Fssdp, copies=False), "owners by algorithm 2, no copies"),
    "fssdp-copy-only": SystemEntry(partial(Fssdp, reshards=False), "stock owners, copies by algorithm 1"),
    "fssdp-rm": SystemEntry(partial(Fssdp, rematerialises=True), "fssdp that fetches its copies again backwards"),
    "fssdp-calibrated": SystemEntry(
        partial(Fssdp, calibrates=True), "fssdp that keeps slots for the loads of the iteration"
    ),
    "fssdp-timed": SystemEntry(partial(Fssdp, timed=True), "fssdp that copies as many experts as is predicted to pay"),
    "fssdp-direct": SystemEntry(partial(Fssdp, direct=True), "fssdp whose owners send each copy themselves"),
    "fastermoe": SystemEntry(Shadowing, "busiest experts on all devices, like FasterMoE"),
    "smartmoe": SystemEntry(Permutation, "other permutations of experts, like SmartMoE"),
    "flexmoe": SystemEntry(PersistentReplicas, "replicas that stay, like FlexMoE"),
    "replicate": SystemEntry(OnTheFly, "equal tokens by the routing of the iteration, like LLEP and MoonEP"),
}

REARRANGEMENT = ("fastermoe", "smartmoe", "flexmoe")


def check_systems(names: Sequence[str]) -> None:
    """Refuse names that are unknown or doubled.

    Args:
        names: Names of systems.

    Raises:
        ValueError: If there is none, or one that is unknown or doubled.
    """
    if not names:
        raise ValueError(f"systems={list(names)} names none; choose of {', '.join(SYSTEMS)}")
    for name in names:
        if name not in SYSTEMS:
            raise ValueError(f"systems: {name!r} is not known; known are {', '.join(SYSTEMS)}")
    if len(set(names)) < len(names):
        raise ValueError(f"systems={list(names)} names one twice; name each once")
