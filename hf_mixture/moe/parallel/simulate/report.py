"""A simulation, for people and for programs."""

from __future__ import annotations

from typing import Any

from hf_mixture.hub.cards import markdown_table
from hf_mixture.moe.parallel.simulate.flow import LINKS
from hf_mixture.moe.parallel.simulate.memory import expert_parallel_bytes, fully_sharded_bytes
from hf_mixture.moe.parallel.simulate.run import PARTS, PAYLOADS, Simulation, SystemResult
from hf_mixture.moe.parallel.simulate.systems.registry import SYSTEMS


FORMAT = "hf_mixture.ep_simulation"
FORMAT_VERSION = 1


def describe_simulation(found: Simulation) -> str:
    """Format a simulation.

    Args:
        found: The simulation.

    Returns:
        Text with a Markdown table.
    """
    machine, settings, source = found.machine, found.settings, found.source
    routing = f"Zipf {source['exponent']:g}" if source["kind"] == "zipf" else f"a trace of {source['model_type']}"
    lines = [
        f"{machine.devices.num_devices} devices in nodes of {machine.devices.devices_per_node}, {found.num_experts} "
        f"experts, {machine.num_tokens} tokens of a device, routing: {routing}; {found.num_iterations} iterations, "
        f"{found.num_layers} of {machine.model.num_layers} layers",
        f"FSSDP copies up to {settings.num_busy} experts of a layer ({machine.overlap_degree} go behind attention) "
        f"into {settings.num_slots} slots of a device",
        "",
        markdown_table([_row(name, found) for name in found.systems]),
        "",
        "Times are those of a step of all layers; waiting is for copies. GB of a layer are "
        "those of the busiest device of each link, GB of memory those of the whole model.",
        *(f"  {name:<17} {SYSTEMS[name].purpose}" for name in found.systems),
    ]
    return "\n".join(lines)


def as_json(found: Simulation) -> dict[str, Any]:
    """A simulation as plain data.

    Args:
        found: The simulation.

    Returns:
        The data, with `"format_version"`. Bytes are those of a layer in an iteration, seconds those of all layers.
    """
    machine = found.machine
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "num_devices": machine.devices.num_devices,
        "devices_per_node": machine.devices.devices_per_node,
        "num_experts": found.num_experts,
        "num_layers": machine.model.num_layers,
        "num_simulated_layers": found.num_layers,
        "num_iterations": found.num_iterations,
        "num_tokens": machine.num_tokens,
        "overlap_degree": machine.overlap_degree,
        "routing": found.source,
        "cluster": vars(machine.cluster),
        "model": vars(machine.model),
        "settings": vars(found.settings),
        "fully_sharded_bytes": fully_sharded_bytes(machine, found.num_experts),
        "systems": {name: _entry(result, found) for name, result in found.systems.items()},
    }


def _entry(result: SystemResult, found: Simulation) -> dict[str, Any]:
    worst, total = (
        {
            payload: dict(zip(LINKS, values.mean(axis=1).tolist(), strict=True))
            for payload, values in zip(PAYLOADS, found_bytes, strict=True)
        }
        for found_bytes in (result.worst_bytes, result.total_bytes)
    )
    return {
        "step_seconds": result.step_seconds,
        "seconds": dict(zip(PARTS, result.seconds.mean(axis=1).tolist(), strict=True)),
        "imbalance": float(result.imbalance.mean()),
        "imbalance_by_iteration": result.imbalance.tolist(),
        "local_share": float(result.local.mean()),
        "crossing_share": float(result.crossing.mean()),
        "worst_bytes": worst,
        "total_bytes": total,
        "bytes_of_all_tokens": expert_parallel_bytes(found.machine, float(result.imbalance.mean())),
        "copies": float(result.copies.max()),
        "memory_bytes": result.memory,
        "fits": _fits(result, found),
    }


def _fits(result: SystemResult, found: Simulation) -> bool:
    return sum(result.memory.values()) <= found.machine.cluster.memory_bytes


def _row(name: str, found: Simulation) -> dict[str, Any]:
    result = found.systems[name]
    seconds = dict(zip(PARTS, result.seconds.mean(axis=1).tolist(), strict=True))
    tokens, experts = result.worst_bytes.mean(axis=2)
    return {
        "system": name,
        "ms": f"{1e3 * result.step_seconds:.0f}",
        **{part: f"{1e3 * value:.0f}" for part, value in seconds.items()},
        "largest / mean": f"{result.imbalance.mean():.2f}",
        "cross %": f"{100 * result.crossing.mean():.0f}",
        "GB of tokens in node": f"{tokens[0] / 1e9:.2f}",
        "tokens between": f"{tokens[1] / 1e9:.2f}",
        "experts in node": f"{experts[0] / 1e9:.2f}",
        "experts between": f"{experts[1] / 1e9:.2f}",
        "copies of a device": f"{result.copies.max():.1f}",
        "memory GB": f"{sum(result.memory.values()) / 1e9:.1f}",
        "fits": "yes" if _fits(result, found) else "no",
    }
