"""The table of runs: joined by key, validated, hashed."""

from __future__ import annotations

import numpy as np
import pytest

from hf_mixture.data.search import Objective, RunTable
from hf_mixture.data.search.fidelity import fidelity_agreement, fidelity_warnings
from hf_mixture.data.search.table import read_columns


MIXTURES = {"id": ["1", "2", "3"], "d_a": [0.2, 0.5, 0.9], "d_b": [0.8, 0.5, 0.1]}


def join(mixtures=MIXTURES, **metrics) -> RunTable:
    return RunTable.join(mixtures, metrics, key="id", prefix="d_")


def test_rows_join_by_key() -> None:
    table = join(id=["3", "1", "2"], loss=[30.0, 10.0, 20.0])
    assert table.metrics["loss"].tolist() == [10.0, 20.0, 30.0]


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        ({"id": ["1", "2", "2"], "loss": [1, 2, 3]}, r"'id' of metrics repeats \['2'\]"),
        ({"id": ["1", "2", "4"], "loss": [1, 2, 3]}, r"1 only in mixtures \['3'\], 1 only in metrics \['4'\]"),
        ({"id": ["1", "2"], "loss": [1, 2]}, r"1 only in mixtures \['3'\], 0 only in metrics"),
        ({"id": ["1", "2", "3"], "loss": [1, float("nan"), 3]}, r"metric 'loss' of run '2' is .*nan.*finite"),
        ({"id": ["1", "2", "3"], "loss": ["1", "", "3"]}, r"metric 'loss' of run '2' is .*nan.*finite"),
        ({"index": ["1", "2", "3"], "loss": [1, 2, 3]}, r"there is no column 'id'"),
        ({"id": ["1", "2", "3"]}, r"metrics is empty"),
    ],
)
def test_bad_metrics_are_refused(metrics, message) -> None:
    with pytest.raises(ValueError, match=message):
        RunTable.join(MIXTURES, metrics, key="id", prefix="d_")


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([[0.5, 0.5], [0.5, 0.3]], r"sum of weights of run 'b' is .*0.8.*must be 1"),
        ([[0.5, 0.5], [1.5, -0.5]], r"sum of weights of run 'b'.*weights >= 0"),
        ([[0.5, 0.5], [np.nan, 0.5]], r"sum of weights of run 'b'"),
        ([[0.5, 0.3, 0.2], [0.5, 0.3, 0.2]], r"3 columns for 2 domains"),
    ],
)
def test_rows_off_the_simplex_are_refused(weights, message) -> None:
    with pytest.raises(ValueError, match=message):
        RunTable(["a", "b"], ["x", "y"], weights, {"loss": [1.0, 2.0]})


def test_levels_and_costs_are_checked() -> None:
    build = {"run_ids": ["a"], "domains": ["x"], "weights": [[1.0]], "metrics": {"loss": [1.0]}}
    with pytest.raises(ValueError, match="fidelity of run 'a'"):
        RunTable(**build, fidelity=[2.0])
    with pytest.raises(ValueError, match="cost of run 'a'"):
        RunTable(**build, cost=[0.0])
    with pytest.raises(ValueError, match=r"metric 'loss' has shape \(2,\) for 1 runs"):
        RunTable(**{**build, "metrics": {"loss": [1.0, 2.0]}})


def test_the_hash_knows_content_not_order() -> None:
    table = join(id=["1", "2", "3"], loss=[1.0, 2.0, 3.0])
    assert table.select([2, 0, 1]).sha256 == table.sha256
    assert join(id=["1", "2", "3"], loss=[1.0, 2.0, 3.5]).sha256 != table.sha256


def test_ragged_files_are_refused(tmp_path) -> None:
    (tmp_path / "runs.csv").write_text("id,loss\n1,2\n3\n")
    with pytest.raises(ValueError, match=r"line 3 of .* has 1 fields, the header 2"):
        read_columns(tmp_path / "runs.csv")


def test_weights_are_normalised_and_kept_as_given() -> None:
    table = RunTable(["a"], ["x", "y"], [[0.3, 0.697]], {"loss": [1.0]})
    assert table.raw_weights.sum() == pytest.approx(0.997)
    assert table.weights.sum() == pytest.approx(1.0)


def test_direction_has_no_default_and_is_checked() -> None:
    with pytest.raises(TypeError, match="direction"):
        Objective("loss")  # type: ignore[call-arg]
    with pytest.raises(ValueError, match="direction='max'"):
        Objective("loss", "max")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no metric 'acc'"):
        Objective("acc", "maximize").values(join(id=["1", "2", "3"], loss=[1, 2, 3]))


def test_published_climb_runs(climb_runs) -> None:
    assert len(climb_runs) == 379
    assert climb_runs.inconsistent_means("valid_avg", ["piqa_acc_norm", "arc_easy_acc", "hellaswag_acc_norm"]) == []


def test_published_admire_runs(admire_runs) -> None:
    """Acceptance check 5d: sizes, the exact mean, the rows with a wrong mean; and levels joined by mixture."""
    levels, counts = np.unique(admire_runs.fidelity, return_counts=True)
    assert counts.tolist() == [256, 128, 76]
    tasks = [name for name in admire_runs.metrics if "::" in name or name.endswith("tulu")]
    assert len(tasks) == 17
    assert admire_runs.inconsistent_means("metric_avg_id", tasks[:10]) == []
    assert admire_runs.inconsistent_means("metric_avg_id+ood", tasks) == ["10", "99", "172"]
    agreement = fidelity_agreement(admire_runs, Objective("metric_avg_id", "maximize"))
    assert [shared for _, shared in agreement.values()] == [76, 76]
    assert [rho for rho, _ in agreement.values()] == pytest.approx([0.634, 0.682], abs=0.001)
    # Out-of-distribution accuracy cannot be told from small runs, and the user must hear it.
    assert len(fidelity_warnings(admire_runs, Objective("metric_avg_ood", "maximize"))) == 2
    assert fidelity_warnings(admire_runs, Objective("metric_avg_id", "maximize")) == ()
    assert levels[-1] == 1
