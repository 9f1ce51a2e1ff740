"""Published figures of MixtureVitae: its proportions as a `Mixture`, and its table of scores from raw results.

The figures themselves are read from files, because the repository that they stand in (`ontocord/mixturevitae`) has no
licence; what is here is how they are read. https://arxiv.org/abs/2509.25531
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from hf_mixture.data.curation.rules.files import check_document
from hf_mixture.data.mixture import Mixture
from hf_mixture.data.source import check_text
from hf_mixture.hub.damage import naming
from hf_mixture.hub.reading import read_yaml


if TYPE_CHECKING:
    import pandas as pd

# The eleven tasks of the table, and the metric that each is scored by.
METRICS: Mapping[str, Literal["acc", "acc_norm"]] = {
    "copa": "acc",
    "lambada_openai": "acc",
    "openbookqa": "acc_norm",
    "winogrande": "acc",
    "mmlu": "acc",
    "arc_challenge": "acc_norm",
    "arc_easy": "acc_norm",
    "boolq": "acc",
    "commonsense_qa": "acc",
    "hellaswag": "acc_norm",
    "piqa": "acc_norm",
}


def published_mixture(
    path: str | os.PathLike[str], *, level: Literal["parts", "groups"] = "parts", seed: int = 0
) -> Mixture:
    """Return published proportions as a mixture over tokens.

    Args:
        path: A YAML file of the format `mixturevitae-proportions`: groups with a total and parts, in billions of
            tokens.
        level: Whether the sources are the "parts" or the "groups". Default: "parts".
        seed: Seed of the order. Default: 0.

    Returns:
        The mixture, with the budget of all tokens; its weights are the figures over their sum.

    Raises:
        FileNotFoundError: There is no file at `path`.
        ValueError: The file is not of the format, a total is not the sum of its parts within 0.02 (the figures are
            rounded), or a part has the name of another.

    Example:
        ```python
        >>> import tempfile, pathlib
        >>> text = '''
        ... format: mixturevitae-proportions
        ... version: 1
        ... unit: billion_tokens
        ... groups:
        ...   code: {total: 3.0, parts: {stack: 2.0, forum: 1.0}}
        ...   web: {total: 1.0, parts: {crawl: 1.0}}
        ... grand_total: 4.0
        ... '''
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = pathlib.Path(folder, "proportions.yaml")
        ...     _ = file.write_text(text)
        ...     published_mixture(file).weights
        {'stack': 0.5, 'forum': 0.25, 'crawl': 0.25}

        ```
    """
    where = os.fspath(path)
    if level not in ("parts", "groups"):
        raise ValueError(f"level={level!r} is not 'parts' or 'groups'; choose one")
    document: dict[str, Any] = read_yaml(path)
    check_document("proportions", document, where)
    groups = document["groups"]
    parts: dict[str, float] = {}
    for name, group in groups.items():
        total = sum(group["parts"].values())
        # Written so that NaN, which compares with nothing, is refused too.
        if not abs(total - group["total"]) <= 0.02:
            raise ValueError(
                f"{where}: the parts of {name!r} sum to {total:.2f}, not to {group['total']}; correct one"
            )
        for part, amount in group["parts"].items():
            if part in parts:
                raise ValueError(f"{where}: {part!r} stands in two groups; rename one")
            parts[part] = amount
    amounts = parts if level == "parts" else {name: group["total"] for name, group in groups.items()}
    with naming(path):
        for name in amounts:
            check_text("domain name", name)
    total = sum(amounts.values())
    if not abs(total - document["grand_total"]) <= 0.05:
        raise ValueError(f"{where}: the groups sum to {total:.2f}, not to {document['grand_total']}; correct one")
    return Mixture(
        amounts,
        unit="tokens",
        seed=seed,
        normalise=True,
        budget=(round(total * 1e9), "tokens"),
        name="mixturevitae",
        metadata={"provenance": {"method": "published", "paper": "https://arxiv.org/abs/2509.25531"}},
    )


def published_scores(
    results: pd.DataFrame,
    *,
    num_tokens: str = "300B",
    seq_length: int = 4096,
    warmup: int = 25000,
    metrics: Mapping[str, str] = METRICS,
) -> pd.DataFrame:
    """Return the score of each data set on each task, from the raw results of training runs.

    The runs of one length and schedule are kept; of each data set the last evaluation, by iteration; of each task one
    metric.

    Args:
        results: One row for each score, with `dataset`, `n_tokens`, `seq_length`, `lr_warmup_iters`, `n_iter`,
            `benchmark`, `metric` and `value`.
        num_tokens: Name of the length of the runs. Default: "300B".
        seq_length: Length of their sequences. Default: 4096.
        warmup: Their iterations of warm-up. Default: 25000.
        metrics: The metric of each task. Default: those of the published table.

    Returns:
        A row for each task, in the order of `metrics`, and a last one "average"; a column for each data set.

    Raises:
        ValueError: A score is missing, or stands there twice with different values.

    Example:
        ```python
        >>> import pandas as pd
        >>> run = {"dataset": "a", "n_tokens": "300B", "seq_length": 4096, "lr_warmup_iters": 25000}
        >>> task = {"benchmark": "piqa", "metric": "acc_norm"}
        >>> rows = [run | task | {"n_iter": step, "value": score} for step, score in ((1, 0.5), (2, 0.75))]
        >>> published_scores(pd.DataFrame(rows), metrics={"piqa": "acc_norm"}).loc["average", "a"].item()
        0.75

        ```
    """
    import pandas as pd

    kept = results[
        (results["n_tokens"] == num_tokens)
        & (results["seq_length"] == seq_length)
        & (results["lr_warmup_iters"] == warmup)
    ]
    kept = kept[kept["n_iter"] == kept.groupby("dataset")["n_iter"].transform("max")]
    kept = kept[kept["metric"] == kept["benchmark"].map(metrics)]
    kept = kept[["dataset", "benchmark", "value"]].drop_duplicates()
    repeated = kept[kept.duplicated(["dataset", "benchmark"])]
    if len(repeated):
        first = repeated.iloc[0]
        raise ValueError(
            f"{first['dataset']!r} has several scores on {first['benchmark']!r}; choose the rows of one run"
        )
    table = kept.pivot_table(index="benchmark", columns="dataset", values="value").reindex(list(metrics))
    if not len(table.columns) or table.isna().any(axis=None):
        missing = [(task, name) for task in table.index for name in table.columns if pd.isna(table.loc[task, name])]
        raise ValueError(
            f"results lack the scores {missing[:5] or 'of these runs'}; "
            "check num_tokens, seq_length, warmup and metrics"
        )
    table.loc["average"] = table.mean()
    return table
