"""Rows of the tables of docs/results.md: models of many kinds."""

from __future__ import annotations

from typing import Any

from cells import Rows, quartiles


def thoughts_latency_rows(result: dict[str, Any]) -> Rows:
    return [
        {
            "setting": setting.partition(", ")[2],
            "phase": setting.partition(", ")[0],
            **{f"primary {name}": quartiles(row["cpu"]) for name, row in primaries.items()},
        }
        for setting, primaries in result["ratios"].items()
    ]


def thoughts_rows(result: dict[str, Any]) -> Rows:
    found = []
    for system in result["systems"]:
        less = result["differences"].get(system["name"])
        found.append(
            {
                "system": system["name"],
                "bits per byte": f"{system['bits_per_byte']:.4f}",
                "mixture less this": ""
                if less is None
                else f"{less['mean']:+.4f} [{less['low']:+.4f}, {less['high']:+.4f}]",
            }
        )
    return found


def mixer_rows(result: dict[str, Any]) -> Rows:
    return [{"ratio of CPU time": name, "median": quartiles(row)} for name, row in result["cpu_time_ratios"].items()]


def dynamics_rows(result: dict[str, Any]) -> Rows:
    def figures(values: list[Any]) -> str:
        return ", ".join(value if isinstance(value, str) else f"{value:.3g}" for value in values)

    return [
        {
            "collection": row["collection"],
            "system": row["system"],
            "active parameters": f"{row['active_parameters']:,}",
            "test error, trained span": figures(row["span_errors"]),
            "whole time": figures(row["test_errors"]),
            "purity": figures(row["purities"]),
            "new environments, context 0": figures(row["zero_errors"]),
            "adapted": figures(row["adapted_errors"]),
        }
        for row in result["rows"]
    ]


def trajectory_rows(result: dict[str, Any]) -> Rows:
    return [
        {
            "classes": fit["classes"],
            "-2 log-likelihood": f"{fit['minus2ll']:.3f}",
            "starts at the best": f"{fit['hits']} of {fit['starts']}",
            "distinct optima": fit["optima"],
            "CPU seconds": f"{fit['cpu_seconds']:.1f}",
        }
        for fit in result["fits"]
    ]


def lists_rows(result: dict[str, Any]) -> Rows:
    return [
        {
            "candidate": name,
            "CPU s": quartiles(row),
            "s, 2 threads": quartiles(result["wall_seconds"][name]),
            "scored items per user": f"{result['scored_items'][name]:,.0f}",
            "CPU time of retrieve / of this": "1"
            if name == "retrieve"
            else quartiles(result["cpu_time_ratios"][f"retrieve / {name}"]),
            "time of retrieve / of this": "1"
            if name == "retrieve"
            else quartiles(result["time_ratios"][f"retrieve / {name}"]),
        }
        for name, row in result["cpu_seconds"].items()
    ]


def retrieval_rows(result: dict[str, Any]) -> Rows:
    from hf_mixture.training.retrieval.report import COLUMNS

    def figure(row: dict[str, Any], key: str) -> str:
        values = [seed[key] for seed in row["seeds"]]
        mean = sum(values) / len(values)
        spread = f" ({min(values):.4f} to {max(values):.4f})" if key == "recall@10" and len(values) > 1 else ""
        return f"{mean:.4f}{spread}"

    columns = ("recall@10", "recall@20", "recall@50", "ndcg@10", "diversity@20")
    return [{"system": row["system"], **{COLUMNS[key]: figure(row, key) for key in columns}} for row in result["rows"]]


def material_loss_rows(result: dict[str, Any]) -> Rows:
    return [
        *(
            {"what": f"ratio of CPU time: {name}", "median": quartiles(row)}
            for name, row in result["cpu_time_ratios"].items()
        ),
        *(
            {"what": f"one-shot retrieval, {name}: CPU seconds", "median": f"{row['cpu_seconds']:.2f}"}
            for name, row in result["retrieval"].items()
        ),
    ]


def materials_rows(result: dict[str, Any]) -> Rows:
    from hf_mixture.training.matsim.report import rows_of

    return rows_of(result)


def unlearn_rows(result: dict[str, Any]) -> Rows:
    def row_of(case: dict[str, Any], row: dict[str, Any]) -> dict[str, Any]:
        return {
            "asked to forget": f"{case['backbone']}: {100 * case['share']:g} % of {case['kind']}",
            "arm": f"{row['arm']}, chosen" if row["chosen"] else row["arm"],
            "forget recall": f"{row['forget_recall']:.4f}",
            "membership AUC": f"{row['membership_auc']:.3f}",
            "test recall": f"{row['test_recall']:.4f}",
            "left to forget q": f"{row['q']:.3f}",
            "steps / Gold's": f"{row['c']:.2f}",
            "verdict": row["verdict"] or "",
        }

    return [row_of(case, row) for case in result["cases"] for row in case["rows"] if _is_shown(row)]


def _is_shown(row: dict[str, Any]) -> bool:
    shown = ("original", "gold", "fine_tune", "ascent_retain", "reset_fine_tune", "sum", "sharded")
    return row["chosen"] or row["arm"].startswith(shown)


def paths_rows(result: dict[str, Any]) -> Rows:
    def numbers(values: list[Any]) -> str:
        return ", ".join("-" if value is None else f"{value:.2f}" for value in values)

    return [
        {
            "search": row["search"],
            "steps (a model)": f"{row['steps']:,} ({row['steps_per_model']:,.0f})",
            "Spearman with the truth": numbers(row["spearman"]),
            "chosen path": ", ".join(map(str, row["chosen"])),
            "its accuracy alone (%)": numbers([100 * value for value in row["accuracies"]]),
            f"its rank of {len(result['paths'])}": ", ".join(map(str, row["ranks"])),
        }
        for row in result["rows"]
    ]


def dense_rows(result: dict[str, Any]) -> Rows:
    return [
        {
            "system": row["system"],
            "parameters": f"{row['parameters']:,}",
            **{task: f"{sum(values) / len(values):.3g}" for task, values in row["test"].items()},
            f"gain over {result['baseline']}, by seed": ", ".join(f"{gain:+.1f} %" for gain in row["delta_m"]),
        }
        for row in result["rows"]
    ]
