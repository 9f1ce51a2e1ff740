"""Published figures of MixtureVitae: the table of scores from the raw results, and the proportions as a mixture."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import yaml

from hf_mixture.data.curation.published import METRICS, published_mixture, published_scores


FOLDER = Path(__file__).parents[4] / "shared" / "data" / "mixturevitae"
# Names of tasks and data sets in the published table, and in the raw results.
TASKS = {
    "COPA": "copa",
    "LAMBADA": "lambada_openai",
    "OpenBookQA": "openbookqa",
    "Winogrande": "winogrande",
    "MMLU": "mmlu",
    "ARC_Challenge": "arc_challenge",
    "ARC_Easy": "arc_easy",
    "BoolQ": "boolq",
    "CommonsenseQA": "commonsense_qa",
    "HellaSwag": "hellaswag",
    "PIQA": "piqa",
    "Average": "average",
}
DATASETS = {
    "MixtureVitae": "MixtureVitae-300BT",
    "Comma-0.1": "Comma-0.1",
    "CommonCorpus (eng)": "CommonCorpus-eng",
    "FineWeb-Edu": "FineWeb-Edu-1.4T",
    "DCLM": "DCLM",
}


def fixture(name: str) -> Path:
    path = FOLDER / name
    if not path.exists():
        pytest.skip(f"{name} is not beside this repository; its origin has no licence, so that it does not ship")
    return path


def published() -> pd.DataFrame:
    table = pd.read_csv(fixture("final_scores_table.csv"), index_col="Benchmark")
    return table.rename(index=TASKS, columns=DATASETS)


def test_the_published_table_is_recomputed() -> None:
    """Acceptance check 1: all scores and averages of the table to 1e-9, from the raw results."""
    scores = published_scores(pd.read_parquet(fixture("results_1p7b.parquet")))
    table = published()
    assert table.shape == (12, 5)
    assert (scores.loc[table.index, table.columns] - table).abs().max(axis=None) < 1e-9


def test_the_table_is_not_that_of_another_choice() -> None:
    """Acceptance check 1: with a wrong metric or length the table is another, or is refused."""
    results, table = pd.read_parquet(fixture("results_1p7b.parquet")), published()
    with pytest.raises(ValueError, match=r"results lack the scores \[\('hellaswag'"):
        published_scores(results, metrics=dict.fromkeys(METRICS, "acc"))
    plain = published_scores(results, metrics={**dict.fromkeys(METRICS, "acc"), "hellaswag": "acc_norm"})
    difference = (plain.loc[table.index, table.columns] - table).abs()
    assert difference.max(axis=None) > 0.05
    assert difference.loc["average"].min() > 0.008
    # Over the ten tasks that have an accuracy another data set leads.
    ten = published_scores(results, metrics=dict.fromkeys(METRICS.keys() - {"hellaswag"}, "acc")).loc["average"]
    assert ten[table.columns].round(4).tolist() == [0.5418, 0.4888, 0.4582, 0.5266, 0.5383]
    assert (table.loc["average"].idxmax(), ten[table.columns].idxmax()) == ("DCLM", "MixtureVitae-300BT")
    # The longest runs repeat evaluations with other results.
    with pytest.raises(ValueError, match="several scores on"):
        published_scores(results, num_tokens="1T")
    with pytest.raises(ValueError, match="results lack the scores"):
        published_scores(results, num_tokens="7T")


def test_the_other_data_sets_of_the_raw_results() -> None:
    """Figures that the table leaves out, to the four digits that are known of them."""
    scores = published_scores(pd.read_parquet(fixture("results_1p7b.parquet")))
    known = {"Nemotron-cc-2024-HQ-real-synth-mix": (0.6160, 0.4020), "C4": (0.5478, 0.2640), "Pile": (0.5224, 0.2468)}
    for name, (average, mmlu) in known.items():
        assert scores.loc["average", name] == pytest.approx(average, abs=5e-5)
        assert scores.loc["mmlu", name] == pytest.approx(mmlu, abs=5e-5)


def test_the_published_proportions_are_a_mixture() -> None:
    path = fixture("mixture_proportions.yaml")
    parts, groups = published_mixture(path), published_mixture(path, level="groups", seed=7)
    assert (len(parts.names), len(groups.names), groups.seed) == (31, 6, 7)
    assert parts.unit == groups.unit == "tokens"
    assert parts.weights["wikipedia"] == pytest.approx(49.13 / 422.29, abs=1e-6)
    assert groups.weights["math"] == pytest.approx(33.28 / 422.29, abs=1e-6)
    assert sum(parts.shares) == pytest.approx(1)
    assert parts.budget is not None
    assert parts.budget[0] == pytest.approx(422.29e9, rel=1e-4)
    assert type(parts).from_json(parts.to_json()) == parts


PROPORTIONS = {
    "format": "mixturevitae-proportions",
    "version": 1,
    "unit": "billion_tokens",
    "groups": {"code": {"total": 3.0, "parts": {"a": 2.0, "b": 1.0}}, "web": {"total": 1.0, "parts": {"c": 1.0}}},
    "grand_total": 4.0,
}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "x"}, "check that this is a file of proportions"),
        ({"grand_total": 5.0}, "the groups sum to 4.00, not to 5.0"),
        ({"groups": {"code": {"total": 3.0, "parts": {"a": 2.0}}}}, "the parts of 'code' sum to 2.00, not to 3.0"),
        (
            {"groups": {name: {"total": 2.0, "parts": {"a": 2.0}} for name in ("x", "y")}},
            "'a' stands in two groups",
        ),
        ({"groups": {"code": {"total": 4.0, "parts": {"a\0b": 4.0}}}}, r"proportions.yaml: domain name='a\\x00b'"),
        ({"groups": {"code": {"total": 3.0, "parts": {"a": float("nan")}}}}, "the parts of 'code' sum to nan"),
        ({"groups": "x" * 5000}, r"proportions.yaml: \['groups'\]: '.{,400}$"),
    ],
)
def test_wrong_proportions_are_refused(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    path = tmp_path / "proportions.yaml"
    path.write_text(yaml.safe_dump(PROPORTIONS | changes))
    with pytest.raises(ValueError, match=message):
        published_mixture(path)
    with pytest.raises(ValueError, match="level='x' is not"):
        published_mixture(path, level="x")  # type: ignore[arg-type]


def test_nothing_of_the_published_lists_ships() -> None:
    package = Path(__file__).parents[3] / "hf_mixture" / "data" / "curation" / "rules"
    shipped = "".join(
        path.read_text(encoding="utf-8") for path in package.iterdir() if path.suffix in (".yaml", ".json")
    )
    assert "wisdomcommons" not in shipped
    assert "ling_coder" not in shipped
