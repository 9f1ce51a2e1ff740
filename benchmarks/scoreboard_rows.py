"""What the tables of docs/results.md say of each file in `results/`: a heading, and who makes its rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from cells import Rows, quartiles
from rows_of_adapters_and_data import (
    bytes_rows,
    clusters_rows,
    curation_rows,
    end_to_end_rows,
    import_rows,
    interleave_rows,
    pack_rows,
    resident_rows,
    step_rows,
    stream_rows,
    swarm_rows,
    tiers_rows,
)
from rows_of_experts import (
    bits_rows,
    dispatch_rows,
    edits_rows,
    folding_rows,
    offload_rows,
    patch_rows,
    planes_rows,
    rooms_rows,
    simulated_rows,
    spread_rows,
    upcycle_rows,
)
from rows_of_models import (
    dense_rows,
    dynamics_rows,
    lists_rows,
    material_loss_rows,
    materials_rows,
    mixer_rows,
    paths_rows,
    retrieval_rows,
    thoughts_latency_rows,
    thoughts_rows,
    trajectory_rows,
    unlearn_rows,
)


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


def gpu_rows(result: dict[str, Any]) -> Rows:
    return [{"ratio": name, "median": quartiles(row)} for name, row in result["ratios"].items()]


def compat_row(row: dict[str, Any]) -> dict[str, Any]:
    """What was tested in one clean environment, and how it ended."""
    shown = ("torch", "transformers", "peft", "accelerate", "datasets", "huggingface_hub", "numpy")
    packages = row.get("packages", {})
    return {
        "Python": row["python"],
        "versions": row["versions"],
        **{name: packages.get(name, "") for name in shown},
        "tests": ", ".join(path.removeprefix("tests/").removesuffix(".py") for path in row.get("tests", [])),
        "passed": f"{row['passed']}, stopped early" if row.get("stopped") else row.get("passed", row.get("error")),
        "failed": row.get("failed", ""),
        "expected failures": row.get("expected_failures", ""),
        "skipped": row.get("skipped", ""),
        "extras that pip refuses": ", ".join(row.get("no_wheel", [])),
    }


# Name of the result file -> heading and rows, in the order of the page.
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
    "upcycle": ("A small dense model, made sparse and trained on with three routers, and as it was", upcycle_rows),
    "mote_patch": ("A model with experts switched off", patch_rows),
    "mote_refusal": (
        "Experts of refusals switched off and on, in a tiny model that learned them in few experts",
        edits_rows,
    ),
    "d2moe": ("A small sparse model with its experts at every width, in memory and on disk", bits_rows),
    "mwq_experts": ("Experts computed from packed planes / in other ways", planes_rows),
    "mwq_offload": ("Experts on disk, page cache left out", offload_rows),
    "moe_fssdp": ("One small sparse model on the same text, by one process and by several", spread_rows),
    "everything": ("All rooms in one run: sparse models trained alike, and what is made of the second", rooms_rows),
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
    "knn_embed_cited": ("Citations held out, given a paper those that cite it", retrieval_rows),
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
    "mos_gpu": ("On a GPU: a training step of a model of a billion parameters", gpu_rows),
    "mote_gpu": ("On a GPU: a model with experts switched off", gpu_rows),
    "mot_gpu": ("On a GPU: a mixture of thoughts", gpu_rows),
    "mwq_gpu": ("On a GPU: experts computed from packed planes", gpu_rows),
    "mwq_offload_gpu": ("On a GPU: experts on disk, page cache left out", gpu_rows),
    "swarm_gpu": ("On a GPU: small runs for a search", gpu_rows),
}


def side_by_side(result: dict[str, Any]) -> Rows:
    """Every ratio `X / Y` of a result, and the sentences of its verdict; else where its table is."""
    rows = []
    for path, value in _ratios(result, ()):
        pair = path[-1].rpartition(": ")[2]
        setting = ", ".join([*path[:-1], *filter(None, [path[-1].rpartition(": ")[0]])])
        rows.append({"setting": setting, "measured": pair, "ratio": _cell(value)})
    rows += [{"setting": "", "measured": sentence, "ratio": ""} for sentence in result.get("verdicts", [])]
    if not rows and result["name"] in TABLES:
        heading, _ = TABLES[result["name"]]
        rows = [{"setting": "", "measured": f"{heading}: see [its table](results.md)", "ratio": ""}]
    return rows


def _ratios(value: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    if not isinstance(value, dict):
        return
    # Other work on the machine lengthens the time by the clock.
    by_processor = "cpu" in value or any(key.startswith("cpu_") for key in value)
    for key, found in value.items():
        if by_processor and (key == "wall" or f"cpu_{key}" in value):
            continue
        if key.endswith(", wall") and key.replace(", wall", ", cpu") in value:
            continue
        if " / " in key and (isinstance(found, int | float) or "median" in found):
            yield (*path, key.removesuffix(", cpu").removesuffix(", wall")), found
        elif isinstance(found, dict) and key not in ("machine", "versions"):
            yield from _ratios(found, path if "ratio" in key or key == "cpu" else (*path, key.replace("_", " ")))


def _cell(value: Any) -> str:
    return quartiles(value) if isinstance(value, dict) else f"{value:.3f}"
