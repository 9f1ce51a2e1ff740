"""Claims of the documents on recommenders: lists of items, and forgetting."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from statistics import mean

from claim import Claim, Result, rounded


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
