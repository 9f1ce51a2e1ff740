"""What the tables of the README say of each file in `results/`: a heading, and a row for each line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


Rows = list[dict[str, Any]]


def step_rows(result: dict[str, Any]) -> Rows:
    return [
        {
            "method": name,
            "trainable parameters": f"{row['trainable_parameters']:,}",
            "CPU ms per step": f"{1e3 * row['step_cpu_seconds']['median']:.0f}",
            "CPU time of MoS / this": _spread(result["cpu_time_ratios"], f"{_subject(result)} / {name}"),
            "time of MoS / this": _spread(result["time_ratios"], f"{_subject(result)} / {name}"),
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
            "bytes of MoS / this": _number(result["ratios"], f"{_subject(result)} / {name}"),
        }
        for name, row in result["methods"].items()
    ]


def resident_rows(result: dict[str, Any]) -> Rows:
    return [
        {
            "method": name,
            "MiB of all adapters": f"{row['resident_bytes'] / 2**20:.1f}",
            "memory of MoS / this": _number(result["memory_ratios"], f"{_subject(result)} / {name}"),
            "ms per switch": f"{1e3 * row['switch_seconds']['median']:.0f}",
            "time of MoS / this": _spread(result["switch_time_ratios"], f"{_subject(result)} / {name}"),
        }
        for name, row in result["methods"].items()
    ]


def interleave_rows(result: dict[str, Any]) -> Rows:
    return [
        {
            "what": name,
            "CPU ns per row": f"{row['median']:.1f}",
            "CPU time of datasets / this": _spread(
                result["ratio_per_row"]["cpu"], f"datasets, all_exhausted / {name}"
            ),
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
            "CPU time of datasets / this": _spread(
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
            "time of the Trainer / swarm": _spread(size, "wall_ratio"),
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


def patch_rows(result: dict[str, Any]) -> Rows:
    return [
        {"family": family, "phase": phase, "ratio of CPU time": name.removesuffix(", cpu"), "median": _quartiles(row)}
        for family in ("qwen3_moe", "deepseek_v3")
        for phase in ("prefill", "decode")
        for name, row in result[family][phase]["ratios"].items()
        if name.endswith(", cpu")
    ]


def planes_rows(result: dict[str, Any]) -> Rows:
    rows: dict[str, dict[str, Any]] = {}
    for name, row in result["wall_time_ratios"].items():
        setting, _, pair = name.partition(": ")
        rows.setdefault(setting, {"a layer": setting})[f"time of {pair}"] = _quartiles(row)
    return list(rows.values())


def offload_rows(result: dict[str, Any]) -> Rows:
    rows: dict[str, dict[str, Any]] = {}
    for name, row in result["token_rate_ratios"].items():
        setting, _, pair = name.rpartition(": ")
        if pair in ("hebf / in memory", "hebf / expert_id", "hebf, lru / expert_id"):
            rows.setdefault(setting, {"setting": setting})[f"tokens/s, {pair}"] = _quartiles(row)
    return list(rows.values())


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


def dispatch_rows(result: dict[str, Any]) -> Rows:
    return [
        {
            "time of the layer": pair.partition(" / ")[0],
            **{setting: _quartiles(pairs[pair]) for setting, pairs in result["wall_time_ratios"].items()},
        }
        for pair in next(iter(result["wall_time_ratios"].values()))
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


def thoughts_latency_rows(result: dict[str, Any]) -> Rows:
    return [
        {
            "setting": setting.partition(", ")[2],
            "phase": setting.partition(", ")[0],
            **{f"primary {name}": _quartiles(row["cpu"]) for name, row in primaries.items()},
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
    return [{"ratio of CPU time": name, "median": _quartiles(row)} for name, row in result["cpu_time_ratios"].items()]


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


def edits_rows(result: dict[str, Any]) -> Rows:
    from hf_mixture.moe.mote.evaluation import result_row

    return [result_row(name, found, result["target"]) for name, found in result["conditions"].items()]


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


def import_rows(result: dict[str, Any]) -> Rows:
    return [
        {
            "step": name,
            "median ms": f"{1e3 * row['median']:.0f}",
            "quartiles": f"{1e3 * row['quartile_1']:.0f} to {1e3 * row['quartile_3']:.0f}",
        }
        for name, row in result["seconds"].items()
    ]


def _subject(result: dict[str, Any]) -> str:
    return next(name for name in result["methods"] if name.startswith("MoS"))


def _quartiles(row: dict[str, float]) -> str:
    return f"{row['median']:.3f} ({row['quartile_1']:.3f} to {row['quartile_3']:.3f})"


def _number(ratios: dict[str, float], key: str) -> str:
    return f"{ratios[key]:.3f}" if key in ratios else ""


def _spread(ratios: dict[str, dict[str, float]], key: str) -> str:
    if key not in ratios:
        return ""
    row = ratios[key]
    return f"{row['median']:.2f} ({row['quartile_1']:.2f} to {row['quartile_3']:.2f})"


# What a reader has to know of a result that has no `setting`.
SETTINGS = (
    "sources",
    "proxies",
    "steps",
    "layers",
    "experts",
    "hidden",
    "inner",
    "tokens_of_a_row",
    "rows_of_a_batch",
    "rounds",
)


# Name of the result file -> heading and rows, in the order of the README.
def lists_rows(result: dict[str, Any]) -> Rows:
    return [
        {
            "candidate": name,
            "CPU s": _quartiles(row),
            "s, 2 threads": _quartiles(result["wall_seconds"][name]),
            "scored items per user": f"{result['scored_items'][name]:,.0f}",
            "CPU time of retrieve / of this": "1"
            if name == "retrieve"
            else _quartiles(result["cpu_time_ratios"][f"retrieve / {name}"]),
            "time of retrieve / of this": "1"
            if name == "retrieve"
            else _quartiles(result["time_ratios"][f"retrieve / {name}"]),
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
            {"what": f"ratio of CPU time: {name}", "median": _quartiles(row)}
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


TABLES: dict[str, tuple[str, Callable[[dict[str, Any]], Rows]]] = {
    "mos_step": ("One training step (forward, backward, AdamW)", step_rows),
    "mos_adapter_bytes": ("Adapter on disk", bytes_rows),
    "mos_resident": ("Many adapters on one base model, all linear layers", resident_rows),
    "interleave_map": ("Interleaving map-style data sets in given shares", interleave_rows),
    "packs": ("Batches of packed tokens", pack_rows),
    "streaming": ("Interleaving streams", stream_rows),
    "curation": ("Curating real documents, all default stages", curation_rows),
    "curate_local": ("Bits per byte of held-out documents, trained on the strictest tier and on all", tiers_rows),
    "swarm": ("Small runs for a search: one by one, and stacked as one model", swarm_rows),
    "end_to_end_regmix": ("RegMix on real text: loss on a domain that no model is trained on", end_to_end_rows),
    "end_to_end_aioli": ("Aioli on real text: mean loss of seven domains", end_to_end_rows),
    "mote_patch": ("A model with experts switched off", patch_rows),
    "mote_refusal": ("Experts of refusals switched off and on, in a tiny model", edits_rows),
    "d2moe": ("A small sparse model with its experts at every width, in memory and on disk", bits_rows),
    "mwq_experts": ("Experts computed from packed planes / in other ways", planes_rows),
    "mwq_offload": ("Experts on disk, page cache left out", offload_rows),
    "moe_fssdp": ("One small sparse model on the same text, by one process and by several", spread_rows),
    "fssdp": ("A layer of experts on two processes / that of transformers (`all_to_all`)", dispatch_rows),
    "folding_cost": ("The cost model on published mappings that it was not fitted to", folding_rows),
    "simulate_ep": ("Simulated: 256 GPUs, 256 experts, Zipf 1.0, 4 copies a rank", simulated_rows),
    "mot_latency": (
        "A mixture of thoughts: a decoding step / the primary alone, prefill / sum of members",
        thoughts_latency_rows,
    ),
    "mot_domains": ("A mixture of thoughts of three small experts on mixed documents", thoughts_rows),
    "ppp": (
        "Clusters found / adjusted Rand index with the labels; how often data without clusters is split",
        clusters_rows,
    ),
    "trajectories": ("Latent classes of growth curves, 20 starts", trajectory_rows),
    "mixer": ("MixER: a training step of all environments at once / in other ways", mixer_rows),
    "mixer_odebench": ("Four families of differential equations, and one; an error for each seed", dynamics_rows),
    "import": ("Start of a process", import_rows),
    "knn_embed": ("kNN-Embed: lists for many users at once / in other ways", lists_rows),
    "knn_embed_citation": ("Citations held out, by lists of papers", retrieval_rows),
    "knn_embed_movielens": ("Films held out, by lists for people", retrieval_rows),
    "matsim": ("MatSim: a loop over triplets / the ranking loss; retrieval of 10,000 images", material_loss_rows),
    "matsim_materials": (
        "Materials that no training has seen: class-balanced accuracies, means and ranges",
        materials_rows,
    ),
    "unlearn_movielens": ("Recommenders of films that forget; means over seeds", unlearn_rows),
    "unlearn_tiktok": ("Recommenders of short videos that forget; means over seeds", unlearn_rows),
    "supernets": ("SuperNets: accuracies of all paths from a tree / path by path", mixer_rows),
    "supernets_digits": (
        "Where to pool: how searches rank all paths of a small network on digits, by seed",
        paths_rows,
    ),
    "taskexpert": ("TaskExpert: a training step of the decoder / in other ways", mixer_rows),
    "taskexpert_scenes": (
        "Six maps of procedural scenes: mIoU, mIoU, maxF, degrees (lower is better), odsF, metres (lower is better)",
        dense_rows,
    ),
}
