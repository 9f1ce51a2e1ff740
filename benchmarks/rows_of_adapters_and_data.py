"""Rows of the tables of docs/results.md: adapters and data."""

from __future__ import annotations

from typing import Any

from cells import Rows, number, spread, subject


def step_rows(result: dict[str, Any]) -> Rows:
    return [
        {
            "method": name,
            "trainable parameters": f"{row['trainable_parameters']:,}",
            "CPU ms per step": f"{1e3 * row['step_cpu_seconds']['median']:.0f}",
            "CPU time of MoS / this": spread(result["cpu_time_ratios"], f"{subject(result)} / {name}"),
            "time of MoS / this": spread(result["time_ratios"], f"{subject(result)} / {name}"),
            "peak MiB, Adam included": f"{row['peak_bytes'] / 2**20:.0f}",
        }
        for name, row in result["methods"].items()
    ]


def bytes_rows(result: dict[str, Any]) -> Rows:
    return [
        {
            "method": name,
            "trainable parameters": f"{row['trainable_parameters']:,}",
            "file bytes": f"{row['file_bytes']:,}",
            "bytes of MoS / this": number(result["ratios"], f"{subject(result)} / {name}"),
        }
        for name, row in result["methods"].items()
    ]


def resident_rows(result: dict[str, Any]) -> Rows:
    return [
        {
            "method": name,
            "MiB of all adapters": f"{row['resident_bytes'] / 2**20:.1f}",
            "memory of MoS / this": number(result["memory_ratios"], f"{subject(result)} / {name}"),
            "ms per switch": f"{1e3 * row['switch_seconds']['median']:.0f}",
            "time of MoS / this": spread(result["switch_time_ratios"], f"{subject(result)} / {name}"),
        }
        for name, row in result["methods"].items()
    ]


def interleave_rows(result: dict[str, Any]) -> Rows:
    return [
        {
            "what": name,
            "CPU ns per row": f"{row['median']:.1f}",
            "CPU time of datasets / this": spread(result["ratio_per_row"]["cpu"], f"datasets, all_exhausted / {name}"),
            "peak MB": f"{result['peak_bytes'][name] / 1e6:.2f}" if name in result["peak_bytes"] else "",
        }
        for name, row in result["nanoseconds_per_row"]["cpu"].items()
    ]


def pack_rows(result: dict[str, Any]) -> Rows:
    ratios = result["ratio"]["cpu"]
    faster = {key.partition(" / ")[2]: [] for key in ratios}
    for key, row in ratios.items():
        theirs, _, ours = key.partition(" / ")
        faster[ours].append(f"{row['median']:.1f} x {theirs}")
    return [
        {
            "what": name,
            "million tokens per CPU second": f"{rate['median']:.0f}",
            "as fast as": "; ".join(faster.get(name, [])),
        }
        for name, rate in result["million_tokens_per_second"]["cpu"].items()
    ]


def stream_rows(result: dict[str, Any]) -> Rows:
    return [
        {
            "rows": kind,
            "what": name,
            "rows per CPU second": f"{row['median']:,.0f}",
            "CPU time of datasets / this": spread(
                measured["ratio"]["cpu"], f"{next(iter(measured['rows_per_second']['cpu']))} / {name}"
            ),
        }
        for kind, measured in result["kinds"].items()
        for name, row in measured["rows_per_second"]["cpu"].items()
    ]


def swarm_rows(result: dict[str, Any]) -> Rows:
    return [
        {
            "width": size["size"]["width"],
            "tokens of a sample": size["size"]["length"],
            "samples of a step": size["size"]["batch"],
            **{f"s a run, {name}": f"{value:.2f}" for name, value in size["wall_seconds_per_run"].items()},
            "time of the Trainer / swarm": spread(size, "wall_ratio"),
            "largest difference of a loss": f"{size['largest_difference_of_a_loss']:.0e}",
        }
        for size in result["sizes"]
    ]


def end_to_end_rows(result: dict[str, Any]) -> Rows:
    comparison = result["comparison"]
    found = comparison["systems"][0]["name"]
    return [
        {
            "mixture": system["name"],
            **{f"seed {run['seed']}": f"{run['objective']:.4f}" for run in system["runs"]},
            "mean": f"{system['objective']['mean']:.4f}",
            f"{found} less this": f"{comparison['differences'][system['name']]['mean']:+.4f}"
            if system["name"] in comparison["differences"]
            else "",
        }
        for system in comparison["systems"]
    ]


def curation_rows(result: dict[str, Any]) -> Rows:
    peak = result["peak_bytes"]["all_processes"] / 2**20
    whole = {
        "stage": f"all; {result['documents_per_second']:,.0f} a second by the clock, {peak:,.0f} MiB of all processes",
        "documents per processor second": f"{result['documents_per_cpu_second']:,.0f}",
    }
    return [
        whole,
        *(
            {"stage": name, "documents per processor second": f"{facts['documents_per_cpu_second']:,.0f}"}
            for name, facts in result["stages"].items()
        ),
    ]


def tiers_rows(result: dict[str, Any]) -> Rows:
    return [
        {
            "trained on": system["name"],
            **{name: f"{value:.3f}" for name, value in system["test_bits_per_byte"].items()},
        }
        for system in result["systems"]
    ]


def clusters_rows(result: dict[str, Any]) -> Rows:
    names = [name for name in result["table"] if name.startswith("default") or name not in result["rules"]]
    sets = ("iris", "wine", "cancer", "digits")

    def whole(name: str, data: str) -> str:
        """Clusters and Rand index of the whole set, which peers that draw random numbers get several times."""
        found = result["table"][name][data]
        runs = 1 if name in result["rules"] else len(found["clusters"])
        counts, score = found["clusters"][:runs], sum(found["ari"][:runs]) / runs
        return f"{min(counts)}{f' to {max(counts)}' if max(counts) > min(counts) else ''} / {score:.2f}"

    def splits(name: str, data: str) -> str:
        counts = result["table"][name][data]["clusters"]
        return f"{sum(count > 1 for count in counts)} of {len(counts)}"

    return [
        {
            "method": name.replace("default", "PPP", 1),
            **{data: whole(name, data) for data in sets},
            **{f"splits of {data}": splits(name, data) for data in ("Gaussian", "Student t", "uniform")},
        }
        for name in names
    ]


def import_rows(result: dict[str, Any]) -> Rows:
    return [
        {
            "step": name,
            "median ms": f"{1e3 * row['median']:.0f}",
            "quartiles": f"{1e3 * row['quartile_1']:.0f} to {1e3 * row['quartile_3']:.0f}",
        }
        for name, row in result["seconds"].items()
    ]
