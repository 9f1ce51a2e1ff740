"""One figure or two of each method, for the table of methods in the README: what was measured, beside what.

The text has `{}` for each figure, and `results/NAME.json` has the figures. Where a method did not do better than what
it was compared with, its line says so.
"""

from __future__ import annotations

from collections.abc import Callable
from statistics import mean
from typing import Any, NamedTuple

from claim import Result, rounded, system
from claims import MOS


class Headline(NamedTuple):
    """What the table of methods says was measured of one.

    Attributes:
        result: Name of the file in `results/`.
        text: The text, with `{}` for each figure.
        figures: The figures, formatted, from the content of the file.
    """

    result: str
    text: str
    figures: Callable[[Result], list[str]]


def percent(*shares: float) -> list[str]:
    return [f"{100 * share:.0f} %" for share in shares]


def mote(result: Result) -> list[str]:
    def refused(condition: str) -> float:
        return float(result["conditions"][condition]["private"]["shares"].get("refused", 0.0))

    return rounded(".2f", refused("top 1 off, reroute"), refused("top 1 off, reroute, random"))


def thoughts(result: Result) -> list[str]:
    bits = {row["name"]: row["bits_per_byte"] for row in result["systems"]}
    return rounded(".2f", bits["mot"], min(bits[expert["name"]] for expert in result["experts"]), bits["lora"])


def fssdp(result: Result) -> list[str]:
    still, copied = (row for row in result["rows"] if row["num_processes"] == 4 and row["implementation"] == "fssdp")
    return rounded(".2f", copied["imbalance"], still["imbalance"]) + percent(copied["moved_of_fsdp"])


def upcycled(result: Result) -> list[str]:
    bits = {row["name"]: row["test_bits_per_byte"]["mean"] for row in result["systems"]}
    return rounded(".3f", *(bits[name] for name in ("topk_switch", "sigmoid_bias", "top_p", "dense")))


def losses(names: tuple[str, ...]) -> Callable[[Result], list[str]]:
    def found(result: Result) -> list[str]:
        means = {row["name"]: row["objective"]["mean"] for row in result["comparison"]["systems"]}
        return rounded(".2f", *(means[name] for name in names))

    return found


def climb(result: Result) -> list[str]:
    found = result["climb"]["searches"]
    return percent(found["CLIMB, 64 + 32 + 16"]["p_best"], found["random, 112"]["p_best"])


def admire(result: Result) -> list[str]:
    found = result["pile"]["targets"]["4.1016"]
    return [f"{found['median_admire']:.1f}", f"{found['median_random']:.0f}"]


def partition(result: Result) -> list[str]:
    found = result["table"]
    [ours] = [name for name in found if name.startswith("default") and "conservative" not in name]
    [peer] = [name for name in found if name.startswith("k-means")]
    return rounded(".2f", found[ours]["digits"]["ari"][0], mean(found[peer]["digits"]["ari"]))


def citations(result: Result) -> list[str]:
    rows = {row["system"]: mean(seed["recall@10"] for seed in row["seeds"]) for row in result["rows"]}
    return rounded(".2f", *(rows[name] for name in ("twhin: kNN-Embed", "twhin: one vector", "user-CF, k=10")))


def unlearning(result: Result) -> list[str]:
    [case] = [case for case in result["cases"] if (case["backbone"], case["kind"]) == ("lightgcn_mm", "items")]
    rows = {row["arm"]: row for row in case["rows"]}
    before, gold, ours = (rows[name] for name in ("original", "gold", "reset_fine_tune@1"))
    return [
        *percent(ours["c"]),
        *rounded(".2f", before["forget_recall"], ours["forget_recall"]),
        *rounded(".3f", ours["test_recall"], gold["test_recall"]),
    ]


def pooling(result: Result) -> list[str]:
    rows = {row["search"]: mean(row["spearman"]) for row in result["rows"]}
    return rounded(".2f", rows["balanced_4"], rows["single_path"])


def materials(result: Result) -> list[str]:
    return rounded(".2f", *(mean(system(result, name)["top1_all"]) for name in ("symmetric", "colour_histogram")))


def dynamics(result: Result) -> list[str]:
    means: list[float] = []
    for name in ("mixer", "single"):
        means.append(mean(system(result, name, collection="odebench_small")["span_errors"]))
    return rounded(".3f", *means)


