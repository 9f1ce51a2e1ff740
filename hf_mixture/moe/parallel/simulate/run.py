"""Simulate training: the same tokens through several systems.

Letters: I iterations, L simulated layers, E experts of a layer, D devices.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hf_mixture.moe.parallel.placement import Counts
from hf_mixture.moe.parallel.simulate.flow import LINKS, Floats, no_traffic
from hf_mixture.moe.parallel.simulate.hardware import Machine, SimulatedCluster, machine_of
from hf_mixture.moe.parallel.simulate.loads import draw_tokens, traced_popularity, zipf_popularity
from hf_mixture.moe.parallel.simulate.memory import memory_of
from hf_mixture.moe.parallel.simulate.systems.base import (
    LayerPlan,
    System,
    SystemSettings,
    copy_seconds,
    flow_of,
)
from hf_mixture.moe.parallel.simulate.systems.registry import SYSTEMS, check_systems
from hf_mixture.moe.trace.trace import RouterTrace, load_trace


PARTS = ("attention", "all-to-all", "experts", "waiting", "moves")
PAYLOADS = ("tokens", "experts")
DEFAULT_SYSTEMS = ("ep", "fssdp", "fssdp-timed", "fastermoe", "smartmoe", "flexmoe", "replicate")


@dataclass(frozen=True, eq=False)
class SystemResult:
    """What a system did, at each iteration.

    Args:
        imbalance: Largest over mean load of a device, mean of layers [I].
        loads: Tokens of the busiest device in a layer, mean of layers [I].
        local: Share of tokens that are processed where they come from [I].
        crossing: Share of tokens that leave their nodes [I].
        seconds: Time of all layers of the model by part [len(PARTS), I]; `"waiting"` is for copies, and `"moves"` for
            experts that change their owners.
        worst_bytes: Bytes of a layer that the busiest device of each link moves, by payload and link [2, 2, I].
        total_bytes: Bytes of a layer over all devices, by payload and link [2, 2, I].
        copies: Copies of the device with most, mean of layers [I].
        memory: Bytes of the busiest device by purpose.
    """

    imbalance: Floats
    loads: Floats
    local: Floats
    crossing: Floats
    seconds: Floats
    worst_bytes: Floats
    total_bytes: Floats
    copies: Floats
    memory: dict[str, float]

    @property
    def step_seconds(self) -> float:
        """Mean time of an iteration."""
        return float(self.seconds.sum(axis=0).mean())


@dataclass(frozen=True, eq=False)
class Simulation:
    """Systems on the same tokens.

    Args:
        machine: Model and cluster.
        settings: What systems may use.
        num_experts: E.
        num_layers: L, of those of the model.
        num_iterations: I.
        source: Where the routing comes from.
        systems: Results by name.
    """

    machine: Machine
    settings: SystemSettings
    num_experts: int
    num_layers: int
    num_iterations: int
    source: dict[str, Any]
    systems: dict[str, SystemResult]


@dataclass
class _Record:
    rows: list[dict[str, Any]] = field(default_factory=list)

    def column(self, name: str) -> Floats:
        return np.stack([row[name] for row in self.rows], axis=-1)


def simulate_training(
    *,
    num_devices: int,
    num_experts: int | None = None,
    zipf: float = 1.0,
    drift: float = 1000.0,
    trace: str | os.PathLike[str] | RouterTrace | None = None,
    cluster: str | SimulatedCluster = "a",
    model: str = "gpt-moe-s",
    num_tokens: int = 8192,
    num_iterations: int | None = None,
    num_layers: int = 2,
    systems: Sequence[str] = DEFAULT_SYSTEMS,
    num_busy: int | None = None,
    num_slots: int = 4,
    window: int = 5,
    reshard_interval: int = 100,
    seed: int = 0,
    progress: bool = True,
) -> Simulation:
    """Simulate iterations of expert-parallel training, every system on the same tokens.

    The first `window` iterations fill the window of the prediction and are not counted.

    Args:
        num_devices: D, in nodes of 8, or one smaller node.
        num_experts: E, a multiple of D. Default: those of the trace, or D.
        zipf: Exponent of the popularity of experts, at least 0. Default: 1.0.
        drift: Iterations in which experts change their ranks, see `zipf_popularity`. Default: 1000.
        trace: A router trace, its folder or its repository, whose shares of experts are used instead. Default: None.
        cluster: `"a"` (V100, 100 Gb/s for a node), `"b"` (A100, 400 Gb/s), or another. Default: `"a"`.
        model: `"gpt-moe-s"`, `"gpt-moe-l"`, `"bert-moe"` or `"bert-moe-deep"`. Default: `"gpt-moe-s"`.
        num_tokens: Tokens of a device in an iteration. Default: 8192.
        num_iterations: I. Default: 50, or what the trace has beside the window.
        num_layers: L, layers that are simulated; times are scaled to all layers of the model. Default: 2.
        systems: Names of `SYSTEMS`. Default: `DEFAULT_SYSTEMS`.
        num_busy: t, experts of a layer that FSSDP may copy. Default: as many as go behind attention.
        num_slots: m, copies of a layer that a device has room for. Default: 4.
        window: Iterations whose counts are the prediction. Default: 5.
        reshard_interval: Iterations between changes of the owners. Default: 100.
        seed: Of the popularity and of the tokens. Default: 0.
        progress: Whether a bar is shown after two seconds. Default: True.

    Returns:
        The simulation.

    Raises:
        ValueError: If a value is out of range, or values do not go together.
        FileNotFoundError: If there is no trace.

    Example:
        >>> from hf_mixture.moe.parallel.simulate.run import simulate_training
        >>> found = simulate_training(num_devices=16, systems=("ep", "fssdp"), num_iterations=2)
        >>> found.systems["ep"].step_seconds > found.systems["fssdp"].step_seconds
        True
    """
    _check_whole(
        {
            "ranks": (num_devices, 1),
            "experts": (num_devices if num_experts is None else num_experts, 1),
            "tokens": (num_tokens, 1),
            "iterations": (1 if num_iterations is None else num_iterations, 1),
            "layers": (num_layers, 1),
            "busy": (0 if num_busy is None else num_busy, 0),
            "slots": (num_slots, 0),
            "window": (window, 1),
            "reshard_interval": (reshard_interval, 1),
            "seed": (seed, 0),
        }
    )
    check_systems(systems)
    machine = machine_of(cluster, model, num_devices=num_devices, num_tokens=num_tokens)
    if num_layers > machine.model.num_layers:
        raise ValueError(f"layers={num_layers} is more than the {machine.model.num_layers} of model={model!r}")
    if not (math.isfinite(zipf) and zipf >= 0):
        raise ValueError(f"zipf={zipf} is not a number of at least 0; 0 is even, 1 is usual")
    if not drift > 0:
        raise ValueError(f"drift={drift} is not above 0; give iterations, inf for popularity that stays")
    if trace is None:
        num_experts = num_devices if num_experts is None else num_experts
        num_iterations = 50 if num_iterations is None else num_iterations
        source: dict[str, Any] = {"kind": "zipf", "exponent": zipf, "drift": drift, "seed": seed}
        popularity = zipf_popularity(num_experts, exponent=zipf, drift=drift, num_layers=num_layers, seed=seed)
    else:
        trace = trace if isinstance(trace, RouterTrace) else load_trace(trace)
        num_experts, num_iterations = _check_trace(trace, num_experts, num_iterations, num_layers, window)
        source = {"kind": "trace", "model_type": trace.header.get("model_type"), "num_steps": len(trace.steps)}
        popularity = traced_popularity(trace, num_devices=num_devices, num_layers=num_layers)
    if num_experts % num_devices:
        raise ValueError(
            f"experts={num_experts} do not divide over ranks={num_devices}; use a number of ranks that divides them"
        )
    settings = SystemSettings(
        num_busy=machine.overlap_degree if num_busy is None else num_busy,
        num_slots=num_slots,
        window=window,
        reshard_interval=reshard_interval,
    )
    tokens = draw_tokens(
        popularity, num_devices=num_devices, num_choices=num_tokens * machine.model.top_k, seed=seed + 1
    )
    built = {name: SYSTEMS[name].build(machine, settings) for name in systems}
    records = {name: _Record() for name in systems}
    from tqdm.auto import tqdm

    with tqdm(
        itertools.islice(tokens, window + num_iterations),
        total=window + num_iterations,
        desc="simulate",
        unit="iteration",
        delay=2.0,
        disable=not progress,
    ) as bar:
        for index, drawn in enumerate(bar):
            for name, system in built.items():
                plans = system.step(drawn)
                if index >= window:
                    records[name].rows.append(_measure(drawn, plans, machine))
    return Simulation(
        machine=machine,
        settings=settings,
        num_experts=num_experts,
        num_layers=num_layers,
        num_iterations=num_iterations,
        source=source,
        systems={name: _summarise(records[name], built[name], machine, num_experts) for name in systems},
    )


def _check_whole(values: dict[str, tuple[Any, int]]) -> None:
    for name, (value, least) in values.items():
        if type(value) is not int or value < least:
            raise ValueError(f"{name}={value!r} is not a whole number of at least {least}")


def _check_trace(
    trace: RouterTrace, num_experts: int | None, num_iterations: int | None, num_layers: int, window: int
) -> tuple[int, int]:
    """Experts and iterations of a trace."""
    found = {router.num_experts for router in trace.routers}
    if len(found) > 1:
        raise ValueError(f"the trace has routers of {sorted(found)} experts; only equal layers can be simulated")
    [of_trace] = found
    if num_experts not in (None, of_trace):
        raise ValueError(f"experts={num_experts}, and the trace has {of_trace}; leave it out")
    if num_layers > len(trace.routers):
        raise ValueError(f"layers={num_layers} is more than the {len(trace.routers)} routers of the trace")
    possible = len(trace.steps) - window
    least = 1 if num_iterations is None else num_iterations
    if possible < least:
        raise ValueError(
            f"iterations={least} and window={window} need {least + window} steps, and the trace has "
            f"{len(trace.steps)}; use fewer, or a longer trace"
        )
    return of_trace, possible if num_iterations is None else num_iterations


def _measure(tokens: Counts, plans: list[LayerPlan], machine: Machine) -> dict[str, Any]:
    """An iteration of a system: means over layers, and the time of all layers."""
    model, attention = machine.model, machine.attention_seconds
    rows: list[dict[str, Any]] = []
    for layer, plan in zip(tokens, plans, strict=True):
        flow = flow_of(layer, plan, machine)
        hidden = 3 * attention if plan.moves_hidden else 0.0
        sent = sum(plan.critical, no_traffic(machine.devices.num_devices))
        experts = plan.forward + plan.backward + sent + plan.moves
        payloads = (flow.traffic * (4 * model.token_bytes), experts)
        rows.append(
            {
                "imbalance": flow.loads.max() / flow.loads.mean(),
                "loads": flow.loads.max(),
                "local": flow.local.sum() / flow.loads.sum(),
                "crossing": flow.traffic.received[LINKS.index("network")].sum() / flow.loads.sum(),
                "seconds": [
                    3 * attention,
                    machine.all_to_all_seconds(flow),
                    machine.expert_seconds(flow.loads),
                    copy_seconds(plan, machine),
                    max(0.0, machine.seconds(plan.moves) - hidden),
                ],
                "worst_bytes": [payload.of_devices.max(axis=1) for payload in payloads],
                "total_bytes": [payload.received.sum(axis=1) for payload in payloads],
            }
        )
    means = {name: np.mean([row[name] for row in rows], axis=0) for name in rows[0]}
    held = np.sum([plan.holders.sum(axis=0) for plan in plans], axis=0)
    owned = len(plans) * len(plans[0].holders) / machine.devices.num_devices
    return {
        **means,
        "seconds": means["seconds"] * model.num_layers,
        "copies": np.asarray((held.max() - owned) / len(plans)),
    }


def _summarise(record: _Record, system: System, machine: Machine, num_experts: int) -> SystemResult:
    columns = {name: record.column(name) for name in record.rows[0]}
    memory = memory_of(
        machine,
        system,
        num_experts=num_experts,
        copies=float(columns["copies"].max()),
        load=float(columns["loads"].mean()),
    )
    return SystemResult(**columns, memory=memory)
