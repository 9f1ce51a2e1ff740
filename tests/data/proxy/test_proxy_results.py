from __future__ import annotations

import numpy as np
import pytest

from hf_mixture.data.proxy import load_table, runs_to_table, save_table
from hf_mixture.data.search import Run, Trial


def example():
    rng = np.random.default_rng(0)
    domains = ("wiki", "code, fast", 'a "quote"')
    trials = [Trial(f"t{i}", domains, tuple(rng.dirichlet(np.ones(3))), 0.25 if i % 2 else 1.0) for i in range(20)]
    runs = [
        Run(trial.trial_id, {"loss/wiki": rng.random() * 10, "loss/mean": rng.random()}, 0.5 if i == 3 else None)
        for i, trial in enumerate(trials)
    ]
    return trials, runs


@pytest.mark.parametrize("ending", [".csv", ".parquet"])
def test_round_trip_is_exact(tmp_path, ending):
    trials, runs = example()
    table = runs_to_table(trials, runs[::-1])
    save_table(table, tmp_path / f"table{ending}")
    again = load_table(tmp_path / f"table{ending}")
    assert again.sha256 == table.sha256
    assert (again.run_ids, again.domains) == (table.run_ids, table.domains)
    assert np.array_equal(again.raw_weights, [trial.weights for trial in trials])
    assert again.metrics["loss/wiki"].tolist() == [run.metrics["loss/wiki"] for run in runs]
    assert again.cost.tolist() == [0.5 if i == 3 else trial.fidelity for i, trial in enumerate(trials)]


def test_mismatches_are_refused(tmp_path):
    trials, runs = example()
    with pytest.raises(ValueError, match=r"without a run \['t0'\]"):
        runs_to_table(trials, runs[1:])
    with pytest.raises(ValueError, match=r"without a trial \['t0'\]"):
        runs_to_table(trials[1:], runs)
    with pytest.raises(ValueError, match="20 trials, 21 runs"):
        runs_to_table(trials, [*runs, runs[0]])
    with pytest.raises(ValueError, match="trial 'x' has domains"):
        runs_to_table([*trials, Trial("x", ("wiki",), (1.0,))], [*runs, Run("x", runs[0].metrics)])
    with pytest.raises(ValueError, match="trials is empty"):
        runs_to_table([], [])
    table = runs_to_table(trials, runs)
    with pytest.raises(ValueError, match=r"'.csv' or '.parquet'"):
        save_table(table, tmp_path / "table.json")
    with pytest.raises(ValueError, match=r"\['cost'\].*rename"):
        save_table(runs_to_table(trials, [Run(run.trial_id, {"cost": 1.0}) for run in runs]), tmp_path / "a.csv")
    (tmp_path / "other.csv").write_text("id,loss\n1,2\n")
    with pytest.raises(ValueError, match=r"no columns \['run_id', 'fidelity', 'cost'\]"):
        load_table(tmp_path / "other.csv")
    from datasets import Dataset

    Dataset.from_dict({"run_id": ["a"]}).to_parquet(tmp_path / "other.parquet")
    with pytest.raises(ValueError, match="no table of format"):
        load_table(tmp_path / "other.parquet")