HEADLINES: dict[str, Headline] = {
    "MoS": Headline(
        "mos_adapter_bytes",
        "an adapter of rank 16 on disk: {} MB, as LoRA {} MB",
        lambda result: [f"{result['methods'][name]['file_bytes'] / 1e6:.1f}" for name in (MOS, "LoRA r=16")],
    ),
    "MoTE": Headline(
        "mote_refusal",
        "one expert of a tiny model off: {} of the refusals are left, with a random one off {}",
        mote,
    ),
    "Mixture of Thoughts": Headline(
        "mot_domains",
        "bits per byte of mixed documents: {}, the best expert {}, LoRA on it {}",
        thoughts,
    ),
    "D2MoE": Headline(
        "d2moe",
        "one file of all widths has {} of the bytes of a file for each",
        lambda result: percent(result["ratios"]["bytes: nested file / one file for each width"]),
    ),
    "Hecate": Headline(
        "moe_fssdp",
        "imbalance of 4 processes {}, without copies {}; {} of the bytes that FSDP moves",
        fssdp,
    ),
    "MoE Parallel Folding": Headline(
        "folding_cost",
        "throughput of published layouts that it was not fitted to: median error {}",
        lambda result: percent(result["summary"]["median_error_held_out"]),
    ),
    "MoE router registry": Headline(
        "upcycle",
        "bits per byte of a dense model made sparse, with three routers: {}, {} and {}, trained on as it was {}",
        upcycled,
    ),
    "RegMix": Headline(
        "end_to_end_regmix",
        "loss on a held-out domain: {}, natural shares {}, equal shares {}",
        losses(("regmix", "natural", "stratified")),
    ),
    "CLIMB": Headline(
        "search_replay",
        "the best of 379 published runs found by 112 of them in {} of the searches, at random in {}",
        climb,
    ),
    "Aioli": Headline(
        "end_to_end_aioli",
        "mean loss of seven domains: {}, equal shares {}, natural shares {}",
        losses(("aioli", "stratified", "natural")),
    ),
    "ADMIRE-BayesOpt": Headline(
        "search_replay",
        "cost until the best of 192 published runs was run: that of {} runs, at random {}",
        admire,
    ),
    "MixtureVitae": Headline(
        "curation",
        "{} documents a second through all stages, on 2 cores",
        lambda result: rounded(",.0f", result["documents_per_second"]),
    ),
    "PPP": Headline(
        "ppp",
        "Rand index on digits {}, k-means that is told the number of clusters {}",
        partition,
    ),
    "kNN-Embed": Headline(
        "knn_embed_citation",
        "recall of held-out citations on weak embeddings: {}, one vector {}; neighbours of users (no embeddings) {}",
        citations,
    ),
    "MMRecUn": Headline(
        "unlearn_tiktok",
        "5 % of items forgotten in {} of the steps of training anew: their recall {} to {}, of others {} (anew {}); "
        "by reset rows, not by the loss of the paper",
        unlearning,
    ),
    "TaskExpert": Headline(
        "taskexpert_scenes",
        "mean gain of gates that see the image over constant ones: {} %, {} % and {} % by seed, which is noise",
        lambda result: rounded("+.1f", *system(result, "dynamic")["delta_m"]),
    ),
    "Balanced Mixture of SuperNets": Headline(
        "supernets_digits",
        "rank correlation with the truth over 36 networks: {} by four, {} by one, which is noise",
        pooling,
    ),
    "MatSim": Headline(
        "matsim_materials",
        "one-shot accuracy on new materials: {}, colour histograms {}",
        materials,
    ),
    "MixER": Headline(
        "mixer_odebench",
        "error on four families of equations: {}, a single expert {}",
        dynamics,
    ),
    "Trajectory mixture of experts": Headline(
        "trajectories",
        "a likelihood with its gradient in {} of the time of automatic differentiation",
        lambda result: rounded(".2f", next(iter(result["ratio"].values()))["median"]),
    ),
}


def headline(method: str, read: Callable[[str], dict[str, Any]]) -> str:
    """The text of a method with its figures."""
    result, text, figures = HEADLINES[method]
    return text.format(*figures(read(result)))
