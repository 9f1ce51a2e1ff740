"""Rows of the tables of docs/results.md: mixtures inside one sparse model."""

from __future__ import annotations

from typing import Any

from cells import Rows, quartiles


def patch_rows(result: dict[str, Any]) -> Rows:
    return [
        {"family": family, "phase": phase, "ratio of CPU time": name.removesuffix(", cpu"), "median": quartiles(row)}
        for family in ("qwen3_moe", "deepseek_v3")
        for phase in ("prefill", "decode")
        for name, row in result[family][phase]["ratios"].items()
        if name.endswith(", cpu")
    ]


def edits_rows(result: dict[str, Any]) -> Rows:
    from hf_mixture.moe.mote.evaluation import result_row

    return [result_row(name, found, result["target"]) for name, found in result["conditions"].items()]


def planes_rows(result: dict[str, Any]) -> Rows:
    rows: dict[str, dict[str, Any]] = {}
    for name, row in result["wall_time_ratios"].items():
        setting, _, pair = name.partition(": ")
        rows.setdefault(setting, {"a layer": setting})[f"time of {pair}"] = quartiles(row)
    return list(rows.values())


def offload_rows(result: dict[str, Any]) -> Rows:
    rows: dict[str, dict[str, Any]] = {}
    for name, row in result["token_rate_ratios"].items():
        setting, _, pair = name.rpartition(": ")
        if pair in ("hebf / in memory", "hebf / expert_id", "hebf, lru / expert_id"):
            rows.setdefault(setting, {"setting": setting})[f"tokens/s, {pair}"] = quartiles(row)
    return list(rows.values())


def upcycle_rows(result: dict[str, Any]) -> Rows:
    rows = []
    for system in result["systems"]:
        load = system["load"] or {}
        rows.append(
            {
                "system": system["name"],
                "parameters": f"{system['parameters']:,}",
                "bits per byte": f"{system['test_bits_per_byte']['mean']:.4f} ± {system['sd']:.4f}",
                "less dense": f"{system['less_dense']['mean']:+.4f}",
                "busiest over mean": f"{load['max_over_mean']:.2f}" if load else "",
                "dead experts": f"{load['dead']:g} of {load['num_experts']:g}" if load else "",
                "experts of a token": f"{load['experts_per_token']:.2f}" if load else "",
            }
        )
    return rows


def bits_rows(result: dict[str, Any]) -> Rows:
    return [
        {
            "experts": row["name"],
            "bits": "" if row["bits"] is None else f"{row['bits']:.2f}",
            "bytes on disk": f"{row['disk_bytes']:,}",
            "peak bytes in memory": f"{row['expert_bytes']:,}",
            "bits per byte": f"{row['bits_per_byte']:.4f}",
            "tokens/s": f"{row['tokens_per_second']:.0f}",
            "of bfloat16": f"{row['of_bfloat16']:.2f}",
        }
        for row in result["rows"]
    ]


def spread_rows(result: dict[str, Any]) -> Rows:
    def figure(value: float | None, form: str) -> str:
        return "" if value is None else format(value, form)

    return [
        {
            "processes": row["num_processes"],
            "tokens go by": row["implementation"] + (f", etp {row['etp']}" if row["etp"] > 1 else ""),
            "options": ", ".join(f"{name} {value}" for name, value in row["options"].items()),
            "largest difference of a loss": f"{row['largest_difference']:.1e}",
            "bits per byte": f"{row['bits_per_byte']['mean']:.4f}",
            "imbalance": figure(row["imbalance"], ".3f"),
            "moved / FSDP": figure(row["moved_of_fsdp"], ".3f"),
            "dropped": figure(row["dropped"], ".1%"),
        }
        for row in result["rows"]
    ]


def rooms_rows(result: dict[str, Any]) -> Rows:
    return [
        {
            "model": row["model"],
            **{f"bits per byte, {domain}": f"{value:.4f}" for domain, value in row["bits_per_byte"].items()},
            "bytes of weights": f"{row['bytes']:,}",
        }
        for row in result["rows"]
    ]


def dispatch_rows(result: dict[str, Any]) -> Rows:
    return [
        {
            "time of the layer": pair.partition(" / ")[0],
            **{setting: quartiles(pairs[pair]) for setting, pairs in result["wall_time_ratios"].items()},
        }
        for pair in next(iter(result["wall_time_ratios"].values()))
    ]


def folding_rows(result: dict[str, Any]) -> Rows:
    rows = [row for row in result["cells"] if row["method"] == "folding" and row["half"] == "held out"]
    return [
        {
            "model": row["model"],
            "GPUs": row["gpus"],
            "tokens": row.get("sequence", 4096),
            "mapping": row["mapping"].partition(", ")[2],
            "MFU %, predicted": f"{row['predicted']:.1f}",
            "published": f"{row['published']:.1f}",
        }
        for row in [*rows, *result["long_context"]]
    ]


def simulated_rows(result: dict[str, Any]) -> Rows:
    names = {name: None for cluster in result["at_256_ranks"].values() for name in cluster["systems"]}
    return [
        {
            "system": name,
            **{
                f"ms a step, cluster {key}": f"{1e3 * cluster['systems'][name]['step_seconds']:,.0f}"
                for key, cluster in result["at_256_ranks"].items()
            },
            **{
                f"busiest over mean, {key}": f"{cluster['systems'][name]['imbalance']:.2f}"
                for key, cluster in result["at_256_ranks"].items()
            },
        }
        for name in names
    ]
