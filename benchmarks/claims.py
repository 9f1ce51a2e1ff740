"""Figures in the sentences and hand-made tables of the documents, each with the result that it comes from.

`scoreboard.py` corrects them, or with `--check` compares them. A figure of a document that is not here is one that
nothing checks: write it here too.
"""

from __future__ import annotations

from collections.abc import Iterator
from statistics import mean, median

from claim import Claim, Result, rounded, system
from claims_of_recommenders import retrieval_claims, unlearning_claims


MOS = "MoS r=16 e=2"


def ratios(result: Result, collection: str, errors: str) -> list[float]:
    """Error of MixER / that of the single expert, for each seed."""
    pair = [system(result, name, collection=collection)[errors] for name in ("mixer", "single")]
    return [ours / theirs for ours, theirs in zip(*pair, strict=True)]


def named(systems: list[Result], name: str) -> Result:
    return next(row for row in systems if row["name"] == name)


def search_claims() -> Iterator[Claim]:
    def tuning(result: Result) -> list[str]:
        random, found = (result["instruction_tuning"][key] for key in ("random", "admire"))
        regrets = (found["default settings"]["mean_regret"], random["mean_regret"], random["exact_expectation"])
        return [str(result["instruction_tuning"]["seeds"]), *rounded(".5f", *regrets)]

    def counts(result: Result) -> list[str]:
        found = result["instruction_tuning"]["admire"]["default settings"]
        seeds = result["instruction_tuning"]["seeds"]
        keys = ("below_random_of_the_same_seed", "equal_to_random_of_the_same_seed")
        return [str(found["below_expected_random"]), str(seeds), *(str(found[key]) for key in keys)]

    document, name = "docs/admire.md", "search_replay"
    yield Claim(
        document,
        name,
        "{} seeds, at a cost of 10: a mean regret of {}, where random search has {}, in the limit {}.",
        tuning,
    )
    text = "in {} of {} seeds, and below that of random search with the same seed in {}, equal in {}:"
    yield Claim(document, name, text, counts)

    def swarm(result: Result) -> list[str]:
        medians = [size["wall_ratio"]["median"] for size in result["sizes"]]
        return rounded(".2f", max(medians), min(medians))

    yield Claim("docs/regmix.md", "swarm", "take {} to {} times less than 64 runs of the `Trainer`", swarm)

    def packs(result: Result) -> list[str]:
        stock = ("datasets, torch format, with labels", "datasets, torch format, DataCollatorForLanguageModeling")
        names = (f"{kind} / TokenPack blocks" for kind in (*stock, "datasets, torch format"))
        return rounded(".0f", *(result["ratio"]["cpu"][pair]["median"] for pair in names))

    yield Claim(
        "docs/data_mixtures.md",
        "packs",
        "is gathered {} times as fast as from a torch-formatted `Dataset` with the columns that `run_clm.py` "
        "prepares, {} times as fast as by `DataCollatorForLanguageModeling`, and {} times as fast as `input_ids`",
        packs,
    )


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


def together_claims() -> Iterator[Claim]:
    def rooms(result: Result) -> list[str]:
        sparse, quantised, adapted = result["rows"][1:4]
        bits = [mean(row["bits_per_byte"].values()) for row in (sparse, quantised, adapted)]
        share = rounded(".0f", 100 * quantised["bytes"] / sparse["bytes"])
        differences = rounded(".3f", bits[1] - bits[0], bits[1] - bits[2])
        return [*share, *differences, *rounded("g", result["pull"]["max_difference"])]

    text = (
        "has {} % of the bytes and {} more bits per byte, the adapter takes {} off, and the logits of the fresh "
        "process differ by {}"
    )
    yield Claim("README.md", "everything", text, rooms)


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
    Claim(
        "docs/sparse_models.md",
        "upcycle",
        "the three mixtures have {}, {} and {} held-out bits per byte, and the model that stayed dense {} "
        "([upcycle](../benchmarks/results/upcycle.json)); a token costs them {} times its parameters",
        lambda result: [
            *rounded(
                ".3f",
                *(
                    named(result["systems"], name)["test_bits_per_byte"]["mean"]
                    for name in ("topk_switch", "sigmoid_bias", "top_p", "dense")
                ),
            ),
            f"{result['parameters']['active'] / result['parameters']['dense']:.1f}",
        ],
    ),
    *search_claims(),
    *refusal_claims(),
    *together_claims(),
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
