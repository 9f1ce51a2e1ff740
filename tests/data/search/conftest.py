"""Published tables of runs, as fixtures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from hf_mixture.data.search import RunTable


FIXTURES = Path(__file__).parent / "fixtures"
ADMIRE = Path(__file__).parents[4] / "shared" / "data" / "admire" / "admire_ift_runs.csv"
PILE_CC = "metric/the_pile_pile_cc_val_loss"
PRIOR = {
    "arxiv": 0.113285273,
    "freelaw": 0.079608651,
    "nih_exporter": 0.003913491,
    "pubmed_central": 0.185375901,
    "wikipedia_en": 0.051081359,
    "dm_mathematics": 0.015962925,
    "github": 0.101750772,
    "philpapers": 0.003707518,
    "stackexchange": 0.066529351,
    "enron_emails": 0.001750772,
    "gutenberg_pg_19": 0.027085479,
    "pile_cc": 0.236869207,
    "ubuntu_irc": 0.01184346,
    "europarl": 0.007929969,
    "hackernews": 0.008032956,
    "pubmed_abstracts": 0.038825953,
    "uspto_backgrounds": 0.046446962,
}


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Small matrices gain nothing from threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def regmix_table(part: str, size: str, **settings) -> RunTable:
    folder = FIXTURES / "regmix"
    files = folder / f"{part}_mixture_1m.csv", folder / f"{part}_pile_loss_{size}.csv"
    return RunTable.read_csv(*files, key="index", prefix="train_the_pile_", **settings)


@pytest.fixture(scope="session")
def prior() -> np.ndarray:
    return np.array(list(PRIOR.values()))


@pytest.fixture(scope="session")
def train_1m() -> RunTable:
    return regmix_table("train", "1m")


@pytest.fixture(scope="session")
def held_1m() -> RunTable:
    return regmix_table("test", "1m")


@pytest.fixture(scope="session")
def held_60m() -> RunTable:
    return regmix_table("test", "60m")


@pytest.fixture(scope="session")
def climb_runs() -> RunTable:
    names = ["piqa_acc_norm", "arc_easy_acc", "hellaswag_acc_norm", "valid_avg"]
    path = FIXTURES / "climb" / "proxy_runs_350m.csv"
    return RunTable.read_csv(path, key="model_name", prefix="train_the_", metric_names=names)


@pytest.fixture(scope="session")
def admire_runs() -> RunTable:
    """The instruction-tuning runs of the authors of ADMIRE-BayesOpt (CC BY-NC-SA 4.0), not part of this repository."""
    if not ADMIRE.exists():
        pytest.skip(f"the runs of ADMIRE-BayesOpt are not shipped; put them at {ADMIRE} to run this test")
    from hf_mixture.data.search.table import read_columns

    columns = read_columns(ADMIRE)
    costs = {"Qwen2.5-0.5B": 95.3488 / 537.4679, "Qwen2.5-3B": 258.8736 / 537.4679, "Qwen2.5-7B": 1.0}
    domains = [name for name in columns if name.startswith("ratio_")]
    metrics = {name: columns[name] for name in columns if name.startswith("metric_") or name == "train_time"}
    return RunTable(
        range(len(columns["model"])),
        domains,
        np.column_stack([np.array(columns[name], dtype=float) for name in domains]),
        {name: np.array(values, dtype=float) for name, values in metrics.items()},
        fidelity=[costs[model] for model in columns["model"]],
    )
