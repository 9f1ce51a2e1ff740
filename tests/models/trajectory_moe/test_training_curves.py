"""Logs of training runs as trajectories, and screening of covariates."""

from __future__ import annotations

import json

import numpy as np
import pytest

import hf_mixture
from hf_mixture.models.trajectory_moe.screening import _best_cut, _chi_squared_tail
from hf_mixture.models.trajectory_moe.training_curves import name_run_classes


def run_log(slope, *, seed=0, steps=40):
    rng = np.random.default_rng(seed)
    return [
        {"step": step, "loss": float(4 * step**slope * np.exp(0.03 * rng.standard_normal())), "learning_rate": 0.01}
        for step in range(1, steps + 1)
    ] + [{"step": steps, "train_runtime": 1.0}]


def test_logs_are_read_from_files_folders_and_lists(tmp_path):
    log = run_log(-0.3)
    (tmp_path / "whole" / "checkpoint-9").mkdir(parents=True)
    (tmp_path / "whole" / "checkpoint-10").mkdir()
    for name in ("checkpoint-9", "checkpoint-10"):
        rows = log[: int(name[-2:].lstrip("-"))]
        (tmp_path / "whole" / name / "trainer_state.json").write_text(json.dumps({"log_history": rows}))
    (tmp_path / "log.jsonl").write_text("\n".join(map(json.dumps, log)))
    found = hf_mixture.load_training_curves(
        {"folder": tmp_path / "whole", "lines": tmp_path / "log.jsonl", "list": log}, max_points=50
    )
    assert [len(values) for values in found["values"]] == [10, 40, 40]
    np.testing.assert_allclose(found["times"][1], np.log10(np.arange(1, 41)))
    np.testing.assert_allclose(found["values"][1], np.log([entry["loss"] for entry in log[:40]]))
    assert found["peak_learning_rate"] == [-2.0] * 3
    thinned = hf_mixture.load_training_curves({"list": log}, max_points=6)
    assert len(thinned["values"][0]) == 6


def test_a_loss_that_is_not_finite_is_the_ceiling_or_missing():
    broken = [{"step": step, "loss": 2.0 * step if step < 5 else float("nan")} for step in range(1, 9)]
    found = hf_mixture.load_training_curves({"good": run_log(-0.3), "broken": broken}, log_values=False)
    assert found["values"][1][-1] == 8.0
    assert "peak_learning_rate" not in found.column_names
    missing = hf_mixture.load_training_curves({"broken": broken}, non_finite="missing")
    assert len(missing["values"][0]) == 4


@pytest.mark.parametrize(
    ("sources", "options", "said"),
    [
        ({}, {}, "sources is empty"),
        ({"a": "nowhere"}, {}, "run 'a': 'nowhere' has no trainer_state.json"),
        ({"a": [{"step": 1, "loss": 1.0}]}, {}, "run 'a' has 1 entries of 'loss', two are needed"),
        ({"a": run_log(0)}, {"metric": "eval_loss"}, "run 'a' has 0 entries of 'eval_loss'"),
        ({"a": run_log(0)}, {"covariates": {}}, "covariates has no entry for run 'a'"),
        ({"a": run_log(0)}, {"non_finite": "zero"}, "must be 'ceiling' or 'missing'"),
        ({"a": run_log(0)}, {"max_points": 2}, "max_points=2 must be at least 3"),
        ({"a": [{"step": step, "loss": -1.0} for step in (1, 2)]}, {}, "which has no logarithm"),
        ({"a": [{"step": step, "loss": float("nan")} for step in (1, 2)]}, {}, "no run has a finite 'loss'"),
    ],
)
def test_what_cannot_be_read(sources, options, said):
    with pytest.raises(ValueError, match=said):
        hf_mixture.load_training_curves(sources, **options)


def test_classes_of_runs_get_names():
    slopes = {"converging": -0.4, "plateau": -0.02, "diverging": 0.3}
    logs, covariates = {}, {}
    for place, (name, slope) in enumerate(slopes.items()):
        for run in range(12):
            rng = np.random.default_rng([place, run])
            logs[f"{name} {run}"] = run_log(slope + 0.02 * rng.standard_normal(), seed=run)
            covariates[f"{name} {run}"] = {"rate": place + rng.standard_normal()}
    curves = hf_mixture.load_training_curves(logs, covariates=covariates)
    model = hf_mixture.TrajectoryMoEModel(
        hf_mixture.TrajectoryMoEConfig(num_classes=3, curve="linear", cluster_covariates=["rate"])
    )
    model.fit(curves, n_starts=6)
    names = name_run_classes(model)
    assert sorted(names) == ["converging", "diverging", "plateau"]
    assert model.fit_report["shares"] == pytest.approx([1 / 3] * 3, abs=0.02)


def test_screening_ranks_the_covariate_that_matters(tmp_path):
    rng = np.random.default_rng(0)
    columns = {name: rng.standard_normal(200) for name in ("noise", "useful", "other")}
    times = np.tile(np.arange(4.0), (200, 1))
    values = (columns["useful"] > 0.5)[:, None] * times + rng.standard_normal((200, 1)) + rng.standard_normal((200, 4))
    data = {"values": values, "times": times, **columns}
    options = {"curve": "linear", "num_trees": 6, "min_leaf": 30, "num_tried": 3, "journal": tmp_path / "trees.json"}
    table = hf_mixture.screen_covariates(data, list(columns), **options)
    assert table.covariate[0] == "useful"
    assert table.importance[0] > 10 * table.importance[1:].abs().max()
    again = hf_mixture.screen_covariates(data, list(columns), **options)
    assert again.equals(table)
    with pytest.raises(ValueError, match="is of another screening"):
        hf_mixture.screen_covariates(data, list(columns), **options | {"seed": 1})
    with pytest.raises(ValueError, match="covariates is empty"):
        hf_mixture.screen_covariates(data, [])
    with pytest.raises(ValueError, match="min_leaf=150 must be above 6"):
        hf_mixture.screen_covariates(data, ["noise"], curve="linear", min_leaf=150)


def test_the_lm_statistic_is_the_slow_one():
    rng = np.random.default_rng(0)
    scores, covariate = rng.standard_normal((3, 50)), rng.standard_normal(50)
    scores -= scores.mean(axis=1, keepdims=True)
    statistic, cut, num_cuts = _best_cut(scores, np.ones(50), covariate, 10)
    inverse = np.linalg.inv(scores @ scores.T)
    slow = []
    for place in np.sort(covariate)[9:40]:
        below = scores[:, covariate <= place].sum(axis=1)
        number = (covariate <= place).sum()
        slow.append(below @ inverse @ below * 50**2 / (number * (50 - number)))
    assert (statistic, num_cuts) == (pytest.approx(max(slow)), 31)
    assert (covariate <= cut).sum() == np.argmax(slow) + 10
    assert _chi_squared_tail(3.841459, 1) == pytest.approx(0.05, abs=1e-6)
