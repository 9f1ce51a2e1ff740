"""Figures in the sentences and hand-made tables of the documents, each with the result that it comes from.

`scoreboard.py` corrects them, or with `--check` compares them. A figure of a document that is not here is one that
nothing checks: write it here too.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import mean, median
from typing import Any, NamedTuple


NUMBER = re.compile(r"[+-]?[\d,]*\.?\d+")
Result = dict[str, Any]


class Claim(NamedTuple):
    """A piece of text with `{}` for each figure.

    Attributes:
        document: Path of the document.
        result: Name of the file in `results/`.
        text: The text, with one space where the document may break the line. It occurs once in the document.
        figures: The figures, formatted, from the content of the file.
    """

    document: str
    result: str
    text: str
    figures: Callable[[Result], list[str]]


MOS = "MoS r=16 e=2"


def recall(system: str, metric: str = "recall@10") -> Callable[[Result], float]:
    def found(result: Result) -> float:
        [row] = [row for row in result["rows"] if row["system"] == system]
        return mean(seed[metric] for seed in row["seeds"])

    return found


def gain(result: Result, embedding: str) -> float:
    """kNN-Embed / one vector, mean of the seeds."""
    [row] = [row for row in result["ratios"] if (row["embedding"], row["method"]) == (embedding, "knn")]
    return mean(row["ratios"])


def study(result: Result, embedding: str, varied: str, value: str) -> float:
    [row] = [
        row
        for row in result["study"][embedding]["rows"]
        if (row["varied"], row["value"], row["smoothing"]) == (varied, value, "knn")
    ]
    return row["recall@10"]


def rounded(form: str, *values: float) -> list[str]:
    return [format(value, form) for value in values]


def system(result: Result, name: str, key: str = "system", **others: Any) -> Result:
    """The row of a system."""
    wanted = {key: name, **others}
    return next(row for row in result["rows"] if all(row[field] == value for field, value in wanted.items()))


def ratios(result: Result, collection: str, errors: str) -> list[float]:
    """Error of MixER / that of the single expert, for each seed."""
    pair = [system(result, name, collection=collection)[errors] for name in ("mixer", "single")]
    return [ours / theirs for ours, theirs in zip(*pair, strict=True)]


def refusal_claims() -> Iterator[Claim]:
    document, name = "docs/mote.md", "mote_refusal_all_experts"
    for number in (1, 2, 3, 4):

        def row(result: Result, number: int = number) -> list[str]:
            off = f"top {number} off, reroute"
            shares = (result["conditions"][key]["private"]["shares"] for key in (off, f"{off}, random"))
            kept = result["requirements"][f"{number} off: at most half of the refusals of random experts"]
            refused = rounded(".3f", *(share.get("refused", 0.0) for share in shares))
            return [*refused, str(sum(kept)), str(len(kept))]

        yield Claim(document, name, f"| top {number} | {{}} | {{}} | {{}} of {{}} |", row)

    def raised(result: Result) -> list[str]:
        shares = (result["conditions"][key]["public"]["shares"] for key in ("top 2 on", "unedited"))
        forced, unedited = (share.get("refused", 0.0) for share in shares)
        return rounded(".2f", forced - unedited)

    yield Claim(document, name, "on raises public refusals by {} in the mean", raised)


def retrieval_claims() -> Iterator[Claim]:
    document, citation, films = "docs/knn_embed.md", "knn_embed_citation", "knn_embed_movielens"
    for label, name in (
        ("`twhin`", "twhin"),
        ("LightGCN-type", "lightgcn"),
        ("`sampled_softmax`", "softmax"),
        ("iALS", "als"),
    ):

        def row(result: Result, name: str = name) -> list[str]:
            methods = ("one vector", "MLE mixture", "kNN-Embed")
            return rounded(".3f", *(recall(f"{name}: {method}")(result) for method in methods)) + rounded(
                ".2f", gain(result, name)
            )

        yield Claim(document, citation, f"| {label} | {{}} | {{}} | {{}} | {{}} |", row)
    peers = ("user-CF, k=10", "item-CF", "popularity")
    yield Claim(
        document,
        citation,
        "user-CF with 10 neighbours {}, item-CF {}, popularity {}.",
        lambda result: rounded(".3f", *(recall(name)(result) for name in peers)),
    )
    yield Claim(
        document,
        films,
        "one vector is {} on `twhin`, {} on `sampled_softmax`, {} on iALS and {} on the LightGCN-type ones.",
        lambda result: rounded(".2f", *(gain(result, name) for name in ("twhin", "softmax", "als", "lightgcn"))),
    )
    yield Claim(
        document,
        films,
        "iALS by one vector is best ({}), before user-CF with 50 neighbours ({}).",
        lambda result: rounded(".3f", recall("als: one vector")(result), recall("user-CF, k=50")(result)),
    )
    yield Claim(
        document,
        citation,
        "iALS by one vector does ({} against {}, item-CF {}).",
        lambda result: rounded(
            ".3f", *(recall(name, "recall@50")(result) for name in ("als: one vector", "user-CF, k=50", "item-CF"))
        ),
    )
    yield Claim(
        document,
        citation,
        "With `twhin` on citations proportional slots give {}, even ones {} and the best of all the user's clusters "
        '(`allocation="pooled"`) {};',
        lambda result: rounded(
            ".3f", *(study(result, "twhin", "allocation", value) for value in ("proportional", "even", "pooled"))
        ),
    )
    yield Claim(
        document,
        citation,
        "(`twhin` on citations, 20, 500 and 2,000: {}, {}, {})",
        lambda result: rounded(".3f", *(study(result, "twhin", "clusters", value) for value in ("20", "500", "2000"))),
    )
    yield Claim(
        "README.md",
        citation,
        "they raise the recall of such embeddings, up to {} times,",
        lambda result: rounded(".2f", max(gain(result, name) for name in ("twhin", "lightgcn", "softmax", "als"))),
    )


def unlearning_claims() -> Iterator[Claim]:
    """The tables of the videos: one a backbone, a row an arm, a cell a request; what validation chose is bold."""
    plain, weighted = "{}, {}, {}", "{}, {}, {} ({})"
    arms = {
        "original": ("original", plain),
        "Gold": ("gold", plain),
        "fine-tuning": ("fine_tune", plain),
        "gradient ascent, retain term": ("ascent_retain", plain),
        "`sum`": ("sum", weighted),
        "`project`": ("project", weighted),
        "`two_phase`": ("two_phase", weighted),
        "`mask`": ("mask", weighted),
        "new rows, fine-tuning": ("reset_fine_tune", plain),
        "`refit`": ("refit", weighted),
        "sharded into 4": ("sharded-4", plain),
    }
    chosen = {
        "vbpr": [("`refit`", place) for place in range(3)],
        "lightgcn_mm": [("new rows, fine-tuning", 0), ("`refit`", 1), ("`refit`", 2)],
    }
    for backbone, bold in chosen.items():
        lines = [f"| {backbone} | users | items | interactions |", "|---|---|---|---|"]
        for label, (_, cell) in arms.items():
            cells = [f"**{cell}**" if (label, place) in bold else cell for place in range(3)]
            lines.append(f"| {label} | {' | '.join(cells)} |")

        def table(result: Result, backbone: str = backbone) -> list[str]:
            cases = {case["kind"]: case for case in result["cases"] if case["backbone"] == backbone}
            figures = []
            for arm, cell in arms.values():
                for kind in ("users", "items", "interactions"):
                    rows = cases[kind]["rows"]
                    found = next(row for row in rows if row["arm"].partition("@")[0] == arm)
                    figures += rounded(".3f", found["forget_recall"], found["membership_auc"])
                    figures += rounded(".4f", found["test_recall"])
                    figures += [found["arm"].partition("@")[2]] if cell == weighted else []
            return figures

        yield Claim("docs/mmrecun.md", "unlearn_tiktok", " ".join(lines), table)


CLAIMS = (
    Claim(
        "docs/mos.md",
        "mos_adapter_bytes",
        "- **Disk**: {} bytes; {} of LoRA of rank 16, {} of LoRA of rank 2,",
        lambda result: [
            f"{result['methods'][MOS]['file_bytes']:,}",
            *rounded(".3f", *(result["ratios"][f"{MOS} / LoRA r={rank}"] for rank in (16, 2))),
        ],
    ),
    Claim(
        "docs/mos.md",
        "mos_resident",
        "on one base model: {} MiB against {} for LoRA of rank 16",
        lambda result: rounded(
            ".1f", *(result["methods"][name]["resident_bytes"] / 2**20 for name in (MOS, "LoRA r=16"))
        ),
    ),
    Claim(
        "docs/mos.md",
        "mos_step",
        "of a training step on a CPU: {} times that of LoRA of rank 16",
        lambda result: rounded(".2f", result["time_ratios"][f"{MOS} / LoRA r=16"]["median"]),
    ),
    Claim(
        "docs/mote.md",
        "mote_patch",
        "decodes a little slower: {} to {} times on a CPU with rerouting",
        lambda result: rounded(
            ".2f",
            *(
                result[family]["decode"]["ratios"]["patch, reroute / unedited, cpu"]["median"]
                for family in ("qwen3_moe", "deepseek_v3")
            ),
        ),
    ),
    Claim(
        "docs/mote.md",
        "mote_refusal",
        "leave no refusal, where random experts leave {} to {}, and",
        lambda result: rounded(
            ".2f",
            *(
                result["conditions"][f"top {number} off, reroute, random"]["private"]["shares"]["refused"]
                for number in (1, 4)
            ),
        ),
    ),
    Claim(
        "docs/mote.md",
        "mote_refusal_development",
        "{} needed several experts. One expert off was not enough there, and in {} of them three were not",
        lambda result: [
            str(sum(len(seed["finetune"]["chosen"]) > 1 for seed in result["seeds"])),
            str(result["requirements"]["3 off: at most half of the refusals of random experts"].count(False)),
        ],
    ),
    *refusal_claims(),
    *retrieval_claims(),
    *unlearning_claims(),
    Claim(
        "docs/matsim.md",
        "matsim_materials",
        "(one-shot accuracy {} where colour histograms have {} and",
        lambda result: rounded(
            ".2f", mean(system(result, "symmetric")["top1_all"]), system(result, "colour_histogram")["top1_all"][0]
        ),
    ),
    Claim(
        "docs/matsim.md",
        "matsim_materials",
        "on hard labels is better in every measure here** ({}),",
        lambda result: rounded(".2f", mean(system(result, "info_nce")["top1_all"])),
    ),
    Claim(
        "docs/mixer.md",
        "mixer",
        "takes {} of the CPU time of a loop over environments",
        lambda result: rounded(".2f", result["cpu_time_ratios"]["ours / loop over environments"]["median"]),
    ),
    Claim(
        "docs/mixer.md",
        "mixer_odebench",
        "the error of MixER is {} of that of a single expert",
        lambda result: rounded(".2f", median(ratios(result, "odebench_small", "span_errors"))),
    ),
    Claim(
        "docs/mixer.md",
        "mixer_odebench",
        "a fifth of which is extrapolation, it is {}, lower",
        lambda result: rounded(".2f", median(ratios(result, "odebench_small", "test_errors"))),
    ),
    Claim(
        "docs/supernets.md",
        "supernets_digits",
        "is {} with M = 4 and {} with M = 1, higher",
        lambda result: rounded(
            ".3f", *(mean(system(result, name, "search")["spearman"]) for name in ("balanced_4", "single_path"))
        ),
    ),
    Claim(
        "docs/supernets.md",
        "supernets_digits",
        "one model reaches {} at a quarter of the cost",
        lambda result: rounded(".3f", mean(system(result, "single_path_quarter", "search")["spearman"])),
    ),
    Claim(
        "docs/supernets.md",
        "supernets_digits",
        "Four models that all paths share by chance reach {}:",
        lambda result: rounded(".3f", mean(system(result, "shared_4", "search")["spearman"])),
    ),
    Claim(
        "docs/supernets.md",
        "supernets_digits",
        "reach {} percent alone in the mean with M = 4, {} with M = 1; a random path {}, the default one, [4, 3, 3], "
        "{}, the best of all, [7, 2, 1], {}.",
        lambda result: rounded(
            ".2f",
            *(100 * mean(system(result, name, "search")["accuracies"]) for name in ("balanced_4", "single_path")),
            *(100 * result["references"][name]["accuracy"] for name in ("random", "default", "best")),
        ),
    ),
    Claim(
        "docs/supernets.md",
        "supernets",
        "evaluates all 36 in {} of the CPU time",
        lambda result: rounded(".2f", result["cpu_time_ratios"]["tree / path by path"]["median"]),
    ),
    Claim(
        "docs/taskexpert.md",
        "taskexpert_scenes",
        "better than constant ones by {} and {} percent with two seeds and worse by {} with the third",
        lambda result: rounded(".2f", *map(abs, system(result, "dynamic")["delta_m"])),
    ),
    Claim(
        "docs/taskexpert.md",
        "taskexpert_scenes",
        "shared trunk differs by {}, {} and {} percent",
        lambda result: rounded("+.2f", *system(result, "shared_trunk")["delta_m"]),
    ),
    Claim(
        "docs/ppp.md",
        "ppp",
        "between ten of its runs on digits the index falls to {},",
        lambda result: rounded(".2f", result["smallest_ari_between_runs_on_digits"]["k-means, true k"]),
    ),
)


def correct(document: str, text: str, results: Path) -> str:
    """Return the text of a document with the figures of all its claims as their results have them.

    Args:
        document: Path of the document.
        text: Its text.
        results: Folder of the results.

    Returns:
        The text; unchanged where all figures are right.

    Raises:
        ValueError: The document lacks a claimed text, or has it twice, or a claim has too few figures.
    """
    for claim in CLAIMS:
        if claim.document != document:
            continue
        figures = claim.figures(json.loads((results / f"{claim.result}.json").read_text(encoding="utf-8")))
        # Lines break where they like.
        words = [re.escape(part).replace(r"\ ", r"\s+") for part in claim.text.split("{}")]
        found = list(re.finditer(f"({NUMBER.pattern})".join(f"{part}" for part in words), text))
        if len(found) != 1 or len(figures) != len(words) - 1:
            raise ValueError(
                f"{document} has {len(found)} times the text {claim.text!r} with {len(figures)} figures; correct "
                "benchmarks/claims.py where the text has changed"
            )
        for number in range(len(figures), 0, -1):
            start, end = found[0].span(number)
            text = text[:start] + figures[number - 1] + text[end:]
    return text
